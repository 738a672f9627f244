"""What a TIFF file says: axes, voxel size, colour; plain, ImageJ and OME."""

from __future__ import annotations

import logging
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import Unit, in_words, parse_unit

# Axes that tifffile reports where the file names none: a series of pages, or a dimension without meaning.
UNNAMED = "QI"
_CHANNELS = "CS"

# Bytes of voxels for a byte of file beyond which no compression goes; a damaged header declares more.
_MOST_PACKED = 20_000

# What tifffile only warns of and reads all the same: pages, planes or sizes that are not as the file says.
_CONTRADICTION = re.compile(
    r"series|page|plane|shape|missing|incomplete|segments|failed to read|MMStack|TiffData", re.IGNORECASE
)


@dataclass
class Layout:
    """What a TIFF file says about itself, enough to read it and to write labels in its likeness.

    Attributes:
        kind: the kind of series, as tifffile names it: ``"ome"``, ``"imagej"``, ``"shaped"``, ``"generic"``, ...
        axes: letters of the stored axes, those of one voxel left out.
        shape: voxels along them.
        singletons: stored dimensions that ``axes`` leaves out.
        sizes: length of a voxel along X, Y, Z, as far as it is stated in a unit of length, in micrometres.
        unit: of the sizes in the file, that of X.
        stated: number and unit along X, Y, Z in the file's own words.
        resolution: tags XResolution and YResolution.
        resolution_unit: tag ResolutionUnit.
        metadata: entries that labels of this image take over.
    """

    kind: str
    axes: str
    shape: tuple[int, ...]
    singletons: tuple[int, ...] = ()
    sizes: dict[str, float] = field(default_factory=dict)
    unit: Unit | None = None
    stated: dict[str, tuple[str, str]] = field(default_factory=dict)
    resolution: tuple[Any, Any] | None = None
    resolution_unit: int = 1
    metadata: dict[str, Any] = field(default_factory=dict)

    def spacing(self, spatial_dims: int) -> tuple[float, ...] | None:
        """Micrometres along z, y, x or y, x; None where one of them is unknown."""
        letters = "ZYX"[-spatial_dims:]
        return tuple(self.sizes[axis] for axis in letters) if set(letters) <= set(self.sizes) else None

    def stated_size(self, spatial_dims: int) -> str:
        """The voxel size in the words of the file, axes that it leaves out as ``?``."""
        entries = [self.stated.get(axis, ("?", "")) for axis in "ZYX"[-spatial_dims:]]
        units = {unit for number, unit in entries if number != "?"}
        if not units:
            return ""
        if len(units) == 1:
            return f"{' x '.join(number for number, _ in entries)} {units.pop()}".strip()
        return " x ".join(f"{number} {unit}".strip() for number, unit in entries)


def files_of_set(path: Path) -> list[Path]:
    """The files that hold the planes of an OME-TIFF image, itself among them; only itself for other files."""
    if not path.name.lower().endswith((".ome.tif", ".ome.tiff")):
        return [path]
    try:
        with tifffile.TiffFile(path) as tif:
            names = set(re.findall(r'FileName="([^"]+)"', tif.ome_metadata or ""))
    except (OSError, ValueError, tifffile.TiffFileError):  # told when it is read
        return [path]
    return [path, *(path.parent / name for name in sorted(names) if (path.parent / name).is_file())]


@contextmanager
def open_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
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
            if complaints.error:
                raise ValueError(complaints.error)
            yield tif
        reason = complaints.error or complaints.doubt
    except SpocoError as error:
        if complaints.error:
            raise unreadable(path, complaints.error) from error
        raise
    # Decoders raise types of their own, which share no base but Exception.
    except Exception as error:
        raise unreadable(path, str(error) or type(error).__name__) from error
    finally:
        logger.removeHandler(complaints)
    if reason:
        raise unreadable(path, reason)


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
    """Keeps the first error that tifffile logs in this thread, or warning that a file is not as it says."""

    def __init__(self) -> None:
        super().__init__(level=logging.WARNING)
        self.thread = threading.get_ident()
        self.error = self.doubt = ""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.thread != self.thread:
            return
        if record.levelno >= logging.ERROR:
            self.error = self.error or message
        elif _CONTRADICTION.search(message):
            self.doubt = self.doubt or message


def unreadable(path: Path, reason: str) -> SpocoError:
    """The error for a file in whose structure something is wrong."""
    short = " ".join(reason.split())[:160]
    return SpocoError(f"{path}: cannot be read as TIFF ({short}): the file is damaged or truncated, export it again")


