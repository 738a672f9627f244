"""How many voxels every pair of a true and a predicted object shares: the one table all scores are computed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fastremap
import numpy as np

from spoco_bundle.core.errors import SpocoError

PIECE = 2**24  # voxels that are counted at a time, which bounds the memory beside the volumes themselves


@dataclass(frozen=True)
class ContingencyTable:
    """Sparse table of the voxels shared by true and predicted objects; row and column 0 are "no object".

    Attributes:
        truth_ids: (T + 1,) label id of each row; row 0 stands for everything that is no annotated object.
        prediction_ids: (P + 1,) label id of each column; column 0 stands for voxels without a predicted object.
        truth_sizes: (T + 1,) voxels of each row.
        prediction_sizes: (P + 1,) voxels of each column.
        rows: (K,) row of each non-empty cell.
        columns: (K,) column of each non-empty cell.
        overlaps: (K,) voxels in each non-empty cell, all above 0.
        known_background: (P + 1,) voxels of each column on `background_label`; all 0 where none was given.
        whole: (T + 1,) bool, rows annotated in all their voxels.
        seen: (K,) voxels of each cell's column where the annotation of its row says what belongs to it: all of them for
            a whole row.
    """

    truth_ids: np.ndarray
    prediction_ids: np.ndarray
    truth_sizes: np.ndarray
    prediction_sizes: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    overlaps: np.ndarray
    known_background: np.ndarray
    whole: np.ndarray
    seen: np.ndarray

    @property
    def true_objects(self) -> int:
        """Number of true objects, T."""
        return len(self.truth_sizes) - 1

    @property
    def objects(self) -> int:
        """Number of predicted objects, P."""
        return len(self.prediction_sizes) - 1

    @property
    def voxels(self) -> int:
        """Number of voxels that count, ignored ones left out."""
        return int(self.overlaps.sum())

    def object_pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cells of two objects, as (true index 0..T-1, predicted index 0..P-1, shared voxels), each (K',)."""
        both = self._of_objects
        return self.rows[both] - 1, self.columns[both] - 1, self.overlaps[both]

    def overlap_with_nothing(self) -> tuple[np.ndarray, np.ndarray]:
        """Voxels of each true object without prediction (T,) and of each predicted object outside the truth (P,)."""
        unpredicted = np.zeros(self.true_objects + 1, dtype=np.int64)
        unpredicted[self.rows[self.columns == 0]] = self.overlaps[self.columns == 0]
        outside = np.zeros(self.objects + 1, dtype=np.int64)
        outside[self.columns[self.rows == 0]] = self.overlaps[self.rows == 0]
        return unpredicted[1:], outside[1:]

    def dice(self) -> np.ndarray:
        """Dice coefficient of every object pair, in the order of `object_pairs`, (K',), in (0, 1]."""
        both = self._of_objects
        return 2.0 * self.overlaps[both] / (self.truth_sizes[self.rows] + self.seen)[both]

    def iou(self) -> np.ndarray:
        """Intersection over union of every object pair, in the order of `object_pairs`, (K',), in (0, 1]."""
        both = self._of_objects
        return self.overlaps[both] / (self.truth_sizes[self.rows] + self.seen - self.overlaps)[both]

    @property
    def _of_objects(self) -> np.ndarray:
        """Which cells belong to two objects, (K,) bool."""
        return (self.rows > 0) & (self.columns > 0)


