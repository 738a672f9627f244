from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmark_clustering import least_voxels
from embedding_volumes import scores, volume

from spoco_bundle.clustering import cluster_embeddings
from spoco_bundle.clustering.background import background_clusters, own_votes, same_embedding, vote_lines


def grid(shape):
    return torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij"))


def test_density_rule_tells_spread_from_collapsed_votes():
    place = grid((16, 16, 16))
    label = torch.ones(16, 16, 16, dtype=torch.long)
    label[2:8, 2:8, 2:8] = 2
    votes = torch.where(label == 2, torch.full_like(place, 4.5), place) * 0.2
    found = background_clusters("density", label, 3, torch.ones(16, 16, 16), votes=votes)
    assert found.tolist() == [False, True, False]


def test_density_rule_is_not_misled_by_noise_in_small_objects():
    # votes that scatter more than the few voxels of the object: their spread alone says nothing
    generator = torch.Generator().manual_seed(0)
    place = grid((24, 24, 24))
    label = torch.ones(24, 24, 24, dtype=torch.long)
    label[4:9, 4:9, 4:9] = 2
    votes = torch.where(label == 2, torch.full_like(place, 6.0), place) * 0.05
    votes += 0.12 * torch.randn(votes.shape, generator=generator)
    assert votes[0][label == 2].std() > place[0][label == 2].std() * 0.05
    found = background_clusters("density", label, 3, torch.ones(24, 24, 24), votes=votes)
    assert found.tolist() == [False, True, False]


@pytest.mark.parametrize("shape", [(12, 16, 20), (1, 24, 32)])
def test_votes_for_the_own_place_lie_on_a_line_whatever_objects_vote(shape):
    place = grid(shape)
    unit, start = (
        torch.tensor([0.5, 0.2, 0.1])[:, None, None, None],
        torch.tensor([3.0, -1.0, 7.0])[:, None, None, None],
    )
    spatial_dims = 3 - shape.count(1)
    votes = (unit * place + start)[-spatial_dims:]
    objects = votes.clone()
    for y, x in ((2, 2), (2, 12), (10, 2), (10, 12)):  # whatever is not background votes for its middle
        part = (slice(None), slice(-6, None), slice(y, y + 5), slice(x, x + 5))
        objects[part] = votes[part].mean((1, 2, 3), keepdim=True)
    places = [torch.tensor([0.0, 5.5]), torch.tensor([3.0, 7.25]), torch.tensor([1.0, 15.0])]
    expected = torch.stack([u * p + s for u, p, s in zip(unit.flatten(), places, start.flatten())], 1)[
        :, -spatial_dims:
    ]
    assert torch.allclose(own_votes(vote_lines(votes), places), expected, atol=1e-4)
    assert torch.allclose(own_votes(vote_lines(objects), places), expected, atol=0.15)


def test_scatter_rule_tells_a_background_from_a_large_object():
    label = torch.ones(24, 24, 24, dtype=torch.long)
    radius = (grid((24, 24, 24)) - 11.5).norm(dim=0)
    label[radius < 8] = 2  # large and compact
    for number, corner in enumerate([(0, 0, 0), (0, 20, 20), (20, 0, 20), (20, 20, 0)], start=3):
        z, y, x = corner
        label[z : z + 4, y : y + 4, x : x + 4] = number
    assert background_clusters("scatter", label, 7, torch.ones(24, 24, 24)).nonzero().flatten().tolist() == [1]
    assert background_clusters("largest", label, 7, torch.ones(24, 24, 24)).nonzero().flatten().tolist() == [1]
    assert not background_clusters("none", label, 7, torch.ones(24, 24, 24)).any()


def test_scatter_rule_takes_pieces_of_one_embedding_together():
    label = torch.arange(1, 28).reshape(3, 3, 3).repeat_interleave(8, 0).repeat_interleave(8, 1).repeat_interleave(8, 2)
    embedding = torch.arange(28.0)[:, None].repeat(1, 2) * 10
    corners = [1, 3, 7, 9, 19]
    embedding[corners] = torch.tensor([5.0, 5.0]) + 0.1 * torch.arange(5.0)[:, None]
    embedding[14] = embedding[2]  # two objects that happen to share an embedding
    size = torch.bincount(label.flatten())
    kind = same_embedding(embedding, size, 1.0)
    assert kind[corners].unique().tolist() == [1]
    assert kind[[2, 14]].tolist() == [2, 2]
    assert len(kind.unique()) == 1 + 27 - 4 - 1
    mass = torch.ones(label.shape)
    assert not background_clusters("scatter", label, 28, mass).any()
    found = background_clusters("scatter", label, 28, mass, alike=kind)
    assert found.nonzero().flatten().tolist() == corners


def test_one_kind_is_led_by_its_largest_cluster():
    means = torch.tensor([[0.0], [0.0], [0.8], [1.6], [5.0]])
    size = torch.tensor([99, 1, 3, 2, 0])
    assert same_embedding(means, size, 1.0).tolist() == [0, 2, 2, 2, 4]
    assert same_embedding(means, torch.tensor([99, 3, 2, 1, 1]), 1.0).tolist() == [0, 1, 1, 3, 4]
    assert same_embedding(means, size, 1.0, most=1).tolist() == [0, 1, 2, 3, 4]


def test_mask_rule_takes_the_majority():
    label = torch.tensor([[[1, 1, 1, 2, 2, 2]]])
    inside = torch.tensor([[[1.0, 1.0, 0.0, 1.0, 0.0, 0.0]]])
    found = background_clusters("mask", label, 3, torch.ones(1, 1, 6), inside=inside)
    assert found[1:].tolist() == [False, True]


@pytest.mark.parametrize("rule", ["largest", "scatter", "none"])
def test_rules_that_need_nothing(scene, rule):
    s = scene(3)
    labels = cluster_embeddings(s.embeddings, background=rule, min_size=50)  # a pocket of background has 39 voxels
    assert labels.max() == (10 if rule == "none" else 9)


def test_intensity_rule_takes_bright_voxels(scene):
    s = scene(3)
    image = (s.label > 0) * 100.0 + np.random.default_rng(0).normal(size=s.label.shape)
    labels = cluster_embeddings(s.embeddings, background="intensity", image=image[None])
    assert np.mean((labels > 0) == (s.label > 0)) > 0.999


def test_a_rule_that_compares_sizes_sees_small_regions_too():
    embeddings, truth = volume((126,) * 3, 60, seed=1)  # of background in many pieces, some of them small
    labels = cluster_embeddings(embeddings, merge_distance=1.0, min_size=least_voxels(truth.size, 60))
    assert scores(truth, labels)["ap"] > 0.95


def test_votes_at_the_blurred_border_of_a_region_do_not_make_it_background():
    embeddings, truth = volume((64,) * 3, 40, seed=0, coordinates=True)
    settings = {"coordinate_channels": 3, "merge_distance": 0.6, "max_blocks": 64**3 // 2}
    labels = cluster_embeddings(embeddings, min_size=least_voxels(truth.size, 40), **settings)
    assert scores(truth, labels)["ap"] == 1
