from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from accelerator import Accelerator
from scipy.ndimage import distance_transform_edt

from spoco_bundle.annotation.scope import annotation_scope
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.metrics import expected_ap, instance_scores, pool_scores


def score(truth, prediction, **arguments):
    return instance_scores(truth, prediction, partly_labelled=True, **arguments)


@pytest.fixture(scope="module")
def cells():
    """All objects of a small volume (24 balls, a background between them), and the few of them that are annotated."""
    every = np.zeros((16, 48, 72), dtype=np.int32)
    z, y, x = np.indices(every.shape)
    centres = [(8, 6 + 12 * i, 6 + 12 * j) for i in range(4) for j in range(6)]
    for label, centre in enumerate(centres, start=1):
        radius = 4 + label % 3
        every[(z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < radius**2] = label
    annotated = np.where(np.isin(every, [3, 8, 13, 19, 22]), every, 0)
    return every, annotated


def test_unlabeled_objects_are_no_false_positives(cells):
    every, annotated = cells
    perfect = score(annotated, every)
    assert perfect["partly_labelled_score"] == perfect["annotated_sbd"] == perfect["recall_95"] == 1
    assert perfect["false_objects"] == perfect["merges"] == perfect["splits"] == perfect["misses"] == 0
    assert (perfect["objects"], perfect["true_objects"]) == (24, 5)
    assert perfect["covered_fraction"] == pytest.approx((every > 0).mean())
    assert not any(key.startswith(("fp_", "precision_", "ap_", "pq_", "voi")) for key in perfect)


def test_finding_only_the_annotated_objects_is_not_punished(cells):
    _, annotated = cells
    assert score(annotated, annotated)["partly_labelled_score"] == 1


def one_giant(every):
    return np.ones_like(every)


def giant_background_beside_good_objects(every):
    return np.where(every > 0, every, every.max() + 1)


def fragments_everywhere(every):
    blocks = np.indices(every.shape) // 3
    return 1 + (blocks[0] * 100 + blocks[1]) * 100 + blocks[2]


def specks_in_unlabeled_space_beside_good_objects(every):
    generator = np.random.default_rng(0)
    prediction = every.copy()
    free = np.flatnonzero(every == 0)
    specks = generator.choice(free, 500, replace=False)
    prediction.ravel()[specks] = 1000 + np.arange(500)
    return prediction


def everything_foreground(every):
    nearest = distance_transform_edt(every == 0, return_distances=False, return_indices=True)
    return every[tuple(nearest)]


def merged_in_pairs(every):
    return (every + 1) // 2


def nothing(every):
    return np.zeros_like(every)


@pytest.mark.parametrize(
    ("spoil", "highest"),
    [
        (one_giant, 0.05),
        (giant_background_beside_good_objects, 0.6),
        (fragments_everywhere, 0.05),
        (specks_in_unlabeled_space_beside_good_objects, 0.3),
        (everything_foreground, 0.6),
        (merged_in_pairs, 0.7),
        (nothing, 0.0),
    ],
)
def test_over_prediction_lowers_the_score(cells, spoil, highest):
    every, annotated = cells
    assert score(annotated, spoil(every))["partly_labelled_score"] <= highest


def test_larger_errors_cost_more(cells):
    every, annotated = cells
    depth = distance_transform_edt(every > 0)
    scores = [score(annotated, np.where(depth > peel, every, 0))["partly_labelled_score"] for peel in (0, 1, 2, 3)]
    assert scores[0] == 1 and scores[1] > 0.65  # a peeled voxel is a third of these small volumes
    assert scores == sorted(scores, reverse=True)


def test_errors_in_annotated_objects_are_counted(cells):
    every, annotated = cells
    split = np.where((every == 8) & (np.indices(every.shape)[2] % 12 < 6), 99, every)
    scores = score(annotated, split)
    assert (scores["splits"], scores["merges"], scores["misses"]) == (1, 0, 0)
    assert scores["judged_dice"] < 1

    merged = np.where(np.isin(every, [8, 13]), 8, every)
    scores = score(annotated, merged)
    assert (scores["splits"], scores["merges"], scores["fn_50"]) == (0, 1, 1)  # the larger of the two is still matched
    assert scores["recall_50"] == pytest.approx(4 / 5)

    scores = score(annotated, np.where(every == 3, 0, every))
    assert (scores["misses"], scores["fn_50"], scores["annotated_dice"]) == (1, 1, pytest.approx(4 / 5))

    scores = score(annotated, np.zeros_like(every))
    assert (scores["misses"], scores["plausible_objects"], scores["plausible_volume"]) == (5, 1, 1)


def test_prediction_on_known_background_is_false(cells):
    every, annotated = cells
    truth = annotated.copy()
    truth[:2] = -1
    prediction = every.copy()
    prediction[:2, :10, :10] = 500
    with_background = score(truth, prediction, background_label=-1)
    assert with_background["false_objects"] == 1
    assert with_background["judged_dice"] == pytest.approx(5 / 6)
    assert score(np.maximum(truth, 0), prediction)["false_objects"] == 0


def test_ignored_voxels_count_nowhere(cells):
    every, annotated = cells
    truth, prediction = annotated.copy(), every.copy()
    truth[:, :, 60:] = 255
    prediction[:, :, 60:] = 700
    assert score(truth, prediction, ignore_label=255)["partly_labelled_score"] == 1


def test_a_truth_without_objects_says_nothing(cells):
    every, annotated = cells
    silent = score(np.zeros_like(every), every)
    assert silent["objects"] == 24
    assert all(math.isnan(silent[key]) for key in ("partly_labelled_score", "annotated_sbd", "recall_50"))

    telling = score(annotated, np.where(every == 3, 0, every))
    pooled = pool_scores([silent, telling])
    assert pooled["partly_labelled_score"] == telling["partly_labelled_score"]
    assert pooled["recall_50"] == pytest.approx(4 / 5)
    assert pooled["objects"] == 24 + 23
    with pytest.raises(SpocoError, match="annotate at least one"):
        pool_scores([silent, silent])


def test_pooled_recall_counts_objects_not_images():
    truth = np.zeros((4, 40), dtype=int)
    truth[:, :10], truth[:, 10:20], truth[:, 20:30] = 1, 2, 3
    one = np.where(truth == 1, 1, 0)
    pooled = pool_scores([score(truth, one), score(one, one)])
    assert pooled["recall_50"] == pytest.approx(2 / 4)
    assert pooled["annotated_dice"] == pytest.approx((1 / 3 + 1) / 2)


def outlined_in(truth, planes, kinds, default="whole"):
    """The truth with some objects left only in some planes along z, and its scope."""
    drawn = truth.copy()
    for number, kept in planes.items():
        for z in set(range(len(truth))) - set(kept):
            drawn[z][drawn[z] == number] = 0
    return drawn, annotation_scope(drawn, kinds, default)


def test_an_object_outlined_in_a_slice_is_compared_in_that_slice_alone():
    truth = np.zeros((9, 12, 24), np.int32)
    truth[1:8, 2:10, 2:10], truth[1:8, 2:10, 14:22] = 1, 2
    drawn, scope = outlined_in(truth, {1: [4], 2: [3, 5]}, {}, "slices")
    whole = score(drawn, truth, scope=scope)
    assert whole["annotated_dice"] == whole["recall_95"] == whole["partly_labelled_score"] == 1
    assert score(drawn, truth)["annotated_dice"] < 0.5
    leaking = truth.copy()
    leaking[4, 2:10, 10:12] = 1  # in the outlined slice
    leaking[6, 2:10, 10:12] = 1  # where nothing is known of object 1
    assert score(drawn, leaking, scope=scope)["annotated_dice"] == pytest.approx((1 + 2 * 64 / (64 + 80)) / 2)


def test_strokes_ask_for_their_own_voxels_and_none_of_others():
    truth = np.zeros((20, 30), np.int32)
    truth[2:18, 2:14], truth[2:18, 16:28] = 1, 2
    drawn = np.zeros_like(truth)
    drawn[8:12, 4:12], drawn[8:12, 18:26] = 1, 2
    scope = annotation_scope(drawn, {}, "strokes")
    assert score(drawn, truth, scope=scope)["annotated_dice"] == 1
    merged = (truth > 0).astype(np.int32)
    assert score(drawn, merged, scope=scope)["annotated_dice"] == pytest.approx(2 * 32 / (32 + 64))


def test_ignored_voxels_count_nowhere_beside_an_object_outlined_in_slices():
    truth = np.zeros((9, 12, 24), np.int32)
    truth[1:8, 2:10, 2:10] = 1
    drawn, scope = outlined_in(truth, {1: [4]}, {}, "slices")
    drawn[4, 2:10, 10:14] = -1
    found = 5 * truth
    found[4, 2:10, 10:12], found[4, 2:10, 12:14] = 5, 3  # 3 lies on ignored voxels alone
    assert score(drawn, found, scope=scope, ignore_label=-1)["annotated_dice"] == 1


def test_whole_objects_beside_partly_drawn_ones_are_scored_as_ever(cells):
    _, annotated = cells
    scope = annotation_scope(annotated, {3: "strokes"}, "whole")
    assert score(annotated, annotated, scope=scope) == score(annotated, annotated)
    worse = np.roll(annotated, 2, axis=2)
    ours, usual = score(annotated, worse, scope=scope), score(annotated, worse)
    assert ours["annotated_dice"] > usual["annotated_dice"]
    assert score(annotated, worse, scope=annotation_scope(annotated, {}, "whole")) == usual


def test_the_expected_precision_is_that_of_a_complete_truth(cells):
    every, _ = cells
    found = np.where(np.isin(every, [1, 2, 3, 4]), 0, every)
    found[:, 0:3, 30:40] = 99
    complete = instance_scores(every, found)
    assert 0 < complete["fp_50"] and complete["ap_50"] < 1
    for threshold in (0.5, 0.9):
        ap = complete[f"ap_{round(100 * threshold)}"]
        assert expected_ap(score(every, found), 1.0, threshold) == pytest.approx(ap)


def test_annotating_some_objects_gives_about_the_precision_of_all(cells):
    every, _ = cells
    found = np.where(np.isin(every, [1, 2, 3, 4]), 0, every)
    for number in range(6):
        found[0:5, 0:3, 12 * number : 12 * number + 5] = 100 + number
    complete = instance_scores(every, found)["ap_50"]
    random = np.random.default_rng(0)
    expected = []
    for _ in range(40):
        annotated = np.where(np.isin(every, random.choice(np.arange(1, 25), 12, replace=False)), every, 0)
        expected.append(expected_ap(score(annotated, found), 0.5))
    assert np.mean(expected) == pytest.approx(complete, abs=0.03) and np.std(expected) > 0
    # without the false objects more is expected, which the score of annotated objects alone does not see
    assert expected_ap(score(annotated, np.where(found < 100, found, 0)), 0.5) > expected[-1] + 0.05


def test_nothing_annotated_says_nothing(cells):
    every, _ = cells
    assert math.isnan(expected_ap(score(np.zeros_like(every), every), 0.5))


def test_labels_on_an_accelerator_are_scored_beside_their_scope():
    truth = np.zeros((9, 12, 24), np.int32)
    truth[1:8, 2:10, 2:10] = 1
    drawn, scope = outlined_in(truth, {1: [4]}, {}, "slices")
    with Accelerator() as accelerator:
        away = [accelerator.put(torch.from_numpy(labels)) for labels in (drawn, truth)]
        assert score(*away, scope=torch.from_numpy(scope)) == score(drawn, truth, scope=scope)