def contingency_table(
    truth: Any, prediction: Any, background_label: int | None = None, ignore_label: int | None = None
) -> ContingencyTable:
    """Count the shared voxels of all pairs of objects in one pass.

    Args:
        truth: label volume (*spatial), array or tensor; 0 = no annotated object, other ids arbitrary and positive.
        prediction: label volume of the same shape; 0 = no object.
        background_label: id in `truth` of voxels known to belong to no object; treated like 0 here, and counted
            per predicted object in `known_background`.
        ignore_label: id in `truth` of voxels that count nowhere: they are taken out of both volumes.

    Raises:
        SpocoError: shapes differ, or a volume holds non-integers, or ids below 0 that no argument explains.
    """
    truth = as_labels(truth, "truth")
    prediction = as_labels(prediction, "prediction")
    if truth.shape != prediction.shape:
        raise SpocoError(
            f"truth has shape {truth.shape} but the prediction has {prediction.shape}; "
            "bring both to one grid and one axis order before scoring"
        )
    truth, prediction = truth.ravel(), prediction.ravel()
    if ignore_label is not None:
        counts = truth != ignore_label
        truth, prediction = truth[counts], prediction[counts]
    known = np.zeros(0, dtype=prediction.dtype)
    if background_label is not None:
        is_background = truth == background_label
        known = prediction[is_background]
        truth = np.where(is_background, 0, truth)
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.size and labels.min() < 0:
            raise SpocoError(
                f"{name} holds the negative id {labels.min()}; ids are positive and 0 means no object, "
                "pass background_label or ignore_label where a negative id in the truth has such a meaning"
            )

    truth_ids, prediction_ids = _ids(truth), _ids(prediction)
    width = len(prediction_ids)
    counted = []
    for start in range(0, truth.size, PIECE):
        piece = slice(start, start + PIECE)
        both = _rank(truth[piece], truth_ids) * width + _rank(prediction[piece], prediction_ids)
        counted.append(fastremap.unique(both, return_counts=True))
    cells, place = np.unique(
        np.concatenate([[], *(found for found, _ in counted)]).astype(np.int64), return_inverse=True
    )
    voxels = np.concatenate([[], *(counts for _, counts in counted)])
    overlaps = np.bincount(place, voxels, minlength=len(cells)).astype(np.int64)
    rows, columns = np.divmod(cells, width)
    # bincount sums its weights in float64, which is exact for counts below 2**53
    truth_sizes = np.bincount(rows, overlaps, minlength=len(truth_ids)).astype(np.int64)
    prediction_sizes = np.bincount(columns, overlaps, minlength=width).astype(np.int64)
    known_background = np.bincount(np.searchsorted(prediction_ids, known), minlength=width)
    whole, seen = np.ones(len(truth_ids), dtype=bool), prediction_sizes[columns]
    return ContingencyTable(
        truth_ids, prediction_ids, truth_sizes, prediction_sizes, rows, columns, overlaps, known_background, whole, seen
    )


def as_labels(labels: Any, name: str) -> np.ndarray:
    """Integer array on the CPU; float volumes are accepted where every value is a whole number.

    Args:
        labels: array, or tensor on any device.
        name: of the volume, for messages.

    Raises:
        SpocoError: if the volume holds non-integers.
    """
    array = labels.detach().cpu().numpy() if hasattr(labels, "detach") else np.asarray(labels)
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype.kind in "iu":
        return array.astype(np.int64) if array.dtype == np.uint64 else array
    if array.dtype.kind != "f":
        raise SpocoError(f"{name} has dtype {array.dtype}; instance labels are integers")
    if not np.array_equal(np.trunc(array), array) or np.isinf(array).any():
        raise SpocoError(f"{name} has dtype {array.dtype} and values that are no integers; score label volumes only")
    return array.astype(np.int64)


def _ids(labels: np.ndarray) -> np.ndarray:
    """Sorted ids, with 0 always first."""
    return np.union1d(fastremap.unique(labels).astype(np.int64), [0])


def _rank(labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The int64 rank of every voxel's id among the ids."""
    if ids[-1] < 4 * labels.size + 1024:  # a lookup table no larger than the piece itself
        lookup = np.zeros(ids[-1] + 1, dtype=np.int64)
        lookup[ids] = np.arange(len(ids))
        return lookup[labels]
    return np.searchsorted(ids, labels).astype(np.int64)
