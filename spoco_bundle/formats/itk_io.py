"""Every other format that ITK knows: nrrd, mha, mhd, png, jpg, ..."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.geometry import UNKNOWN_UNIT, Image, canonical_length, column_spacing

# Formats that lose ids (lossy, or 8 bits only): labels of such images are written as PNG.
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".jp2", ".bmp", ".gif")

_FAILURES = (RuntimeError, TypeError, KeyError, ValueError, OSError)
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


def read(path: Path, spatial_dims: int) -> Image:
    """Reads one image through ITK; colour components become channels, an alpha component is left out.

    Args:
        path: any file whose format ITK recognises.
        spatial_dims: 2 or 3. A stack of one slice counts as 2D.

    Raises:
        SpocoError: if ITK cannot read the file or its axes do not fit ``spatial_dims``.
    """
    image = _load(path)
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
    if rank == 3 and array.shape[1] == 1 and spatial_dims == 2:
        array, rank = array[:, 0], 2
        spacing, direction, origin = spacing[:2], direction[:2, :2], origin[:2]
    if rank != spatial_dims:
        remedy = "use the 2D overlay" if rank == 2 else "use the 3D configuration or save single images"
        raise SpocoError(f"{path}: is {rank}D, {spatial_dims}D images are expected: {remedy} (spatial_dims {rank})")
    affine = np.eye(rank + 1)
    affine[:rank, :rank] = _LPS_TO_RAS[:rank, np.newaxis] * direction * spacing
    affine[:rank, rank] = _LPS_TO_RAS[:rank] * origin
    affine[:, :rank] = affine[:, :rank][:, ::-1]
    unit = _unit(path)
    known = unit != UNKNOWN_UNIT or not np.allclose(spacing, 1.0)
    return Image(
        array=array,
        spacing=column_spacing(affine) if known else None,
        spacing_unit=unit,
        affine=affine,
        file_format="itk",
        axes="ZYX"[-rank:] + ("C" if components > 1 else ""),
        path=str(path),
    )


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
    """Writes labels (z, y, x) or (y, x) with the origin, spacing and direction of another image.

    ITK writes no unit of length, so the unit that a NRRD source names is not repeated.

    Args:
        path: file to write; its suffix chooses the format.
        labels: uint16 or uint32.
        like: the image that was segmented.

    Raises:
        SpocoError: if the shape is not that of ``like``, or the format cannot hold the ids.
    """
    import itk

    if path.name.lower().endswith(LOSSY_SUFFIXES):
        raise SpocoError(f"{like}: {path.suffix} files cannot hold label ids: write them as .png")
    source = _load(like)
    grid = tuple(int(size) for size in itk.size(source))[::-1]
    stored = labels[np.newaxis] if len(grid) == 3 and labels.ndim == 2 else labels
    if stored.shape != grid:
        raise SpocoError(
            f"labels of shape {labels.shape} do not fit {like} of shape {grid}: "
            "bring them back to the grid of the source image first"
        )
    result = itk.image_from_array(np.ascontiguousarray(stored))
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


def _load(path: Path) -> Any:
    # Imported here because loading ITK takes seconds that TIFF and NIfTI users need not wait for.
    import itk

    try:
        return itk.imread(str(path))
    except _FAILURES as error:
        reason = re.sub(r" ?\(0x[0-9a-f]+\)", "", " ".join(str(error).split()))[-160:]
        raise SpocoError(
            f"{path}: cannot be read ({reason}): give TIFF, NIfTI or a format that ITK knows, undamaged"
        ) from error


def _unit(path: Path) -> str:
    """The unit that a NRRD header names, which ITK passes over; DICOM is in millimetres; other formats do not say."""
    suffix = path.suffix.lower()
    if suffix in (".nrrd", ".nhdr"):
        # The header is text that ends with an empty line.
        with path.open("rb") as file:
            header = file.read(65536)
        for line in header.split(b"\n\n", 1)[0].decode("ascii", "replace").splitlines():
            name, _, value = line.partition(":")
            units = value.replace('"', " ").split()
            if name.strip().lower() == "space units" and units:
                unit = canonical_length(1.0, units[0])
                return unit[1] if unit[0] == 1.0 else UNKNOWN_UNIT
    return "millimeter" if suffix == ".dcm" else UNKNOWN_UNIT
