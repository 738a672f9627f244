"""Symmetries and bounds of the scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spoco_bundle.metrics import instance_scores, pool_scores

FEW = settings(max_examples=60, deadline=None, derandomize=True)
TYPES = [np.uint8, np.uint16, np.int32, np.int64, np.uint32]
SWAPPED = {"precision": "recall", "fp": "fn", "misses": "false_objects", "merges": "splits", "objects": "true_objects"}
RATIOS = ("precision", "recall", "f1", "ap", "sq", "pq", "mean_ap", "sbd", "adapted_rand_error", "covered_fraction")


@st.composite
def pairs(draw):
    shape = draw(st.one_of(st.tuples(*[st.integers(1, 7)] * 2), st.tuples(*[st.integers(1, 4)] * 3)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truth = random.integers(0, draw(st.integers(1, 5)), shape)
    changed = random.random(shape) < draw(st.sampled_from([0.0, 0.2, 1.0]))
    return truth, np.where(changed, random.integers(0, 5, shape), truth)


def other(name):
    """The score that takes this one's place where truth and prediction change places."""
    stem, _, threshold = name.rpartition("_") if name[-1].isdigit() else (name, "", "")
    both = {**SWAPPED, **{b: a for a, b in SWAPPED.items()}, "voi_split": "voi_merge", "voi_merge": "voi_split"}
    return "_".join(part for part in (both.get(stem, stem), threshold) if part)


@FEW
@given(pair=pairs())
def test_truth_and_prediction_change_places(pair):
    there, back = instance_scores(*pair), instance_scores(*reversed(pair))
    for name, value in there.items():
        if name not in ("covered_fraction", "adapted_rand_error"):  # which leave out the background of one of the two
            assert back[other(name)] == pytest.approx(value, abs=1e-9), name


@FEW
@given(pair=pairs(), partly_labelled=st.booleans())
def test_scores_stay_within_their_bounds(pair, partly_labelled):
    scores = instance_scores(*pair, partly_labelled=partly_labelled)
    voxels = pair[0].size
    for name, value in scores.items():
        if partly_labelled and not scores["true_objects"] and np.isnan(value):
            continue
        assert np.isfinite(value) and value >= 0, name
        if name.rsplit("_", 1)[0] in RATIOS or name in RATIOS or "recall" in name or name.endswith("_score"):
            assert value <= 1 + 1e-12, name
        if name.startswith("voi"):
            assert value <= np.log2(max(voxels, 2)) + 1e-9, name
    if not partly_labelled:
        for threshold in (50, 75):
            assert scores[f"tp_{threshold}"] + scores[f"fn_{threshold}"] == scores["true_objects"]
            assert scores[f"tp_{threshold}"] + scores[f"fp_{threshold}"] == scores["objects"]


@FEW
@given(pair=pairs(), data=st.data(), partly_labelled=st.booleans())
def test_ids_types_and_axes_do_not_matter(pair, data, partly_labelled):
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    axes = data.draw(st.permutations(range(pair[0].ndim)))
    moved = []
    for labels in pair:
        dtype = data.draw(st.sampled_from(TYPES))
        new = random.permutation(np.arange(1, 250))[:5]
        new[0] = 0
        moved.append(np.flip(new[labels].astype(dtype).transpose(axes), 0))
    expected = instance_scores(*pair, partly_labelled=partly_labelled)
    found = instance_scores(*moved, partly_labelled=partly_labelled)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name


@FEW
@given(pair=pairs())
def test_only_equal_partitions_are_perfect(pair):
    truth, prediction = pair
    matches = {(a, b) for a, b in zip(truth.ravel().tolist(), prediction.ravel().tolist())}
    one_to_one = len(matches) == len({a for a, _ in matches}) == len({b for _, b in matches})
    same = one_to_one and all((a == 0) == (b == 0) for a, b in matches)
    assert (instance_scores(truth, prediction)["mean_ap"] == 1) >= same
    perfect = instance_scores(truth, prediction)
    assert (perfect["sbd"] == pytest.approx(1) and perfect["objects"] == perfect["true_objects"]) == same


@FEW
@given(several=st.lists(pairs(), min_size=1, max_size=4))
def test_pooling_does_not_depend_on_the_order(several):
    scores = [instance_scores(*pair) for pair in several]
    there, back = pool_scores(scores), pool_scores(scores[::-1])
    assert there.keys() == back.keys()
    for name, value in there.items():
        assert back[name] == pytest.approx(value, nan_ok=True), name
