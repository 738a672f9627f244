from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler, from_engine
from torch import nn

from spoco_bundle.handlers import BestWeights, HeldOutScores, InstanceMetric
from spoco_bundle.metrics import instance_scores, pool_scores


def boxes(count):
    """A row of squares with their ids, (1, y, x)."""
    labels = torch.zeros(1, 6, 6 * count, dtype=torch.int32)
    for number in range(count):
        labels[0, 1:5, 6 * number + 1 : 6 * number + 5] = 1 + number
    return labels


def without(labels, ids):
    return labels.masked_fill(torch.isin(labels, torch.tensor(list(ids), dtype=labels.dtype)), 0)


def validated(folder, rounds, halves=20, **arguments):
    """What is written after validations of (prediction, truth) pairs, one image at a time."""
    metric = InstanceMetric(**arguments)
    best = BestWeights(nn.Linear(1, 1), str(folder / "model.pt"))
    engine = Engine(lambda engine, pair: [{"pred": pair[0], "label": MetaTensor(pair[1])}])
    IgniteMetricHandler(metric_fn=metric, output_transform=from_engine(["pred", "label"])).attach(engine, "score")
    engine.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "key_metric_name", "score"))
    for handler in (best, HeldOutScores(metric, best, str(folder / "scores.json"), halves)):
        handler.attach(engine)
    written = []
    for pairs in rounds:
        engine.run(pairs)
        written.append(json.loads((folder / "scores.json").read_text()))
    return written


def test_several_images_are_halved_as_a_whole(tmp_path):
    truths = [boxes(count) for count in (3, 4, 5, 6, 0)]
    pairs = [(without(truth, range(1, missed + 1)), truth) for missed, truth in enumerate(truths)]
    (found,) = validated(tmp_path, [pairs], halves=30)
    scores = [instance_scores(truth[0], prediction[0]) for prediction, truth in pairs[:4]]
    possible = {
        round(pool_scores([scores[a], scores[b]])["ap_50"], 9) for a in range(4) for b in range(a)
    }  # two of the four images with objects
    assert {round(half, 9) for half in found["halves"]} == possible
    assert (found["metric"], found["held_out"], found["images"]) == ("ap_50", 18, 4)
    assert found["score"] == pytest.approx(pool_scores([*scores, instance_scores(*[truths[4][0]] * 2)])["ap_50"])


@pytest.mark.parametrize("partly_labelled", [True, False])
def test_objects_of_a_single_image_are_halved_and_the_others_do_not_count(partly_labelled, tmp_path):
    truth = boxes(9)
    (found,) = validated(tmp_path, [[(truth, truth)]], partly_labelled=partly_labelled)
    assert found["score"] == 1 and found["halves"] == [1.0] * 20 and found["held_out"] == 9


def test_halves_scatter_as_samples_of_so_many_objects_do(tmp_path):
    truth = boxes(12)
    (found,) = validated(
        tmp_path, [[(without(truth, range(1, 5)), truth)]], halves=200, metric="recall_50", partly_labelled=True
    )
    assert found["score"] == pytest.approx(2 / 3)
    variance = np.mean(np.square(np.array(found["halves"]) - 2 / 3))
    assert variance == pytest.approx(2 / 9 / 11, rel=0.2)


def test_only_the_best_validation_is_kept_and_all_see_the_same_halves(tmp_path):
    truth = boxes(8)
    worse, better = without(truth, [1, 2, 3, 4]), without(truth, [1])
    rounds = [[(prediction, truth)] for prediction in (worse, better, worse)]
    first, second, third = validated(tmp_path, rounds, metric="recall_50", partly_labelled=True)
    assert first["score"] == 0.5 and second["score"] == 0.875 and third == second
    assert all(a <= b for a, b in zip(first["halves"], second["halves"]))


def test_voxels_of_the_config_that_count_nowhere_are_no_object_of_a_complete_truth(tmp_path):
    truth = boxes(9)
    prediction, ignored = without(truth, [9]), truth.masked_fill(truth == 9, 255)
    (found,) = validated(tmp_path, [[(prediction, ignored)]], ignore_label=255)
    assert found["score"] == 1 and found["halves"] == [1.0] * 20 and found["held_out"] == 8
