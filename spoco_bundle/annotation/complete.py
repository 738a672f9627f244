"""Where every object is drawn, so that what has no id is known to be background."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spoco_bundle.annotation.points import axis_columns
from spoco_bundle.annotation.side_files import files_beside
from spoco_bundle.annotation.tables import Row, read_table
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.files import read_image


def complete_path(path: str | Path, image_ending: str = "_raw") -> Path | None:
    """The file ``NAME_complete.csv`` or ``NAME_complete.EXT`` beside a label or image, None if there is none.

    Args:
        path: the label, or the image where there is no label file.
        image_ending: how image names end before the suffix.

    Raises:
        SpocoError: if there are two.
    """
    return files_beside(path, image_ending).get("complete")


def read_complete(
    path: str | Path, shape: Sequence[int], axes: str | None = None, time: int | None = None
) -> np.ndarray:
    """Reads where every object is drawn.

    Args:
        path: an image that is above 0 there, or a CSV file of boxes: a shapes layer of rectangles saved from napari (of
            each the bounding box of its vertices, rounded, both ends included), or the columns ``z_start``,
            ``y_start``, ``x_start``, ``z_stop``, ``y_stop``, ``x_stop`` (stop excluded; in 2D without z).
        shape: voxels of the image per axis.
        axes: as given to ``read_image`` for the image.
        time: as given to ``read_image`` for the image.

    Returns:
        (*shape) bool. Boxes are cut off at the border.

    Raises:
        SpocoError: if the file cannot be read, is of another shape, holds other shapes than rectangles or boxes, or a
            box that lies outside of the image or is empty.
    """
    path, shape = Path(path), tuple(shape)
    if path.suffix.lower() != ".csv":
        mask = read_image(path, "label", len(shape), axes=axes, time=time).array[0] > 0
        if mask.shape != shape:
            raise SpocoError(
                f"{path}: shape {mask.shape} differs from shape {shape} of its image: draw it on that image"
            )
        return mask
    columns, rows = read_table(path)
    read = _rectangles if "shape-type" in columns else _boxes
    boxes = read(path, columns, rows, len(shape))
    mask = np.zeros(shape, dtype=bool)
    for row, first, stop in boxes:
        first, stop = np.maximum(first, 0), np.minimum(stop, shape)
        if (first >= stop).any():
            raise row.error(
                f"the box holds no voxel of the image of {' x '.join(map(str, shape))} voxels: give "
                f"{', '.join('zyx'[-len(shape) :])} in voxels, counted from 0"
            )
        mask[tuple(map(slice, first, stop))] = True
    return mask


def shapes_of(path: Path, columns: Sequence[str], rows: Sequence[Row], dims: int) -> list[tuple[Row, np.ndarray]]:
    """The shapes of a shapes layer, whose table has a row for each vertex: first row and (vertices, D) in voxels."""
    names = axis_columns(path, columns, dims)
    shapes: dict[str, list[Row]] = {}
    for row in rows:
        shapes.setdefault(row.values.get("index", ""), []).append(row)
    return [(shape[0], np.array([[row.number(name) for name in names] for row in shape])) for shape in shapes.values()]


_Box = tuple[Row, np.ndarray, np.ndarray]


def _rectangles(path: Path, columns: Sequence[str], rows: Sequence[Row], dims: int) -> list[_Box]:
    """Bounding boxes of napari's rectangles, each with its first row: first voxel and last + 1."""
    for row in rows:
        if row.values["shape-type"].lower() != "rectangle":
            raise row.error(f"shape-type is {row.values['shape-type']!r}: draw rectangles only")
    boxes = []
    for row, vertices in shapes_of(path, columns, rows, dims):
        voxels = np.floor(vertices + 0.5).astype(np.int64)
        boxes.append((row, voxels.min(0), voxels.max(0) + 1))
    return boxes


def _boxes(path: Path, columns: Sequence[str], rows: Sequence[Row], dims: int) -> list[_Box]:
    """Boxes given by where they start and stop."""
    axes = "zyx"[-dims:]
    names = [f"{axis}_{end}" for end in ("start", "stop") for axis in axes]
    if {column for column in columns if column.endswith(("_start", "_stop"))} != set(names):
        raise SpocoError(
            f"{path}: has the columns {', '.join(columns)} where an image of {dims} axes needs "
            f"{', '.join(names)}: write these columns, or save a shapes layer of rectangles from napari"
        )
    return [(row, *np.array([row.whole_number(name) for name in names], dtype=np.int64).reshape(2, -1)) for row in rows]
