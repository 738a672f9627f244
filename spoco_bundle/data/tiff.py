"""TIFF in and out: plain, ImageJ and OME, with the axes and the physical spacing that the file states."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from spoco_bundle.data.geometry import UNKNOWN_UNIT, Volume, affine_from_spacing, canonical_length, convert_length
from spoco_bundle.errors import SpocoError

SUFFIXES = (".tif", ".tiff", ".btf")

# Axes that tifffile reports where the file names none: a series of pages, or a dimension without meaning.
_UNNAMED = "QI"
_CHANNELS = "CS"


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


def read(path: Path, spatial_dims: int, axes: str | None = None) -> Volume:
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
        layout = _layout(path, tif, axes)
        array = tif.series[0].asarray()
        page = tif.series[0].keyframe
        has_alpha = page.photometric == tifffile.PHOTOMETRIC.RGB and page.samplesperpixel == 4
    array = array.reshape(layout.shape)
    spatial = _spatial_axes(path, layout, spatial_dims)
    channels = [axis for axis in layout.axes if axis in _CHANNELS and axis not in spatial]
    array = array.transpose([layout.axes.index(axis) for axis in [*channels, *spatial]])
    if has_alpha and "S" in channels:
        array = array.take(range(3), axis=channels.index("S"))
    array = array.reshape(-1, *array.shape[array.ndim - spatial_dims :])
    known = all(axis in layout.spacing for axis in "ZYX"[-spatial_dims:])
    spacing = tuple(layout.spacing[axis] for axis in "ZYX"[-spatial_dims:]) if known else None
    return Volume(
        array=array,
        spacing=spacing,
        spacing_unit=layout.unit if known else UNKNOWN_UNIT,
        affine=affine_from_spacing(spacing or (1.0,) * spatial_dims),
        file_format=layout.kind if layout.kind in ("imagej", "ome") else "tiff",
        axes=layout.axes,
        path=str(path),
    )


def write_labels(path: Path, labels: np.ndarray, like: Path, axes: str | None = None) -> None:
    """Writes labels (z, y, x) or (y, x) as the same kind of TIFF as another file, with its axes, spacing and unit.

    ImageJ's format has no uint32: labels of more than 65,535 ids on an ImageJ source are written as OME-TIFF, which
    ImageJ opens through Bio-Formats, with the same spacing and unit. Vendor formats built on TIFF (LSM and others)
    come out as OME-TIFF too. Compressed by zlib, except ImageJ files: ImageJ reads its own stacks as one run of raw
    voxels and would show noise. BigTIFF where the size needs it.

    Args:
        path: file to write.
        labels: uint16 or uint32.
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
    if layout.kind == "imagej" and labels.dtype != np.uint32:
        options |= {"imagej": True, "compression": None, "metadata": {"axes": names, **layout.metadata}}
        options |= {"resolution": layout.resolution, "resolutionunit": layout.resolution_unit}
    elif layout.kind in ("shaped", "generic", "uniform"):
        # Kept in the file's own order, since a plain file has no words for another one.
        kept = [axis for axis in layout.axes if axis in spatial]
        labels = labels.transpose([spatial.index(axis) for axis in kept])
        options |= {"resolution": layout.resolution, "resolutionunit": layout.resolution_unit}
        named = {} if set(kept) & set(_UNNAMED) else {"axes": "".join(kept)}
        options["metadata"] = named | layout.metadata if layout.kind == "shaped" else None
    else:
        options |= {"ome": True, "metadata": {"axes": names, **_ome_metadata(layout, names)}}
    tifffile.imwrite(path, np.ascontiguousarray(labels), **options)


@contextmanager
def _open(path: Path) -> Iterator[tifffile.TiffFile]:
    """Opens a TIFF file; what tifffile only logs about a damaged structure becomes an error too.

    A file cut short loses its last pages without an exception, so that a volume would be read with fewer slices.
    """
    complaints = _Complaints()
    logger = logging.getLogger("tifffile")
    logger.addHandler(complaints)
    try:
        with tifffile.TiffFile(path) as tif:
            if not len(tif.series):
                raise ValueError("no image in the file")
            yield tif
        reason = complaints.first
    except SpocoError:
        raise
    # Decoders raise types of their own, which share no base but Exception.
    except Exception as error:
        raise _unreadable(path, str(error) or type(error).__name__) from error
    finally:
        logger.removeHandler(complaints)
    if reason:
        raise _unreadable(path, reason)


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
    symbols = {"micrometer": "µm", "millimeter": "mm", "nanometer": "nm"}
    entries: dict[str, Any] = {}
    for axis in names:
        if axis in layout.spacing:
            entries |= {f"PhysicalSize{axis}": layout.spacing[axis], f"PhysicalSize{axis}Unit": symbols[layout.unit]}
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
