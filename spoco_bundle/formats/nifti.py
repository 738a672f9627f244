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

from spoco_bundle.core.errors import SpocoError, in_short
from spoco_bundle.core.lengths import UNITLESS, in_unit, in_words, parse_unit
from spoco_bundle.formats.geometry import affine_from_spacing, column_spacing
from spoco_bundle.formats.label_ids import check_fits
from spoco_bundle.formats.stored import LazyVolume

SUFFIXES = (".nii.gz", ".nii", ".img", ".hdr")
#: header and voxels in two files; their results are single files
PAIR_SUFFIXES = (".img", ".hdr")
SLAB_VOXELS = 1 << 24  # written at a time

# nibabel lets whatever a damaged header leads to pass
_DAMAGE = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, ArithmeticError, LookupError, zlib.error)


def describe(path: Path, spatial_dims: int, time: int | None = None) -> LazyVolume:
    """Reads the header of one NIfTI file.

    Axes beyond x, y, z are channels; where a time point is asked for, the fourth is time. The components of RGB voxels
    are channels too.

    Args:
        path: ``.nii``, ``.nii.gz``, or one of ``.hdr`` and ``.img``.
        spatial_dims: 2 takes images of one slice, (x, y) or (x, y, 1); 3 takes (x, y, z) with more than one slice.
        time: the time point that will be chosen, if any.

    Raises:
        SpocoError: if the header cannot be read, its affine is singular or its axes do not fit ``spatial_dims``.
    """
    image = _load(path)
    shape = tuple(int(size) for size in image.shape)
    _check_slices(path, shape, spatial_dims)
    further = "TCUVW" if time is not None or len(shape) > 4 else "C"
    axes = ("XYZ" + further)[: len(shape)]
    fields = image.get_data_dtype().fields
    dtype = image.get_data_dtype()
    if fields:
        axes, shape, dtype = axes + "S", (*shape, len(fields)), dtype[0]
    elif image.dataobj.slope != 1 or image.dataobj.inter != 0:
        dtype = np.dtype(np.float64)
    spacing, unit, stated, affine = _geometry(path, image, spatial_dims)
    return LazyVolume(
        path=str(path),
        axes=axes,
        stored_shape=shape,
        spatial="ZYX"[-spatial_dims:],
        dtype=dtype,
        spacing=spacing,
        file_unit=unit,
        affine=affine,
        file_format="nifti",
        stated_size=stated,
        fixed={"Z": 0} if spatial_dims == 2 and "Z" in axes else {},
    )


@dataclass
class _Components:
    """RGB voxels as numbers along a last axis."""

    stored: Any

    def __getitem__(self, index: tuple[Any, ...]) -> np.ndarray:
        voxels = np.asarray(self.stored[index[:-1]])
        return np.stack([voxels[name] for name in voxels.dtype.names], axis=-1)[..., index[-1]]


def stored_voxels(path: Path, singletons: tuple[int, ...] = ()) -> Any:
    """Voxels with the stored axes (x, y, z, ...), read and scaled as they are indexed."""
    image = _load(path)
    return _Components(image.dataobj) if image.get_data_dtype().fields else image.dataobj


