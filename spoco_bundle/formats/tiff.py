"""TIFF in and out: plain, ImageJ and OME, with the axes and the physical spacing that the file states."""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.geometry import (
    UNKNOWN_UNIT,
    Image,
    affine_from_spacing,
    canonical_length,
    checked_spacing,
    convert_length,
)

SUFFIXES = (".tif", ".tiff", ".btf")

# Axes that tifffile reports where the file names none: a series of pages, or a dimension without meaning.
_UNNAMED = "QI"
_CHANNELS = "CS"
BIGTIFF_BYTES = 2**32 - 2**25  # what tifffile itself takes as the limit of a classic file
IMAGEJ_BYTES = 2**32 - 2**25  # its files are never BigTIFF


# Bytes of voxels for a byte of file beyond which no compression goes; a damaged header declares more.
_MOST_PACKED = 20_000


@dataclass
class _Layout:
    """What a TIFF file says about itself, enough to write labels in its likeness."""

    kind: str
    axes: str
    shape: tuple[int, ...]
    spacing: dict[str, float] = field(default_factory=dict)
    unit: str = UNKNOWN_UNIT
    resolution: tuple[Any, Any] | None = None
    resolution_unit: int = 1
    metadata: dict[str, Any] = field(default_factory=dict)
    singletons: tuple[int, ...] = ()


def read(path: Path, spatial_dims: int, axes: str | None = None) -> Image:
    """Reads one TIFF file.

    Spacing comes from OME physical sizes, from ImageJ's calibration (also where tifffile stored the same entries in a
    plain file), or is unknown. Colour samples and channels become channels; an alpha sample is left out.

    Args:
        path: the file, compressed or not.
        spatial_dims: 3 takes stacks (an axis Z, or one unnamed series of pages), 2 takes single images.
        axes: letters that replace the axes of the file, one per dimension, for files whose axes are wrong, such as
            ``"ZYX"`` for slices stored as channels.

    Raises:
        SpocoError: if the file is damaged, or its axes do not make a 2D or 3D image.
    """
    with _open(path) as tif:
        grid = _grid(path, tif, spatial_dims, axes)
        array = tif.series[0].asarray()
    array = array.reshape(grid.shape)
    channels = [axis for axis in grid.axes if axis not in grid.spatial]
    array = array.transpose([grid.axes.index(axis) for axis in [*channels, *grid.spatial]])
    if grid.has_alpha and "S" in channels:
        array = array.take(range(3), axis=channels.index("S"))
    array = array.reshape(-1, *array.shape[array.ndim - spatial_dims :])
    return Image(
        array=array,
        spacing=grid.spacing,
        spacing_unit=grid.unit,
        affine=affine_from_spacing(grid.spacing or (1.0,) * spatial_dims),
        file_format=grid.file_format,
        axes=grid.axes,
        path=str(path),
    )


@dataclass
class Grid:
    """What a TIFF file says, without a voxel read.

    Attributes:
        axes: letters of the stored axes, those of one voxel left out.
        shape: voxels along them.
        spatial: letters of the spatial axes in the order z, y, x or y, x.
        singletons: stored dimensions that ``axes`` leaves out.
        dtype: of the voxels.
        spacing: along the spatial axes; None where unknown.
        unit: of ``spacing``.
        file_format: ``"imagej"``, ``"ome"`` or ``"tiff"``.
        has_alpha: whether the last of four colour samples is an alpha.
    """

    axes: str
    shape: tuple[int, ...]
    spatial: str
    singletons: tuple[int, ...]
    dtype: np.dtype
    spacing: tuple[float, ...] | None
    unit: str
    file_format: str
    has_alpha: bool


def read_grid(path: Path, spatial_dims: int, axes: str | None = None) -> Grid:
    """Reads what a TIFF file says about its axes and spacing; arguments and errors as for :func:`read`."""
    with _open(path) as tif:
        return _grid(path, tif, spatial_dims, axes)


