from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.metrics import IOU_THRESHOLDS, contingency_table, instance_scores, pool_scores

CASES = ("nuclei3d", "leaves2d", "nuclei2d")
LABELS = arrays(np.int64, (5, 6), elements=st.integers(0, 4))


@pytest.fixture(scope="module")
def golden(shared_dir):
    folder = shared_dir / "fixtures"
    return np.load(folder / "metric_cases.npz"), json.loads((folder / "metric_cases.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_independent_implementations(golden, case):
    volumes, expected = golden[0], golden[1][case]
    scores = instance_scores(volumes[f"{case}/truth"], volumes[f"{case}/prediction"])
    for threshold in (0.5, 0.75, 0.9):
        matching = expected[f"iou>={threshold}"]
        names = dict(accuracy="ap", panoptic_quality="pq", mean_matched_score="sq")
        for key in ("tp", "fp", "fn", "precision", "recall", "f1", *names):
            ours = scores[f"{names.get(key, key)}_{round(100 * threshold)}"]
            assert ours == pytest.approx(matching[key], rel=1e-6), (key, threshold)
    assert scores["mean_ap"] == pytest.approx(expected["mean_accuracy_0.50:0.05:0.95"], rel=1e-9)
    assert scores["dic_abs"] == expected["difference_in_count"]
    assert scores["voi_split"] == pytest.approx(expected["voi_split(H(pred|truth))"], rel=1e-9)
    assert scores["voi_merge"] == pytest.approx(expected["voi_merge(H(truth|pred))"], rel=1e-9)
    assert scores["adapted_rand_error"] == pytest.approx(expected["adapted_rand_error"], rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_best_dice_differs_from_the_golden_one_by_its_smoothing_only(golden, case):
    table = contingency_table(golden[0][f"{case}/truth"], golden[0][f"{case}/prediction"])
    truth, prediction, overlap = table.object_pairs()
    total = table.truth_sizes[1:, None] + table.prediction_sizes[None, 1:]
    shared = np.zeros(total.shape)
    shared[truth, prediction] = overlap

    def symmetric(smoothing):
        dice = (2 * shared + smoothing) / (total + smoothing)
        return min(dice.max(0).mean(), dice.max(1).mean())

    ours = instance_scores(golden[0][f"{case}/truth"], golden[0][f"{case}/prediction"])["sbd"]
    assert symmetric(1) == pytest.approx(golden[1][case]["symmetric_best_dice"], rel=1e-9)
    assert ours == pytest.approx(symmetric(0), rel=1e-9)


@pytest.mark.parametrize(
    ("case", "ratio", "sbd", "rand_error", "counts"),
    [
        ("both_empty", 1.0, 1.0, 0.0, (0, 0)),
        ("prediction_empty", 0.0, 0.0, 1.0, (0, 1)),
        ("truth_empty", 0.0, 0.0, 1.0, (1, 0)),
    ],
)
def test_empty_volumes_have_defined_scores(case, ratio, sbd, rand_error, counts):
    volume = np.zeros((7, 7), dtype=np.uint16)
    volume[2:4, 2:5] = 3
    nothing = np.zeros_like(volume)
    truth = volume if case == "prediction_empty" else nothing
    prediction = volume if case == "truth_empty" else nothing
    scores = instance_scores(truth, prediction)
    for key in ("precision", "recall", "f1", "ap", "pq", "sq"):
        assert scores[f"{key}_50"] == ratio, key
    assert scores["mean_ap"] == ratio
    assert (scores["sbd"], scores["adapted_rand_error"]) == (sbd, rand_error)
    assert (scores["fp_50"], scores["fn_50"]) == counts
    assert (scores["false_objects"], scores["misses"]) == counts
    assert (scores["objects"], scores["true_objects"]) == counts
    assert all(math.isfinite(value) for value in scores.values())


def brute_force(truth, prediction, threshold):
    """(tp, sum of IoU) of the best matching, by trying all of them; voxel sets compared one by one."""
    true_ids, predicted_ids = np.unique(truth[truth > 0]), np.unique(prediction[prediction > 0])
    iou = np.array(
        [[np.sum((truth == t) & (prediction == p)) / np.sum((truth == t) | (prediction == p)) for p in predicted_ids]
         for t in true_ids]
    ).reshape(len(true_ids), len(predicted_ids))  # fmt: skip
    if iou.shape[0] > iou.shape[1]:
        iou = iou.T
    best = (0, 0.0)
    for columns in itertools.permutations(range(iou.shape[1]), iou.shape[0]):
        chosen = iou[range(len(columns)), list(columns)]
        chosen = chosen[chosen >= threshold]
        best = max(best, (len(chosen), round(float(chosen.sum()), 9)))
    return best


@settings(max_examples=150, deadline=None)
@given(truth=LABELS, prediction=LABELS, threshold=st.sampled_from([0.1, 0.2, 0.25, 1 / 3, 0.5, 0.75]))
def test_matching_is_optimal_at_any_threshold(truth, prediction, threshold):
    scores = instance_scores(truth, prediction, iou_thresholds=[threshold])
    name = f"{100 * threshold:.6g}"
    tp, iou_sum = brute_force(truth, prediction, threshold)
    assert scores[f"tp_{name}"] == tp
    assert (
        scores[f"tp_{name}"] + scores[f"fp_{name}"] == scores["objects"] == len(np.unique(prediction[prediction > 0]))
    )
    assert scores[f"tp_{name}"] + scores[f"fn_{name}"] == scores["true_objects"]
    if tp:
        assert scores[f"sq_{name}"] == pytest.approx(iou_sum / tp)


@settings(max_examples=100, deadline=None)
@given(truth=LABELS, prediction=LABELS)
def test_entropies_and_rand_error_follow_their_definitions(truth, prediction):
    scores = instance_scores(truth, prediction)
    t, p = truth.ravel(), prediction.ravel()

    def entropy(*labels):
        count = np.unique(np.stack(labels), axis=1, return_counts=True)[1] / t.size
        return -np.sum(count * np.log2(count))

    assert scores["voi_split"] == pytest.approx(entropy(t, p) - entropy(t), abs=1e-9)
    assert scores["voi_merge"] == pytest.approx(entropy(t, p) - entropy(p), abs=1e-9)

    t, p = t[t > 0], p[t > 0]
    if len(t) and prediction.any():
        first, second = np.triu_indices(len(t), 1)
        together_t, together_p = t[first] == t[second], p[first] == p[second]
        pairs = together_t.sum() + together_p.sum()
        error = 1 - 2 * np.sum(together_t & together_p) / pairs if pairs else 0
        assert scores["adapted_rand_error"] == pytest.approx(error, abs=1e-9)


def test_equal_partitions_are_perfect_whatever_their_ids():
    truth = np.kron(np.arange(9).reshape(3, 3), np.ones((4, 5), dtype=int))
    renamed = np.array([0, 90_000_000_000, 4, 77, 8, 2, 1, 65_535, 3])[truth]
    scores = instance_scores(truth, renamed)
    assert scores["mean_ap"] == scores["sbd"] == scores["pq_95"] == 1
    assert scores["voi_split"] == scores["voi_merge"] == scores["adapted_rand_error"] == 0
    assert scores["merges"] == scores["splits"] == scores["misses"] == scores["false_objects"] == 0
    assert scores == instance_scores(torch.as_tensor(truth), torch.as_tensor(renamed, dtype=torch.float64))


def strip(*objects):
    """A line of voxels from (start, stop, id) pieces."""
    line = np.zeros(60, dtype=np.int32)
    for start, stop, label in objects:
        line[start:stop] = label
    return line[None]


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        (strip((0, 10, 1), (10, 20, 2)), strip((0, 20, 5)), dict(merges=1)),
        (strip((0, 10, 1), (10, 20, 2)), strip((0, 15, 5)), dict()),  # half of the second one is no majority
        (strip((0, 20, 1)), strip((0, 9, 5), (9, 20, 6)), dict(splits=1)),
        (strip((0, 20, 1)), strip((0, 7, 5), (7, 14, 6), (14, 20, 7)), dict(splits=1)),
        (strip((0, 20, 1)), strip((0, 9, 5)), dict(misses=1)),
        (strip((0, 20, 1)), strip((0, 20, 5), (30, 34, 6)), dict(false_objects=1)),
        (strip((0, 20, 1)), strip((30, 50, 5)), dict(misses=1, false_objects=1)),
        (strip((0, 8, 1), (8, 16, 2), (16, 24, 3)), strip((0, 24, 9)), dict(merges=1)),
        (strip((0, 8, 1), (8, 16, 2), (20, 40, 3)), strip((0, 16, 9), (20, 30, 8), (30, 40, 7)),
         dict(merges=1, splits=1)),
    ],
)  # fmt: skip
def test_kinds_of_error_are_counted(truth, prediction, expected):
    scores = instance_scores(truth, prediction)
    counts = {key: scores[key] for key in ("merges", "splits", "misses", "false_objects")}
    assert counts == dict(merges=0, splits=0, misses=0, false_objects=0) | expected


def test_ignored_voxels_count_nowhere():
    truth = strip((0, 20, 1), (20, 60, 255))
    prediction = strip((0, 20, 4), (30, 40, 5), (50, 60, 6))
    assert instance_scores(truth, prediction, ignore_label=255)["ap_50"] == 1
    assert instance_scores(truth, prediction)["ap_50"] == pytest.approx(1 / 4)
    ignored_everywhere = instance_scores(np.full((3, 3), 255), np.ones((3, 3), int), ignore_label=255)
    assert ignored_everywhere["ap_50"] == 1
    assert ignored_everywhere["covered_fraction"] == ignored_everywhere["voi_split"] == 0


def test_known_background_is_background_of_a_dense_truth():
    truth, prediction = strip((0, 20, 1), (20, 60, -1)), strip((0, 20, 4), (30, 40, 5))
    assert instance_scores(truth, prediction, background_label=-1) == instance_scores(np.maximum(truth, 0), prediction)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), r"\(2, 3\).*\(3, 2\)"),
        (np.zeros((2, 2), int), np.full((2, 2), 0.5), "prediction.*no integers"),
        (np.full((2, 2), np.nan), np.zeros((2, 2), int), "truth.*no integers"),
        (np.full((2, 2), np.inf), np.zeros((2, 2), int), "truth.*no integers"),
        (np.full((2, 2), -1), np.zeros((2, 2), int), "truth.*-1.*background_label"),
        (np.zeros((2, 2), int), np.full((2, 2), -1), "prediction.*-1"),
        (np.full((2, 2), "a"), np.zeros((2, 2), int), "truth.*dtype"),
    ],
)
def test_bad_labels_are_named(truth, prediction, message):
    with pytest.raises(SpocoError, match=message):
        instance_scores(truth, prediction)