def whole(path: Path) -> np.ndarray:
    """All voxels with the stored axes.

    Raises:
        SpocoError: if the file is damaged, or larger than memory.
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
    return array


def _check_slices(path: Path, shape: tuple[int, ...], spatial_dims: int) -> None:
    if len(shape) < 2:
        raise SpocoError(
            f"{path}: has {len(shape)} axes, an image has x and y at least: the file is damaged or no image"
        )
    slices = (*shape, 1)[2]
    if spatial_dims == 3 and slices == 1:
        raise SpocoError(
            f"{path}: shape {shape} (x, y, z) holds one slice, 3D images are expected: "
            "take 2D and 3D images apart, or give --spatial_dims 2"
        )
    if spatial_dims == 2 and slices > 1:
        raise SpocoError(
            f"{path}: shape {shape} (x, y, z) holds {slices} slices, 2D images are expected: "
            "take 2D and 3D images apart, give --spatial_dims 3, or save single slices"
        )


def write_labels(path: Path, labels: Any, like: Path) -> None:
    """Writes labels (z, y, x) or (y, x) on the grid of a NIfTI file: same sform, qform, codes, zooms and units.

    They are read and written slab by slab along their first axis, never as a whole.

    Args:
        path: file to write, ``.nii`` or ``.nii.gz``, whatever the source is.
        labels: array or Zarr array of integers in the type to be stored.
        like: the image that was segmented.

    Raises:
        SpocoError: if the shape is not that of ``like``.
    """
    source = _load(like)
    grid = tuple(source.shape[:3])
    check_fits(labels.shape, grid[::-1], like)
    result = _label_image(source, grid, labels.dtype)
    with ImageOpener(path, "wb") as file:
        result.header.write_to(file)
        file.write(bytes(result.header.get_data_offset() - file.tell()))
        step = max(1, SLAB_VOXELS // max(1, int(np.prod(labels.shape[1:]))))
        for start in range(0, labels.shape[0], step):
            slab = np.asarray(labels[start : start + step])
            file.write(np.ascontiguousarray(slab, dtype=result.header.get_data_dtype()).tobytes())


def check_labels(like: Path) -> None:
    """Makes the header of labels on the grid of a file, to see before the work that it can be written.

    Raises:
        SpocoError: if it cannot.
    """
    source = _load(like)
    for dtype in (np.uint16, np.uint32):
        try:
            _label_image(source, tuple(source.shape[:3]), np.dtype(dtype)).header.check_fix()
        except _DAMAGE as error:
            raise SpocoError(f"{like}: labels cannot take over its header ({error}): export the image again") from error


def _label_image(source: SpatialImage, shape: tuple[int, ...], dtype: np.dtype) -> SpatialImage:
    """An image of zeros, which take no memory, with the header that labels of this shape get."""
    single = isinstance(source, nibabel.Nifti1Image)
    header = source.header.copy() if single else _single_file_header(source)
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    # The display window of the intensities would hide most label ids.
    header["cal_min"] = header["cal_max"] = 0
    kind = source.__class__ if single else nibabel.Nifti1Image
    result = kind(np.broadcast_to(np.zeros((), dtype), shape), source.affine, header)
    result.update_header()
    return result


def _single_file_header(source: SpatialImage) -> nibabel.Nifti1Header:
    """The header of an image in two files, for one file; Analyze has fewer entries, its lengths are millimetres."""
    if isinstance(source, nibabel.Nifti1Pair):
        return nibabel.Nifti1Header(source.header.binaryblock, source.header.endianness, check=False)
    header = nibabel.Nifti1Header.from_header(source.header, check=False)
    header.set_xyzt_units("mm")
    header.set_sform(source.affine, code="scanner")
    return header


def _load(path: Path) -> SpatialImage:
    try:
        return nibabel.load(path)
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> SpocoError:
    return SpocoError(
        f"{path}: cannot be read as NIfTI ({in_short(error)}): the file is damaged or truncated, copy it again"
    )


def _geometry(
    path: Path, image: SpatialImage, spatial_dims: int
) -> tuple[tuple[float, ...] | None, str, str, np.ndarray]:
    """Spacing, the file's unit, the size in its words, and affine, in z, y, x order."""
    header = image.header
    unit = parse_unit("mm")  # of Analyze
    known = True
    if isinstance(image, nibabel.Nifti1Pair):
        code = int(header["xyzt_units"]) % 8  # the other bits are the time's
        unit = parse_unit(unit_codes.label[code] if code in unit_codes.label else "")
        without_codes = int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0
        known = not (without_codes and np.allclose(np.linalg.norm(image.affine[:3, :3], axis=0), 1.0))
    affine = np.array(image.affine, dtype=np.float64)[:, [2, 1, 0, 3]]
    affine[:3] *= unit.micrometers if unit else 1.0
    norms = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.all(np.isfinite(affine)) or abs(np.linalg.det(affine[:3, :3])) < 1e-9 * norms.prod() or not norms.all():
        raise SpocoError(f"{path}: the affine in the header is singular or not finite: correct its sform or pixdim")
    spacing = column_spacing(affine)[-spatial_dims:]
    name = unit.name if unit else UNITLESS
    stated = in_words([in_unit(step, name) for step in spacing], name) if known else ""
    if spatial_dims == 2:
        plane = affine[np.ix_([0, 1, 3], [1, 2, 3])]
        # of a slice that is oblique in space, lengths and the angle between its axes are kept
        if not np.allclose(column_spacing(plane), spacing):
            plane = affine_from_spacing(spacing)
            plane[:2, :2] = np.linalg.qr(affine[:3, 1:3]).R
        affine = plane
    return spacing if known else None, name, stated, affine
