"""What several tests need: settings so small that a workflow takes seconds, fresh processes, matching of objects."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

TINY = {
    "channels": [4, 8],
    "strides": [[1, 2, 2]],
    "kernel_sizes": [[1, 3, 3], 3],
    "convolutions": [1, 1],
    "target_spacing": None,
    "embedding_channels": 6,
    "crop_size": [8, 24, 24],
    "batch_size": 2,
    "iterations_per_epoch": 4,
    "max_epochs": 2,
    "val_interval": 1,
    "checkpoint_interval": 1,
    "tune_minutes": 0,
    "device": "cpu",
}

#: what the profile of a training set decides, as plain values, for tests that have no images
PLAN = {
    **{"spatial_dims": 3, "in_channels": 1, "object_diameter": 16.0, "large_diameter": 20.0},
    **{"target_spacing": None, "dense": False},
    **{"strides": [[1, 2, 2], [2, 2, 2], [2, 2, 2]], "kernel_sizes": [[1, 3, 3], 3, 3, 3]},
    **{"convolutions": [1, 2, 2, 2], "objectness_threshold": 0.4, "min_fraction": 0.1},
    **{"channels": [8, 16, 32, 64], "crop_size": [32, 64, 64], "batch_size": 2},
}


def touch(folder, *names):
    """Makes empty files, and the folders that they lie in."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def file_names(items):
    """Names of the files of every item of a list."""
    return [tuple(Path(value).name for value in item.values()) for item in items]


def small_network(dims=3):
    """A network of two levels."""
    from spoco_bundle.networks import EmbeddingUNet

    return EmbeddingUNet(dims, channels=(2, 4), strides=(2,), kernel_sizes=(3, 3), convolutions=1, out_channels=4)


def matched(truth, labels):
    """Number of true objects with a label of IoU above 0.5."""
    both = np.zeros((truth.max() + 1, labels.max() + 1))
    np.add.at(both, (truth.ravel(), labels.ravel()), 1)
    iou = both / (both.sum(1)[:, None] + both.sum(0)[None] - both)
    return int((iou[1:, 1:] > 0.5).sum())


def same_partition(one, other):
    """Whether two labelings divide the voxels alike, whatever the ids."""
    pairs = np.unique(np.stack([np.ravel(one), np.ravel(other)]), axis=1)
    return len(np.unique(pairs[0])) == pairs.shape[1] == len(np.unique(pairs[1]))


def dense_tissue(random, shape, cells):
    """An image of cells with dark membranes between them under an uneven light, and the labels of all of them."""
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, len(shape))
    label = cKDTree(random.uniform(0, shape, (cells, len(shape)))).query(places)[1].reshape(shape) + 1
    membrane = np.zeros(shape, bool)
    for axis in range(len(shape)):
        membrane |= np.roll(label, 1, axis) != label
    image = ndimage.gaussian_filter(1.0 - membrane, 1) + random.normal(0, 0.08, shape)
    image += 3 * ndimage.gaussian_filter(random.normal(0, 1, shape), 12)
    return image, label


def run_python(arguments, cwd, timeout=240, **environment):
    """Runs this Python in a fresh process."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@contextmanager
def small_disk(folder, size):
    """A file system of a few kilobytes; skips where none can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def enlarge(folder):
    """Makes room on a small disk."""
    subprocess.run(["mount", "-o", "remount,size=64m", "tmpfs", folder], check=True)


def training(bundle_root, sample, folder, *overlays, **overrides):
    """The training workflow of the configs with the tiny settings, initialised but not run."""
    from monai.bundle import ConfigWorkflow

    files = [bundle_root / "configs" / "train.json", *overlays]
    values = {"dataset_dir": str(sample), "ckpt_dir": str(folder), "output_dir": str(folder), **TINY, **overrides}
    workflow = ConfigWorkflow(
        config_file=[str(file) for file in files],
        meta_file=str(bundle_root / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        **values,
    )
    workflow.initialize()
    return workflow
