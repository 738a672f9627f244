from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.handlers import InstanceMetric
from spoco_bundle.metrics import instance_scores, pool_scores


def volumes(count, shape=(5, 8, 8), seed=0):
    """Pairs of (truth, prediction), each (1, *shape), that agree in most voxels."""
    generator = np.random.default_rng(seed)
    truth = np.kron(generator.integers(0, 5, (count, 1, *[s // 4 + 1 for s in shape])), np.ones((1, 1, 4, 4, 4), int))
    truth = truth[(slice(None), slice(None), *[slice(s) for s in shape])]
    prediction = np.where(generator.random(truth.shape) < 0.2, generator.integers(0, 5, truth.shape), truth)
    return torch.as_tensor(truth), torch.as_tensor(prediction)


def test_batches_and_lists_pool_alike():
    truth, prediction = volumes(5)
    expected = pool_scores([instance_scores(t[0], p[0]) for t, p in zip(truth, prediction, strict=True)])

    batched, decollated = InstanceMetric(), InstanceMetric()
    batched(prediction[:2], truth[:2])
    batched(prediction[2:], truth[2:])
    decollated([MetaTensor(p) for p in prediction], [MetaTensor(t.float()) for t in truth])
    assert batched.scores() == pytest.approx(expected)
    assert decollated.scores() == pytest.approx(expected)
    assert batched.aggregate().item() == pytest.approx(expected["ap_50"])
    assert batched.aggregate("sbd").item() == pytest.approx(expected["sbd"])
    assert batched.details()[3] == pytest.approx(instance_scores(truth[3, 0], prediction[3, 0]))


def test_shapes_may_differ_between_images():
    metric = InstanceMetric("mean_ap")
    first, second = volumes(1), volumes(1, (4, 6, 9), seed=1)
    metric([first[1][0], second[1][0]], [first[0][0], second[0][0]])
    assert len(metric.details()) == 2


def test_reset_forgets():
    metric = InstanceMetric()
    truth, prediction = volumes(2)
    metric(torch.zeros_like(prediction), truth)
    assert metric.aggregate().item() == 0
    metric.reset()
    assert metric.details() == []
    with pytest.raises(SpocoError, match="at least one"):
        metric.aggregate()
    metric(truth, truth)
    assert metric.aggregate().item() == 1


def test_partly_labelled_by_argument():
    truth, prediction = volumes(3)
    truth = torch.where(truth % 2 == 1, truth, 0)
    metric = InstanceMetric(partly_labelled=True)
    metric(prediction, truth)
    images = [instance_scores(t[0], p[0], partly_labelled=True) for t, p in zip(truth, prediction, strict=True)]
    assert metric.aggregate().item() == pytest.approx(pool_scores(images)["partly_labelled_score"])


def test_bad_arguments_are_named():
    with pytest.raises(SpocoError, match="ap_50.*partly labelled.*recall_50"):
        InstanceMetric("ap_50", partly_labelled=True)
    metric = InstanceMetric(iou_thresholds=[0.3, 0.5])
    assert "ap_30" in metric.keys
    with pytest.raises(SpocoError, match="ap_75"):
        metric.aggregate("ap_75")
    with pytest.raises(SpocoError, match="one channel"):
        metric(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4))
    with pytest.raises(SpocoError, match="no truth"):
        metric(torch.zeros(1, 1, 4, 4))


def test_is_the_key_metric_of_an_engine():
    truth, prediction = volumes(4)
    engine = Engine(lambda _, i: (list(prediction[i : i + 2]), list(truth[i : i + 2])))
    metric = InstanceMetric()
    IgniteMetricHandler(metric_fn=metric).attach(engine, "ap_50")
    expected = pool_scores([instance_scores(t[0], p[0]) for t, p in zip(truth, prediction, strict=True)])
    for _ in range(2):  # the second run starts from nothing
        engine.run([0, 2])
        assert engine.state.metrics["ap_50"] == pytest.approx(expected["ap_50"])
    assert engine.state.metric_details["ap_50"].shape == (4, len(metric.keys))


def _process(rank, rendezvous, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=3)
    truth, prediction = volumes(3)
    metric = InstanceMetric()
    if rank == 0:
        metric(prediction[:1], truth[:1])
    elif rank == 1:
        metric(prediction[1:], truth[1:])
    results[rank] = metric.scores(), metric.scores()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_gather_even_where_one_has_no_image(tmp_path):
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_process, (tmp_path / "rendezvous", results), nprocs=3)
        results = dict(results)
    truth, prediction = volumes(3)
    expected = pool_scores([instance_scores(t[0], p[0]) for t, p in zip(truth, prediction, strict=True)])
    for rank in range(3):
        for scores in results[rank]:
            assert scores == pytest.approx(expected)


def squares(numbers) -> torch.Tensor:
    """Those of 30 squares of 4 x 4 pixels that are asked for, (1, 36, 30)."""
    label = torch.zeros(1, 36, 30, dtype=torch.int32)
    for number in numbers:
        y, x = 6 * (number // 5), 6 * (number % 5)
        label[0, y : y + 4, x : x + 4] = number + 1
    return label


@pytest.mark.parametrize(
    ("annotated", "found", "partly_labelled", "judged"),
    [(30, 30, True, 30), (24, 30, True, 24), (23, 30, True, None), (15, 15, True, None), (30, 30, False, None)],
)
def test_a_truth_that_looks_complete_is_noticed(annotated, found, partly_labelled, judged):
    metric = InstanceMetric(partly_labelled=partly_labelled)
    metric([squares(range(found))], [squares(range(annotated))])
    assert (metric.hint() or "None").startswith("None" if judged is None else f"{judged} of {found} found objects lie")
