"""Where a segmentation differs from a complete truth: what was missed, merged, split or made up, and the place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spoco_bundle.formats.objects_table import objects_table
from spoco_bundle.metrics.contingency import ContingencyTable
from spoco_bundle.metrics.partition import error_objects

MOST_NAMED = 8  # ids in one line


@dataclass
class Mistake:
    """One object with an error.

    Attributes:
        kind: "merges", "splits", "misses" or "false_objects", see ``error_objects``.
        text: what is wrong, in words.
        centre: of the object, in voxels along the array's axes.
        box: [start, stop] of the object along each axis.
    """

    kind: str
    text: str
    centre: list[float]
    box: list[list[int]]


def find_mistakes(truth: np.ndarray, labels: np.ndarray, table: ContingencyTable) -> list[Mistake]:
    """Every merge, split, miss and false object, in this order, each by the ids.

    Args:
        truth: (*spatial) true ids, 0 = nothing.
        labels: (*spatial) predicted ids.
        table: their contingency table.
    """
    found = error_objects(table)
    places = {}
    for volume, kinds in ((labels, ("merges", "false_objects")), (truth, ("splits", "misses"))):
        wrong = {number for kind in kinds for number in found[kind]}
        if wrong:
            axes = "zyx"[-volume.ndim :]
            for row in objects_table(volume):
                if row["id"] in wrong:
                    centre = [row[f"centroid_{axis}"] for axis in axes]
                    box = [[row[f"{axis}_min"], row[f"{axis}_max"]] for axis in axes]
                    places.update({(kind, row["id"]): (centre, box) for kind in kinds})
    words = {
        "merges": "object {0} covers {1} of the truth",
        "splits": "{0} of the truth is split into objects {1}",
        "misses": "{0} of the truth is missed",
        "false_objects": "object {0} is none in the truth",
    }
    return [
        Mistake(kind, text.format(number, _named(others)), *places[kind, number])
        for kind, text in words.items()
        for number, others in found[kind].items()
    ]


def _named(numbers: Sequence[int]) -> str:
    some = ", ".join(map(str, numbers[:MOST_NAMED]))
    return some + (f" and {len(numbers) - MOST_NAMED} more" if len(numbers) > MOST_NAMED else "")
