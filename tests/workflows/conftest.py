"""A sample and a model so small that a whole workflow takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from door import run_warm
from spoco_bundle.dataset.synthetic import make_synthetic_sample
from spoco_bundle.formats import read_image
from support import TINY


@pytest.fixture(scope="session")
def sample(made_once) -> Path:
    """Two training and two validation volumes."""

    def fill(folder: Path) -> None:
        make_synthetic_sample(folder, seed=0, train_volumes=2, train_shape=(10, 40, 40), val_shape=(10, 40, 48))

    return made_once("sample", fill)


@pytest.fixture(scope="session")
def sample_2d(sample, made_once) -> Path:
    """RGB images cut from the middle of the volumes, as TIFF without a spacing."""

    def fill(folder: Path) -> None:
        for image in sorted(sample.glob("*/*_raw.*")):
            name, suffix = image.name.split("_raw", 1)
            label = read_image(image.with_name(f"{name}_label{suffix}"), "label").array[0, 5]
            gray = read_image(image).array[0, 5]
            rgb = np.stack([gray, gray // 2, gray // 4], axis=-1)
            (folder / image.parent.name).mkdir(exist_ok=True)
            tifffile.imwrite(folder / image.parent.name / f"{name}_raw.tif", rgb, photometric="rgb")
            tifffile.imwrite(folder / image.parent.name / f"{name}_label.tif", label.astype(np.uint16))

    return made_once("sample_2d", fill)


@pytest.fixture(scope="session")
def tiny_overlay(made_once) -> Path:
    """The tiny settings as an overlay config."""
    return made_once("overlay", lambda folder: (folder / "tiny.json").write_text(json.dumps(TINY))) / "tiny.json"


@pytest.fixture(scope="session")
def trained(sample, tiny_overlay, made_once, bundle_root) -> Path:
    """Folder of a model trained for a few iterations through ``spoco train``."""

    def fill(folder: Path) -> None:
        command = ["train", sample, "--output", folder / "model", "--config", tiny_overlay]
        result = run_warm(["-m", "spoco_bundle.cli", *command], cwd=bundle_root)
        assert result.returncode == 0, result.stdout + result.stderr

    return made_once("trained", fill) / "model"
