"""One way in and one way out for images of any format, always z, y, x inside."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from spoco_bundle.core.atomic_files import atomic_folder, atomic_write, partial_path
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import itk_io, nifti, tiff_writing
from spoco_bundle.formats.geometry import Image, checked_spacing
from spoco_bundle.formats.label_ids import as_label_ids, check_fits
from spoco_bundle.formats.lazy import LazyVolume, describe
from spoco_bundle.formats.names import family, file_suffix, is_zarr


def read_image(
    path: str | Path,
    kind: str = "image",
    spatial_dims: int = 3,
    spacing: Sequence[float] | None = None,
    axes: str | None = None,
    channel: int | None = None,
    time: int | None = None,
) -> Image:
    """Reads an image or a label volume of any supported format.

    NIfTI goes through nibabel, TIFF (plain, ImageJ, OME) through tifffile, Zarr through zarr, everything else through
    ITK.

    Args:
        path: the file, or the folder of a Zarr image.
        kind: ``"image"`` or ``"label"``. Labels come out as int32 with one channel.
        spatial_dims: 3 for volumes, 2 for single images; a file of the other sort is refused.
        spacing: micrometres along z, y, x (or y, x), in place of what the file states or leaves out.
        axes: letters that replace the axes a TIFF or Zarr file states, where those are wrong, one per dimension. Labels
            have those of them that are left when channels are taken away.
        channel: the one channel of an image to read; all by default. Labels have one channel.
        time: the time point to read of a file with several; labels without a time axis hold for it.

    Returns:
        The volume; its array keeps the file's data type for images.

    Raises:
        SpocoError: if the file is missing, empty, damaged or of the wrong dimension; if what is chosen does not exist
            or something has to be chosen; if an image holds NaN or infinite voxels or one value only; if a label volume
            is not made of whole numbers that fit int32.
    """
    if kind not in ("image", "label"):
        raise ValueError(f"kind is {kind!r}: give 'image' or 'label'")
    if spatial_dims not in (2, 3):
        raise SpocoError(f"spatial_dims is {spatial_dims!r}: give 2 or 3")
    path = _existing_file(path)
    if kind == "label" and path.name.lower().endswith(itk_io.JPEG_SUFFIXES):
        raise SpocoError(f"{path}: JPEG blurs ids: save labels as PNG or TIFF")
    with _failures_named(path):
        if family(path) == "itk":
            volume = _read_by_itk(path, kind, spatial_dims, axes, channel, time)
        else:
            volume = _read_described(path, kind, spatial_dims, axes, channel, time)
    if min(volume.array.shape) == 0:
        raise SpocoError(f"{path}: shape {volume.array.shape} holds no voxel: export the file again")
    if spacing is not None:
        volume.take_spacing(checked_spacing(spacing, spatial_dims))
    if kind == "label":
        if volume.array.shape[0] != 1:
            slices = ", or, if these are slices, give --axes ZYX" if volume.axes == "CYX" else ""
            raise SpocoError(
                f"{path}: a label volume has one id per voxel, this one has {volume.array.shape[0]} channels: "
                f"save it as a single-channel image of integer ids{slices}"
            )
        volume.array = as_label_ids(volume.array, str(path))
    else:
        check_intensities(volume.array, path)
    return volume


def image_dimensions(
    path: str | Path, axes: str | None = None, channel: int | None = None, time: int | None = None
) -> int:
    """Whether an image file holds a single image (2) or a volume (3), by its header where the format has one.

    Args:
        path: the image.
        axes: letters that replace the axes a TIFF or Zarr file states.
        channel: see ``read_image``.
        time: see ``read_image``.

    Raises:
        SpocoError: if it can be read as neither.
    """
    path = _existing_file(path)

    def look(dims: int) -> Image | LazyVolume:
        return itk_io.read(path, dims) if family(path) == "itk" else describe(path, dims, axes, time=time)

    dims = 2
    with _failures_named(path):
        try:
            seen = look(2)
        except SpocoError as flat:
            try:
                dims, seen = 3, look(3)
            except SpocoError:
                raise flat from None
        if isinstance(seen, Image):
            _choose_by_itk(seen, axes, channel, time)
        else:
            seen.choose(channel, time)
    return dims


def _read_described(
    path: Path, kind: str, spatial_dims: int, axes: str | None, channel: int | None, time: int | None
) -> Image:
    lazy = _described_label(path, spatial_dims, axes, time) if kind == "label" else None
    if lazy is None:
        lazy = describe(path, spatial_dims, axes, time=time)
        lazy.choose(channel, time)
    return lazy.image(lazy.read_all())


def _described_label(path: Path, spatial_dims: int, axes: str | None, time: int | None) -> LazyVolume:
    """Labels, to which the axes and the time point of their image apply as far as they have them."""
    axes = None if family(path) == "nifti" else axes
    try:
        lazy = describe(path, spatial_dims, axes, is_label=True, time=time)
    except SpocoError:
        fewer = "".join(letter for letter in (axes or "").upper() if letter not in "CST")
        if fewer == (axes or "").upper():
            raise
        lazy = describe(path, spatial_dims, fewer, is_label=True, time=time)
    lazy.choose(time=time if lazy.size("T") > 1 else None)
    return lazy


def _read_by_itk(
    path: Path, kind: str, spatial_dims: int, axes: str | None, channel: int | None, time: int | None
) -> Image:
    volume = itk_io.read(path, spatial_dims, kind == "label")
    if kind == "image":
        _choose_by_itk(volume, axes, channel, time)
    return volume


def _choose_by_itk(volume: Image, axes: str | None, channel: int | None, time: int | None) -> None:
    path = Path(volume.path)
    for name, value in (("axes", axes), ("time", time)):
        if value is not None:
            raise SpocoError(f"{path}: {name} is {value}, but {file_suffix(path)} files have none: leave --{name} out")
    if channel is not None:
        if not 0 <= channel < len(volume.array):
            raise SpocoError(f"{path}: channel is {channel}: the image has channels 0 to {len(volume.array) - 1}")
        volume.array = volume.array[channel : channel + 1]


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
    _refuse_place(path, like)
    stored = labels if hasattr(labels, "chunks") else _as_stored(labels)
    if family(like) == "zarr":
        _write_label_image(path, stored, like, axes)
        return path
    with atomic_write(path) as partial:
        if family(like) == "nifti":
            nifti.write_labels(partial, stored, like)
        elif family(like) == "tiff":
            tiff_writing.write_labels(partial, stored, like, axes)
        else:
            itk_io.write_labels(partial, np.asarray(stored[:]), like)
    return path


def check_result(path: str | Path, like: str | Path, spatial_dims: int, axes: str | None = None) -> None:
    """Sees before the work that :func:`write_instances` will be able to write.

    Args:
        path: the file that will be written.
        like: the image that will be segmented.
        spatial_dims: 2 or 3.
        axes: as given to :func:`read_image` for ``like``.

    Raises:
        SpocoError: if the folder cannot be written to, something else stands at the path, its name is too long, or the
            format cannot hold labels with the metadata of the image.
    """
    path, like = Path(path), _existing_file(like)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        with suppress(FileNotFoundError):
            partial_path(path).lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise SpocoError(f"{path}: its name is too long for this disk: give {like} a shorter one") from error
        raise SpocoError(
            f"{path.parent}: cannot be written to ({error.strerror or error}): free space or choose another folder"
        ) from error
    _refuse_place(path, like)
    if family(like) == "nifti":
        nifti.check_labels(like)
    elif family(like) == "tiff":
        tiff_writing.check_labels(like, spatial_dims, axes)
    elif family(like) == "itk":
        itk_io.check_labels(path, like)


def _refuse_place(path: Path, like: Path) -> None:
    """Refuses to write where something else stands, and in another format than the image's."""
    if path.resolve() == like.resolve():
        raise SpocoError(f"{path}: would overwrite the image it was made from: choose another name or folder")
    if family(like) == "zarr":
        # imported here because other users need not wait for it
        from spoco_bundle.formats.ome_zarr import is_label_image

        taken = path.exists() and not is_label_image(path)
    else:
        taken = path.is_dir()
    if taken:
        raise SpocoError(f"{path}: exists and is no result of this command: move it away or choose another folder")
    if family(path) != family(like):
        raise SpocoError(f"{path}: labels take the format of their image {like}: give the same kind of suffix")


