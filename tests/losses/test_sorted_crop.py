"""The order in which the loss walks through a crop."""

from __future__ import annotations

import pytest
import torch
from accelerator import AWAY, Accelerator

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.losses.sorted_crop import evenly_spread, sort_crop, take_rows

LABELS = torch.tensor([[9, 0, 4, 4], [0, -1, 9, 7]])


def test_rows_come_unlabeled_background_clusters():
    crop = sort_crop(LABELS, background_label=7, ignore_label=-1)
    assert LABELS.flatten()[crop.order].tolist() == [0, 0, 7, 4, 4, 9, 9]
    assert (crop.unlabeled, crop.outside, crop.background_clusters) == (2, 3, 0)
    assert crop.counts.tolist() == [2, 2] and crop.owner.tolist() == [0, 0, 1, 1]


def test_of_many_voxels_outside_a_sample_stands_for_all():
    labels = torch.zeros(1, 60, 50, dtype=torch.int64)
    labels[0, :10], labels[0, 20:23] = 3, 7
    labels[0, 30:40] = 8
    crop = sort_crop(labels, background_label=8, most_outside=500, generator=torch.Generator().manual_seed(1))
    found = labels.flatten()[crop.order]
    assert len(crop.order.unique()) == len(crop.order) == 500 + 650 and crop.outside == 500
    assert crop.outside_weight == 2350 / 500 and crop.counts.tolist() == [500, 150]
    # of the unlabeled voxels and of the background alike, each in its share
    assert (found[: crop.unlabeled] == 0).all() and (found[crop.unlabeled : 500] == 8).all()
    assert abs(crop.unlabeled - 1850 / 4.7) <= 1
    assert torch.equal(sort_crop(labels, most_outside=5000).order, sort_crop(labels).order)


def test_the_same_voxels_are_drawn_on_every_device():
    labels = torch.zeros(6, 12, 12, dtype=torch.int64)
    labels[1:4, 2:6, 3:7], labels[2:5, 7:11, 5:9] = 1, 2

    def drawn(labels):
        return sort_crop(labels, most_outside=200, generator=torch.Generator().manual_seed(0))

    here = drawn(labels)
    with Accelerator() as accelerator:
        away = drawn(accelerator.put(labels))
    assert away.order.device == AWAY and torch.equal(away.order.held, here.order)
    assert not torch.equal(here.order, here.order.sort().values)


def test_every_place_is_as_likely_as_any_other():
    drawn = torch.cat([evenly_spread(7, 3, torch.Generator().manual_seed(seed)) for seed in range(7000)])
    assert (drawn.bincount(minlength=7) / 3000 - 1).abs().max() < 0.06
    assert evenly_spread(5, 5).tolist() == [0, 1, 2, 3, 4] and len(evenly_spread(5, 0)) == 0


def test_dense_background_is_the_first_cluster():
    crop = sort_crop(LABELS, dense=True, ignore_label=-1)
    assert LABELS.flatten()[crop.order].tolist() == [0, 0, 4, 4, 7, 9, 9]
    assert (crop.unlabeled, crop.outside, crop.background_clusters) == (0, 0, 1)
    assert crop.counts.tolist() == [2, 2, 1, 2]


def test_a_negative_id_that_is_not_named_is_refused():
    with pytest.raises(SpocoError, match="-1"):
        sort_crop(LABELS)


def test_a_crop_of_nothing_but_ignored_voxels_has_no_rows():
    crop = sort_crop(torch.full((2, 2), 3), ignore_label=3)
    assert len(crop.order) == len(crop.owner) == len(crop.counts) == 0
    assert take_rows(torch.ones(5, 2, 2), crop.order).shape == (0, 5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_rows_are_the_voxels_in_order_and_gradients_go_back_to_them(channels_last):
    embeddings = torch.randn(3, *LABELS.shape, dtype=torch.float64)
    if channels_last:
        embeddings = embeddings.movedim(0, -1).contiguous().movedim(-1, 0)
    crop = sort_crop(LABELS, ignore_label=-1)
    assert torch.equal(take_rows(embeddings, crop.order), embeddings.flatten(1).T[crop.order])
    assert torch.autograd.gradcheck(lambda leaf: take_rows(leaf, crop.order), embeddings.requires_grad_())


def test_half_precision_rows_are_float32_and_their_gradient_is_not():
    leaf = torch.randn(3, *LABELS.shape).bfloat16().requires_grad_()
    rows = take_rows(leaf, sort_crop(LABELS, ignore_label=-1).order)
    assert rows.dtype == torch.float32
    rows.sum().backward()
    assert leaf.grad.dtype == torch.bfloat16 and leaf.grad[0].flatten().tolist() == [1, 1, 1, 1, 1, 0, 1, 1]


@pytest.mark.parametrize("shape", [(5, 6, 7), (9, 4)])
def test_neighbouring_rows_are_neighbours_in_space_and_none_is_lost(shape):
    crop = sort_crop(torch.zeros(shape, dtype=torch.int64))
    assert crop.order.sort().values.tolist() == list(range(crop.unlabeled))
    # the first 2^D rows are the corner block of side 2
    block = torch.stack(torch.unravel_index(crop.order[: 2 ** len(shape)], shape))
    assert block.max() == 1