def stored_voxels(path: Path, singletons: tuple[int, ...]) -> Any:
    """Voxels that are read as they are indexed, with the stored axes but for the dimensions ``singletons``."""
    # imported here because other users need not wait for it
    import zarr

    tif = tifffile.TiffFile(path)
    series = tif.series[0]
    if series.dataoffset is not None and series.keyframe.is_memmappable:
        stored: Any = _Mapped(path, series.dataoffset, tif.byteorder + series.dtype.char, tuple(series.shape))
        tif.close()
    else:
        stored = zarr.open_array(series.aszarr(), mode="r")
    return _Squeezed(stored, singletons)


@dataclass
class _Mapped:
    """Uncompressed voxels in one run; mapped anew for every read, so that none stays in memory."""

    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    def __getitem__(self, index: tuple[Any, ...]) -> np.ndarray:
        return np.array(np.memmap(self.path, self.dtype, "r", self.offset, self.shape)[index])


@dataclass
class _Squeezed:
    """An array without some of its dimensions of one voxel."""

    stored: Any
    singletons: tuple[int, ...]

    def __getitem__(self, index: tuple[Any, ...]) -> np.ndarray:
        rest = iter(index)
        dimensions = range(len(index) + len(self.singletons))
        return self.stored[tuple(0 if number in self.singletons else next(rest) for number in dimensions)]


def _grid(path: Path, tif: tifffile.TiffFile, spatial_dims: int, axes: str | None) -> Grid:
    layout = _layout(path, tif, axes)
    spatial = _spatial_axes(path, layout, spatial_dims)
    page = tif.series[0].keyframe
    known = all(axis in layout.spacing for axis in "ZYX"[-spatial_dims:])
    return Grid(
        axes=layout.axes,
        shape=layout.shape,
        spatial=spatial,
        singletons=layout.singletons,
        dtype=tif.series[0].dtype,
        spacing=tuple(layout.spacing[axis] for axis in "ZYX"[-spatial_dims:]) if known else None,
        unit=layout.unit if known else UNKNOWN_UNIT,
        file_format=layout.kind if layout.kind in ("imagej", "ome") else "tiff",
        has_alpha=page.photometric == tifffile.PHOTOMETRIC.RGB and page.samplesperpixel == 4,
    )


def write_image(
    path: Path,
    image: np.ndarray,
    spacing: Sequence[float] | None = None,
    unit: str = "micrometer",
    colour: bool = False,
) -> None:
    """Writes an image as OME-TIFF with its voxel size, or as plain TIFF with named axes where that is unknown.

    Compressed by zlib; BigTIFF where the size needs it.

    Args:
        path: file to write.
        image: (z, y, x) or (y, x), with ``colour`` also a last axis of three samples; of a type that TIFF has.
        spacing: voxel size along the spatial axes, in the order of the array; None where it is not known.
        unit: of ``spacing``: micrometer, millimeter or nanometer.
        colour: the last axis holds red, green and blue.

    Raises:
        ValueError: if the array has other axes.
    """
    dims = image.ndim - colour
    if dims not in (2, 3) or colour and image.shape[-1] != 3:
        raise ValueError(f"an image of shape {image.shape} is not (z, y, x) or (y, x), with three samples for colour")
    axes = "ZYX"[-dims:] + "S" * colour
    sizes = dict(zip(axes, checked_spacing(spacing, dims), strict=False)) if spacing is not None else {}
    tifffile.imwrite(
        path,
        np.ascontiguousarray(image),
        photometric="rgb" if colour else "minisblack",
        compression="zlib",
        bigtiff=image.nbytes >= BIGTIFF_BYTES,
        ome=bool(sizes),
        metadata={"axes": axes, **_physical_sizes(sizes, unit)},
    )


