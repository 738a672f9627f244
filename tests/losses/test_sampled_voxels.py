"""Large crops, of whose voxels outside objects a sample is taken."""

from __future__ import annotations

import pytest
import torch

from spoco_bundle.losses import SpocoLoss


@pytest.mark.parametrize("options", [{}, {"instance_loss": "bce"}, {"instance_reduction": "instance"}])
def test_a_sample_of_a_large_crop_gives_the_terms_and_gradients_of_all_of_it_but_for_chance(options):
    torch.manual_seed(0)
    shape = (16, 20, 20)
    grid = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij")).double() / 8
    embeddings, teacher = ((grid + 0.3 * torch.randn(3, *shape, dtype=torch.float64))[None] for _ in range(2))
    labels = torch.zeros(1, *shape, dtype=torch.int64)
    labels[0, 3:8, 3:9, 3:9], labels[0, 8:14, 10:18, 9:16], labels[0, :, :, 18:] = 1, 2, 9
    embeddings.requires_grad_()

    def mean_of(voxels: int, count: int) -> tuple[dict[str, float], torch.Tensor]:
        loss = SpocoLoss(coordinate_channels=3, background_label=9, sampled_voxels=voxels, **options)
        found = [loss(embeddings, labels, teacher, seeds=[seed]) for seed in range(count)]
        terms = {name: sum(one[name].item() for one in found) / count for name in found[0]}
        (gradient,) = torch.autograd.grad(sum(one["loss"] for one in found) / count, embeddings)
        return terms, gradient

    (terms, gradient), (whole, wanted) = mean_of(1500, 40), mean_of(10**6, 40)
    for name, value in whole.items():
        assert terms[name] == pytest.approx(value, rel=0.05, abs=0.003), name
    # summed over places, in which a sample has a few voxels
    got, want = (torch.nn.functional.avg_pool3d(each, 4, divisor_override=1) for each in (gradient, wanted))
    assert (got - want).norm() < 0.15 * want.norm()
    assert mean_of(1500, 1)[0] != mean_of(10**6, 1)[0]


def test_voxels_of_objects_count_no_more_than_those_of_the_sample():
    torch.manual_seed(0)
    embeddings = torch.randn(1, 3, 10, 12, 12, dtype=torch.float64)
    labels = torch.zeros(1, 10, 12, 12, dtype=torch.int64)
    labels[..., :9] = 1
    teacher = embeddings + 0.3 * torch.randn_like(embeddings) * (labels > 0)  # they differ in the object alone

    def mean_of(voxels: int) -> float:
        loss = SpocoLoss(sampled_voxels=voxels)
        return sum(loss(embeddings, labels, teacher, [seed])["consistency"].item() for seed in range(30)) / 30

    assert mean_of(150) == pytest.approx(mean_of(10**6), rel=0.1)


def test_nothing_is_left_out_where_objects_are_annotated_in_part():
    torch.manual_seed(0)
    embeddings, teacher = (torch.randn(1, 3, 8, 12, 12) for _ in range(2))
    labels, scope = torch.zeros(1, 8, 12, 12, dtype=torch.int64), torch.zeros(1, 1, 8, 12, 12, dtype=torch.int16)
    labels[0, 4, 2:6, 2:6], scope[0, 0, 4] = 1, 5
    losses = (SpocoLoss(sampled_voxels=count) for count in (50, 10**6))
    few, everything = (loss(embeddings, labels, teacher, [0], scope=scope) for loss in losses)
    assert few == everything


def test_the_affinity_takes_all_voxels():
    torch.manual_seed(0)
    embeddings = torch.randn(1, 3, 4, 8, 8, dtype=torch.float64)
    labels = torch.zeros(1, 4, 8, 8, dtype=torch.int64)
    labels[0, 1:3, 2:6, 2:6] = 1
    losses = (SpocoLoss(instance_loss="affinity", sampled_voxels=count) for count in (20, 10**6))
    few, everything = (loss(embeddings, labels, seeds=[0])["instance"] for loss in losses)
    assert few == everything
