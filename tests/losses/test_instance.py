"""The parts of the instance term."""

from __future__ import annotations

import pytest
import torch

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.losses import SpocoLoss
from spoco_bundle.losses.instance import binary_cross_entropy, dice, sample_members


def test_dice_of_no_masks_is_zero_and_of_equal_masks_too():
    assert dice(torch.zeros(0), torch.zeros(0)) == 0
    sums = torch.tensor([3.0, 5.0])
    assert dice(sums, 2 * sums) == 0 and dice(sums, 2 * sums, pooled=False) == 0


def test_pooled_dice_weighs_objects_by_size_and_per_instance_dice_does_not():
    overlap, squares = torch.tensor([100.0, 0.0]), torch.tensor([200.0, 20.0])
    assert dice(overlap, squares).item() == pytest.approx(1 - 200 / 220)
    assert dice(overlap, squares, pooled=False).item() == pytest.approx(0.5)


def test_cross_entropy_is_a_mean_of_each_object_over_what_is_known_of_it():
    entropy = torch.tensor([6.0, 10.0])
    assert binary_cross_entropy(entropy, 4).item() == 2
    assert binary_cross_entropy(entropy, torch.tensor([4, 2])).item() == 3.25


def test_sampled_members_are_uniform_over_each_object():
    counts = torch.tensor([1, 3, 6])
    drawn = torch.stack([sample_members(counts, torch.Generator().manual_seed(seed)) for seed in range(600)])
    assert (drawn[:, 0] == 0).all()
    for column, (start, size) in enumerate([(0, 1), (1, 3), (4, 6)]):
        shares = (drawn[:, column] - start).bincount(minlength=size) / len(drawn)
        assert len(shares) == size and (shares - 1 / size).abs().max() < 0.07


def test_without_generator_the_global_one_is_used():
    counts = torch.full((5,), 1000)
    torch.manual_seed(3)
    first, second = sample_members(counts), sample_members(counts)
    torch.manual_seed(3)
    assert torch.equal(sample_members(counts), first) and not torch.equal(first, second)


@pytest.mark.parametrize("kind", ["dice", "bce", "affinity"])
@pytest.mark.parametrize("anchor", ["mean", "voxel"])
def test_perfect_masks_cost_almost_nothing_and_mixed_ones_do(kind, anchor):
    labels = torch.zeros(1, 6, 12, dtype=torch.int64)
    labels[:, :, :4], labels[:, :, 4:8] = 3, 8
    perfect = torch.nn.functional.one_hot(labels, 9).movedim(-1, 1).double() * 20
    criterion = SpocoLoss(instance_loss=kind, anchor=anchor)
    assert criterion(perfect, labels)["instance"] < 1e-6
    merged = perfect.clone()
    merged[:, 8] += merged[:, 3]
    merged[:, 3] = merged[:, 8]
    assert criterion(merged, labels)["instance"] > 0.2


def test_a_sampled_anchor_selects_the_mask_around_that_voxel():
    # one object in two halves far apart: a voxel selects its half, so Dice is the same whichever is drawn
    labels = torch.ones(1, 4, 8, dtype=torch.int64)
    embeddings = torch.zeros(1, 2, 4, 8, dtype=torch.float64)
    embeddings[:, :, :, 4:] = 30
    for seed in range(4):
        value = SpocoLoss(anchor="voxel")(embeddings, labels, seeds=[seed])["instance"]
        assert value.item() == pytest.approx(1 - 2 * 16 / (16 + 32))


@pytest.mark.parametrize("offsets", [[], [[1, 0]], [[1, 0, 0], [0, 1, 0, 0]]], ids=str)
def test_offsets_of_other_axes_are_refused(offsets):
    labels = torch.ones(1, 4, 6, 6, dtype=torch.int64)
    criterion = SpocoLoss(instance_loss="affinity", affinity_offsets=offsets)
    with pytest.raises(SpocoError, match="affinity_offsets .* 3 integers"):
        criterion(torch.randn(1, 2, 4, 6, 6), labels)