def write_labels(path: Path, labels: Any, like: Path, axes: str | None = None) -> None:
    """Writes labels (z, y, x) or (y, x) as the same kind of TIFF as another file, with its axes, spacing and unit.

    ImageJ's format has no uint32: labels of more than 65,535 ids on an ImageJ source are written as OME-TIFF, which
    ImageJ opens through Bio-Formats, with the same spacing and unit. Vendor formats built on TIFF (LSM and others)
    come out as OME-TIFF too. Compressed by zlib, except ImageJ files: ImageJ reads its own stacks as one run of raw
    voxels and would show noise; stacks beyond 4 GiB on an ImageJ source are OME-TIFF as well. BigTIFF where the size
    needs it. A stack is read and written plane by plane, never as a whole, unless a plain source keeps another order of
    axes.

    Args:
        path: file to write.
        labels: array or Zarr array of uint16 or uint32.
        like: the image that was segmented.
        axes: as given to :func:`read` for ``like``.

    Raises:
        SpocoError: if the shape is not that of ``like``.
    """
    with _open(like) as tif:
        layout = _layout(like, tif, axes)
    spatial = _spatial_axes(like, layout, labels.ndim)
    sizes = tuple(layout.shape[layout.axes.index(axis)] for axis in spatial)
    if labels.shape != sizes:
        raise SpocoError(
            f"labels of shape {labels.shape} do not fit {like} of shape {sizes}: "
            "bring them back to the grid of the source image first"
        )
    # Said outright, since tifffile takes a name like NAME.ome.tif as a wish for OME.
    options: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib", "ome": False}
    names = "ZYX"[-labels.ndim :]
    planes: Any = labels
    size = int(np.prod(labels.shape, dtype=np.int64)) * labels.dtype.itemsize
    if layout.kind == "imagej" and labels.dtype != np.uint32 and size < IMAGEJ_BYTES:
        options |= {"imagej": True, "compression": None, "metadata": {"axes": names, **layout.metadata}}
        options |= {"resolution": layout.resolution, "resolutionunit": layout.resolution_unit}
    elif layout.kind in ("shaped", "generic", "uniform"):
        # Kept in the file's own order, since a plain file has no words for another one.
        kept = [axis for axis in layout.axes if axis in spatial]
        if kept != list(spatial):
            planes = np.asarray(labels[:]).transpose([spatial.index(axis) for axis in kept])
        options |= {"resolution": layout.resolution, "resolutionunit": layout.resolution_unit}
        named = {} if set(kept) & set(_UNNAMED) else {"axes": "".join(kept)}
        options["metadata"] = named | layout.metadata if layout.kind == "shaped" else None
    else:
        options |= {"ome": True, "metadata": {"axes": names, **_ome_metadata(layout, names)}}
    # arrays are in memory anyway, and tifffile takes pages of one row or column for something else
    if planes is labels and labels.ndim == 3 and not isinstance(labels, np.ndarray) and 1 not in labels.shape:
        stream = (np.ascontiguousarray(labels[z]) for z in range(labels.shape[0]))
        tifffile.imwrite(path, stream, shape=labels.shape, dtype=labels.dtype, bigtiff=size >= BIGTIFF_BYTES, **options)
    else:
        tifffile.imwrite(path, np.ascontiguousarray(planes[:]), **options)


@contextmanager
def _open(path: Path) -> Iterator[tifffile.TiffFile]:
    """Opens a TIFF file; what tifffile only logs about a damaged structure becomes an error too.

    A file cut short loses its last pages without an exception, so that a volume would be read with fewer slices.
    """
    complaints = _Complaints()
    logger = logging.getLogger("tifffile")
    logger.addHandler(complaints)
    try:
        _refuse_overlapping_directories(path)
        with tifffile.TiffFile(path) as tif:
            if not len(tif.series):
                raise ValueError("no image in the file")
            declared = max(series.nbytes for series in tif.series)
            if declared > _MOST_PACKED * path.stat().st_size:
                raise ValueError(f"{declared} bytes of voxels declared in a file of {path.stat().st_size}")
            # what is wrong with the structure shows before voxels are read
            if complaints.first:
                raise ValueError(complaints.first)
            yield tif
        reason = complaints.first
    except SpocoError as error:
        if complaints.first:
            raise _unreadable(path, complaints.first) from error
        raise
    # Decoders raise types of their own, which share no base but Exception.
    except Exception as error:
        raise _unreadable(path, str(error) or type(error).__name__) from error
    finally:
        logger.removeHandler(complaints)
    if reason:
        raise _unreadable(path, reason)


