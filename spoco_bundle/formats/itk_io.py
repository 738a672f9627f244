"""Every other format that ITK knows: nrrd, mha, mhd, png, jpg, dcm, ..."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import UNITLESS, Unit, in_unit, in_words, parse_unit
from spoco_bundle.formats.geometry import Image, column_spacing
from spoco_bundle.formats.label_ids import check_fits
from spoco_bundle.formats.text_headers import META, NRRD, state_unit, stated_unit

# Formats that lose ids (lossy, or 8 bits only): labels of such images are written as PNG.
JPEG_SUFFIXES = (".jpg", ".jpeg", ".jp2")
LOSSY_SUFFIXES = (*JPEG_SUFFIXES, ".bmp", ".gif")
#: pictures: what they state is a density for printers and screens, not the size of a voxel
PICTURE_SUFFIXES = (*LOSSY_SUFFIXES, ".png")
#: headers with their voxels in another file, and the same format in one file
DETACHED = {".mhd": ".mha", ".nhdr": ".nrrd"}

_FAILURES = (RuntimeError, TypeError, KeyError, ValueError, OSError)
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


def read(path: Path, spatial_dims: int, is_label: bool = False) -> Image:
    """Reads one image through ITK; colour components become channels, an alpha component is left out.

    Args:
        path: any file whose format ITK recognises.
        spatial_dims: 2 or 3. A stack of one slice is 2D.
        is_label: take the numbers of a picture with a colour table as they are, not as colours.

    Raises:
        SpocoError: if ITK cannot read the file, its header names a file elsewhere or a flag that ITK passes over, or
            its axes do not fit ``spatial_dims``.
    """
    unit = _unit(path)
    image = _load(path, is_label)
    import itk

    array = np.asarray(itk.array_from_image(image))
    rank = image.GetImageDimension()
    components = image.GetNumberOfComponentsPerPixel()
    if components == 1:
        array = array[np.newaxis]
    else:
        array = np.moveaxis(array, -1, 0)
        array = array[:3] if components == 4 and "RGBA" in type(image).__name__ else array
    spacing = np.array(image.GetSpacing(), dtype=np.float64)
    direction = np.asarray(itk.array_from_matrix(image.GetDirection()), dtype=np.float64)
    origin = np.array(image.GetOrigin(), dtype=np.float64)
    if rank == 3 and array.shape[1] == 1:
        array, rank = array[:, 0], 2
        spacing, direction, origin = spacing[:2], _plane(direction), origin[:2]
    if rank != spatial_dims:
        raise SpocoError(_other_rank(path, rank, spatial_dims))
    pixels = path.name.lower().endswith(PICTURE_SUFFIXES) or not unit and np.allclose(spacing, 1.0)
    scale = 1.0 if pixels or not unit else unit.micrometers
    affine = np.eye(rank + 1)
    affine[:rank, :rank] = _LPS_TO_RAS[:rank, np.newaxis] * direction * (1.0 if pixels else spacing * scale)
    affine[:rank, rank] = _LPS_TO_RAS[:rank] * origin * scale
    affine[:, :rank] = affine[:, :rank][:, ::-1]
    name = unit.name if unit and not pixels else UNITLESS
    return Image(
        array=array,
        spacing=None if pixels else column_spacing(affine),
        file_unit=name,
        affine=affine,
        file_format="itk",
        axes="ZYX"[-rank:] + ("C" if components > 1 else ""),
        path=str(path),
        stated_size="" if pixels else in_words([in_unit(s, name) for s in column_spacing(affine)], name),
    )


def _plane(direction: np.ndarray) -> np.ndarray:
    """Directions (2, 2) of a slice's own axes; one that is oblique in space keeps the angle between them."""
    plane = direction[:2, :2]
    return plane if np.allclose(np.linalg.norm(plane, axis=0), 1) else np.linalg.qr(direction[:, :2]).R


def _other_rank(path: Path, rank: int, spatial_dims: int) -> str:
    if _is_dicom(path) and rank == 2:
        # the same line for every slice, so that a folder of them is told once
        return (
            f"{path.parent}: holds DICOM files of one slice each, 3D images are expected: convert the series to one "
            "NIfTI or NRRD file, with dcm2niix or 3D Slicer for instance, or give --spatial_dims 2 for single slices"
        )
    remedy = {2: "give --spatial_dims 2", 3: "give --spatial_dims 3, or save single images"}.get(
        rank, "save one time point or position per file"
    )
    slices = "a single slice, which is 2D" if rank == 2 else f"{rank}D"
    return f"{path}: is {slices}, {spatial_dims}D images are expected: {remedy} (spatial_dims {rank})"


