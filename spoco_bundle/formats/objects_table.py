"""Size, place and confidence of every segmented object, in one pass over the volume."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cc3d
import fastremap
import numpy as np

from spoco_bundle.core.atomic_files import write_table
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import MICROMETER, in_unit, parse_unit


def objects_table(
    labels: np.ndarray,
    spacing: Sequence[float] | None = None,
    unit: str = MICROMETER,
    confidence: Sequence[float] | np.ndarray | None = None,
    voxel_volume: float | None = None,
) -> list[dict[str, Any]]:
    """Measures every object.

    Args:
        labels: (z, y, x) or (y, x) non-negative ids, 0 = background.
        spacing: micrometres along z, y, x or y, x, or plain numbers where ``unit`` is no length; None where unknown,
            lengths are then in voxels.
        unit: unit of the table, such as that of the image's file.
        confidence: (N,) one value per object, of id 1 first; the largest id is at most N.
        voxel_volume: of one voxel, from the same lengths, where its edges are not at right angles: the determinant of
            the affine. By default the product of the spacing.

    Returns:
        One row per object in the order of ids, with the columns of :func:`table_columns`: ``id``; ``voxels``;
        ``volume`` in unit^3 (in 2D the area in unit^2); ``centroid_z``, ``centroid_y``, ``centroid_x`` as distance from
        the centre of the first voxel, along the array's axes; ``unit`` of these lengths (``voxel`` where the spacing is
        unknown); the bounding box ``z_min``, ``z_max``, ... in voxel indices, the maximum exclusive; ``confidence``,
        empty where none was given.

    Raises:
        ValueError: if there are fewer confidences than the largest id.
    """
    labels = np.asarray(labels)
    rank = labels.ndim
    steps, volume, unit = table_lengths(rank, spacing, unit, voxel_volume)
    dense, mapping = fastremap.renumber(labels, preserve_zero=True)
    original = {int(new): int(old) for old, new in mapping.items() if new != 0}
    if confidence is not None and original and max(original.values()) > len(confidence):
        raise ValueError(f"{len(confidence)} confidences for ids up to {max(original.values())}")
    if not original:
        return []
    measured = cc3d.statistics(dense)
    rows = []
    for new, old in sorted(original.items(), key=lambda item: item[1]):
        voxels = int(measured["voxel_counts"][new])
        row: dict[str, Any] = {"id": old, "voxels": voxels, "volume": float(voxels * volume)}
        for name, centre in zip("zyx"[-rank:], measured["centroids"][new] * steps, strict=True):
            row[f"centroid_{name}"] = float(centre)
        row["unit"] = unit
        for name, box in zip("zyx"[-rank:], measured["bounding_boxes"][new], strict=True):
            row[f"{name}_min"], row[f"{name}_max"] = int(box.start), int(box.stop)
        row["confidence"] = "" if confidence is None else float(confidence[old - 1])
        rows.append(row)
    return rows


def table_lengths(
    rank: int, spacing: Sequence[float] | None, unit: str, voxel_volume: float | None = None
) -> tuple[np.ndarray, float, str]:
    """Edges (rank,) and volume of a voxel in the unit of the table, and its name; arguments as for the table."""
    if spacing is None:
        return np.ones(rank), 1.0, "voxel"
    steps = np.array([in_unit(step, unit) for step in spacing])
    if voxel_volume is None:
        return steps, float(steps.prod()), unit
    parsed = parse_unit(unit)
    return steps, voxel_volume / (parsed.micrometers if parsed else 1.0) ** rank, unit


def table_columns(spatial_dims: int) -> list[str]:
    """The columns of the table for 2D or 3D, in order."""
    names = "zyx"[-spatial_dims:]
    return [
        "id",
        "voxels",
        "volume",
        *(f"centroid_{name}" for name in names),
        "unit",
        *(f"{name}_{end}" for name in names for end in ("min", "max")),
        "confidence",
    ]


def write_objects_table(path: str | Path, rows: Sequence[dict[str, Any]], spatial_dims: int) -> Path:
    """Writes the table as CSV, six significant digits, header also where there is no object.

    Args:
        path: file to write; missing folders are made.
        rows: from :func:`objects_table`.
        spatial_dims: 2 or 3, for the header.

    Returns:
        The path written.

    Raises:
        SpocoError: if the file cannot be written.
    """
    columns = table_columns(spatial_dims)
    values = ([row[name] for name in columns] for row in rows)
    return write_table(path, columns, ([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in values))


def read_objects_table(path: str | Path) -> list[dict[str, str]]:
    """Rows of a table that :func:`write_objects_table` wrote, values as text.

    Raises:
        SpocoError: if there is no such file or it lacks the columns ``id``, ``voxels`` and ``volume``.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), set(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpocoError(f"{path}: no readable table of objects ({error}): segment the image again") from error
    if not {"id", "voxels", "volume"} <= columns:
        raise SpocoError(f"{path}: is no table of objects (columns {sorted(columns)}): segment the image again")
    return rows
