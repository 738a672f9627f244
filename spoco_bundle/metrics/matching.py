"""One-to-one matching of true and predicted objects at a threshold of intersection over union (IoU).

SciPy's solvers are imported where something is matched: a prediction loads this module too and matches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.metrics.contingency import ContingencyTable

IOU_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def threshold_name(threshold: float) -> str:
    """Suffix of the keys at an IoU threshold: its percentage, `50` for 0.5 and `62.5` for 0.625."""
    if not 0 < threshold <= 1:
        raise SpocoError(f"iou_thresholds holds {threshold}; give fractions above 0 and up to 1, such as 0.5")
    return f"{100 * threshold:.6g}"


def match(table: ContingencyTable, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match as many objects as possible with IoU >= threshold; among such matchings, the one of largest total IoU.

    From a threshold of 0.5 on almost every object has one candidate at most, so the assignment problem is solved
    separately on each group of objects that candidates connect, which is tiny.

    Returns:
        True index, predicted index (both from 0) and IoU of each matched pair, each (tp,).
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    truth, prediction, _ = table.object_pairs()
    iou = table.iou()
    # a product of integers over integers can land a rounding error below the threshold it equals
    candidate = iou >= threshold - 1e-12
    truth, prediction, iou = truth[candidate], prediction[candidate], iou[candidate]
    if not len(iou):
        return truth, prediction, iou
    nodes = table.true_objects + table.objects
    graph = coo_array((np.ones(len(iou)), (truth, table.true_objects + prediction)), shape=(nodes, nodes))
    group = connected_components(graph, directed=False)[1][truth]
    order = np.argsort(group, kind="stable")
    bounds = np.flatnonzero(np.diff(group[order])) + 1
    kept = [_assign(truth, prediction, iou, members) for members in np.split(order, bounds)]
    chosen = np.sort(np.concatenate(kept))
    return truth[chosen], prediction[chosen], iou[chosen]


def _assign(truth: np.ndarray, prediction: np.ndarray, iou: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The members of one connected group of candidates that are matched."""
    if len(members) == 1:
        return members
    from scipy.optimize import linear_sum_assignment

    rows, row = np.unique(truth[members], return_inverse=True)
    columns, column = np.unique(prediction[members], return_inverse=True)
    # one more match always outweighs any sum of IoU values
    value = np.zeros((len(rows), len(columns)))
    value[row, column] = min(value.shape) + iou[members]
    edge = np.full(value.shape, -1)
    edge[row, column] = members
    chosen = edge[linear_sum_assignment(value, maximize=True)]
    return chosen[chosen >= 0]


def detection_scores(tp: float, fp: float, fn: float, iou_sum: float) -> dict[str, float]:
    """Scores of a matching from its counts.

    precision = tp / (tp + fp), recall = tp / (tp + fn), f1 = 2 tp / (2 tp + fp + fn),
    ap = tp / (tp + fp + fn) (the accuracy that the Data Science Bowl 2018 and StarDist call average precision),
    sq = mean IoU of the matched pairs, pq = iou_sum / (tp + fp / 2 + fn / 2) (Kirillov et al., "Panoptic
    segmentation", CVPR 2019). A ratio of zeros is 1 where there is nothing to find and nothing was found (tp = fp =
    fn = 0), else 0.
    """
    empty = float(tp + fp + fn == 0)

    def ratio(numerator: float, denominator: float) -> float:
        return float(numerator / denominator) if denominator else empty

    return {
        "tp": float(tp),
        "fp": float(fp),
        "fn": float(fn),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "ap": ratio(tp, tp + fp + fn),
        "sq": ratio(iou_sum, tp),
        "pq": ratio(iou_sum, tp + 0.5 * fp + 0.5 * fn),
    }


def matching_scores(table: ContingencyTable, iou_thresholds: Sequence[float]) -> dict[str, float]:
    """`detection_scores` at every threshold, keys suffixed with its percentage (`ap_50`), and `mean_ap` over them."""
    scores: dict[str, float] = {}
    for threshold in iou_thresholds:
        name = threshold_name(threshold)
        iou = match(table, threshold)[2]
        at_threshold = detection_scores(len(iou), table.objects - len(iou), table.true_objects - len(iou), iou.sum())
        scores.update({f"{key}_{name}": value for key, value in at_threshold.items()})
    scores["mean_ap"] = float(np.mean([scores[f"ap_{threshold_name(t)}"] for t in iou_thresholds]))
    return scores
