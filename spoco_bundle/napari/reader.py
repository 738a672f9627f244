"""Images of every format that the bundle reads, as napari layers with the voxel size as their scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
from dask.array.core import normalize_chunks

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import MICROMETER
from spoco_bundle.dataset.datalist import IMAGE_SUFFIXES, image_name
from spoco_bundle.formats.files import is_zarr, read_image
from spoco_bundle.formats.geometry import Image, length_unit
from spoco_bundle.formats.lazy import LazyVolume, open_volume
from spoco_bundle.report.pictures import LIMITS_VOXELS, intensity_limits

#: key of a layer's metadata under which its image is found
OPENED = "spoco_image"


def get_reader(path: str | list[str]) -> Callable[[str | list[str]], list[tuple]] | None:
    """What napari asks before it opens files: a function that reads them, or None where they are of another kind."""
    paths = [path] if isinstance(path, str) else path
    readable = tuple(IMAGE_SUFFIXES)
    return _read if all(one.lower().endswith(readable) or is_zarr(one) for one in paths) else None


def _read(path: str | list[str]) -> list[tuple]:
    paths = [path] if isinstance(path, str) else path
    return [layer for one in paths for layer in image_layers(open_image(one))]


def open_image(path: str | Path) -> Image:
    """Opens an image of two or three dimensions, whose array is one of Dask, read when it is shown, for OME-Zarr.

    Raises:
        SpocoError: if it is neither, or cannot be read.
    """
    path = Path(path).absolute()
    try:
        return _open(path, 3)
    except SpocoError as as_volume:
        try:
            return _open(path, 2)
        except SpocoError:
            raise as_volume from None


def image_layers(image: Image) -> list[tuple[Any, dict[str, Any], str]]:
    """The layers of an image, as napari takes them: one, or one per channel where there are several but not RGB."""
    channels, shape = len(image.array), image.spatial_shape
    rgb = channels == 3 and image.array.dtype == np.uint8 and len(shape) == 2
    options = {"metadata": {OPENED: image}, **layer_grid(shape, image.spacing, image.file_unit)}
    name = image_name(image.path)
    if rgb:
        return [(np.moveaxis(np.asarray(image.array), 0, -1), {"name": name, "rgb": True, **options}, "image")]
    layers = []
    for number, channel in enumerate(image.array):
        low, high = intensity_limits(channel if isinstance(channel, np.ndarray) else _sample(channel))
        limits = (low, high if high > low else low + 1)
        title = name if channels == 1 else f"{name} {number}"
        layers.append((channel, {"name": title, "rgb": False, "contrast_limits": limits, **options}, "image"))
    return layers


def layer_grid(shape: tuple[int, ...], spacing: tuple[float, ...] | None, unit: str) -> dict[str, Any]:
    """Scale, units and axis names of a layer."""
    dims = len(shape)
    known = length_unit(spacing, unit) == MICROMETER
    return {
        "scale": tuple(spacing or (1.0,) * dims),
        "units": (MICROMETER if known else "pixel",) * dims,
        "axis_labels": tuple("zyx"[-dims:]),
    }


def _sample(channel: dask.array.Array) -> np.ndarray:
    """Of an image that is read when it is shown, as much as says its range: the middle plane, or every n-th pixel."""
    if channel.ndim == 3:
        return np.asarray(channel[len(channel) // 2])
    step = math.ceil(math.sqrt(channel.size / LIMITS_VOXELS))
    return np.asarray(channel[::step, ::step])


def _open(path: Path, dims: int) -> Image:
    if is_zarr(path):
        lazy = open_volume(path, dims)
        chunks = normalize_chunks((1, *(64 if dims == 3 else 512,) * dims), (lazy.channels, *lazy.shape))
        empty = np.empty((0,) * (dims + 1), lazy.dtype)
        array = dask.array.map_blocks(_read_block, volume=lazy, chunks=chunks, dtype=lazy.dtype, meta=empty)
        return lazy.image(array)
    return read_image(path, "image", dims)


def _read_block(volume: LazyVolume, block_info: dict[Any, Any]) -> np.ndarray:
    """One block (C, *spatial) of an array, at the place that Dask names."""
    channels, *region = (slice(*ends) for ends in block_info[None]["array-location"])
    return volume.read(tuple(region))[channels]
