"""The chunked pass against sums over all pairs."""

from __future__ import annotations

import pytest
import torch

from spoco_bundle.losses import sweep
from spoco_bundle.losses.sweep import SweepParams, anchor_sums, kernel, kernel_reach, pair_distances

SCALE = 0.36


def make_rows(dtype=torch.float64, spread=1.0):
    torch.manual_seed(0)
    owner = torch.repeat_interleave(torch.tensor([700, 5, 1, 900]))
    outside = 1500
    anchors = spread * torch.randn(4, 6, dtype=dtype)
    rows = torch.cat([spread * torch.randn(outside, 6, dtype=dtype), anchors[owner]])
    return rows + 0.2 * torch.randn_like(rows), anchors, owner, outside


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("values", [1, 2**19])
@pytest.mark.parametrize("kept", [0, 2**24])
@pytest.mark.parametrize("outside_weight", [1.0, 4.5])
def test_sums_and_gradients_equal_those_of_all_pairs(monkeypatch, spread, values, kept, outside_weight):
    monkeypatch.setitem(sweep.CHUNK_VALUES, "cpu", values)
    monkeypatch.setattr(sweep, "KEPT_VALUES", kept)
    rows, anchors, owner, outside = make_rows(spread=spread)
    params = SweepParams(0.5, 2.0, SCALE, bce=True, outside_weight=outside_weight)
    leaves = [rows.requires_grad_(), anchors.requires_grad_()]
    found = anchor_sums(rows, anchors, owner, outside, params)
    stands_for = torch.cat([torch.full((outside,), outside_weight), torch.ones(len(owner))])
    distance = (anchors[:, None] - rows[None]).square().sum(2).sqrt()
    own = torch.zeros(4, len(rows), dtype=torch.bool)
    own[owner, torch.arange(outside, len(rows))] = True
    soft = torch.exp(-(distance**2) / SCALE)
    expected = {
        "pull": ((distance - 0.5).clamp_min(0).square() * own).sum(1),
        "overlap": (soft * own).sum(1),
        "squares": (stands_for * soft.square()).sum(1),
        "entropy": (stands_for * torch.where(own, distance**2 / SCALE, -torch.log1p(-soft))).sum(1),
        "hinge": (2.0 - distance[:, :outside]).clamp_min(0).square().sum(1),
    }
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    for name, wanted in expected.items():
        value = getattr(found, name)
        assert torch.allclose(value, wanted, rtol=1e-9, atol=1e-12), name
        got = torch.autograd.grad((weight * value).sum(), leaves, retain_graph=True)
        want = torch.autograd.grad((weight * wanted).sum(), leaves, retain_graph=True)
        for mine, theirs in zip(got, want, strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-7, atol=1e-9 * theirs.abs().max()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("values", [1, 2**19])
@pytest.mark.parametrize("kept", [0, 2**24])
def test_pairs_that_are_not_known_count_nowhere(monkeypatch, dtype, values, kept):
    monkeypatch.setitem(sweep.CHUNK_VALUES, "cpu", values)
    monkeypatch.setattr(sweep, "KEPT_VALUES", kept)
    rows, anchors, owner, outside = make_rows(dtype)
    # rows from 1400 on are known to all; of those before, each anchor knows some, the first one none
    known = torch.rand(outside, 4) < torch.tensor([0, 0.3, 0.6, 1])
    known[:1200], known[1400:] = known[:1200] & (torch.arange(4) == 3), True
    params = SweepParams(0.5, 2.0, SCALE, bce=True)
    leaves = [rows.requires_grad_(), anchors.requires_grad_()]
    found = anchor_sums(rows, anchors, owner, outside, params, lambda part, index: known[part][:, index])
    for line in range(4):
        kept_rows = torch.cat([known[:, line], torch.ones(len(owner), dtype=torch.bool)])
        alone = anchor_sums(rows[kept_rows], anchors, owner, int(known[:, line].sum()), params)
        for name in found._fields:
            value, wanted = getattr(found, name)[line], getattr(alone, name)[line]
            assert torch.allclose(value, wanted, rtol=1e-4 if dtype == torch.float32 else 1e-10), name
            (got, at_anchors), (want, for_anchors) = (
                torch.autograd.grad(each, leaves, retain_graph=True) for each in (value, wanted)
            )
            assert not got[~kept_rows].any(), name
            tolerance = {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-10}
            assert torch.allclose(got, want, **tolerance), name
            assert torch.allclose(at_anchors, for_anchors, **tolerance), name


@pytest.mark.parametrize("part", ["pull", "dice", "bce", "hinge"])
def test_a_part_that_is_off_leaves_its_sums_at_zero_and_the_others_alone(part):
    rows, anchors, owner, outside = make_rows()
    everything = {name: True for name in ("pull", "dice", "bce", "hinge")}
    full = anchor_sums(rows, anchors, owner, outside, SweepParams(0.5, 2.0, SCALE, **everything))
    less = anchor_sums(rows, anchors, owner, outside, SweepParams(0.5, 2.0, SCALE, **{**everything, part: False}))
    off = {"pull": {"pull"}, "dice": {"overlap", "squares"}, "bce": {"entropy"}, "hinge": {"hinge"}}[part]
    for name in full._fields:
        if name in off:
            assert not getattr(less, name).any() and getattr(full, name).any()
        else:
            assert torch.allclose(getattr(less, name), getattr(full, name), rtol=1e-9)


def test_float32_distances_in_a_tight_chunk_far_from_the_origin_keep_their_digits():
    torch.manual_seed(0)
    points = (500 + 0.3 * torch.randn(4000, 8)).double()
    anchors = points[:3] + 0.1
    centre = points.float().mean(0)
    found = pair_distances(points.float() - centre, anchors.float() - centre, 1e9).sq_dist
    exact = (anchors.float().double()[:, None] - points.float().double()[None]).square().sum(2)
    assert torch.allclose(found.double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_equals_the_exponential_and_ends_at_its_reach(dtype):
    sq_dist = torch.linspace(0, 12, 200, dtype=dtype)
    assert torch.allclose(
        kernel(sq_dist, SCALE), torch.exp(-sq_dist / SCALE), rtol=1e-5 if dtype == torch.float32 else 1e-13
    )
    at_reach = kernel(torch.tensor(kernel_reach(SCALE, dtype), dtype=dtype) ** 2, SCALE)
    assert at_reach.item() == pytest.approx(torch.finfo(dtype).eps, rel=1e-4)
