"""What an annotation in slices or by strokes says of a prediction, which has voxels where it says nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spoco_bundle.annotation.scope import WHOLE
from spoco_bundle.metrics.contingency import ContingencyTable


def within_annotation(
    table: ContingencyTable,
    truth: np.ndarray,
    prediction: np.ndarray,
    scope: np.ndarray,
    ignore_label: int | None = None,
) -> ContingencyTable:
    """The table, with what each predicted object has where the annotation of each true object says what belongs to it.

    Of a whole object that is everywhere. Of another it is the planes in which it is outlined, and all voxels that are
    annotated as something.

    Args:
        table: of truth and prediction.
        truth: (*spatial) ids, 0 = unlabeled.
        prediction: (*spatial) ids.
        scope: (A, *spatial), see `annotation_scope`.
        ignore_label: id in `truth` of voxels that count nowhere.

    Returns:
        The table with `whole` and `seen`.
    """
    counts = truth != ignore_label if ignore_label is not None else np.ones(truth.shape, bool)
    truth, prediction, scope = truth[counts], prediction[counts], scope[:, counts]
    column = np.searchsorted(table.prediction_ids, np.where(prediction > 0, prediction, 0))
    annotated = truth != 0
    whole, seen = table.whole.copy(), table.seen.copy()
    for row, number in enumerate(table.truth_ids[1:].tolist(), start=1):
        planes = scope[:, truth == number]
        whole[row] = (planes[0] == WHOLE).any()
        if whole[row]:
            continue
        known = annotated.copy()
        for here, own in zip(scope, planes, strict=True):
            known |= np.isin(here, own[own > 0])
        cells = table.rows == row
        seen[cells] = np.bincount(column[known], minlength=len(table.prediction_ids))[table.columns[cells]]
    return replace(table, whole=whole, seen=seen)