@pytest.mark.parametrize("thresholds", [[], [0.0], [1.5], [50]])
def test_bad_thresholds_are_named(thresholds):
    volume = np.zeros((2, 2), int)
    with pytest.raises(SpocoError, match="iou_thresholds"):
        instance_scores(volume, volume, iou_thresholds=thresholds)


def test_pooling_sums_counts_and_averages_the_rest():
    images = [
        instance_scores(strip((0, 20, 1), (30, 40, 2)), strip((0, 18, 4), (30, 40, 3))),
        instance_scores(strip((0, 20, 1)), strip((0, 9, 2), (9, 20, 3), (40, 50, 4))),
    ]
    pooled = pool_scores(images)
    assert (pooled["tp_50"], pooled["fp_50"], pooled["fn_50"]) == (3, 2, 0)  # 11 of 20 voxels is IoU 0.55
    assert pooled["ap_50"] == pytest.approx(3 / 5)
    assert pooled["precision_50"] == pytest.approx(3 / 5)
    assert pooled["sq_50"] == pytest.approx((0.9 + 1.0 + 0.55) / 3)
    assert pooled["pq_50"] == pytest.approx((0.9 + 1.0 + 0.55) / (3 + 2 / 2))
    assert pooled["mean_ap"] == pytest.approx(np.mean([pooled[f"ap_{round(100 * t)}"] for t in IOU_THRESHOLDS]))
    for key in ("sbd", "dic_abs", "voi_split", "voi_merge", "adapted_rand_error", "covered_fraction"):
        assert pooled[key] == pytest.approx((images[0][key] + images[1][key]) / 2), key
    assert (pooled["objects"], pooled["true_objects"], pooled["splits"]) == (5, 3, 1)


def test_pooling_one_image_returns_its_scores():
    generator = np.random.default_rng(1)
    scores = instance_scores(*generator.integers(0, 4, (2, 6, 7)), iou_thresholds=[0.1, 0.5])
    assert pool_scores([scores]) == pytest.approx(scores)
    assert list(pool_scores([scores])) == list(scores)


def test_pooling_refuses_what_does_not_fit():
    volume = np.ones((2, 2), int)
    with pytest.raises(SpocoError, match="at least one"):
        pool_scores([])
    with pytest.raises(SpocoError, match="iou_thresholds"):
        pool_scores([instance_scores(volume, volume), instance_scores(volume, volume, iou_thresholds=[0.5])])