def _write_label_image(path: Path, labels: Any, like: Path, axes: str | None) -> None:
    """An OME-Zarr label image with its pyramid, beside its place, and then moved there."""
    # imported here because other users need not wait for it
    from spoco_bundle.formats import ome_zarr

    source = describe(like, labels.ndim, axes)
    check_fits(labels.shape, source.shape, like)
    with atomic_folder(path) as partial:
        ome_zarr.write_labels(partial, labels, source, path.name, os.path.relpath(like, path))


def _as_stored(labels: np.ndarray) -> np.ndarray:
    """Labels as uint16, or uint32 where an id is above 65,535."""
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim not in (2, 3):
        raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}: give integers (z, y, x) or (y, x)")
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high >= 2**32:
        raise ValueError(f"labels lie in {low}..{high}: ids must be in 0..4294967295")
    return labels.astype(np.uint16 if high < 2**16 else np.uint32)


@contextmanager
def _failures_named(path: Path) -> Iterator[None]:
    """Whatever fails while a file is read is said to a person: it has gone, or its reader's words, or it is damaged."""
    try:
        yield
    except MemoryError:
        raise
    # there is no end to the ways in which a damaged header can contradict its file
    except Exception as error:
        _existing_file(path)
        if isinstance(error, SpocoError):
            raise
        raise SpocoError(
            f"{path}: cannot be read ({type(error).__name__}: {error}): the file is damaged, export it again"
        ) from error


def _existing_file(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise SpocoError(f"{path}: no such file: check the path")
    if path.is_dir() and not is_zarr(path):
        raise SpocoError(f"{path}: is a folder: give an image file")
    if path.is_file() and path.stat().st_size == 0:
        raise SpocoError(f"{path}: is empty (0 bytes): copy or export the file again")
    return path


def check_intensities(array: np.ndarray, path: str | Path) -> None:
    """Refuses images that no network can make sense of.

    Raises:
        SpocoError: for voxels of one value only, NaN, infinite or no real numbers.
    """
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
