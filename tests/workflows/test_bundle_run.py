"""``python -m monai.bundle run`` and its kin, as MONAI's users call them."""

from __future__ import annotations

import csv
import json
import shutil

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from door import run_warm
from spoco_bundle.app.model_config import PLANNED
from support import TINY, run_python

WITHOUT_THE_PACKAGE = """
import runpy, sys
hidden = lambda f: "editable" in getattr(f, "__module__", "") + getattr(f, "__name__", "")
sys.meta_path = [f for f in sys.meta_path if not hidden(f)]
sys.path = [p for p in sys.path if p != {repository!r} and "__editable__" not in p]
# what the process may have forked with
for loaded in [name for name in sys.modules if name.split(".")[0] == "spoco_bundle"]:
    del sys.modules[loaded]
try:
    import spoco_bundle
except ModuleNotFoundError:
    print("package not importable beforehand")
sys.argv = ["monai.bundle", *{arguments!r}]
sys.path.insert(0, {cwd!r})
runpy.run_module("monai.bundle", run_name="__main__")
"""


def overrides(sample, folder, **more):
    values = {"dataset_dir": sample, "ckpt_dir": folder / "model", "output_dir": folder / "out", **TINY, **more}
    return [part for key, value in values.items() for part in (f"--{key}", str(value))]


def config(bundle_root, *names):
    files = [str(bundle_root / "configs" / f"{name}.json") for name in names]
    return files[0] if len(files) == 1 else str(files)


