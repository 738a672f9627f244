from __future__ import annotations

import math

import pytest
import torch
from monai.data import MetaTensor

from spoco_bundle.transforms import ClusterEmbeddingsd, clustering


@pytest.fixture
def asked(monkeypatch) -> dict:
    """What the transform asks the clustering for."""
    arguments = {}

    def cluster(embeddings, method, **given):
        arguments.clear()
        arguments.update(given)
        return torch.zeros(embeddings.shape[1:], dtype=torch.int32), torch.zeros(0)

    monkeypatch.setattr(clustering, "cluster_embeddings", cluster)
    return arguments


def run(spacing, **arguments) -> None:
    shape = (4, 5, 6)[-len(spacing) :]
    image = MetaTensor(torch.zeros(1, *shape), affine=torch.diag(torch.tensor([*spacing, 1.0])))
    transform = ClusterEmbeddingsd(**{"coordinate_channels": len(spacing), **arguments})
    transform({"image": image, "pred": torch.zeros(6, *shape)})


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.5, 0.4), (1.0, 1.0), (0.5, 0.25)])
@pytest.mark.parametrize("scale", [3.0, 7.5])
def test_least_size_is_a_fraction_of_a_ball_of_twice_the_scale(asked, spacing, scale):
    run(spacing, coordinate_scale=scale, min_fraction=0.1)
    ball = 4 / 3 * math.pi * (2 * scale) ** 3 if len(spacing) == 3 else math.pi * (2 * scale) ** 2
    voxels = 0.1 * ball / math.prod(spacing)
    assert asked["min_size"] == round(voxels)


def test_the_scale_may_come_from_the_network(asked):
    network = torch.nn.Linear(1, 1)
    network.register_buffer("coordinate_scale", torch.tensor(2.0))
    run((1.0, 1.0), network=network, min_fraction=0.5)
    assert asked["min_size"] == round(0.5 * math.pi * 16)


def test_sizes_given_by_hand_win(asked):
    run((1.0, 1.0, 1.0), coordinate_scale=4.0, min_fraction=0.1, min_size=7)
    assert asked["min_size"] == 7


def test_coarse_voxels_still_make_one_voxel(asked):
    run((9.0, 9.0), coordinate_scale=1.0, min_fraction=0.01)
    assert asked["min_size"] == 1


def test_nothing_is_set_without_scale_or_fraction(asked):
    run((1.0, 1.0), coordinate_scale=4.0)
    assert "min_size" not in asked
    run((1.0, 1.0), coordinate_channels=0, min_fraction=0.1)
    assert "min_size" not in asked
