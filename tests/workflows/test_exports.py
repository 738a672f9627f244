"""The network outside PyTorch: exports through MONAI's commands compute what the network computes."""

from __future__ import annotations

import json
import shutil

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from door import run_warm

#: no multiple of the network's stride, larger and smaller than it, and one that is
SIZES = {
    2: [(1, 1, 37, 51), (3, 1, 9, 130), (1, 1, 3, 5), (1, 1, 64, 64)],
    3: [(1, 1, 7, 21, 37), (2, 1, 13, 9, 19), (1, 1, 1, 3, 5), (1, 1, 16, 32, 32)],
}
AXES = {2: {0: "batch", 2: "y", 3: "x"}, 3: {0: "batch", 2: "z", 3: "y", 4: "x"}}


@pytest.fixture(scope="module", params=[2, 3])
def model(request, bundle_root, tmp_path_factory):
    """Number of axes, configs, network and the file of its weights: shipped ones in 3D, drawn ones in 2D."""
    dims = request.param
    configs = [str(bundle_root / name) for name in ("configs/inference.json", "models/2d/model.json")[: 4 - dims]]
    parser = ConfigParser()
    parser.read_config(configs)
    network = parser.get_parsed_content("network_def")
    weights = bundle_root / "models" / "model.pt"
    if dims == 2:
        torch.manual_seed(0)
        network.train()(torch.rand(4, 1, 64, 64))  # statistics for the normalisation
        weights = tmp_path_factory.mktemp("model_2d") / "model.pt"
        torch.save(network.state_dict(), weights)
    network.load_state_dict(torch.load(weights, weights_only=True))
    return dims, configs, network.eval(), weights


def export(command, model, target, bundle_root, *options):
    _, configs, _, weights = model
    arguments = ["-m", "monai.bundle", command, "network_def", "--filepath", target, "--ckpt_file", weights]
    arguments += ["--meta_file", bundle_root / "configs" / "metadata.json", "--config_file", str(configs), *options]
    result = run_warm(arguments, cwd=bundle_root)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]


def largest_difference(model, exported):
    """Between network and export, over all sizes."""
    dims, _, network, _ = model
    found = []
    for size in SIZES[dims]:
        image = torch.rand(size, generator=torch.Generator().manual_seed(sum(size)))
        with torch.no_grad():
            expected = network(image).numpy()
        actual = exported(image)
        assert actual.shape == expected.shape
        found.append(np.abs(actual - expected).max())
    assert np.abs(expected).max() > 0.1
    return max(found)


def test_torchscript_agrees_on_odd_sizes(model, bundle_root, tmp_path):
    shape = "[1,1,64,64]" if model[0] == 2 else "[1,1,16,32,32]"
    export("ckpt_export", model, tmp_path / "model.ts", bundle_root, "--input_shape", shape)
    scripted = torch.jit.load(tmp_path / "model.ts")
    assert largest_difference(model, lambda image: scripted(image).detach().numpy()) < 1e-5


@pytest.mark.slow
def test_onnx_agrees_on_odd_sizes(model, bundle_root, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    axes = AXES[model[0]]
    converter = {"input_names": ["image"], "output_names": ["pred"], "dynamic_axes": {"image": axes, "pred": axes}}
    shape = "[1,1,64,64]" if model[0] == 2 else "[1,1,16,32,32]"
    options = ["--input_shape", shape, "--converter_kwargs", str(converter)]
    export("onnx_export", model, tmp_path / "model.onnx", bundle_root, *options)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert largest_difference(model, lambda image: session.run(["pred"], {"image": image.numpy()})[0]) < 1e-4


def run_inference(names, bundle_root, images, output, **override):
    workflow = ConfigWorkflow(
        config_file=[str(bundle_root / "configs" / f"{name}.json") for name in names],
        meta_file=str(bundle_root / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        **{"bundle_root": str(bundle_root), "dataset_dir": str(images), "output_dir": str(output), **override},
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    return workflow.parser


def test_the_tensorrt_overlay_changes_nothing_without_tensorrt(sample, bundle_root, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine may have TensorRT")
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(sample / "val" / "field_a_raw.nii.gz", images)
    run_inference(["inference"], bundle_root, images, tmp_path / "plain")
    parser = run_inference(["inference", "inference_trt"], bundle_root, images, tmp_path / "trt")
    volumes = [tmp_path / name / "field_a_raw_instances.nii.gz" for name in ("plain", "trt")]
    plain, compiled = (np.asarray(nibabel.load(path).dataobj) for path in volumes)
    assert plain.max() > 0
    np.testing.assert_array_equal(compiled, plain)
    # a second network must not share the engine of the first
    assert parser.get_parsed_content("second_network") is not parser.get_parsed_content("network")


@pytest.fixture
def compiled(bundle_root):
    """The configs of a prediction with the overlay for TensorRT."""
    parser = ConfigParser()
    parser.read_config([str(bundle_root / "configs" / f"{name}.json") for name in ("inference", "inference_trt")])
    parser.update({"bundle_root": str(bundle_root), "window_size": [62, 250, 256]})
    return parser


def test_what_the_tensorrt_overlay_asks_for(compiled, bundle_root):
    arguments = compiled.get_parsed_content("trt_args")
    (profile,) = arguments["input_profiles"]
    assert profile == {"image": [[1, 1, 4, 8, 8], [1, 1, 64, 256, 256], [1, 1, 64, 256, 256]]}
    assert arguments["precision"] == "fp32"
    assert compiled.get_parsed_content("trt_weights") == f"{bundle_root}/models/model.pt"


@pytest.mark.slow
def test_what_the_tensorrt_overlay_hands_to_tensorrt(compiled, tmp_path):
    """What MONAI's compiler does before it calls TensorRT."""
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    from monai.networks.trt_compiler import add_casts_around_norms, get_dynamic_axes
    from monai.networks.utils import convert_to_onnx

    network = compiled.get_parsed_content("network").eval()
    add_casts_around_norms(network)
    example = {"image": torch.rand(1, 1, 16, 32, 32)}
    axes = get_dynamic_axes(compiled.get_parsed_content("trt_args")["input_profiles"])
    file = tmp_path / "trt.onnx"
    convert_to_onnx(network, example, filename=file, input_names=["image"], output_names=[], dynamic_axes=axes)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    image = torch.rand(1, 1, 8, 40, 24)
    with torch.no_grad():
        expected = network(image).numpy()
    np.testing.assert_allclose(session.run(None, {"image": image.numpy()})[0], expected, atol=1e-4)


def test_ids_of_the_tensorrt_overlay_pass_the_checks(bundle_root):
    from spoco_bundle.app.config import read_configs

    files = [bundle_root / "configs" / f"{name}.json" for name in ("inference", "inference_trt")]
    merged = read_configs(files, {"trt_precision": "fp16"}).get()
    assert merged["trt_precision"] == "fp16" and len(merged["imports"]) == 3
    assert json.loads(files[1].read_text()).keys() - merged.keys() == {"+imports"}