@pytest.mark.parametrize("run", [run_warm, pytest.param(run_python, marks=pytest.mark.slow)])
def test_training_with_only_the_bundle_folder_from_another_directory(run, sample, bundle_root, tmp_path):
    bundle = tmp_path / "bundle"
    for part in ("configs", "spoco_bundle"):
        shutil.copytree(bundle_root / part, bundle / part, ignore=shutil.ignore_patterns("__pycache__"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    arguments = ["run", "training", "--config_file", config(bundle, "train"), "--bundle_root", str(bundle)]
    arguments += overrides(sample, tmp_path, max_epochs=1, iterations_per_epoch=2)
    script = WITHOUT_THE_PACKAGE.format(repository=str(bundle_root), arguments=arguments, cwd=str(elsewhere))
    result = run(["-c", script], cwd=elsewhere, PYTHONPATH="")
    assert "package not importable beforehand" in result.stdout
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    state = torch.load(tmp_path / "model" / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())


@pytest.mark.parametrize("run_id", [[], ["inference"]])
def test_inference_writes_instances_and_objects(run_id, sample, trained, bundle_root, tmp_path):
    arguments = ["-m", "monai.bundle", "run", *run_id, "--config_file", config(bundle_root, "inference")]
    network = {key: TINY[key] for key in ("channels", "strides", "kernel_sizes", "convolutions", "embedding_channels")}
    values = {"dataset_dir": sample / "val", "ckpt_dir": trained, "output_dir": tmp_path, "device": "cpu", **network}
    arguments += [part for key, value in values.items() for part in (f"--{key}", str(value))]
    result = run_warm(arguments, cwd=bundle_root)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    source = nibabel.load(sample / "val" / "field_a_raw.nii.gz")
    instances = nibabel.load(tmp_path / "field_a_raw_instances.nii.gz")
    assert instances.shape == source.shape and instances.get_data_dtype() == np.uint16
    np.testing.assert_allclose(instances.affine, source.affine)
    with open(tmp_path / "field_a_raw_objects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    ids, voxels = np.unique(np.asarray(instances.dataobj), return_counts=True)
    assert {int(r["id"]): int(r["voxels"]) for r in rows} == {i: v for i, v in zip(ids, voxels) if i}
    assert (tmp_path / "field_b_raw_instances.ome.tif").is_file()


def test_evaluation_overlay_writes_scores(sample, trained, bundle_root, tmp_path):
    arguments = ["-m", "monai.bundle", "run", "--config_file"]
    files = [bundle_root / "configs" / "train.json", trained / "model.json", bundle_root / "configs" / "evaluate.json"]
    arguments += [str([str(file) for file in files])]
    arguments += overrides(sample, tmp_path, ckpt_dir=trained, partly_labelled=False)
    result = run_warm(arguments, cwd=bundle_root)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["images"] == 2 and 0 <= scores["ap_50"] <= 1
    assert (tmp_path / "out" / "scores.csv").read_text().count("\n") == 3
    assert "field_a_raw.nii.gz" in result.stdout


@pytest.mark.parametrize(
    "names, workflow_type",
    [
        (("train",), "train"),
        (("train", "nonspatial"), "train"),
        (("train", "model", "evaluate"), "train"),
        (("train", "model", "evaluate"), "infer"),
        (("inference",), "infer"),
        (("inference", "2d/model"), "infer"),
    ],
)
def test_properties_are_complete(names, workflow_type, sample, sample_2d, trained, bundle_root, tmp_path):
    data = sample_2d if "2d/model" in names else sample
    workflow = ConfigWorkflow(
        config_file=[
            str(bundle_root / ("models" if "model" in name else "configs") / f"{name}.json") for name in names
        ],
        workflow_type=workflow_type,
        logging_file=False,
        dataset_dir=str(data / "val") if names[0] == "inference" else str(data),
        ckpt_dir=str(trained),
        output_dir=str(tmp_path),
        **({"in_channels": 3} if "2d/model" in names else {}),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_metadata_fits_the_schema(bundle_root, shared_dir):
    import jsonschema

    schema = json.loads((shared_dir / "contracts" / "meta_schema_20240725.json").read_text())
    metadata = json.loads((bundle_root / "configs" / "metadata.json").read_text())
    jsonschema.validate(metadata, schema)
    assert metadata["version"] in metadata["changelog"]
    arguments = ["-m", "monai.bundle", "verify_metadata", "--meta_file", bundle_root / "configs" / "metadata.json"]
    arguments += ["--filepath", shared_dir / "contracts" / "meta_schema_20240725.json"]
    result = run_warm(arguments, cwd=bundle_root)
    assert result.returncode == 0 and "verified with no error" in result.stdout + result.stderr


@pytest.mark.parametrize("name", ["train", "inference"])
def test_network_fits_the_metadata(name, bundle_root):
    arguments = ["-m", "monai.bundle", "verify_net_in_out", "network_def", "--p", 1, "--n", 2]
    arguments += ["--meta_file", bundle_root / "configs" / "metadata.json", "--config_file"]
    files = [bundle_root / "configs" / f"{name}.json", bundle_root / "models" / "model.json"]
    result = run_warm([*arguments, str([str(file) for file in files])], cwd=bundle_root)
    assert result.returncode == 0, result.stderr[-3000:]


def test_exports_torchscript(trained, bundle_root, tmp_path):
    arguments = ["-m", "monai.bundle", "ckpt_export", "network_def", "--filepath", tmp_path / "model.ts"]
    arguments += ["--ckpt_file", trained / "model.pt", "--meta_file", bundle_root / "configs" / "metadata.json"]
    arguments += ["--config_file", str([str(bundle_root / "configs" / "inference.json"), str(trained / "model.json")])]
    result = run_warm(arguments, cwd=bundle_root)
    assert result.returncode == 0, result.stderr[-3000:]
    scripted = torch.jit.load(tmp_path / "model.ts")
    assert scripted(torch.rand(1, 1, 5, 9, 11)).shape == (1, TINY["embedding_channels"] + 1, 5, 9, 11)


def test_shared_ids_are_the_same_in_training_and_inference(bundle_root):
    train, inference = (json.loads((bundle_root / "configs" / f"{n}.json").read_text()) for n in ("train", "inference"))
    own = {"imports", "dataset_dir", "initialize", "run", "load", "summary", "record"}
    # what the images decide in training comes with the model in inference
    shared = (train.keys() & inference.keys()) - own - set(PLANNED)
    for config in (train, inference):
        del config["clustering"]["keep_field"]  # training draws pictures, prediction where it is asked to
    assert {"network_def", "clustering", "norm", "normalize"} <= shared
    assert {k: train[k] for k in shared} == {k: inference[k] for k in shared}
