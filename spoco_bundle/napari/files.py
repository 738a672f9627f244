"""What is written of an image: pairs to train on, label images, models."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import tifffile
import zarr

from spoco_bundle.core.atomic_files import atomic_folder, atomic_write
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.datalist import image_name
from spoco_bundle.formats.files import is_zarr
from spoco_bundle.formats.lazy import open_volume
from spoco_bundle.formats.ome_zarr import create_label_image, halve, label_pyramid_shapes
from spoco_bundle.napari.reader import OpenedImage

_ZARR_CHUNK = (64, 256, 256)


def write_label_image(path: Path, labels: np.ndarray, image: OpenedImage) -> Path:
    """Writes labels as an OME-Zarr label image with its pyramid, beside its place, and then moves it there.

    Args:
        path: the folder to write.
        labels: (*spatial) uint16 or uint32.
        image: the OME-Zarr image that they belong to.

    Raises:
        SpocoError: if something else stands there, or it cannot be written.
    """
    if path.exists() and not is_zarr(path):
        raise SpocoError(f"{path}: exists and is no Zarr image: choose another folder")
    source = open_volume(image.path, labels.ndim)
    levels = label_pyramid_shapes(labels.shape, image.spacing or (1.0,) * labels.ndim, max(_ZARR_CHUNK))
    with atomic_folder(path) as partial:
        create_label_image(
            partial,
            levels,
            _ZARR_CHUNK[-labels.ndim :],
            labels.dtype,
            image.spacing,
            source.translation,
            image.unit,
            image_name(path),
            os.path.relpath(image.path, path),
        )
        zarr.open_array(str(partial / "0"), mode="r+")[:] = labels
        for level, (shape, _) in enumerate(levels[1:], start=1):
            halve(partial, level, tuple(slice(0, size) for size in shape), levels)
    return path


def write_datalist(path: Path, image: Path, label: Path) -> Path:
    """A datalist of one image, which is its own validation: objects are held out of it, not images."""
    pair = {"image": str(image), "label": str(label)}
    with atomic_write(path) as partial:
        partial.write_text(json.dumps({"training": [pair], "validation": [pair]}, indent=4) + "\n")
    return path


def write_part(path: Path, voxels: np.ndarray, image: OpenedImage) -> None:
    """Writes a part (C, *spatial) of an image as OME-TIFF with its voxel size."""
    axes = "C" + "ZYX"[1 - voxels.ndim :]
    symbols = {"micrometer": "µm", "millimeter": "mm", "nanometer": "nm"}
    sizes = {}
    for letter, step in zip(axes[1:], image.spacing or ()):
        sizes |= {f"PhysicalSize{letter}": step, f"PhysicalSize{letter}Unit": symbols.get(image.unit, "pixel")}
    tifffile.imwrite(path, voxels, ome=True, photometric="minisblack", metadata={"axes": axes, **sizes})


def copy_folder(source: Path, target: Path) -> Path:
    """Copies a folder beside its place and moves it there, so that a model is never there by half."""
    with atomic_folder(target) as partial:
        shutil.copytree(source, partial)
    return target