def _refuse_overlapping_directories(path: Path) -> None:
    """Refuses a chain of directories that is longer than the file, which tifffile would follow for minutes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(16).ljust(16, b"\0")
        order = {b"II": "<", b"MM": ">"}.get(header[:2], "<")
        (version,) = struct.unpack(f"{order}H", header[2:4])
        if version not in (42, 43):
            return
        # classic and big TIFF: where the first directory is named, its count of tags, bytes of a tag, the next one
        start, count_type, tag_bytes, next_type = (4, "H", 12, "I") if version == 42 else (8, "Q", 20, "Q")
        (offset,) = struct.unpack_from(order + next_type, header, start)
        used = 0
        while 0 < offset < size:
            file.seek(offset)
            count = _unpack(file, order + count_type)
            used += count * tag_bytes + struct.calcsize(order + count_type + next_type)
            if used > size:
                raise ValueError("its directories overlap or reach beyond its end")
            file.seek(offset + struct.calcsize(order + count_type) + count * tag_bytes)
            offset = _unpack(file, order + next_type)


def _unpack(file: BinaryIO, layout: str) -> int:
    content = file.read(struct.calcsize(layout))
    return struct.unpack(layout, content)[0] if len(content) == struct.calcsize(layout) else 0


class _Complaints(logging.Handler):
    """Keeps the first error message that tifffile logs in this thread."""

    def __init__(self) -> None:
        super().__init__(level=logging.ERROR)
        self.thread = threading.get_ident()
        self.first = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.first = self.first or record.getMessage()


def _unreadable(path: Path, reason: str) -> SpocoError:
    short = " ".join(reason.split())[:160]
    return SpocoError(f"{path}: cannot be read as TIFF ({short}): the file is damaged or truncated, export it again")


def _layout(path: Path, tif: tifffile.TiffFile, axes: str | None) -> _Layout:
    """Axes, kind and spacing; axes of length 1 that are not y or x are left out."""
    if len(tif.series) > 1:
        raise SpocoError(f"{path}: holds {len(tif.series)} separate images: save each of them as a file of its own")
    series = tif.series[0]
    missing = sum(page is None for page in series) if series.kind == "ome" else 0
    if missing:
        raise SpocoError(
            f"{path}: {missing} of {len(series)} planes named in its OME metadata are missing and would read as zeros: "
            "keep the files of a set together, or export the image again as one file"
        )
    file_axes = (axes or series.axes).upper()
    kept = [(axis, size) for axis, size in zip(file_axes, series.shape, strict=False) if size > 1 or axis in "YX"]
    letters = "".join(axis for axis, _ in kept)
    if len(file_axes) != len(series.shape) or len(set(letters)) != len(letters):
        raise SpocoError(
            f"{path}: axes {file_axes} do not name the {len(series.shape)} dimensions of shape {tuple(series.shape)}: "
            "give one different letter for each, such as ZYX, in the config id axes"
        )
    layout = _Layout(kind=series.kind, axes=letters, shape=tuple(int(size) for _, size in kept))
    layout.singletons = tuple(i for i, n in enumerate(series.shape) if n == 1 and file_axes[i] not in "YX")
    tags = tif.pages.first.tags
    if "XResolution" in tags and "YResolution" in tags:
        layout.resolution = (tags["XResolution"].value, tags["YResolution"].value)
        layout.resolution_unit = int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 1
    if tif.is_ome and series.kind == "ome":
        layout.metadata = _ome_pixels(path, tif)
        # The micrometre is the default of the OME schema.
        stated = layout.metadata
        _set_spacing(
            layout,
            {axis: (stated.get(f"PhysicalSize{axis}"), stated.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XYZ"},
        )
    elif tif.is_imagej or tif.shaped_metadata:
        entries = tif.imagej_metadata if tif.is_imagej else tif.shaped_metadata[0]
        kept_entries = ("spacing", "unit", "xorigin", "yorigin", "zorigin")
        layout.metadata = {name: entries[name] for name in kept_entries if name in entries}
        _set_imagej_spacing(layout)
    return layout


def _set_imagej_spacing(layout: _Layout) -> None:
    """ImageJ keeps pixels per unit in the resolution tags and the distance of slices in ``spacing``, 1 if absent."""
    if layout.resolution is None:
        return
    (x_count, x_unit), (y_count, y_unit) = layout.resolution
    sizes = {
        "X": x_unit / x_count if x_count else None,
        "Y": y_unit / y_count if y_count else None,
        "Z": layout.metadata.get("spacing", 1.0),
    }
    _set_spacing(layout, {axis: (size, str(layout.metadata.get("unit", ""))) for axis, size in sizes.items()})


def _set_spacing(layout: _Layout, sizes: dict[str, tuple[Any, str]]) -> None:
    """Stores the positive sizes (given as axis: (size, unit), x first) in the unit of x; pixels count as unknown."""
    for axis, (size, written_unit) in sizes.items():
        try:
            value, unit = canonical_length(float(size), written_unit)
        except (TypeError, ValueError):
            continue
        if unit == UNKNOWN_UNIT or not np.isfinite(value) or value <= 0:
            continue
        layout.unit = unit if axis == "X" else layout.unit
        layout.spacing[axis] = convert_length(value, unit, layout.unit)


def _ome_pixels(path: Path, tif: tifffile.TiffFile) -> dict[str, Any]:
    """The physical sizes and their units as the OME-XML has them."""
    images = tifffile.xml2dict(tif.ome_metadata).get("OME", {}).get("Image", {})
    image = images[0] if isinstance(images, list) else images
    pixels = image.get("Pixels")
    if not isinstance(pixels, dict):
        raise _unreadable(path, "OME metadata without pixels")
    names = [f"PhysicalSize{axis}{end}" for axis in "XYZ" for end in ("", "Unit")]
    return {name: pixels[name] for name in names if name in pixels}


def _ome_metadata(layout: _Layout, names: str) -> dict[str, Any]:
    """Physical sizes for an OME file: the source's own entries, or those of its ImageJ calibration."""
    if layout.kind == "ome":
        return layout.metadata
    return _physical_sizes({axis: layout.spacing[axis] for axis in names if axis in layout.spacing}, layout.unit)


