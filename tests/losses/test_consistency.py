"""The consistency term and the draw of its anchors."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from spoco_bundle.losses import SpocoLoss, sweep
from spoco_bundle.losses.consistency import consistency_sums, draw_anchors
from spoco_bundle.losses.instance import dice
from spoco_bundle.losses.sorted_crop import sort_crop
from spoco_bundle.losses.sweep import CHUNK_VALUES


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clusters(sizes, noise=0.01):
    """Tight clusters far from each other, one after the other."""
    torch.manual_seed(1)
    owner = torch.repeat_interleave(torch.tensor(sizes))
    return 10 * torch.eye(len(sizes), 5)[owner] + noise * torch.randn(len(owner), 5), owner


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("values", [1, 2**19])
@pytest.mark.parametrize("far", [0.0, 50.0])
@pytest.mark.parametrize("kept", [0, 2**24])
def test_sums_equal_brute_force(monkeypatch, pooled, values, far, kept):
    monkeypatch.setitem(CHUNK_VALUES, "cpu", values)
    monkeypatch.setattr(sweep, "KEPT_VALUES", kept)
    torch.manual_seed(0)
    # the last of several chunks may be out of every anchor's reach
    student = torch.randn(2500, 3, dtype=torch.float64)
    student[2048:] += far
    student.requires_grad_()
    teacher = student.detach() + 0.3 * torch.randn(2500, 3, dtype=torch.float64)
    anchors, scale = torch.tensor([3, 2000, 77]), 0.4
    value = dice(*consistency_sums(student, teacher, anchors, scale), pooled)
    p = torch.exp(-(student[anchors][:, None] - student).square().sum(2) / scale)
    q = torch.exp(-(teacher[anchors][:, None] - teacher).square().sum(2) / scale)
    top, bottom = 2 * (p * q).sum(1), (p * p + q * q).sum(1)
    wanted = 1 - top.sum() / bottom.sum() if pooled else (1 - top / bottom).mean()
    assert value.item() == pytest.approx(wanted.item(), rel=1e-10)
    (got,), (want,) = torch.autograd.grad(value, student), torch.autograd.grad(wanted, student)
    assert torch.allclose(got, want, rtol=1e-7, atol=1e-9 * want.abs().max())


def test_one_anchor_is_drawn_per_cluster_and_then_no_more():
    points, owner = clusters([500, 300, 200])
    anchors = draw_anchors(points, len(points), 0.5, generator=generator())
    assert sorted(owner[anchors].tolist()) == [0, 1, 2]


def test_a_region_that_is_never_covered_stops_at_the_maximum():
    torch.manual_seed(0)
    points = 100 * torch.randn(1000, 5)
    anchors = draw_anchors(points, 1000, 0.5, max_anchors=7, generator=generator())
    assert len(anchors.unique()) == 7


@pytest.mark.parametrize(("small", "count"), [(49, 1), (50, 2)])
def test_drawing_stops_below_the_fraction_of_the_whole_crop(small, count):
    # 1000 voxels, of which `small` stay uncovered by the anchor of the large cluster
    points, owner = clusters([900 - small, small])
    for seed in range(20):
        anchors = draw_anchors(points, 1000, 0.5, generator=generator(seed))
        assert len(anchors) == (count if owner[anchors[0]] == 0 else 2)


def test_drawing_stops_in_a_sample_of_a_large_region_as_in_all_of_it():
    points, owner = clusters([2200, 1750, 50])  # the last is less than a twentieth of the crop
    for seed in range(5):
        anchors = draw_anchors(points, 4000, 0.5, candidates=256, generator=generator(seed))
        assert sorted(owner[anchors].tolist()) == [0, 1]


def test_a_small_unlabeled_region_gets_no_anchor():
    points, _ = clusters([40])
    assert len(draw_anchors(points, 1000, 0.5)) == 0
    assert len(draw_anchors(points[:0], 1000, 0.5)) == 0
    assert len(draw_anchors(points[:0], 0, 0.5)) == 0


@pytest.mark.parametrize("candidates", [64, 4096])
def test_uniform_anchors_are_uniform(candidates):
    points = torch.arange(400.0)[:, None]
    drawn = torch.stack(
        [draw_anchors(points, 400, 0.5, 20, candidates=candidates, generator=generator(seed)) for seed in range(200)]
    )
    quarters = (drawn // 100).flatten().bincount(minlength=4) / drawn.numel()
    assert (quarters - 0.25).abs().max() < 0.03
    assert (drawn[:, 0].float().mean() - 199.5).abs() < 30


def test_density_draws_what_has_collapsed_and_uniform_the_spread_background():
    torch.manual_seed(0)
    background = 30 * torch.rand(3000, 3)
    points = torch.cat([background, torch.full((150, 3), 15.0) + 0.05 * torch.randn(150, 3)])
    hits = {
        sampling: sum(
            (
                draw_anchors(points, len(points), 0.5, 3, sampling=sampling, candidates=4096, generator=generator(seed))
                >= 3000
            )
            .sum()
            .item()
            for seed in range(40)
        )
        for sampling in ("uniform", "density")
    }
    assert hits["density"] >= 30 > 12 > hits["uniform"]


def test_with_coordinates_anchors_are_drawn_by_density():
    torch.manual_seed(0)
    embeddings = torch.cat([30 * torch.rand(3, 24, 24), torch.zeros(1, 24, 24)])[None].double()
    embeddings[0, :3, 10:14, 10:14] = 15.0
    labels = torch.zeros(1, 24, 24, dtype=torch.int64)
    teacher = embeddings + 0.2 * torch.randn_like(embeddings)

    def value(sampling):
        loss = SpocoLoss(coordinate_channels=2, max_anchors=2, anchor_sampling=sampling)
        return sum(loss(embeddings, labels, teacher, [seed])["consistency"].item() for seed in range(5))

    assert value(None) == value("density") != value("uniform")


def test_agreement_costs_nothing_and_disagreement_does():
    torch.manual_seed(0)
    embeddings = torch.randn(1, 4, 6, 7, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.zeros(1, 6, 7, 8, dtype=torch.int64)
    same = SpocoLoss()(embeddings, labels, embeddings, seeds=[0])["consistency"]
    assert same.item() == pytest.approx(0, abs=1e-12)
    (gradient,) = torch.autograd.grad(same, embeddings)
    assert gradient.abs().max() < 1e-12
    noise = torch.randn_like(embeddings)
    values = [SpocoLoss()(embeddings, labels, embeddings + x * noise, seeds=[0])["consistency"] for x in (0.1, 0.3, 1)]
    assert 0 < values[0] < values[1] < values[2] <= 1


def test_anchors_lie_in_the_unlabeled_region_alone():
    torch.manual_seed(0)
    embeddings = torch.zeros(1, 2, 10, 10, dtype=torch.float64)
    labels = torch.zeros(1, 10, 10, dtype=torch.int64)
    labels[:, :3], labels[:, 3:5], labels[:, 5:7] = 4, 8, -1
    # embeddings differ between student and teacher where anchors must not be drawn, and nowhere near the others
    for place, value in ((slice(0, 3), 50.0), (slice(3, 5), 90.0), (slice(5, 7), 130.0)):
        embeddings[:, :, place] = value + 9 * torch.randn(1, 2, place.stop - place.start, 10, dtype=torch.float64)
    teacher = embeddings + 9 * torch.randn_like(embeddings) * (labels != 0)
    criterion = SpocoLoss(ignore_label=-1, background_label=8)
    for seed in range(5):
        assert criterion(embeddings, labels, teacher, seeds=[seed])["consistency"].item() == pytest.approx(0, abs=1e-9)


def test_how_anchors_are_drawn_and_averaged_is_passed_on():
    torch.manual_seed(0)
    embeddings, labels = torch.randn(1, 3, 8, 9, dtype=torch.float64), torch.zeros(1, 8, 9, dtype=torch.int64)
    teacher = embeddings + 0.3 * torch.randn_like(embeddings)
    order = sort_crop(labels[0]).order
    rows, others = (field[0].flatten(1).T[order] for field in (embeddings, teacher))
    draws = {"max_anchors": 3}, {"uncovered_fraction": 0.6}, {"max_anchors": 20}
    values = []
    for draw, reduction in product(draws, ("pooled", "instance")):
        loss = SpocoLoss(consistency_reduction=reduction, **draw)
        values.append(loss(embeddings, labels, teacher, seeds=[0])["consistency"].item())
        anchors = draw_anchors(rows, 72, 0.5, **draw, generator=generator(0))
        wanted = dice(*consistency_sums(rows, others, anchors, loss.scale), pooled=reduction == "pooled")
        assert values[-1] == pytest.approx(wanted.item())
    assert len(set(values)) == 6
