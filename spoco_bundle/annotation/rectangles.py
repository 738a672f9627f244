"""Rectangles in which every object is drawn, beside a label as napari saves a shapes layer of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spoco_bundle.annotation.complete import complete_path, shapes_of
from spoco_bundle.annotation.side_files import COMPLETE_ENDING, beside
from spoco_bundle.annotation.tables import read_table
from spoco_bundle.core.atomic_files import write_table
from spoco_bundle.core.errors import SpocoError


def rectangles_around(marked: np.ndarray) -> list[np.ndarray]:
    """The rectangle around what is marked in each slice along z, (4, D) corners in voxels; a flat image has one.

    Args:
        marked: (*spatial) bool.
    """
    found = []
    for plane in range(len(marked)) if marked.ndim == 3 else [None]:
        inside = np.argwhere(marked if plane is None else marked[plane])
        if len(inside):
            (top, left), (bottom, right) = inside.min(0), inside.max(0)
            corners = np.array([[top, left], [top, right], [bottom, right], [bottom, left]])
            found.append(corners if plane is None else np.insert(corners, 0, plane, axis=1))
    return found


def read_rectangles(label: Path, dims: int) -> list[np.ndarray]:
    """The rectangles beside a label, (4, D) corners in voxels each; none where a mask or a table of boxes is there.

    Args:
        label: the label file, whether it is there or not.
        dims: spatial axes of the image.

    Raises:
        SpocoError: if they cannot be read.
    """
    path = complete_path(label)
    if path is None or not _is_shapes_layer(path):
        return []
    columns, rows = read_table(path)
    return [corners for _, corners in shapes_of(path, columns, rows, dims)]


def keep_rectangles(label: Path, rectangles: Sequence[np.ndarray]) -> list[Path]:
    """Makes the rectangles beside a label these, and returns the file that says where every object is drawn, if any.

    Args:
        label: the label file, whether it is there or not.
        rectangles: (4, D) corners in voxels each.

    Raises:
        SpocoError: if a mask or a table of boxes is there already, or the file cannot be written.
    """
    path = beside(label, COMPLETE_ENDING)
    if len(rectangles):
        check_place_for_rectangles(label)
        return [write_rectangles(path, rectangles)]
    elsewhere = complete_elsewhere(label)
    if elsewhere is None:
        path.unlink(missing_ok=True)
    return [] if elsewhere is None else [elsewhere]


def check_place_for_rectangles(label: Path) -> None:
    """Refuses rectangles where a mask or a table of boxes beside the label says already where every object is drawn.

    Raises:
        SpocoError: if one does.
    """
    elsewhere = complete_elsewhere(label)
    if elsewhere is not None:
        raise SpocoError(
            f"{elsewhere}: says already where every object is drawn: change it there, or take it away to draw regions"
        )


def write_rectangles(path: Path, rectangles: Sequence[np.ndarray]) -> Path:
    """Writes rectangles as napari saves a shapes layer.

    Args:
        path: the CSV file.
        rectangles: (4, D) corners in voxels, at least one rectangle.

    Raises:
        SpocoError: if it cannot be written.
    """
    columns = ["index", "shape-type", "vertex-index", *(f"axis-{axis}" for axis in range(rectangles[0].shape[1]))]
    rows = [
        (index, "rectangle", vertex, *corner)
        for index, corners in enumerate(rectangles)
        for vertex, corner in enumerate(corners.tolist())
    ]
    return write_table(path, columns, rows)


def complete_elsewhere(label: Path) -> Path | None:
    """The mask, or the table of boxes, that says where annotations are complete in place of rectangles drawn here."""
    path = complete_path(label)
    return None if path is None or _is_shapes_layer(path) else path


def _is_shapes_layer(path: Path) -> bool:
    return path.suffix.lower() == ".csv" and "shape-type" in read_table(path)[0]