def _physical_sizes(sizes: dict[str, float], unit: str) -> dict[str, Any]:
    """Entries of OME metadata for a voxel size along each axis."""
    symbols = {"micrometer": "µm", "millimeter": "mm", "nanometer": "nm"}
    entries: dict[str, Any] = {}
    for axis, size in sizes.items():
        entries |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": symbols[unit]}
    return entries


def _spatial_axes(path: Path, layout: _Layout, spatial_dims: int) -> str:
    """Letters of the spatial axes in the order z, y, x or y, x, as the file names them."""
    axes, shape = layout.axes, layout.shape
    if "Y" not in axes or "X" not in axes:
        raise SpocoError(f"{path}: axes {axes} lack y or x: name them in the config id axes, such as ZYX")
    unnamed = [axis for axis in axes if axis in _UNNAMED]
    depth = "Z" if "Z" in axes else (unnamed[0] if len(unnamed) == 1 else "")
    others = [axis for axis in axes if axis not in "YX" + _CHANNELS + depth]
    pages = "x".join(str(size) for size in shape)
    if others:
        raise SpocoError(
            f"{path}: axes {axes} ({pages}) have a dimension {''.join(others)} that is neither space nor channel: "
            "save one time point or position per file, or, if it is really z, set the config id axes (such as ZYX)"
        )
    if spatial_dims == 2 and depth:
        raise SpocoError(
            f"{path}: axes {axes} ({pages}) make a stack, 2D images are expected: "
            "use the 3D configuration (spatial_dims 3) or save single slices"
        )
    if spatial_dims == 3 and not depth:
        if "C" in axes:
            raise SpocoError(
                f"{path}: axes {axes} ({pages}) hold channels but no z, 3D images are expected: if the channels are "
                "slices, set the config id axes to ZYX; for 2D images use the 2D overlay (spatial_dims 2)"
            )
        raise SpocoError(
            f"{path}: axes {axes} ({pages}) make a single 2D image, 3D images are expected: "
            "use the 2D overlay (spatial_dims 2)"
        )
    return depth + "YX"
