"""One way in and one way out for images of any format, always z, y, x inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import itk_io, nifti, tiff
from spoco_bundle.formats.geometry import (
    Image,
    batch_spacing,
    checked_spacing,
    rescale_affine,
    spacing_warning,
    voxel_spacing,
)
from spoco_bundle.formats.label_ids import as_label_ids

__all__ = [
    "Image",
    "batch_spacing",
    "file_suffix",
    "is_zarr",
    "read_image",
    "spacing_warning",
    "voxel_spacing",
    "write_instances",
]


def file_suffix(path: str | Path) -> str:
    """The end of a file name that tells its format, ``.nii.gz`` and ``.ome.tif`` included, as written."""
    name = Path(path).name
    for double in (".nii.gz", ".ome.tif", ".ome.tiff", ".ome.zarr"):
        if name.lower().endswith(double):
            return name[-len(double) :]
    return Path(name).suffix


def is_zarr(path: str | Path) -> bool:
    """Whether a folder is a Zarr group or array."""
    return any((Path(path) / mark).is_file() for mark in (".zgroup", ".zarray", "zarr.json"))


def read_image(
    path: str | Path,
    kind: str = "image",
    spatial_dims: int = 3,
    spacing: Sequence[float] | None = None,
    spacing_unit: str = "micrometer",
    override_spacing: bool = False,
    axes: str | None = None,
) -> Image:
    """Reads an image or a label volume of any supported format.

    NIfTI goes through nibabel, TIFF (plain, ImageJ, OME) through tifffile, everything else through ITK.

    Args:
        path: the file.
        kind: ``"image"`` or ``"label"``. Labels come out as int32 with one channel.
        spatial_dims: 3 for volumes, 2 for single images; a file of the other sort is refused.
        spacing: spacing along z, y, x (or y, x) for files that state none.
        spacing_unit: unit of ``spacing``.
        override_spacing: take ``spacing`` even where the file states another one.
        axes: letters that replace the axes a TIFF file states, where those are wrong (see ``tiff.read``).

    Returns:
        The volume; its array keeps the file's data type for images.

    Raises:
        SpocoError: if the file is missing, empty, damaged or of the wrong dimension; if an image holds NaN or infinite
            voxels or one value only; if a label volume is not made of whole numbers that fit int32.
    """
    if kind not in ("image", "label"):
        raise ValueError(f"kind is {kind!r}: give 'image' or 'label'")
    if spatial_dims not in (2, 3):
        raise SpocoError(f"spatial_dims is {spatial_dims!r}: give 2 or 3")
    path = _existing_file(path)
    suffix = path.name.lower()
    try:
        if suffix.endswith(nifti.SUFFIXES):
            volume = nifti.read(path, spatial_dims)
        elif suffix.endswith(tiff.SUFFIXES):
            volume = tiff.read(path, spatial_dims, axes)
        else:
            volume = itk_io.read(path, spatial_dims)
    except (SpocoError, MemoryError):
        raise
    # there is no end to the ways in which a damaged header can contradict its file
    except Exception as error:
        raise SpocoError(
            f"{path}: cannot be read ({type(error).__name__}: {error}): the file is damaged, export it again"
        ) from error
    if min(volume.array.shape) == 0:
        raise SpocoError(f"{path}: shape {volume.array.shape} holds no voxel: export the file again")
    if spacing is not None and (volume.spacing is None or override_spacing):
        volume.spacing = checked_spacing(spacing, spatial_dims)
        volume.spacing_unit = spacing_unit
        volume.affine = rescale_affine(volume.affine, volume.spacing)
    if kind == "label":
        if volume.array.shape[0] != 1:
            raise SpocoError(
                f"{path}: a label volume has one id per voxel, this one has {volume.array.shape[0]} channels: "
                "save it as a single-channel image of integer ids"
            )
        volume.array = as_label_ids(volume.array, str(path))
    else:
        _check_intensities(volume.array, path)
    return volume


def write_instances(path: str | Path, labels: Any, like: str | Path, axes: str | None = None) -> Path:
    """Writes an instance segmentation on the grid and in the format of the image it belongs to.

    uint16, or uint32 where an id is above 65,535; compressed wherever the format's readers allow it. NIfTI keeps
    affine, sform and qform codes, zooms and units; TIFF keeps its kind (plain, ImageJ, OME), axes, spacing and unit,
    except that ImageJ has no uint32: such labels become OME-TIFF under the same name. The file is written beside its
    place and then moved into it, so that it is never there by half.

    Args:
        path: file to write, with a suffix of the same family as ``like``; missing folders are made.
        labels: (z, y, x) or (y, x) array of non-negative integer ids, 0 = background. A Zarr array of uint16 or uint32
            is written as it is, slab by slab, without ever being in memory as a whole.
        like: the image that was segmented, read for its header.
        axes: as given to :func:`read_image` for ``like``.

    Returns:
        The path written.

    Raises:
        SpocoError: if the shape is not that of ``like``, the formats differ, ``path`` is ``like``, or the folder cannot
            be written.
        ValueError: if the labels are not integers or negative.
    """
    path, like = Path(path), _existing_file(like)
    if path.resolve() == like.resolve():
        raise SpocoError(f"{path}: would overwrite the image it was made from: choose another name or folder")
    if _family(path) != _family(like):
        raise SpocoError(f"{path}: labels take the format of their image {like}: give the same kind of suffix")
    stored = labels if hasattr(labels, "chunks") else _as_stored(labels)
    with atomic_write(path) as partial:
        if _family(path) == "nifti":
            nifti.write_labels(partial, stored, like)
        elif _family(path) == "tiff":
            tiff.write_labels(partial, stored, like, axes)
        else:
            itk_io.write_labels(partial, np.asarray(stored[:]), like)
    return path


def _as_stored(labels: np.ndarray) -> np.ndarray:
    """Labels as uint16, or uint32 where an id is above 65,535."""
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim not in (2, 3):
        raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}: give integers (z, y, x) or (y, x)")
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high >= 2**32:
        raise ValueError(f"labels lie in {low}..{high}: ids must be in 0..4294967295")
    return labels.astype(np.uint16 if high < 2**16 else np.uint32)


def _family(path: Path) -> str:
    name = path.name.lower()
    if name.endswith(nifti.SUFFIXES):
        return "nifti"
    return "tiff" if name.endswith(tiff.SUFFIXES) else "itk"


def _existing_file(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise SpocoError(f"{path}: no such file: check the path")
    if path.is_dir():
        raise SpocoError(f"{path}: is a folder: give an image file")
    if path.stat().st_size == 0:
        raise SpocoError(f"{path}: is empty (0 bytes): copy or export the file again")
    return path


def _check_intensities(array: np.ndarray, path: Path) -> None:
    """Refuses images that no network can make sense of."""
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise SpocoError(f"{path}: voxels are of type {array.dtype}: save real numbers, such as uint16 or float32")
    if np.issubdtype(array.dtype, np.floating):
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            raise SpocoError(
                f"{path}: {bad} of {array.size} voxels are NaN or infinite: replace them, for instance by the minimum"
            )
    if array.min() == array.max():
        raise SpocoError(f"{path}: every voxel is {array.flat[0]:g}, the image is empty: check the file or its channel")
