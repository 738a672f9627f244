"""Images that are described from their headers and read region by region: Zarr, TIFF and NIfTI of any size."""

from __future__ import annotations

import gzip
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import nifti, tiff
from spoco_bundle.formats.geometry import checked_spacing
from spoco_bundle.formats.names import family
from spoco_bundle.formats.stored import LazyVolume


def open_volume(
    path: str | Path,
    spatial_dims: int = 3,
    spacing: Sequence[float] | None = None,
    axes: str | None = None,
    channel: int | None = None,
    time: int | None = None,
) -> LazyVolume:
    """Opens an image for reading by region.

    Args:
        path: an OME-Zarr image or plain Zarr array (a folder), a TIFF file, or an uncompressed NIfTI file.
        spatial_dims: 3 for volumes, 2 for single images.
        spacing: micrometres along z, y, x (or y, x), in place of what the file states or leaves out.
        axes: letters that replace the axes a TIFF or Zarr file states, where those are wrong or missing.
        channel: the one channel to read; all by default.
        time: the time point to read of an image with several.

    Raises:
        SpocoError: if the file is missing, its axes do not fit, a time point or channel does not exist or has to be
            chosen, or the format cannot be read by region.
    """
    path = Path(path)
    if not path.exists():
        raise SpocoError(f"{path}: no such file: check the path")
    if family(path) == "itk" or path.name.lower().endswith(".gz"):
        raise SpocoError(f"{path}: this format is read as a whole only: convert it to OME-Zarr, TIFF or NIfTI")
    volume = describe(path, spatial_dims, axes, time=time)
    volume.choose(channel, time)
    if spacing is not None:
        volume.take_spacing(checked_spacing(spacing, spatial_dims))
    return volume


def describe(
    path: Path, spatial_dims: int, axes: str | None = None, is_label: bool = False, time: int | None = None
) -> LazyVolume:
    """What the header of a Zarr, TIFF or NIfTI image says; time and channel are still to be chosen.

    Args:
        path: the image.
        spatial_dims: 3 for volumes, 2 for single images.
        axes: see :func:`open_volume`.
        is_label: whether the voxels are ids.
        time: the time point that will be chosen, if any: it decides whether the fourth axis of NIfTI is time.

    Raises:
        SpocoError: if the file is damaged, or its axes do not fit.
    """
    kind = family(path)
    if kind == "zarr":
        # imported here because other users need not wait for it
        from spoco_bundle.formats import ome_zarr

        return ome_zarr.describe(path, spatial_dims, axes)
    if kind == "tiff":
        return tiff.describe(path, spatial_dims, axes, is_label)
    if axes is not None:
        raise SpocoError(f"{path}: axes is {axes}, but only TIFF and Zarr name theirs by letters: leave --axes out")
    return nifti.describe(path, spatial_dims, time)


def stored_header(path: str | Path, spatial_dims: int = 3, axes: str | None = None) -> LazyVolume | None:
    """What the header of an image says, of its first time point; None for formats that only ITK reads.

    Raises:
        SpocoError: if the file is missing or damaged, or its axes do not fit.
    """
    path = Path(path)
    if not path.exists():
        raise SpocoError(f"{path}: no such file: check the path")
    if family(path) == "itk":
        return None
    volume = describe(path, spatial_dims, axes)
    volume.choose(time=0 if volume.size("T") else None)
    return volume


def unpack(path: Path, target: Path) -> Path:
    """Decompresses ``NAME.nii.gz`` to ``target``, which is then readable by region; the stream never lies in memory.

    Raises:
        SpocoError: if the file is damaged. What cannot be written raises OSError.
    """
    with target.open("wb") as plain:
        try:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, plain, 1 << 20)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise SpocoError(f"{path}: is damaged or truncated ({error}): copy it again") from error
    return target
