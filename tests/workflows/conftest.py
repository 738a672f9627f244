"""A sample and a model so small that a whole workflow takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from spoco_bundle.dataset.synthetic import make_synthetic_sample
from spoco_bundle.formats import read_image
from support import TINY, run_python


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    """Two training and two validation volumes."""
    folder = tmp_path_factory.mktemp("sample")
    make_synthetic_sample(folder, seed=0, train_volumes=2, train_shape=(10, 40, 40), val_shape=(10, 40, 48))
    return folder


@pytest.fixture(scope="session")
def sample_2d(sample, tmp_path_factory) -> Path:
    """RGB images cut from the middle of the volumes, as TIFF without a spacing."""
    folder = tmp_path_factory.mktemp("sample_2d")
    for image in sorted(sample.glob("*/*_raw.*")):
        name, suffix = image.name.split("_raw", 1)
        label = read_image(image.with_name(f"{name}_label{suffix}"), "label").array[0, 5]
        gray = read_image(image).array[0, 5]
        rgb = np.stack([gray, gray // 2, gray // 4], axis=-1)
        (folder / image.parent.name).mkdir(exist_ok=True)
        tifffile.imwrite(folder / image.parent.name / f"{name}_raw.tif", rgb, photometric="rgb")
        tifffile.imwrite(folder / image.parent.name / f"{name}_label.tif", label.astype(np.uint16))
    return folder


@pytest.fixture(scope="session")
def tiny_overlay(tmp_path_factory) -> Path:
    """The tiny settings as an overlay config."""
    file = tmp_path_factory.mktemp("overlay") / "tiny.json"
    file.write_text(json.dumps(TINY))
    return file


@pytest.fixture(scope="session")
def trained(sample, tiny_overlay, tmp_path_factory, bundle_root) -> Path:
    """Folder of a model trained for a few iterations through ``spoco train``."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    result = run_python(
        ["-m", "spoco_bundle.cli", "train", str(sample), "--output", str(folder), "--config", str(tiny_overlay)],
        cwd=bundle_root,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder
