"""TIFF out: images with their voxel size, and labels in the likeness of the image they belong to."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import MICROMETER, Unit, in_unit, parse_unit
from spoco_bundle.formats.geometry import checked_spacing
from spoco_bundle.formats.label_ids import check_fits
from spoco_bundle.formats.tiff_header import UNNAMED, Layout, open_tiff, read_layout, spatial_axes

BIGTIFF_BYTES = 2**32 - 2**25  # what tifffile itself takes as the limit of a classic file
IMAGEJ_BYTES = 2**32 - 2**25  # its files are never BigTIFF

_OME_SYMBOLS = {"micrometer": "µm", "millimeter": "mm", "nanometer": "nm", "angstrom": "Å", "meter": "m"}
_OME_SYMBOLS |= {"centimeter": "cm", "picometer": "pm", "inch": "in", "foot": "ft", "yard": "yd", "mile": "mi"}


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
        unit: in which the file shall state ``spacing``, which is in micrometres here.
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
        metadata={"axes": axes, **_physical_sizes(sizes, parse_unit(unit))},
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
        axes: as given to :func:`read_image` for ``like``.

    Raises:
        SpocoError: if the shape is not that of ``like``.
    """
    layout, spatial = _layout_of(like, labels.ndim, axes)
    check_fits(labels.shape, [layout.shape[layout.axes.index(axis)] for axis in spatial], like)
    size = int(np.prod(labels.shape, dtype=np.int64)) * labels.dtype.itemsize
    order, options = _label_options(layout, spatial, labels.dtype, size)
    # arrays are in memory anyway, and tifffile takes pages of one row or column for something else
    stream = order == spatial and labels.ndim == 3 and not isinstance(labels, np.ndarray) and 1 not in labels.shape
    if stream:
        planes = (np.ascontiguousarray(labels[z]) for z in range(labels.shape[0]))
        tifffile.imwrite(path, planes, shape=labels.shape, dtype=labels.dtype, bigtiff=size >= BIGTIFF_BYTES, **options)
    else:
        voxels = np.asarray(labels[:]).transpose([spatial.index(axis) for axis in order])
        tifffile.imwrite(path, np.ascontiguousarray(voxels), **options)


def check_labels(like: Path, spatial_dims: int, axes: str | None = None) -> None:
    """Writes a few voxels as labels in the likeness of a file, to see before the work that it can be done.

    Args:
        like: the image that will be segmented.
        spatial_dims: 2 or 3.
        axes: as given to :func:`write_labels`.

    Raises:
        SpocoError: if a header like that of the file cannot be written.
    """
    layout, spatial = _layout_of(like, spatial_dims, axes)
    for dtype in (np.uint16, np.uint32):
        _, options = _label_options(layout, spatial, np.dtype(dtype), 0)
        try:
            tifffile.imwrite(io.BytesIO(), np.ones((2,) * spatial_dims, dtype), **options)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise SpocoError(
                f"{like}: labels cannot take over its metadata ({error}): export the image again"
            ) from error


def _layout_of(like: Path, spatial_dims: int, axes: str | None) -> tuple[Layout, str]:
    with open_tiff(like) as tif:
        layout = read_layout(like, tif, axes)
    return layout, spatial_axes(like, layout, spatial_dims)


def _label_options(layout: Layout, spatial: str, dtype: np.dtype, size: int) -> tuple[str, dict[str, Any]]:
    """The order of the spatial axes and the arguments of tifffile for labels of so many bytes."""
    # Said outright, since tifffile takes a name like NAME.ome.tif as a wish for OME.
    options: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib", "ome": False}
    names = "ZYX"[-len(spatial) :]
    resolution = {"resolution": layout.resolution, "resolutionunit": layout.resolution_unit}
    if layout.kind == "imagej" and dtype != np.uint32 and size < IMAGEJ_BYTES:
        metadata = {name: _ascii(value) for name, value in layout.metadata.items()}
        return spatial, options | resolution | {
            "imagej": True,
            "compression": None,
            "metadata": {"axes": names, **metadata},
        }
    if layout.kind in ("shaped", "generic", "uniform"):
        # Kept in the file's own order, since a plain file has no words for another one.
        order = "".join(axis for axis in layout.axes if axis in spatial)
        named = {} if set(order) & set(UNNAMED) else {"axes": order}
        return order, options | resolution | {"metadata": named | layout.metadata if layout.kind == "shaped" else None}
    sizes = {axis: layout.sizes[axis] for axis in names if axis in layout.sizes}
    entries = _ome_entries(layout) if layout.kind == "ome" else _physical_sizes(sizes, layout.unit)
    return spatial, options | {"ome": True, "metadata": {"axes": names, **entries}}


def _ome_entries(layout: Layout) -> dict[str, Any]:
    """The sizes of an OME file as it has them, but for units in a spelling that OME does not know."""
    entries = dict(layout.metadata)
    for name, value in layout.metadata.items():
        unit = parse_unit(value) if name.endswith("Unit") else None
        if unit is not None and unit.name in _OME_SYMBOLS:
            entries[name] = _OME_SYMBOLS[unit.name]
    return entries


def _ascii(value: Any) -> Any:
    """An entry of ImageJ's metadata, which are ASCII: the micrometre in the word that ImageJ itself writes."""
    if not isinstance(value, str) or value.isascii():
        return value
    unit = parse_unit(value)
    return {"micrometer": "micron"}.get(unit.name, unit.name) if unit else value.encode("ascii", "replace").decode()


def _physical_sizes(sizes: dict[str, float], unit: Unit | None) -> dict[str, Any]:
    """Entries of OME metadata for a voxel size in micrometres along each axis, stated in a unit that OME has."""
    name = unit.name if unit is not None and unit.name in _OME_SYMBOLS else MICROMETER
    entries: dict[str, Any] = {}
    for axis, size in sizes.items():
        entries |= {f"PhysicalSize{axis}": in_unit(size, name), f"PhysicalSize{axis}Unit": _OME_SYMBOLS[name]}
    return entries
