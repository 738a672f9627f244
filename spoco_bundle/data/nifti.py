"""NIfTI in and out: x, y, z in the file, z, y, x here; the header of the source carries over to its labels."""

from __future__ import annotations

import zlib
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage

from spoco_bundle.data.geometry import Volume, affine_from_spacing, canonical_length, column_spacing
from spoco_bundle.errors import SpocoError

SUFFIXES = (".nii.gz", ".nii")

_DAMAGE = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error)


def read(path: Path, spatial_dims: int) -> Volume:
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
    except _DAMAGE as error:
        raise _unreadable(path, error) from error
    if array.dtype.fields:
        array = np.stack([array[channel] for channel in array.dtype.names], axis=-1)
    array = array.reshape(array.shape + (1,) * (3 - array.ndim))
    slices = array.shape[2]
    if spatial_dims == 3 and slices == 1:
        raise SpocoError(
            f"{path}: shape {image.shape} (x, y, z) holds one slice, 3D images are expected: "
            "use the 2D overlay (spatial_dims 2)"
        )
    if spatial_dims == 2 and slices > 1:
        raise SpocoError(
            f"{path}: shape {image.shape} (x, y, z) holds {slices} slices, 2D images are expected: "
            "use the 3D configuration (spatial_dims 3) or save single slices"
        )
    stack = array.reshape(*array.shape[:3], -1).transpose(3, 2, 1, 0)
    spacing, unit, affine = _geometry(path, image, spatial_dims)
    return Volume(
        array=stack[:, 0] if spatial_dims == 2 else stack,
        spacing=spacing,
        spacing_unit=unit,
        affine=affine,
        file_format="nifti",
        axes="XYZTC"[: len(image.shape)],
        path=str(path),
    )


def write_labels(path: Path, labels: np.ndarray, like: Path) -> None:
    """Writes labels (z, y, x) or (y, x) on the grid of a NIfTI file: same sform, qform, codes, zooms and units.

    Args:
        path: file to write, ``.nii`` or ``.nii.gz``.
        labels: integers in the type to be stored.
        like: the image that was segmented.

    Raises:
        SpocoError: if the shape is not that of ``like``.
    """
    source = _load(like)
    stored = labels.transpose()
    grid = source.shape[:3]
    if stored.ndim == 2 and len(grid) == 3 and grid[2] == 1:
        stored = stored[..., np.newaxis]
    if stored.shape != grid:
        raise SpocoError(
            f"labels of shape {labels.shape} do not fit {like} of shape {grid[::-1]}: "
            "bring them back to the grid of the source image first"
        )
    header = source.header.copy()
    header.set_data_dtype(stored.dtype)
    header.set_slope_inter(1, 0)
    # The display window of the intensities would hide most label ids.
    header["cal_min"] = header["cal_max"] = 0
    result = source.__class__(np.asarray(stored), source.affine, header)
    nibabel.save(result, path)


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
    spatial_unit = image.header.get_xyzt_units()[0]
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
