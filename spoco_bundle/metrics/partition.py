"""Scores of a whole partition, and counts of its kinds of error, from the contingency table."""

from __future__ import annotations

import numpy as np

from spoco_bundle.metrics.contingency import ContingencyTable


def best_dice(table: ContingencyTable) -> tuple[np.ndarray, np.ndarray]:
    """Dice of every true object with its best predicted one (T,), and the other way round (P,); 0 without overlap."""
    truth, prediction, _ = table.object_pairs()
    dice = table.dice()
    of_truth, of_prediction = np.zeros(table.true_objects), np.zeros(table.objects)
    np.maximum.at(of_truth, truth, dice)
    np.maximum.at(of_prediction, prediction, dice)
    return of_truth, of_prediction


def symmetric_best_dice(table: ContingencyTable) -> float:
    """The lower of the two mean best Dice values, in [0, 1] (Scharr et al., "Leaf segmentation in plant phenotyping").

    1 where both volumes are empty, 0 where one is.
    """
    if table.true_objects == 0 or table.objects == 0:
        return float(table.true_objects == table.objects)
    of_truth, of_prediction = best_dice(table)
    return float(min(of_truth.mean(), of_prediction.mean()))


def variation_of_information(table: ContingencyTable) -> tuple[float, float]:
    """Conditional entropies (split, merge) in bits, background as a segment of its own (Meila 2007).

    split = H(prediction | truth) grows with over-segmentation, merge = H(truth | prediction) with under-segmentation;
    both are 0 for equal partitions, and where no voxel counts.
    """
    if table.voxels == 0:
        return 0.0, 0.0
    weight = table.overlaps / table.voxels
    split = -np.sum(weight * np.log2(table.overlaps / table.truth_sizes[table.rows]))
    merge = -np.sum(weight * np.log2(table.overlaps / table.prediction_sizes[table.columns]))
    return max(0.0, float(split)), max(0.0, float(merge))  # -0.0 and rounding below 0 read badly


def adapted_rand_error(table: ContingencyTable) -> float:
    """1 - F score of the pairs of voxels that truth and prediction put together, on the true foreground, in [0, 1].

    Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics" (2015),
    over pairs of two different voxels of true objects; predicted background among them is a segment of its own.
    Without true objects it is 0 where nothing is predicted and 1 otherwise; without predicted objects it is 1 where
    there are true ones; 0 where neither puts any two voxels together.
    """
    if table.true_objects == 0 or table.objects == 0:
        return float(table.true_objects != table.objects)
    inside = table.rows > 0
    segments = np.bincount(table.columns[inside], table.overlaps[inside])

    def pairs(sizes: np.ndarray) -> float:
        sizes = sizes[sizes > 0].astype(np.float64)
        return float(np.sum(sizes * (sizes - 1)))

    alone = pairs(table.truth_sizes[1:]) + pairs(segments)
    return 1.0 - 2.0 * pairs(table.overlaps[inside]) / alone if alone else 0.0


def error_objects(table: ContingencyTable) -> dict[str, dict[int, list[int]]]:
    """The objects with each kind of error, each by a majority of voxels, so that no tolerance has to be chosen.

    - `merges`: predicted objects that cover more than half of each of two or more true objects.
    - `splits`: true objects that contain more than half of each of two or more predicted objects.
    - `misses`: true objects with more than half of their voxels in no predicted object.
    - `false_objects`: predicted objects with more than half of their voxels in no true object.

    Returns:
        For each kind the ids of its objects, with those of the objects that they merge or are split into.
    """
    truth, prediction, overlap = table.object_pairs()
    true_ids, predicted_ids = table.truth_ids[1:], table.prediction_ids[1:]
    covers = 2 * overlap > table.truth_sizes[1:][truth]
    contained = 2 * overlap > table.prediction_sizes[1:][prediction]
    unpredicted, outside = table.overlap_with_nothing()
    return {
        "merges": _with_several(predicted_ids[prediction[covers]], true_ids[truth[covers]]),
        "splits": _with_several(true_ids[truth[contained]], predicted_ids[prediction[contained]]),
        "misses": {int(one): [] for one in true_ids[2 * unpredicted > table.truth_sizes[1:]]},
        "false_objects": {int(one): [] for one in predicted_ids[2 * outside > table.prediction_sizes[1:]]},
    }


def error_counts(table: ContingencyTable) -> dict[str, float]:
    """How many objects have each kind of error of `error_objects`."""
    return {kind: float(len(objects)) for kind, objects in error_objects(table).items()}


def _with_several(owners: np.ndarray, parts: np.ndarray) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for owner, part in zip(owners.tolist(), parts.tolist()):
        found.setdefault(owner, []).append(part)
    return {owner: parts for owner, parts in sorted(found.items()) if len(parts) >= 2}