def file_grid(path: str | Path) -> tuple[np.ndarray, int]:
    """The grid of any image file as ITK, and with it the viewers built on ITK, reads it.

    Args:
        path: any file whose format ITK recognises. A unit of length other than the millimetre is converted.

    Returns:
        (4, 4) float64, index x, y, z to right, anterior, superior; and the number of axes of the file.

    Raises:
        SpocoError: if ITK cannot read the header.
    """
    import itk

    reader = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if reader is None:
        raise SpocoError(f"{path}: ITK, which the viewers read with, does not know this file: convert it to NIfTI")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except _FAILURES as error:
        raise SpocoError(f"{path}: cannot be read by ITK: the file is damaged or truncated, copy it again") from error
    rank = reader.GetNumberOfDimensions()
    affine = np.eye(4)
    for axis in range(min(rank, 3)):
        column = np.zeros(3)
        column[: min(rank, 3)] = np.array(reader.GetDirection(axis))[:3]
        affine[:3, axis] = _LPS_TO_RAS * column * reader.GetSpacing(axis)
        affine[axis, 3] = _LPS_TO_RAS[axis] * reader.GetOrigin(axis)
    for axis in range(rank, 3):
        affine[axis, axis] = _LPS_TO_RAS[axis]
    return affine, rank


def write_labels(path: Path, labels: np.ndarray, like: Path) -> None:
    """Writes labels (z, y, x) or (y, x) with the origin, spacing, direction and unit of another image.

    Args:
        path: file to write; its suffix chooses the format.
        labels: uint16 or uint32.
        like: the image that was segmented.

    Raises:
        SpocoError: if the shape is not that of ``like``, or the format cannot hold the ids.
    """
    import itk

    source = _load(like)
    grid = tuple(int(size) for size in itk.size(source))[::-1]
    check_fits(labels.shape, grid, like)
    _write(path, labels.reshape(grid), source, like)


def check_labels(path: Path, like: Path) -> None:
    """Writes a few voxels as labels with the header of an image, to see before the work that it can be done.

    Args:
        path: the file that will be written; here a temporary one of the same suffix is.
        like: the image that will be segmented.

    Raises:
        SpocoError: if the format cannot hold them.
    """
    source = _load(like)
    types = (np.uint16,) if path.suffix.lower() == ".png" else (np.uint16, np.uint32)
    with tempfile.TemporaryDirectory() as folder:
        for dtype in types:
            _write(
                Path(folder) / f"labels{path.suffix}", np.ones((2,) * source.GetImageDimension(), dtype), source, like
            )


def _write(path: Path, labels: np.ndarray, source: Any, like: Path) -> None:
    import itk

    if path.name.lower().endswith(LOSSY_SUFFIXES):
        raise SpocoError(f"{like}: {path.suffix} files cannot hold label ids: write them as .png")
    result = itk.image_from_array(np.ascontiguousarray(labels))
    result.SetSpacing(source.GetSpacing())
    result.SetOrigin(source.GetOrigin())
    result.SetDirection(source.GetDirection())
    try:
        itk.imwrite(result, str(path), compression=True)
    except _FAILURES as error:
        reason = " ".join(str(error).split())[-160:]
        raise SpocoError(
            f"{like}: ITK cannot write {labels.dtype} labels as {path.suffix} ({reason}): "
            "convert the image to TIFF or NIfTI"
        ) from error
    unit = _unit(like)
    if unit:
        state_unit(path, unit)


def _load(path: Path, is_label: bool = False) -> Any:
    # Imported here because loading ITK takes seconds that TIFF and NIfTI users need not wait for.
    import itk

    try:
        if is_label and path.suffix.lower() in (".png", ".bmp"):
            reader = itk.PNGImageIO.New() if path.suffix.lower() == ".png" else itk.BMPImageIO.New()
            reader.ExpandRGBPaletteOff()
            return itk.imread(str(path), imageio=reader)
        return itk.imread(str(path))
    except _FAILURES as error:
        reason = re.sub(r" ?\(0x[0-9a-f]+\)", "", " ".join(str(error).split()))[-160:]
        raise SpocoError(
            f"{path}: cannot be read ({reason}): give TIFF, NIfTI or a format that ITK knows, undamaged"
        ) from error


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _unit(path: Path) -> Unit | None:
    """The unit that a header names, which ITK passes over; DICOM is in millimetres, MRC in angstroms by definition."""
    suffix = path.suffix.lower()
    if suffix in (*NRRD, *META):
        return stated_unit(path)
    if _is_dicom(path):
        return parse_unit("mm")
    return parse_unit("angstrom") if suffix in (".mrc", ".rec", ".map") else None
