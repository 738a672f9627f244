"""NIfTI in and out: x, y, z in the file, z, y, x here; the header of the source carries over to its labels."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import unit_codes
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError, SpatialImage

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.geometry import UNKNOWN_UNIT, Image, affine_from_spacing, canonical_length, column_spacing

SUFFIXES = (".nii.gz", ".nii")
SLAB_VOXELS = 1 << 24  # written at a time

# nibabel lets whatever a damaged header leads to pass
_DAMAGE = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, ArithmeticError, LookupError, zlib.error)


@dataclass
class Grid:
    """What a NIfTI header says, without a voxel read.

    Attributes:
        shape: voxels along z, y, x or y, x.
        channels: product of the axes beyond x, y, z.
        axes: letters of the stored axes, ``"xyz"`` at first.
        dtype: of the voxels as read, after scaling.
        spacing: along z, y, x or y, x; None where unknown.
        unit: of ``spacing``.
        affine: see ``Image``.
    """

    shape: tuple[int, ...]
    channels: int
    axes: str
    dtype: np.dtype
    spacing: tuple[float, ...] | None
    unit: str
    affine: np.ndarray


def read_grid(path: Path, spatial_dims: int) -> Grid:
    """Reads the header of one NIfTI file.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        spatial_dims: as for :func:`read`.

    Raises:
        SpocoError: as :func:`read`; also for voxels of several components (RGB).
    """
    image = _load(path)
    if image.get_data_dtype().fields:
        raise SpocoError(f"{path}: holds RGB voxels, which are not read by region: convert the image to TIFF")
    shape = tuple(int(size) for size in image.shape)
    _check_slices(path, shape, spatial_dims)
    scaled = image.dataobj.slope != 1 or image.dataobj.inter != 0
    return Grid(
        shape=(*shape, 1)[:3][::-1][-spatial_dims:],
        channels=int(np.prod(shape[3:], dtype=np.int64)),
        axes="xyztc"[: len(shape)],
        dtype=np.dtype(np.float64) if scaled else image.get_data_dtype(),
        **dict(zip(("spacing", "unit", "affine"), _geometry(path, image, spatial_dims), strict=True)),
    )


def stored_voxels(path: Path) -> Any:
    """Voxels with the stored axes (x, y, z, ...), read and scaled as they are indexed."""
    return _load(path).dataobj


def read(path: Path, spatial_dims: int) -> Image:
    """Reads one NIfTI file; axes beyond x, y, z become channels.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        spatial_dims: 2 takes images of one slice, (x, y) or (x, y, 1); 3 takes (x, y, z) with more than one slice.

    Raises:
        SpocoError: if the file cannot be read, its affine is singular or its axes do not fit ``spatial_dims``.
    """
    image = _load(path)
    try:
        array = np.asanyarray(image.dataobj)
    except MemoryError as error:
        raise SpocoError(
            f"{path}: by its header it holds {image.shape} voxels, more than memory: the header is damaged, or the "
            "image is to be predicted with --blockwise True"
        ) from error
    except _DAMAGE as error:
        raise _unreadable(path, error) from error
    if array.dtype.fields:
        array = np.stack([array[channel] for channel in array.dtype.names], axis=-1)
    array = array.reshape(array.shape + (1,) * (3 - array.ndim))
    _check_slices(path, image.shape, spatial_dims)
    stack = array.reshape(*array.shape[:3], -1).transpose(3, 2, 1, 0)
    spacing, unit, affine = _geometry(path, image, spatial_dims)
    return Image(
        array=stack[:, 0] if spatial_dims == 2 else stack,
        spacing=spacing,
        spacing_unit=unit,
        affine=affine,
        file_format="nifti",
        axes="XYZTC"[: len(image.shape)],
        path=str(path),
    )


def _check_slices(path: Path, shape: tuple[int, ...], spatial_dims: int) -> None:
    if len(shape) < 2:
        raise SpocoError(
            f"{path}: has {len(shape)} axes, an image has x and y at least: the file is damaged or no image"
        )
    slices = (*shape, 1)[2]
    if spatial_dims == 3 and slices == 1:
        raise SpocoError(
            f"{path}: shape {shape} (x, y, z) holds one slice, 3D images are expected: "
            "use the 2D overlay (spatial_dims 2)"
        )
    if spatial_dims == 2 and slices > 1:
        raise SpocoError(
            f"{path}: shape {shape} (x, y, z) holds {slices} slices, 2D images are expected: "
            "use the 3D configuration (spatial_dims 3) or save single slices"
        )


def write_labels(path: Path, labels: Any, like: Path) -> None:
    """Writes labels (z, y, x) or (y, x) on the grid of a NIfTI file: same sform, qform, codes, zooms and units.

    They are read and written slab by slab along their first axis, never as a whole.

    Args:
        path: file to write, ``.nii`` or ``.nii.gz``.
        labels: array or Zarr array of integers in the type to be stored.
        like: the image that was segmented.

    Raises:
        SpocoError: if the shape is not that of ``like``.
    """
    source = _load(like)
    grid = tuple(source.shape[:3])
    shape = tuple(labels.shape)[::-1]
    stored = (*shape, 1) if len(shape) == 2 and len(grid) == 3 and grid[2] == 1 else shape
    if stored != grid:
        raise SpocoError(
            f"labels of shape {labels.shape} do not fit {like} of shape {grid[::-1]}: "
            "bring them back to the grid of the source image first"
        )
    header = source.header.copy()
    header.set_data_dtype(labels.dtype)
    header.set_slope_inter(1, 0)
    # The display window of the intensities would hide most label ids.
    header["cal_min"] = header["cal_max"] = 0
    empty = np.broadcast_to(np.zeros((), labels.dtype), stored)
    result = source.__class__(empty, source.affine, header)
    result.update_header()
    with ImageOpener(path, "wb") as file:
        result.header.write_to(file)
        file.write(bytes(result.header.get_data_offset() - file.tell()))
        step = max(1, SLAB_VOXELS // max(1, int(np.prod(labels.shape[1:]))))
        for start in range(0, labels.shape[0], step):
            slab = np.asarray(labels[start : start + step])
            file.write(np.ascontiguousarray(slab, dtype=result.header.get_data_dtype()).tobytes())


def _load(path: Path) -> SpatialImage:
    try:
        return nibabel.load(path)
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> SpocoError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return SpocoError(f"{path}: cannot be read as NIfTI ({reason}): the file is damaged or truncated, copy it again")


def _geometry(path: Path, image: SpatialImage, spatial_dims: int) -> tuple[tuple[float, ...] | None, str, np.ndarray]:
    """Spacing, unit and affine in z, y, x order."""
    code = int(image.header["xyzt_units"]) % 8  # the other bits are the time's
    spatial_unit = unit_codes.label[code] if code in unit_codes.label else UNKNOWN_UNIT
    scale, unit = canonical_length(1.0, spatial_unit)
    world = np.array(image.affine, dtype=np.float64)
    world[:3] *= scale
    affine = world[:, [2, 1, 0, 3]]
    norms = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.all(np.isfinite(affine)) or abs(np.linalg.det(affine[:3, :3])) < 1e-9 * norms.prod() or not norms.all():
        raise SpocoError(f"{path}: the affine in the header is singular or not finite: correct its sform or pixdim")
    without_codes = int(image.header["sform_code"]) == 0 and int(image.header["qform_code"]) == 0
    known = not (without_codes and np.allclose(norms, 1.0))
    if spatial_dims == 3:
        return column_spacing(affine) if known else None, unit, affine
    spacing = column_spacing(affine)[1:]
    plane = affine[np.ix_([0, 1, 3], [1, 2, 3])]
    # A slice that is oblique in space has no 2D affine of the same spacing; its labels are written with the source's.
    if not np.allclose(column_spacing(plane), spacing):
        plane = affine_from_spacing(spacing)
    return spacing if known else None, unit, plane
