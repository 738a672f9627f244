"""OME-Zarr (NGFF 0.4) in and out: axes, scale and units of an image, and label pyramids; plain Zarr arrays too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.geometry import UNKNOWN_UNIT, canonical_length, convert_length

VERSION = "0.4"

_OLD_AXES = "tczyx"  # what NGFF 0.1 and 0.2 meant without saying


@dataclass
class ZarrImage:
    """The full resolution of a Zarr image.

    Attributes:
        array: the array, not read.
        axes: lower-case letter of each of its axes, such as ``"tczyx"``.
        spacing: of the axes z, y, x that there are, in ``unit``; None where the file does not say.
        translation: of the first voxel along the same axes, in ``unit``.
        unit: ``"micrometer"``, ``"millimeter"``, ``"nanometer"`` or ``"unknown"``.
    """

    array: zarr.Array
    axes: str
    spacing: dict[str, float] | None
    translation: dict[str, float]
    unit: str


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
    except (OSError, ValueError, KeyError, TypeError, zarr.errors.BaseZarrError) as error:
        raise SpocoError(f"{path}: cannot be read as Zarr ({_line(error)}): check the path or write it anew") from error
    attributes = dict(node.attrs)
    if isinstance(node, zarr.Array):
        names = attributes.get("_ARRAY_DIMENSIONS") or getattr(node.metadata, "dimension_names", None)
        letters = axes or ("".join(names) if names and all(isinstance(n, str) and len(n) == 1 for n in names) else None)
        letters = letters or ("zyx"[-node.ndim :] if node.ndim <= 3 else None)
        return ZarrImage(node, _checked_axes(path, letters, node.shape), None, {}, UNKNOWN_UNIT)
    multiscales = attributes.get("ome", attributes).get("multiscales")
    if not multiscales:
        inside = ", ".join(sorted(name for name, _ in node.members())[:8]) or "nothing"
        raise SpocoError(
            f"{path}: is a Zarr group without an image (no multiscales); name an image or array inside it, "
            f"such as {path}/0 (it holds: {inside})"
        )
    try:
        described = multiscales[0]
        stated = [{"name": a} if isinstance(a, str) else a for a in described.get("axes", list(_OLD_AXES))]
        dataset = described["datasets"][0]
        array = node[dataset["path"]]
        letters = _checked_axes(path, axes or "".join(str(axis["name"]) for axis in stated), array.shape)
        scale, translation = [1.0] * len(letters), [0.0] * len(letters)
        for transformation in (
            *dataset.get("coordinateTransformations", ()),
            *described.get("coordinateTransformations", ()),
        ):
            values = [float(value) for value in transformation.get(transformation["type"], ())]
            if transformation["type"] == "scale":
                scale = [a * b for a, b in zip(scale, values, strict=True)]
                translation = [a * b for a, b in zip(translation, values, strict=True)]
            elif transformation["type"] == "translation":
                translation = [a + b for a, b in zip(translation, values, strict=True)]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise SpocoError(f"{path}: its OME-Zarr metadata are damaged ({_line(error)}): write the image anew") from error
    units = {letter: axis.get("unit") for letter, axis in zip(letters, stated)}
    return _with_lengths(array, letters, dict(zip(letters, scale)), dict(zip(letters, translation)), units)


def _with_lengths(
    array: zarr.Array, letters: str, scale: dict[str, float], shift: dict[str, float], units: dict[str, str | None]
) -> ZarrImage:
    """The image with its lengths in the unit of x."""
    spatial = [letter for letter in "zyx" if letter in letters]
    unit = canonical_length(1.0, units.get("x"))[1]
    spacing, translation = {}, {}
    for letter in spatial:
        for lengths, result in ((scale, spacing), (shift, translation)):
            value, own = canonical_length(lengths[letter], units.get(letter))
            result[letter] = convert_length(value, own, unit)
    known = unit != UNKNOWN_UNIT or any(step != 1 for step in spacing.values())
    return ZarrImage(array, letters, spacing if known else None, translation, unit)


def _checked_axes(path: Path, letters: str | None, shape: Sequence[int]) -> str:
    letters = (letters or "").lower()
    if len(letters) != len(shape) or len(set(letters)) != len(letters) or set(letters) - set(_OLD_AXES):
        raise SpocoError(
            f"{path}: axes {letters or 'unnamed'} do not name the {len(shape)} dimensions of shape {tuple(shape)}: "
            "give one of the letters T, C, Z, Y, X for each, such as CZYX, in the config id axes"
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
        spacing: of the full resolution; None where unknown.
        translation: of the first voxel.
        unit: of both; ``"unknown"`` is left out.
        name: of the image.
        source: relative path of the image that was segmented, or None.
    """
    group = zarr.open_group(str(path), mode="a", zarr_format=2)
    letters = "zyx"[-len(levels[0][0]) :]
    axes = [{"name": letter, "type": "space"} for letter in letters]
    if unit != UNKNOWN_UNIT:
        axes = [{**axis, "unit": unit} for axis in axes]
    datasets = []
    for level, (shape, factors) in enumerate(levels):
        create_array(path / str(level), shape, chunks, dtype)
        scale = [step * factor for step, factor in zip(spacing or [1.0] * len(shape), factors)]
        transformations: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if any(translation):
            transformations.append({"type": "translation", "translation": list(translation)})
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    multiscale = {"version": VERSION, "name": name, "axes": axes, "datasets": datasets, "type": "nearest"}
    label: dict[str, Any] = {"version": VERSION}
    if source is not None:
        label["source"] = {"image": source}
    group.attrs.update({"multiscales": [multiscale], "image-label": label})


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


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
