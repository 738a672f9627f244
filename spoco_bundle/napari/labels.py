"""What is done with the numbers of annotated and predicted objects; all of it may take time for a large volume."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import fastremap
import numpy as np

from spoco_bundle.annotation.confirmed import uncovered_objects
from spoco_bundle.app.config import config_folder
from spoco_bundle.core.errors import SpocoError

#: id of painted voxels that belong to no object
BACKGROUND = int(json.loads((config_folder() / "label.json").read_text())["background_label"])


def count_objects(annotations: np.ndarray) -> int:
    """Number of annotated objects; known background is none."""
    return len({int(number) for number in fastremap.unique(annotations)} - {0, BACKGROUND})


def as_ids(labels: np.ndarray) -> np.ndarray:
    """Labels of a viewer as the unsigned integers that files hold.

    Raises:
        SpocoError: if a number is negative.
    """
    low = int(labels.min(initial=0))
    if low < 0:
        raise SpocoError(f"the layer holds the number {low}: objects have numbers from 1 on, 0 is unknown")
    return labels.astype(np.uint16 if labels.max(initial=0) < 2**16 else np.uint32)


def together(
    instances: np.ndarray, annotations: np.ndarray, confidence: Mapping[int, float]
) -> tuple[np.ndarray, dict[int, float]]:
    """Predicted and annotated objects in one label image.

    Args:
        instances: (*spatial) predicted ids.
        annotations: (*spatial) annotated ids, which lie above.
        confidence: of predicted ids.

    Returns:
        (*spatial) ids 1 to n, predicted objects in the order of their ids, then annotated ones; and the confidence of
        those that have one.
    """
    left = uncovered_objects(instances, annotations)
    own = np.where(annotations == BACKGROUND, 0, annotations).astype(np.int64)
    highest = int(left.max(initial=0))
    both = np.where(own > 0, own + highest, left)
    numbers = {int(old): new for new, old in enumerate(fastremap.unique(both[both > 0]), start=1)}
    labels = fastremap.remap(both, {0: 0} | numbers).astype(np.uint32)
    return labels, {numbers[old]: value for old, value in confidence.items() if old in numbers and old <= highest}


def count_and_highest(labels: np.ndarray | None) -> tuple[int, int]:
    """Number of annotated objects, and the highest number that one has."""
    if labels is None:
        return 0, 0
    numbers = fastremap.unique(labels)
    return count_objects(numbers), int(numbers[numbers != BACKGROUND].max(initial=0))


def places_to_accept(
    predicted: np.ndarray, annotated: np.ndarray, objects: Sequence[int]
) -> tuple[tuple[np.ndarray, ...], np.ndarray, list[int]]:
    """Voxels of predicted objects where nothing is annotated, and the numbers that they get there."""
    _, highest = count_and_highest(annotated)
    places = np.nonzero(np.isin(predicted, objects) & (annotated == 0))
    free = (number for number in range(highest + 1, highest + len(objects) + 2) if number != BACKGROUND)
    numbers = dict(zip(objects, free))
    return places, fastremap.remap(predicted[places], numbers).astype(annotated.dtype), list(objects)