def read_layout(path: Path, tif: tifffile.TiffFile, axes: str | None) -> Layout:
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
            "give one different letter for each, such as ZYX, with --axes"
        )
    layout = Layout(kind=series.kind, axes=letters, shape=tuple(int(size) for _, size in kept))
    layout.singletons = tuple(i for i, n in enumerate(series.shape) if n == 1 and file_axes[i] not in "YX")
    _refuse_files_elsewhere(path, series)
    tags = tif.pages.first.tags
    if "XResolution" in tags and "YResolution" in tags:
        layout.resolution = (tags["XResolution"].value, tags["YResolution"].value)
        layout.resolution_unit = int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 1
    if tif.is_ome and series.kind == "ome":
        layout.metadata = stated = _ome_pixels(path, tif)
        # The micrometre is the default of the OME schema.
        _set_sizes(
            layout,
            {axis: (stated.get(f"PhysicalSize{axis}"), stated.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XYZ"},
        )
    elif tif.is_imagej or tif.shaped_metadata:
        entries = tif.imagej_metadata if tif.is_imagej else tif.shaped_metadata[0]
        kept_entries = ("spacing", "unit", "yunit", "zunit", "xorigin", "yorigin", "zorigin")
        layout.metadata = {name: entries[name] for name in kept_entries if name in entries}
        _set_imagej_sizes(layout, default_depth=1.0 if tif.is_imagej else None)
    return layout


def _refuse_files_elsewhere(path: Path, series: tifffile.TiffPageSeries) -> None:
    """An OME file may name other files for its planes; they have to lie beside it."""
    folder = path.parent.resolve()
    for page in series:
        if page is not None:
            file = Path(page.parent.filehandle.path)
            if file.resolve() != path.resolve() and file.resolve().parent != folder:
                raise SpocoError(f"{path}: takes planes from {file}, outside its folder: keep a set of files together")


def _set_imagej_sizes(layout: Layout, default_depth: float | None) -> None:
    """ImageJ keeps pixels per unit in the resolution tags and the distance of slices in ``spacing``, 1 if left out.

    Each axis may have a unit of its own. An inch is the density of a print, not the size of a voxel.
    """
    if layout.resolution is None:
        return
    (x_count, x_unit), (y_count, y_unit) = layout.resolution
    entries = layout.metadata
    unit = str(entries.get("unit", ""))
    if parse_unit(unit) == parse_unit("inch"):
        return
    _set_sizes(
        layout,
        {
            "X": (x_unit / x_count if x_count else None, unit),
            "Y": (y_unit / y_count if y_count else None, str(entries.get("yunit", unit))),
            "Z": (entries.get("spacing", default_depth), str(entries.get("zunit", unit))),
        },
    )


def _set_sizes(layout: Layout, sizes: dict[str, tuple[Any, str]]) -> None:
    """Keeps the sizes (axis: number and unit, x first) that are lengths; a negative one is an order, not a size."""
    for axis, (size, written_unit) in sizes.items():
        try:
            value, unit = abs(float(size)), parse_unit(written_unit)
        except (TypeError, ValueError):
            continue
        if not np.isfinite(value) or value == 0:
            continue
        if unit is not None:
            layout.unit = layout.unit or unit
            layout.sizes[axis] = float(f"{value * unit.micrometers:.12g}")
        if unit is not None or written_unit.lower().rstrip("s") not in ("", "pixel", "px", "voxel"):
            layout.stated[axis] = (f"{value:g}", in_words((), unit.name) if unit else written_unit)


def _ome_pixels(path: Path, tif: tifffile.TiffFile) -> dict[str, Any]:
    """The physical sizes and their units as the OME-XML has them."""
    images = tifffile.xml2dict(tif.ome_metadata).get("OME", {}).get("Image", {})
    image = images[0] if isinstance(images, list) else images
    pixels = image.get("Pixels")
    if not isinstance(pixels, dict):
        raise unreadable(path, "OME metadata without pixels")
    names = [f"PhysicalSize{axis}{end}" for axis in "XYZ" for end in ("", "Unit")]
    return {name: pixels[name] for name in names if name in pixels}


def spatial_axes(path: Path, layout: Layout, spatial_dims: int) -> str:
    """Letters of the spatial axes in the order z, y, x or y, x, as the file names them."""
    axes, shape = layout.axes, layout.shape
    if "Y" not in axes or "X" not in axes:
        raise SpocoError(f"{path}: axes {axes} lack y or x: name them with --axes, such as ZYX")
    unnamed = [axis for axis in axes if axis in UNNAMED]
    depth = "Z" if "Z" in axes else (unnamed[0] if len(unnamed) == 1 else "")
    others = [axis for axis in axes if axis not in "YXT" + _CHANNELS + depth]
    pages = "x".join(str(size) for size in shape)
    if others:
        raise SpocoError(
            f"{path}: axes {axes} ({pages}) have a dimension {''.join(others)} that is neither space nor channel: "
            "save one position per file, or, if it is really z, set --axes (such as ZYX)"
        )
    if spatial_dims == 2 and depth:
        raise SpocoError(
            f"{path}: axes {axes} ({pages}) make a stack, 2D images are expected: "
            "take 2D and 3D images apart, give --spatial_dims 3, or save single slices"
        )
    if spatial_dims == 3 and not depth:
        if set("CT") & set(axes):
            raise SpocoError(
                f"{path}: axes {axes} ({pages}) hold channels or times but no z, 3D images are expected: if these are "
                "slices, set --axes ZYX; for 2D images give --spatial_dims 2"
            )
        raise SpocoError(
            f"{path}: axes {axes} ({pages}) make a single 2D image, 3D images are expected: "
            "take 2D and 3D images apart, or give --spatial_dims 2"
        )
    return depth + "YX"
