"""All scores of one image, and their pooling over the images of a split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.metrics.annotated_region import within_annotation
from spoco_bundle.metrics.contingency import as_labels, contingency_table
from spoco_bundle.metrics.matching import IOU_THRESHOLDS, detection_scores, matching_scores
from spoco_bundle.metrics.partition import (
    adapted_rand_error,
    error_counts,
    symmetric_best_dice,
    variation_of_information,
)
from spoco_bundle.metrics.partly_labelled import partly_labelled_scores

COUNTS = ("objects", "true_objects", "judged_objects", "merges", "splits", "misses", "false_objects")


def instance_scores(
    truth: Any,
    prediction: Any,
    iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
    partly_labelled: bool = False,
    background_label: int | None = None,
    ignore_label: int | None = None,
    annotated_sizes: Sequence[float] | None = None,
    scope: Any | None = None,
) -> dict[str, float]:
    """Score a predicted instance segmentation against the true one.

    Keys with a completely annotated truth (NN = percentage of the IoU threshold, such as `ap_50`):
    `tp_NN fp_NN fn_NN precision_NN recall_NN f1_NN ap_NN sq_NN pq_NN` and `mean_ap` (see `matching_scores`),
    `sbd` (symmetric best Dice), `dic_abs` (|difference in count|), `voi_split`, `voi_merge` (bits),
    `adapted_rand_error`, `merges`, `splits`, `misses`, `false_objects` (see `error_counts`), `objects` and
    `true_objects` (counts), `covered_fraction` (share of the voxels in a predicted object).

    Keys with `partly_labelled=True`: those of `partly_labelled_scores`, with `objects`, `true_objects` (annotated
    ones) and `covered_fraction` to guard against over-prediction.

    Where both volumes are empty everything agrees: ratios and `sbd` are 1, errors 0. Where one is empty, ratios and
    `sbd` are 0 and `adapted_rand_error` is 1.

    Args:
        truth: label volume (*spatial), array or tensor, 0 = no annotated object.
        prediction: label volume of the same shape, 0 = no object.
        iou_thresholds: thresholds in (0, 1].
        partly_labelled: whether 0 in `truth` means "unknown" and not "no object".
        background_label: id in `truth` of voxels known to belong to no object.
        ignore_label: id in `truth` of voxels that count nowhere.
        annotated_sizes: see `partly_labelled_scores`; used with partly labelled truths only.
        scope: (A, *spatial), see `annotation_scope`, where objects are annotated in slices, by strokes or points: they
            count against a predicted object only where they say what belongs to them. Partly labelled truths only.

    Raises:
        SpocoError: unlike shapes, values that are no instance ids, or a threshold outside (0, 1].
    """
    if len(iou_thresholds) == 0:
        raise SpocoError("iou_thresholds is empty; give at least one, such as 0.5")
    table = contingency_table(truth, prediction, background_label, ignore_label)
    covered = table.prediction_sizes[1:].sum()
    scores = {
        "objects": float(table.objects),
        "true_objects": float(table.true_objects),
        "covered_fraction": float(covered / table.voxels) if table.voxels else 0.0,
    }
    if partly_labelled:
        if scope is not None:
            volumes = as_labels(truth, "truth"), as_labels(prediction, "prediction"), as_labels(scope, "scope")
            table = within_annotation(table, *volumes, ignore_label)
        return scores | partly_labelled_scores(table, iou_thresholds, annotated_sizes=annotated_sizes)
    split, merge = variation_of_information(table)
    return {
        **matching_scores(table, iou_thresholds),
        "sbd": symmetric_best_dice(table),
        "dic_abs": float(abs(table.objects - table.true_objects)),
        "voi_split": split,
        "voi_merge": merge,
        "adapted_rand_error": adapted_rand_error(table),
        **error_counts(table),
        **scores,
    }


def pool_scores(images: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Pool the `instance_scores` of several images, all computed with the same arguments.

    Counts (`tp_*`, `fp_*`, `fn_*`, `objects`, `true_objects`, `merges`, ...) are summed over the images, and what
    follows from them (`precision_*`, `recall_*`, `f1_*`, `ap_*`, `sq_*`, `pq_*`, `mean_ap`) is computed from the
    sums. All others (`sbd`, `dic_abs`, `voi_*`, ...) are means over the images; of partly labelled ones, over the
    images with annotated objects.

    Raises:
        SpocoError: no image, images with different keys, or partly labelled images none of which holds an object.
    """
    if not images:
        raise SpocoError("no image to pool scores over; score at least one")
    keys = list(images[0])
    for image in images:
        if list(image) != keys:
            raise SpocoError("images were scored with different arguments; use one set of iou_thresholds for all")
    partly_labelled = "partly_labelled_score" in keys
    telling = [image for image in images if image["true_objects"] > 0] if partly_labelled else list(images)
    if not telling:
        raise SpocoError(f"none of the {len(images)} scored images holds an annotated object; annotate at least one")

    pooled = {key: math.fsum(image[key] for image in telling) / len(telling) for key in keys}
    for key in keys:
        if key in COUNTS or key.startswith(("tp_", "fp_", "fn_")):
            pooled[key] = math.fsum(image[key] for image in images)
    names = [key.removeprefix("tp_") for key in keys if key.startswith("tp_")]
    for name in names:
        iou_sum = 0.0 if partly_labelled else math.fsum(image[f"sq_{name}"] * image[f"tp_{name}"] for image in images)
        fp = 0.0 if partly_labelled else pooled[f"fp_{name}"]
        at_threshold = detection_scores(pooled[f"tp_{name}"], fp, pooled[f"fn_{name}"], iou_sum)
        pooled.update({f"{key}_{name}": value for key, value in at_threshold.items() if f"{key}_{name}" in pooled})
    if "mean_ap" in pooled:
        pooled["mean_ap"] = math.fsum(pooled[f"ap_{name}"] for name in names) / len(names)
    return pooled
