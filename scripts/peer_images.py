"""What the programs that are compared with read and write; needs numpy, scikit-image and tifffile alone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from skimage.measure import block_reduce


def peer_parser(description: str) -> argparse.ArgumentParser:
    """The options that the scripts of all programs share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/")
    parser.add_argument("val", type=Path, help="folder of completely annotated pairs")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20, help="to train for")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sparse", action="store_true", help="ignore what is not annotated")
    parser.add_argument("--patch", type=int, nargs="+", help="size of the crops, per axis")
    parser.add_argument("--downsample", type=int, nargs="+", help="voxels along each axis that become one")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def read_pairs(
    folder: Path, sparse: bool, step: Sequence[int] | None
) -> tuple[list[str], list[np.ndarray], list[np.ndarray]]:
    """Names, images scaled to percentiles 1 and 99.8, channels last, and labels (-1 where ignored) of a folder's pairs.

    Args:
        folder: with NAME_raw.tif and NAME_label.tif.
        sparse: whether what is not annotated is ignored.
        step: voxels per axis that become one.
    """
    names, images, labels = [], [], []
    for raw in sorted(folder.glob("*_raw.tif")):
        label = tifffile.imread(raw.with_name(raw.name.replace("_raw", "_label"))).astype(np.int32)
        image = tifffile.imread(raw)
        if image.shape[1:] == label.shape:  # channels first
            image = np.moveaxis(image, 0, -1)
        if step is not None:
            image = block_reduce(image, (*step, 1)[: image.ndim], np.mean)
            label = label[tuple(slice(s // 2, None, s) for s in step)]
            image = image[tuple(slice(size) for size in label.shape)]
        low, high = np.percentile(image, (1, 99.8), axis=tuple(range(label.ndim)), keepdims=True)
        names.append(raw.name.removesuffix("_raw.tif"))
        images.append(((image - low) / np.maximum(high - low, 1e-20)).astype(np.float32))
        labels.append(np.where(label > 0, label, -1) if sparse else label)
    if not names:
        raise SystemExit(f"{folder} holds no NAME_raw.tif; give a folder of NAME_raw / NAME_label pairs")
    return names, images, labels


def with_channels(images: list[np.ndarray], dims: int) -> list[np.ndarray]:
    """The images, each with a last axis of channels, which grey ones of so many axes lack."""
    return [image if image.ndim > dims else image[..., None] for image in images]


def augment(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Random flips and quarter turns in the plane, and a random brightness and contrast."""
    axes = range(label.ndim)
    for axis in axes:
        if np.random.rand() < 0.5:
            image, label = np.flip(image, axis), np.flip(label, axis)
    turns, plane = np.random.randint(4), tuple(axes)[-2:]
    image, label = np.rot90(image, turns, plane), np.rot90(label, turns, plane)
    return image * np.random.uniform(0.6, 2) + np.random.uniform(-0.2, 0.2), label


def write_found(found: np.ndarray, name: str, val: Path, output: Path, step: Sequence[int] | None) -> None:
    """Writes instances as NAME_instances.tif on the grid of NAME_label.tif."""
    if step is not None:
        shape = tifffile.imread(val / f"{name}_label.tif").shape
        found = np.kron(found, np.ones(step, found.dtype))
        found = np.pad(found, [(0, max(size - n, 0)) for size, n in zip(shape, found.shape)], mode="edge")
        found = found[tuple(slice(n) for n in shape)]
    tifffile.imwrite(output / f"{name}_instances.tif", found.astype(np.uint16))


def write_training(output: Path, minutes: float, iterations: int, tuned: bool, program: str) -> None:
    """Writes `training.json`, the end of it all: how long the training was, and whether it was tuned on val/."""
    record = {"minutes": minutes, "iterations": iterations, "tuned": tuned, "program": program}
    (output / "training.json").write_text(json.dumps(record, indent=4) + "\n")
