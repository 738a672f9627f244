"""What a truth in which only some objects are annotated can say about a segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spoco_bundle.metrics.contingency import ContingencyTable
from spoco_bundle.metrics.matching import match, threshold_name
from spoco_bundle.metrics.partition import best_dice, error_counts

#: entry of a truth's metadata: voxels of all annotated objects, of which the truth may hold only some
ANNOTATED_SIZES = "annotated_sizes"
#: entry of a truth's metadata: what the annotations of its objects say, see `annotation_scope`
SCOPE = "scope"
#: factor by which an unlabeled object may be smaller or larger than annotated ones
SIZE_TOLERANCE = 4.0


def partly_labelled_scores(
    table: ContingencyTable,
    iou_thresholds: Sequence[float],
    annotated_sizes: Sequence[float] | None = None,
) -> dict[str, float]:
    """Scores that an incomplete truth supports: predicted objects in unlabeled space are never false positives.

    A prediction that leaks out of an annotated object loses IoU and Dice, as far as the annotation says where the
    object ends: everywhere, or in the slices in which it is outlined (`ContingencyTable.seen`). A predicted object can
    be *judged* where more than half of its voxels lie on annotated objects or known background.

    - `tp_*`, `fn_*`, `recall_*` at each IoU threshold, over the annotated objects.
    - `merges`, `splits`, `misses` of annotated objects (see `error_counts`); `false_objects`: predicted objects with
      more than half of their voxels on known background; `judged_objects`: those that can be judged.
    - `annotated_dice`: mean over annotated objects of the best Dice with a predicted one; `judged_dice`: mean over
      judged predictions of the best Dice with an annotated one, so that fragments and false objects cost;
      `annotated_sbd`: the lower of both, or `annotated_dice` where nothing can be judged.
    - `plausible_objects`, `plausible_volume`: the share of the predicted objects, and of their voxels, in objects
      as large as annotated ones: between the 5th percentile of the annotated sizes divided by `SIZE_TOLERANCE` and
      the 95th multiplied by it. Specks lower the first, a giant the second. 1 where nothing is predicted. Where no
      object is annotated as a whole, the predicted ones themselves say what is usual.
    - `partly_labelled_score` = `annotated_sbd` * sqrt(`plausible_objects` * `plausible_volume`), in [0, 1]: one
      number to select models by.

    Without annotated objects the truth says nothing: recall, the Dice values, the plausible shares and the score are
    NaN (`pool_scores` leaves such images out of its means).

    Args:
        table: contingency table of truth and prediction.
        iou_thresholds: thresholds in (0, 1].
        annotated_sizes: voxels of the annotated objects that say what is plausible, where the truth holds only those of
            them that are held out; by default the truth's.
    """
    scores: dict[str, float] = {}
    for threshold in iou_thresholds:
        tp = len(match(table, threshold)[0])
        name = threshold_name(threshold)
        scores[f"tp_{name}"] = float(tp)
        scores[f"fn_{name}"] = float(table.true_objects - tp)
        scores[f"recall_{name}"] = tp / table.true_objects if table.true_objects else float("nan")

    known_background = table.known_background[1:]
    sizes = table.prediction_sizes[1:]
    outside = table.overlap_with_nothing()[1]
    scores.update(error_counts(table))
    scores["false_objects"] = float(np.sum(2 * known_background > sizes))
    judged = 2 * (sizes - outside + known_background) > sizes
    scores["judged_objects"] = float(judged.sum())

    if table.true_objects == 0:
        names = ("annotated_dice", "judged_dice", "annotated_sbd", "plausible_objects", "plausible_volume")
        return scores | dict.fromkeys((*names, "partly_labelled_score"), float("nan"))

    of_truth, of_prediction = best_dice(table)
    annotated_dice = float(of_truth.mean())
    judged_dice = float(of_prediction[judged].mean()) if judged.any() else annotated_dice
    if annotated_sizes is None:
        annotated_sizes = table.truth_sizes[1:][table.whole[1:]]
    reference = annotated_sizes if len(annotated_sizes) else sizes if len(sizes) else [1]
    smallest, largest = np.percentile(reference, [5, 95]) * [1 / SIZE_TOLERANCE, SIZE_TOLERANCE]
    plausible = (sizes >= smallest) & (sizes <= largest)
    plausible_objects = float(plausible.mean()) if len(sizes) else 1.0
    plausible_volume = float(sizes[plausible].sum() / sizes.sum()) if len(sizes) else 1.0
    sbd = min(annotated_dice, judged_dice)
    return scores | {
        "annotated_dice": annotated_dice,
        "judged_dice": judged_dice,
        "annotated_sbd": sbd,
        "plausible_objects": plausible_objects,
        "plausible_volume": plausible_volume,
        "partly_labelled_score": sbd * float(np.sqrt(plausible_objects * plausible_volume)),
    }


def expected_ap(scores: Mapping[str, float], annotated_share: float, iou_threshold: float = 0.5) -> float:
    """The average precision to be expected if every object of an image were annotated.

    AP = TP / (TP + FN + FP), and FP = objects - TP. If the annotated objects are a share c of all, chosen without
    regard to what a model finds, TP and FN over them are about c times those over all, so

        AP ~ TP / (TP + FN + c * objects - TP),

    which is AP itself where c is 1. Unlike `partly_labelled_score` it sees false objects in unlabeled space. To compare
    predictions of one image give the same c for all; the share of the found objects that lie on annotated ones
    (`judged_objects` / `objects`) estimates it. False objects make that share too small, and then count less.

    Args:
        scores: of the image, see `partly_labelled_scores`, with `objects`.
        annotated_share: c, in [0, 1].
        iou_threshold: one of the thresholds that were scored.

    Returns:
        In [0, 1]; NaN without annotated objects.
    """
    name = threshold_name(iou_threshold)
    tp, fn = scores[f"tp_{name}"], scores[f"fn_{name}"]
    if tp + fn == 0:
        return float("nan")
    return tp / (tp + fn + max(annotated_share * scores["objects"] - tp, 0.0))
