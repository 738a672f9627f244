"""The BioImage.IO package: its validator accepts it without a network, and reproduces the test output."""

from __future__ import annotations

import importlib.util
import json
import re
import zipfile

import numpy as np
import pytest
import torch

from door import run_warm
from spoco_bundle.networks import EmbeddingUNet
from support import TINY, run_python

VALIDATE = """
import json, socket, sys

def refuse(*arguments, **options):
    raise OSError("the test has no network")

socket.socket.connect = socket.getaddrinfo = refuse
from bioimageio.core import test_model
from bioimageio.spec import ValidationContext

with ValidationContext(perform_io_checks=False):
    summary = test_model(sys.argv[1])
details = [(detail.status, detail.name, [error.msg for error in detail.errors]) for detail in summary.details]
print("SUMMARY", json.dumps([summary.status, details]))
"""


@pytest.fixture(params=[2, 3])
def model(request, tmp_path):
    """Options of the script: the shipped weights in 3D, a folder with a network of RGB images in 2D."""
    if request.param == 3:
        return []
    torch.manual_seed(0)
    settings = {"channels": [4, 8], "strides": [2], "kernel_sizes": [3, 3], "convolutions": [1, 1]}
    settings |= {"spatial_dims": 2, "in_channels": 3}
    network = EmbeddingUNet(out_channels=TINY["embedding_channels"] + 1, **settings)
    network.train()(torch.rand(4, 3, 32, 32))
    network.coordinate_scale.fill_(3.5)
    network.training_spacing.copy_(torch.tensor([0.5, 0.25]))
    (tmp_path / "model").mkdir()
    torch.save(network.state_dict(), tmp_path / "model" / "model.pt")
    shared = {**settings, "embedding_channels": TINY["embedding_channels"]}
    (tmp_path / "model" / "model.json").write_text(json.dumps(shared))
    return ["--model", tmp_path / "model"]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("bioimageio"), reason="needs the extra 'bioimageio'")
def test_validator_accepts_the_package(model, bundle_root, tmp_path):
    script = bundle_root / "scripts" / "package_bioimageio.py"
    made = run_warm([script, tmp_path / "package.zip", *model], cwd=tmp_path)
    assert made.returncode == 0, made.stdout + made.stderr[-3000:]
    checked = run_python(["-c", VALIDATE, tmp_path / "package.zip"], cwd=tmp_path)
    summary = re.search("^SUMMARY (.*)$", checked.stdout, re.MULTILINE)
    assert summary, checked.stdout[-2000:] + checked.stderr[-3000:]
    status, details = json.loads(summary[1])
    assert status == "passed", details
    for weights in ("torchscript", "onnx"):
        assert ["passed", f"Reproduce test outputs from test inputs ({weights})", []] in details

    with zipfile.ZipFile(tmp_path / "package.zip") as archive:
        archive.extractall(tmp_path / "package")
    names = {path.name for path in (tmp_path / "package").iterdir()}
    assert names == {"rdf.yaml", "README.md", "cover.png", "test_input.npy", "test_output.npy"} | {
        *("weights.pt", "weights.onnx")
    }
    # the way from embeddings to objects that the documentation of the package shows
    code = re.search("```python\n(.*?)```", (tmp_path / "package" / "README.md").read_text(), re.DOTALL)[1]
    code += "np.save('labels.npy', np.asarray(labels))\n"
    clustered = run_warm(["-c", code], cwd=tmp_path / "package")
    assert clustered.returncode == 0, clustered.stderr[-2000:]
    labels = np.load(tmp_path / "package" / "labels.npy")
    assert labels.shape == np.load(tmp_path / "package" / "test_input.npy").shape[2:]
    if not model:
        assert labels.max() >= 5


@pytest.mark.skipif(not importlib.util.find_spec("bioimageio"), reason="needs the extra 'bioimageio'")
@pytest.mark.parametrize(
    ("config", "words"), [({"coordinate_channels": 0}, "without coordinates"), ({"invert": True}, "with invert")]
)
def test_what_the_format_cannot_say_is_refused(config, words, bundle_root, tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(config))
    network = EmbeddingUNet(out_channels=9)
    network.coordinate_scale.fill_(4.0)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    script = bundle_root / "scripts" / "package_bioimageio.py"
    result = run_warm([script, tmp_path / "package.zip", "--model", tmp_path], cwd=tmp_path)
    assert result.returncode == 2 and words in result.stderr
    assert not (tmp_path / "package.zip").exists()
