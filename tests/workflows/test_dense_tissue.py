"""Tissue in which every voxel belongs to some cell: trained on a third of the cells, segmented whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from door import run_warm
from support import dense_tissue

SIDE, CELLS = 128, 40


def write_tissue(folder, seed, kept):
    """An image of a tissue, and the labels of so many of its cells."""
    random = np.random.default_rng(seed)
    image, label = dense_tissue(random, (SIDE, SIDE), CELLS)
    label[~np.isin(label, random.permutation(CELLS)[:kept] + 1)] = 0
    folder.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / f"tissue{seed}_raw.tif", (image.clip(0, 2) * 100).astype(np.uint8))
    tifffile.imwrite(folder / f"tissue{seed}_label.tif", label.astype(np.uint16))


@pytest.mark.slow
def test_cells_are_told_apart_by_membranes_and_fill_the_image(tmp_path):
    for seed in (0, 1):
        write_tissue(tmp_path / "data" / "train", seed, CELLS // 3)
    write_tissue(tmp_path / "data" / "val", 2, CELLS)
    short = "--crop_size [64,64] --batch_size 4 --max_epochs 3 --val_interval 3 --partly_labelled False".split()
    for call in (
        ["train", "data", "--output", "model", "--tissue", "dense", *short],
        ["evaluate", "data", "--model", "model", "--output", "scores", "--partly_labelled", "False"],
        ["predict", "data/val/tissue2_raw.tif", "--model", "model", "--output", "found"],
    ):
        result = run_warm(["-m", "spoco_bundle.cli", *call], cwd=tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert scores["ap_50"] > 0.35 and scores["sbd"] > 0.65
    assert (tifffile.imread(tmp_path / "found" / "tissue2_raw_instances.tif") > 0).all()
