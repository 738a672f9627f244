"""OME-Zarr (NGFF 0.4) in and out: axes, scale and units of an image, and label pyramids; plain Zarr arrays too."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from spoco_bundle.core.errors import SpocoError, in_short
from spoco_bundle.core.lengths import PIXEL, UNITLESS, in_unit, in_words, parse_unit
from spoco_bundle.formats.geometry import affine_from_spacing
from spoco_bundle.formats.stored import LazyVolume

VERSION = "0.4"
CHUNK = (64, 256, 256)  # voxels of a chunk of labels that are written at once

_OLD_AXES = "TCZYX"  # what NGFF 0.1 and 0.2 meant without saying
_NAMED_AXES = {"time": "t", "channel": "c"}


@dataclass
class ZarrImage:
    """The full resolution of a Zarr image.

    Attributes:
        array: the array, not read.
        axes: upper-case letter of each of its axes, such as ``"TCZYX"``.
        spacing: of the axes Z, Y, X that there are, in micrometres, or plain numbers where ``unit`` is ``"unknown"``;
            None where the file does not say.
        translation: of the first voxel along the same axes.
        unit: in which the file states them.
        stated_size: the voxel size in the file's words.
    """

    array: zarr.Array
    axes: str
    spacing: dict[str, float] | None
    translation: dict[str, float]
    unit: str
    stated_size: str


def describe(path: Path, spatial_dims: int, axes: str | None = None) -> LazyVolume:
    """Reads what an OME-Zarr image or a Zarr array says about itself.

    Args:
        path: the folder of the image group or of the array.
        spatial_dims: 3 for volumes of more than one slice, 2 for single images.
        axes: see :func:`open_image`.

    Raises:
        SpocoError: as :func:`open_image`; or if its axes do not fit.
    """
    image = open_image(path, axes)
    sizes = dict(zip(image.axes, image.array.shape))
    spatial = "ZYX"[-spatial_dims:]
    slices = sizes.get("Z", 1)
    if set(spatial) - set(sizes) or (slices > 1) != (spatial_dims == 3):
        raise SpocoError(
            f"{path}: axes {image.axes} of shape {tuple(image.array.shape)} are not those of a {spatial_dims}D image: "
            "give --spatial_dims 2 for a single slice, 3 for a stack, or --axes "
            "where the file names them wrongly"
        )
    spacing = None if image.spacing is None else tuple(image.spacing[letter] for letter in spatial)
    return LazyVolume(
        path=str(path),
        axes=image.axes,
        stored_shape=tuple(image.array.shape),
        spatial=spatial,
        dtype=image.array.dtype,
        spacing=spacing,
        file_unit=image.unit,
        affine=affine_from_spacing(spacing or (1.0,) * spatial_dims),
        file_format="zarr",
        stated_size=image.stated_size,
        translation=tuple(image.translation.get(letter, 0.0) for letter in spatial),
        fixed={"Z": 0} if spatial_dims == 2 and "Z" in image.axes else {},
    )


def open_image(path: Path, axes: str | None = None) -> ZarrImage:
    """Opens an OME-Zarr image (NGFF 0.1 to 0.5) or a plain Zarr array.

    Args:
        path: the folder of the image group or of the array.
        axes: letters that replace the axes the file states, one per dimension, such as ``"ZYX"``.

    Raises:
        SpocoError: if it is no Zarr image, or its axes are not named.
    """
    try:
        node = zarr.open(str(path), mode="r")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, zarr.errors.BaseZarrError) as error:
        raise SpocoError(
            f"{path}: cannot be read as Zarr ({in_short(error)}): check the path or write it anew"
        ) from error
    attributes = dict(node.attrs)
    if isinstance(node, zarr.Array):
        names = attributes.get("_ARRAY_DIMENSIONS") or getattr(node.metadata, "dimension_names", None)
        if not names or all(name is None or re.fullmatch(r"dim_\d+", str(name)) for name in names):
            letters = "zyx"[-node.ndim :] if node.ndim <= 3 else None
        else:
            named = [_NAMED_AXES.get(str(name).lower(), str(name)) for name in names]
            letters = ("" if all(len(name) == 1 for name in named) else ", ").join(named)
        return ZarrImage(node, _checked_axes(path, axes or letters, node.shape), None, {}, UNITLESS, "")
    described = attributes.get("ome", attributes)
    multiscales = described.get("multiscales") if isinstance(described, dict) else None
    if not multiscales:
        raise SpocoError(_no_image(path, node, described if isinstance(described, dict) else {}))
    try:
        described = multiscales[0]
        stated = [{"name": a} if isinstance(a, str) else a for a in described.get("axes", list(_OLD_AXES))]
        dataset = described["datasets"][0]
        array = node[dataset["path"]]
        letters = _checked_axes(path, axes or "".join(str(axis["name"]) for axis in stated), array.shape)
        scale, translation = [1.0] * len(letters), [0.0] * len(letters)
        transformations = [
            *dataset.get("coordinateTransformations", ()),
            *described.get("coordinateTransformations", ()),
        ]
        for transformation in transformations:
            values = [float(value) for value in transformation.get(transformation["type"], ())]
            if transformation["type"] == "scale":
                scale = [a * b for a, b in zip(scale, values, strict=True)]
                translation = [a * b for a, b in zip(translation, values, strict=True)]
            elif transformation["type"] == "translation":
                translation = [a + b for a, b in zip(translation, values, strict=True)]
            elif transformation["type"] != "identity":
                raise ValueError(f"a transformation of type {transformation['type']} is not known here")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise SpocoError(
            f"{path}: its OME-Zarr metadata are damaged ({in_short(error)}): write the image anew"
        ) from error
    # a unit without a scale says nothing of the size of a voxel
    has_scale = any(transformation["type"] == "scale" for transformation in transformations)
    units = {letter: axis.get("unit") for letter, axis in zip(letters, stated)} if has_scale else {}
    return _with_lengths(array, letters, dict(zip(letters, scale)), dict(zip(letters, translation)), units)


def _with_lengths(
    array: zarr.Array, letters: str, scale: dict[str, float], shift: dict[str, float], units: dict[str, str | None]
) -> ZarrImage:
    """The image with its lengths in micrometres, if every spatial axis has a unit of length."""
    spatial = [letter for letter in "ZYX" if letter in letters]
    named = [units.get(letter) for letter in spatial]
    parsed = [parse_unit(name) for name in named]
    factors = [unit.micrometers if unit else 1.0 for unit in parsed] if all(parsed) else [1.0] * len(spatial)
    spacing = {letter: float(f"{abs(scale[letter]) * factor:.7g}") for letter, factor in zip(spatial, factors)}
    translation = {letter: shift[letter] * factor for letter, factor in zip(spatial, factors)}
    sizes = [scale[letter] for letter in spatial]
    if all(parsed):
        unit = parsed[-1].name
        stated = in_words([in_unit(spacing[letter], unit) for letter in spatial], unit)
    else:
        unit, stated = UNITLESS, in_words(sizes, next((name for name in named if name), UNITLESS))
    # a scale of 1 without a unit is what is written where nothing is known; another unit than a length tells nothing
    known = all(parsed) or not any(named) and any(size != 1 for size in sizes)
    if not known and (not any(named) or PIXEL in named):
        stated = ""
    known = known and all(np.isfinite(size) and size != 0 for size in sizes)
    return ZarrImage(array, letters, spacing if known else None, translation, unit, stated)


def _no_image(path: Path, group: zarr.Group, described: dict[str, Any]) -> str:
    """What a group without an image holds instead, and what to name."""
    if "plate" in described:
        wells = [str(well.get("path")) for well in described["plate"].get("wells", [])]
        first = f"{path}/{wells[0]}/0" if wells else f"{path}/ROW/COLUMN/0"
        count = f"{len(wells)} well{'s' * (len(wells) != 1)}"
        return f"{path}: is a plate of {count} ({', '.join(wells[:4])}): name one of its images, such as {first}"
    if "well" in described:
        fields = [str(field.get("path")) for field in described["well"].get("images", [])] or ["0"]
        return f"{path}: is a well of a plate with the images {', '.join(fields[:8])}: name one, as {path}/{fields[0]}"
    inside = sorted(name for name, _ in group.members())
    return (
        f"{path}: is a Zarr group without an image of its own (no multiscales): name an image or array inside it, such "
        f"as {path}/{inside[0] if inside else 0} (it holds: {', '.join(inside[:8]) or 'nothing'})"
    )


def _checked_axes(path: Path, letters: str | None, shape: Sequence[int]) -> str:
    letters = (letters or "").upper()
    if len(letters) != len(shape) or len(set(letters)) != len(letters) or set(letters) - set(_OLD_AXES):
        raise SpocoError(
            f"{path}: axes {letters or 'unnamed'} do not name the {len(shape)} dimensions of shape {tuple(shape)}: "
            "give one of the letters T, C, Z, Y, X for each, such as --axes CZYX"
        )
    return letters


def label_pyramid_shapes(
    shape: Sequence[int], spacing: Sequence[float], coarsest: int
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Levels of a label pyramid: shape, and how many voxels of the full resolution a step is along each axis.

    Each level halves the axes along which its voxels are not already more than 1.5 times as long as the shortest, until
    every axis has at most ``coarsest`` voxels.

    Args:
        shape: of the full resolution.
        spacing: of its voxels, any unit.
        coarsest: voxels along the longest axis of the last level, at most.
    """
    levels = [(tuple(shape), (1,) * len(shape))]
    while max(levels[-1][0]) > coarsest:
        sizes, factors = levels[-1]
        steps = [step * factor for step, factor in zip(spacing, factors)]
        shortest = min(step for step, size in zip(steps, sizes) if size > 1)
        halved = [step <= 1.5 * shortest and size > 1 for step, size in zip(steps, sizes)]
        factors = tuple(factor * (2 if half else 1) for factor, half in zip(factors, halved))
        levels.append((tuple(-(-size // factor) for size, factor in zip(shape, factors)), factors))
    return levels


def create_array(path: Path, shape: Sequence[int], chunks: Sequence[int], dtype: Any) -> zarr.Array:
    """A new Zarr (format 2) array of zeros, chunks nested in folders as NGFF wants them; an existing one is opened."""
    if (path / ".zarray").is_file():
        return zarr.open_array(str(path), mode="r+")
    return zarr.create_array(
        str(path),
        shape=tuple(shape),
        chunks=tuple(min(chunk, max(1, size)) for chunk, size in zip(chunks, shape)),
        dtype=dtype,
        fill_value=0,
        zarr_format=2,
        chunk_key_encoding={"name": "v2", "separator": "/"},
        config={"write_empty_chunks": False},
    )


def create_label_image(
    path: Path,
    levels: Sequence[tuple[Sequence[int], Sequence[int]]],
    chunks: Sequence[int],
    dtype: Any,
    spacing: Sequence[float] | None,
    translation: Sequence[float],
    unit: str,
    name: str,
    source: str | None,
) -> None:
    """Makes an empty NGFF 0.4 label image: one array per level, ``multiscales`` and ``image-label``.

    Args:
        path: folder of the image; what exists of it is kept.
        levels: from :func:`label_pyramid_shapes`; labels of a coarse voxel are those of its first fine one.
        chunks: of every level.
        dtype: uint16 or uint32.
        spacing: of the full resolution, in micrometres, or plain numbers; None where unknown.
        translation: of the first voxel, in the same unit.
        unit: in which the file states both; ``"unknown"`` is left out.
        name: of the image.
        source: relative path of the image that was segmented, or None.
    """
    _refuse_links(path)
    group = zarr.open_group(str(path), mode="a", zarr_format=2)
    axes = _spatial_axes(len(levels[0][0]), spacing, unit)
    datasets = []
    for level, (shape, factors) in enumerate(levels):
        create_array(path / str(level), shape, chunks, dtype)
        scale = [in_unit(step * factor, unit) for step, factor in zip(spacing or [1.0] * len(shape), factors)]
        transformations: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if any(translation):
            transformations.append(
                {"type": "translation", "translation": [in_unit(step, unit) for step in translation]}
            )
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    multiscale = {"version": VERSION, "name": name, "axes": axes, "datasets": datasets, "type": "nearest"}
    label: dict[str, Any] = {"version": VERSION}
    if source is not None:
        label["source"] = {"image": source}
    group.attrs.update({"multiscales": [multiscale], "image-label": label})


def _spatial_axes(dims: int, spacing: Sequence[float] | None, unit: str) -> list[dict[str, str]]:
    """What NGFF calls the axes z, y, x or y, x; with a unit where the image has a voxel size in one."""
    named = {} if unit == UNITLESS or spacing is None else {"unit": unit}
    return [{"name": letter, "type": "space", **named} for letter in "zyx"[-dims:]]


def write_image(path: Path, voxels: np.ndarray, spacing: Sequence[float] | None, unit: str) -> None:
    """Writes an image of one level.

    Args:
        path: folder to make.
        voxels: (C, z, y, x) or (C, y, x).
        spacing: along the spatial axes, in micrometres, or plain numbers; None where unknown.
        unit: in which the file states it; ``"unknown"`` is left out.
    """
    _refuse_links(path)
    dims = voxels.ndim - 1
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    create_array(path / "0", voxels.shape, (1, *CHUNK[-dims:]), voxels.dtype)[:] = voxels
    axes = [{"name": "c", "type": "channel"}, *_spatial_axes(dims, spacing, unit)]
    scale = [1.0, *([1.0] * dims if spacing is None else [in_unit(step, unit) for step in spacing])]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}]
    group.attrs["multiscales"] = [{"version": VERSION, "axes": axes, "datasets": datasets}]


def write_labels(path: Path, labels: Any, source: LazyVolume, name: str, relative: str | None) -> None:
    """Writes labels as a label image on the grid of an image.

    Args:
        path: folder to make.
        labels: (z, y, x) or (y, x), uint16 or uint32.
        source: the image that was segmented.
        name: of the label image.
        relative: its path from the place of the result.
    """
    levels = label_pyramid_shapes(labels.shape, source.spacing or (1.0,) * labels.ndim, max(CHUNK))
    placed = source.spacing, source.translation, source.file_unit
    create_label_image(path, levels, CHUNK[-labels.ndim :], labels.dtype, *placed, name, relative)
    zarr.open_array(str(path / "0"), mode="r+")[:] = labels
    for level, (shape, _) in enumerate(levels[1:], start=1):
        halve(path, level, tuple(slice(0, size) for size in shape), levels)


def _refuse_links(path: Path) -> None:
    """A link in a folder that is about to be written would lead the voxels out of it."""
    links = [entry for entry in (path, *(path.rglob("*") if path.is_dir() else ())) if entry.is_symlink()]
    if links:
        raise SpocoError(f"{links[0]}: is a link, through which the result would be written elsewhere: remove it")


def is_label_image(path: Path) -> bool:
    """Whether a folder is an OME-Zarr label image."""
    try:
        return "image-label" in json.loads((path / ".zattrs").read_text())
    except (OSError, ValueError):
        return False


def halve(path: Path, level: int, region: tuple[slice, ...], levels: Sequence[tuple[Any, Sequence[int]]]) -> None:
    """Fills a region of one level from the level below it, chunk by chunk.

    Args:
        path: the label image.
        level: 1 or more.
        region: in voxels of that level, whole chunks.
        levels: from :func:`label_pyramid_shapes`.
    """
    fine, coarse = (zarr.open_array(str(path / str(number)), mode="r+") for number in (level - 1, level))
    steps = [new // old for new, old in zip(levels[level][1], levels[level - 1][1])]
    for part in chunk_regions(region, coarse.chunks):
        below = tuple(slice(p.start * step, p.stop * step) for p, step in zip(part, steps))
        values = np.asarray(fine[below])[tuple(slice(None, None, step) for step in steps)]
        if values.any():
            coarse[part] = values


def chunk_regions(region: tuple[slice, ...], chunks: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """The parts of a region that begins on a chunk border, one per chunk."""
    starts = [range(part.start, part.stop, chunk) for part, chunk in zip(region, chunks)]
    for corner in np.ndindex(*map(len, starts)):
        yield tuple(
            slice(start[index], min(start[index] + chunk, part.stop))
            for start, index, chunk, part in zip(starts, corner, chunks, region)
        )
