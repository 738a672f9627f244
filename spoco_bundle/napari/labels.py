"""What is done with the numbers of annotated and predicted objects; all of it may take time for a large volume."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fastremap
import numpy as np

from spoco_bundle.annotation.confirmed import uncovered_objects
from spoco_bundle.app.config import config_folder
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.objects_table import objects_table, read_objects_table

#: id of painted voxels that belong to no object
BACKGROUND = int(json.loads((config_folder() / "label.json").read_text())["background_label"])


def ids_of(labels: np.ndarray) -> set[int]:
    """The ids of objects; known background is none."""
    return set(fastremap.unique(labels).tolist()) - {0, BACKGROUND}


def as_ids(labels: np.ndarray) -> np.ndarray:
    """Labels of a viewer as the unsigned integers that files hold.

    Raises:
        SpocoError: if a number is negative.
    """
    low = int(labels.min(initial=0))
    if low < 0:
        raise SpocoError(f"the layer holds the number {low}: objects have numbers from 1 on, 0 is unknown")
    return labels.astype(np.uint16 if labels.max(initial=0) < 2**16 else np.uint32)


def together(instances: np.ndarray | None, annotations: np.ndarray) -> np.ndarray:
    """Predicted and annotated objects in one label image (*spatial), under their ids.

    Args:
        instances: (*spatial) predicted ids; objects that annotated ones cover by more than half are left out.
        annotations: (*spatial) annotated ids, which lie above.
    """
    own = np.where(annotations == BACKGROUND, 0, annotations)
    return own if instances is None else np.where(own != 0, own, uncovered_objects(instances, annotations))


def rows_of(labels: np.ndarray, confidence: Mapping[int, float], starts: Sequence[int] = ()) -> list[dict[str, Any]]:
    """A row for every object: ``id``, ``voxels``, its box ``z_min``, ``z_max``, ..., and ``confidence`` or "".

    Args:
        labels: (*spatial) ids of an image, or of a part of it.
        confidence: of those objects of which it is known.
        starts: where the part begins along each axis.
    """
    shift = dict(zip("zyx"[-labels.ndim :], starts))
    rows = []
    for found in objects_table(labels, None, "voxel"):
        box = {key: found[key] + shift.get(key[0], 0) for key in found if key.endswith(("_min", "_max"))}
        number = found["id"]
        rows.append({"id": number, "voxels": found["voxels"], **box, "confidence": confidence.get(number, "")})
    return rows


def with_confidence(rows: list[dict[str, Any]], table: Path) -> list[dict[str, Any]]:
    """Rows with the confidences that a table has for objects of the same id, size and place, if there is one."""
    if not table.exists():
        return rows
    known = {_identity(row): float(row["confidence"]) for row in read_objects_table(table) if row.get("confidence")}
    return [{**row, "confidence": known.get(_identity(row), row["confidence"])} for row in rows]


def confidence_of(labels: np.ndarray, table: Path) -> dict[int, float]:
    """Confidences that a table has for objects of a label image, see `with_confidence`, by id."""
    rows = with_confidence(rows_of(labels, {}), table) if table.exists() else []
    return {row["id"]: row["confidence"] for row in rows if row["confidence"] != ""}


def small_ids(labels: np.ndarray, confidence: Mapping[int, float]) -> tuple[np.ndarray, Mapping[int, float]]:
    """Labels whose ids are no larger than their voxels are many, and the confidences by these ids.

    Counting voxels takes memory by the largest id, and ids near the end of 32 bits leave none for others.
    """
    if labels.max(initial=0) <= labels.size:
        return labels, confidence
    labels, numbers = fastremap.renumber(labels)
    return labels, {numbers[before]: value for before, value in confidence.items() if before in numbers}


def _identity(row: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    names = (name for name in sorted(row) if name in ("id", "voxels") or name.endswith(("_min", "_max")))
    return tuple((name, int(row[name])) for name in names)
