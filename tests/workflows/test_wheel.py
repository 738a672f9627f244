"""The wheel: what is installed from it works alone, with the weights that come with the bundle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile

#: what the wheel is built of; a copy, since a build leaves files beside them
SOURCES = ("configs", "models", "spoco_bundle", "LICENSE", "README.md", "pyproject.toml")


@pytest.fixture(scope="module")
def installed(bundle_root, tmp_path_factory) -> Path:
    """A folder that the wheel was installed into."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "installed"))
    for name in SOURCES:
        copy = shutil.copytree if (bundle_root / name).is_dir() else shutil.copyfile
        copy(bundle_root / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source], check=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", target, wheel], check=True)
    return target


@pytest.mark.slow
@pytest.mark.parametrize("dims", [3, 2])
def test_prediction_from_the_wheel_alone(dims, installed, sample, tmp_path):
    image = sample / "val" / "field_b_raw.ome.tif"
    # below a file nothing can be written, whoever runs this
    home = tmp_path / "home"
    home.touch()
    if dims == 2:
        plane = tifffile.imread(image)[5]
        image = tmp_path / "plane_raw.tif"
        tifffile.imwrite(image, plane, photometric="minisblack")
    command = [sys.executable, "-m", "spoco_bundle.cli", "predict", image, "--output", tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": str(installed), "HOME": str(home)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert str(installed) in result.stdout + result.stderr, "the weights are not those of the wheel"
    (found,) = (tmp_path / "out").glob("*_instances.*")
    assert tifffile.imread(found).shape == tifffile.imread(image).shape
