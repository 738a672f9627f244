"""Points in objects, one per object, as napari saves them or as columns z, y, x."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spoco_bundle.annotation.side_files import POINTS_ENDING, beside
from spoco_bundle.annotation.tables import read_table
from spoco_bundle.core.atomic_files import write_table
from spoco_bundle.core.errors import SpocoError


def points_path(path: str | Path) -> Path:
    """The points ``NAME_points.csv`` of a label or image, which may not exist."""
    return beside(path, POINTS_ENDING)


def read_points(path: str | Path, dims: int, shape: Sequence[int] | None = None) -> np.ndarray:
    """Reads points, in voxels, rounded to the nearest.

    Args:
        path: a points layer saved from napari (columns ``axis-0``, ``axis-1`` and in 3D ``axis-2``), or a CSV file with
            the columns ``z``, ``y`` and ``x``, in 2D ``y`` and ``x``. Further columns do not matter.
        dims: 2 or 3.
        shape: voxels of the image per axis, to refuse points outside of it; None does not look.

    Returns:
        (points, dims) int64, along z, y, x or y, x, in the order of the file. Points in one voxel are one point.

    Raises:
        SpocoError: if the file cannot be read, lacks an axis or has one too many, or holds what is no number or lies
            outside of the image.
    """
    columns, rows = read_table(path)
    names = axis_columns(path, columns, dims)
    found: dict[tuple[int, ...], None] = {}
    for row in rows:
        place = [row.number(name) for name in names]
        voxel = tuple(int(np.floor(coordinate + 0.5)) for coordinate in place)
        if shape is not None and not all(0 <= at < size for at, size in zip(voxel, shape, strict=True)):
            where = ", ".join(f"{coordinate:g}" for coordinate in place)
            raise row.error(
                f"point {where} lies outside of the image of {' x '.join(map(str, shape))} voxels: give "
                f"{', '.join('zyx'[-dims:])} in voxels, counted from 0"
            )
        found[voxel] = None
    return np.array(list(found), dtype=np.int64).reshape(-1, dims)


def write_points(path: str | Path, voxels: np.ndarray) -> Path:
    """Writes points as napari does, so that it opens them as a points layer.

    Args:
        path: see ``points_path``; missing folders are made.
        voxels: (points, D) along z, y, x or y, x, in voxels.

    Returns:
        The path written.

    Raises:
        SpocoError: if the file cannot be written.
    """
    voxels = np.asarray(voxels)
    columns = ["index", *(f"axis-{axis}" for axis in range(voxels.shape[1]))]
    return write_table(path, columns, [(index, *row) for index, row in enumerate(voxels.tolist())])


def axis_columns(path: str | Path, columns: Sequence[str], dims: int) -> list[str]:
    """The columns of a table that hold the place along each axis: those of napari, or those named after the axes.

    Raises:
        SpocoError: if there are not as many as the image has axes.
    """
    by_napari = sorted(column for column in columns if column.startswith("axis-"))
    named = [axis for axis in "zyx" if axis in columns]
    found, wanted = (by_napari, [f"axis-{axis}" for axis in range(dims)]) if by_napari else (named, list("zyx"[-dims:]))
    if found != wanted:
        raise SpocoError(
            f"{path}: has the columns {', '.join(columns)} where an image of {dims} axes needs {', '.join(wanted)}: "
            "save the layer from napari, or write these columns"
        )
    return found
