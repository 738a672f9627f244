"""Pull, push and their kin on cases that can be reckoned by hand."""

from __future__ import annotations

import pytest
import torch

from spoco_bundle.losses.discriminative import cluster_means, pull, push, regularizer, unlabeled_push
from spoco_bundle.losses.sorted_crop import sort_crop, take_rows


def test_means_of_large_clusters_far_from_the_origin_keep_their_digits():
    torch.manual_seed(0)
    labels = torch.ones(60, 60, 60, dtype=torch.int64)
    embeddings = 300 + torch.randn(2, 60, 60, 60)
    crop = sort_crop(labels)
    means = cluster_means(take_rows(embeddings, crop.order), crop)
    assert torch.allclose(means.double(), embeddings.double().flatten(1).mean(1)[None], atol=5e-5, rtol=0)


def test_gradient_of_the_means():
    labels = torch.tensor([[0, 4, 4], [9, 4, 0]])
    crop = sort_crop(labels)
    rows = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda leaf: cluster_means(leaf, crop), rows)


def test_pull_is_a_mean_of_means():
    assert pull(torch.tensor([6.0, 1.0]), torch.tensor([3, 1])).item() == pytest.approx(1.5)


def test_push_over_ordered_pairs_ends_at_twice_delta_dist():
    means = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 9.0]])
    # pairs at distances 3, 9 and 9.49, of which only the first is under 4
    assert push(means, 2.0).item() == pytest.approx(1 / 3)
    assert push(means[:1], 2.0) == 0
    together = torch.zeros(2, 3, requires_grad=True)
    push(together, 2.0).backward()
    assert torch.equal(together.grad, torch.zeros(2, 3))


def test_regularizer_at_the_origin_has_a_gradient_of_zero():
    means = torch.zeros(2, 3, requires_grad=True)
    regularizer(means).backward()
    assert torch.equal(means.grad, torch.zeros(2, 3))
    assert regularizer(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).item() == 2.5
    assert regularizer(torch.tensor([[3.0, 4.0]]), coordinate_channels=1).item() == 4
    assert regularizer(torch.tensor([[3.0, 4.0]]), coordinate_channels=2).item() == 0


def test_unlabeled_push_without_unlabeled_voxels_is_zero():
    assert unlabeled_push(torch.tensor([2.0, 6.0]), 8).item() == 0.5
    assert unlabeled_push(torch.zeros(2), 0) == 0


def test_unlabeled_push_is_a_mean_of_each_object_over_what_is_known_of_it():
    assert unlabeled_push(torch.tensor([2.0, 6.0, 0.0]), torch.tensor([1, 4, 0])).item() == pytest.approx(3.5 / 3)
