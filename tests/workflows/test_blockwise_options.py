"""Images and options that blocks must treat as one piece does: 2D, RGB, a second network, masks, brightness."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from door import run_warm
from spoco_bundle.dataset.synthetic import SPACING, synthetic_volume
from support import enlarge, small_disk

pytestmark = pytest.mark.slow

BLOCKS = {
    2: ["--block_size", "[64,64]", "--chunk_size", "[64,64]"],
    3: ["--block_size", "[16,48,48]", "--chunk_size", "16"],
}


def predict(image: Path, output: Path, *options) -> str:
    result = run_warm(["-m", "spoco_bundle.cli", "predict", image, "--output", output, *options], cwd=output.parent)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout + result.stderr


def same_in_blocks(image: Path, folder: Path, *options, dims: int = 3) -> np.ndarray:
    """Labels of an image in one piece, after those in blocks and both tables were found to be the same."""
    assert "blocks of" not in predict(image, folder / "whole", "--blockwise", "False", *options)
    assert "blocks of" in predict(image, folder / "blocks", "--blockwise", "True", *BLOCKS[dims], *options)
    name = image.name.split(".")[0]
    labels, blocks = (tifffile.imread(folder / way / f"{name}_instances.ome.tif") for way in ("whole", "blocks"))
    np.testing.assert_array_equal(blocks, labels)
    one, many = (
        np.genfromtxt(folder / way / f"{name}_objects.csv", delimiter=",", names=True, dtype=None, encoding=None)
        for way in ("whole", "blocks")
    )
    np.testing.assert_array_equal(one["voxels"], many["voxels"])
    np.testing.assert_allclose(one["confidence"], many["confidence"], rtol=0.02)
    return labels


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Path:
    """Crowded nuclei in 3D."""
    path = tmp_path_factory.mktemp("stack") / "stack.ome.tif"
    image, _ = synthetic_volume(np.random.default_rng(3), (24, 72, 80))
    sizes = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", SPACING)}
    tifffile.imwrite(path, image, ome=True, photometric="minisblack", metadata={"axes": "ZYX", **sizes})
    return path


@pytest.fixture(scope="module")
def plane() -> np.ndarray:
    """Nuclei in 2D."""
    image, _ = synthetic_volume(np.random.default_rng(4), (9, 160, 200), (2.0, 0.8, 0.8))
    return image[4]


def test_an_image(plane, tmp_path):
    tifffile.imwrite(tmp_path / "plane.ome.tif", plane, ome=True, metadata={"axes": "YX"})
    labels = same_in_blocks(tmp_path / "plane.ome.tif", tmp_path, dims=2)
    assert labels.shape == plane.shape and labels.max() > 10


def test_an_rgb_image(plane, bundle_root, tmp_path):
    """Grey weights that take the mean of three channels stand in for trained ones."""
    model = tmp_path / "model"
    shutil.copytree(bundle_root / "models" / "2d", model)
    weights = torch.load(model / "model.pt", weights_only=True)
    first = next(name for name, values in weights.items() if values.ndim == 4)
    weights[first] = weights[first].repeat(1, 3, 1, 1) / 3
    torch.save(weights, model / "model.pt")
    noise = np.random.default_rng(5).normal(0, 0.02 * np.ptp(plane), (*plane.shape, 3))
    grey = (plane - plane.min()) / np.ptp(plane)
    colour = np.clip(255 * (grey[..., None] + noise / np.ptp(plane)), 0, 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "colour.ome.tif", colour, ome=True, photometric="rgb", metadata={"axes": "YXS"})
    options = ["--in_channels", "3", "--model", model]
    labels = same_in_blocks(tmp_path / "colour.ome.tif", tmp_path, *options, dims=2)
    assert labels.shape == plane.shape and labels.max() > 10


def test_the_agreement_of_student_and_teacher(stack, tmp_path):
    assert same_in_blocks(stack, tmp_path, "--agreement", "True").max() > 10


def test_brightness_as_foreground(stack, tmp_path):
    assert same_in_blocks(stack, tmp_path, "--clustering#background", "otsu").max() > 10


def test_a_mask_as_foreground(stack, tmp_path):
    shutil.copy(stack, tmp_path / "cells_raw.ome.tif")
    mask = np.zeros(tifffile.imread(stack).shape, np.uint8)
    mask[4:20, 10:60, 12:70] = 1
    tifffile.imwrite(tmp_path / "cells_fg.ome.tif", mask, ome=True, metadata={"axes": "ZYX"})
    options = ["--foreground_ending", "_fg", "--clustering#background", "foreground"]
    labels = same_in_blocks(tmp_path / "cells_raw.ome.tif", tmp_path, *options)
    assert labels.max() > 5 and not labels[mask == 0].any()


@pytest.mark.parametrize(
    "options",
    [
        ["--diameter", "30"],
        ["--diameter", "14"],
        ["--target_spacing", "[2.0,1.2,1.2]"],
        ["--spacing", "[1.0,0.8,0.8]"],
        ["--diameter", "30", "--clustering#background", "otsu", "--precision", "float32"],
        ["--diameter", "30", "--agreement", "True"],
    ],
    ids=" ".join,
)
def test_at_another_resolution(stack, tmp_path, options):
    """Reduced, enlarged, enlarged along z only, and with the rules that see more than the objectness."""
    assert same_in_blocks(stack, tmp_path, *options).max() > 5


def test_at_the_size_that_the_objects_are_found_to_have(plane, tmp_path):
    enlarged = np.kron(plane, np.ones((2, 2), plane.dtype))
    tifffile.imwrite(tmp_path / "plane.ome.tif", enlarged, ome=True, metadata={"axes": "YX"})
    said = predict(tmp_path / "plane.ome.tif", tmp_path / "said", "--blockwise", "True", *BLOCKS[2])
    assert "objects are about" in said and "--diameter corrects it" in said
    labels = same_in_blocks(tmp_path / "plane.ome.tif", tmp_path, dims=2)
    assert labels.shape == enlarged.shape and labels.max() > 10


def test_a_mask_at_another_resolution(stack, tmp_path):
    shutil.copy(stack, tmp_path / "cells_raw.ome.tif")
    mask = np.zeros(tifffile.imread(stack).shape, np.uint8)
    mask[4:20, 10:60, 12:70] = 1
    tifffile.imwrite(tmp_path / "cells_fg.ome.tif", mask, ome=True, metadata={"axes": "ZYX"})
    options = ["--foreground_ending", "_fg", "--diameter", "30"]
    assert same_in_blocks(tmp_path / "cells_raw.ome.tif", tmp_path, *options).max() > 2


@pytest.mark.parametrize(
    ("name", "corner", "options"),
    [
        (
            "bbbc050/val/train_Emb09_t501",
            (slice(40), slice(96), slice(96)),
            ["--spacing", "[1.75,0.8,0.8]", "--target_spacing", "[1.75,1.1,1.1]"],
        ),
        ("dsb2018/val/0bf4b1441676", (slice(192), slice(192)), []),
    ],
)
def test_real_images_at_another_resolution(shared_dir, tmp_path, name, corner, options):
    """Crowded nuclei, reduced because of what is said, and because of what is seen."""
    source = shared_dir / "data" / f"{name}_raw.tif"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    voxels = tifffile.imread(source)[corner]
    image = tmp_path / "cells.ome.tif"
    tifffile.imwrite(image, voxels, ome=True, metadata={"axes": "ZYX"[-voxels.ndim :]})
    assert same_in_blocks(image, tmp_path, *options, dims=voxels.ndim).max() > 5


def test_a_disk_that_fills_up_costs_nothing_that_is_finished(stack, tmp_path):
    whole, options = tmp_path / "whole", ["--blockwise", "True", *BLOCKS[3]]
    predict(stack, whole, "--blockwise", "False")
    with small_disk(tmp_path / "disk", "160k") as disk:
        command = ["-m", "spoco_bundle.cli", "predict", stack, "--output", disk / "out", *options]
        full = run_warm(command, cwd=tmp_path)
        assert full.returncode == 2, full.stdout[-2000:] + full.stderr[-2000:]
        assert "disk" in full.stderr and "full" in full.stderr and "Traceback" not in full.stderr
        assert not list(disk.glob("out/*_instances*.tif"))
        enlarge(disk)
        assert "already finished)" in predict(stack, disk / "out", *options)
        found = tifffile.imread(disk / "out" / "stack_instances.ome.tif")
    np.testing.assert_array_equal(found, tifffile.imread(whole / "stack_instances.ome.tif"))
