from __future__ import annotations

import sys
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from spoco_bundle.clustering import cluster_embeddings
from spoco_bundle.clustering.mutex_watershed import edge_weights, offsets
from spoco_bundle.core.errors import SpocoError
from support import matched


@pytest.fixture
def installed():
    """Skips where the extra is missing."""
    pytest.importorskip("mwatershed", reason="the extra is missing: pip install 'spoco-bundle[graph]'")


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("coordinates", [False, True])
def test_finds_touching_balls(installed, scene, spatial_dims, coordinates):
    s = scene(spatial_dims, coordinates)
    labels = cluster_embeddings(s.embeddings, "mutex_watershed", foreground=s.label > 0)
    assert labels.max() == matched(s.label, labels) == 9
    assert np.array_equal(labels > 0, s.label > 0)
    assert np.array_equal(labels, cluster_embeddings(s.embeddings, "mutex_watershed", foreground=s.label > 0))


def test_the_background_can_be_the_largest_cluster(installed, scene):
    s = scene(2)
    labels = cluster_embeddings(s.embeddings, "mutex_watershed", background="largest")
    assert matched(s.label, labels) == 9
    # what is left are pockets of background that the balls enclose
    pockets = [i for i in range(1, labels.max() + 1) if (s.label[labels == i] == 0).mean() > 0.5]
    assert labels.max() - len(pockets) == 9 and np.isin(labels, pockets).mean() < 0.05


def test_follows_a_long_object_whose_embedding_drifts(installed):
    """Two parallel bars; along each the embedding moves much further than the bars are apart."""
    embeddings = np.zeros((2, 12, 80), np.float32)
    embeddings[0] = np.linspace(0, 8, 80)
    embeddings[1, 6:] = 2.0
    labels = cluster_embeddings(embeddings, "mutex_watershed", background="none", reach=[4, 2])
    assert labels.max() == 2
    assert (labels[:6] == labels[0, 0]).all() and (labels[6:] == labels[-1, 0]).all()
    centres = cluster_embeddings(embeddings, "mean_shift", background="none", bandwidth=1.0)
    assert centres.max() > 2  # what a method of centres makes of them


def test_a_thinned_out_volume_gives_the_same_objects(installed, scene):
    s = scene(3, noise=0.02)
    labels = cluster_embeddings(s.embeddings, "mutex_watershed", foreground=s.label > 0, max_voxels=8000, reach=3)
    assert labels.max() == matched(s.label, labels) == 9
    assert np.array_equal(labels > 0, s.label > 0)


@pytest.fixture
def agglom(installed, monkeypatch):
    """Stands in for the solver."""
    solver = MagicMock(side_effect=lambda weights, *_, **__: np.ones(weights.shape[1:]))
    monkeypatch.setattr("mwatershed.agglom", solver)
    return solver


def test_edges_reach_as_far_in_a_thinned_out_volume(agglom):
    cluster_embeddings(np.zeros((2, 60, 60), np.float32), "mutex_watershed", background="none", reach=8, max_voxels=900)
    assert agglom.call_args.args[1][3:5] == [[4, 0, 0], [0, 0, 4]]


def test_edges_that_keep_apart_are_taken_at_some_voxels_alone(agglom):
    cluster_embeddings(np.zeros((2, 8, 8), np.float32), "mutex_watershed", background="none", repulsion_stride=3)
    assert agglom.call_args.kwargs["strides"] == [[1] * 3] * 3 + [[3] * 3] * 4


def test_edges_join_voxels_of_the_foreground_only_and_weigh_distances():
    vectors = torch.tensor([[[[0.0, 0.3, 5.0, 5.0, 5.0]]]])
    inside = np.array([[[True, True, True, True, False]]])
    weights = edge_weights(vectors, inside, offsets((1, 1, 5), 2), merge_distance=1.0, scale=0.25)
    near, far = weights[2, 0, 0], weights[3, 0, 0]
    assert near == pytest.approx([np.exp(-0.09 / 0.25), 0, 1, 0, 0], abs=1e-6)
    assert far == pytest.approx([-1, -1, 0, 0, 0], abs=1e-6)  # from voxel 2 the edge would leave the foreground


def test_offsets_span_pairs_of_axes_and_skip_the_missing_one():
    assert offsets((9, 1, 9), [3, 2])[3:] == [[3, 0, 0], [0, 0, 2], [3, 0, 2], [3, 0, -2]]
    assert len(offsets((9, 9, 9), 4)) == 3 + 3 + 6
    # between voxels of which every third is left they are as long in the volume
    assert offsets((9, 1, 9), [12, 4], 3)[:6] == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [4, 0, 0], [0, 0, 2], [4, 0, 2]]


@pytest.mark.parametrize("params", [{"reach": 1}, {"reach": [2, 2]}, {"merge_distance": 0}, {"repulsion_stride": 0}])
def test_values_out_of_range(installed, scene, params):
    with pytest.raises(SpocoError, match=next(iter(params))):
        cluster_embeddings(scene(3).embeddings, "mutex_watershed", background="none", **params)


def test_without_the_extra_one_line_says_what_to_install(scene, monkeypatch):
    monkeypatch.setitem(sys.modules, "mwatershed", None)
    with pytest.raises(SpocoError, match=r"spoco-bundle\[graph\]"):
        cluster_embeddings(scene(2).embeddings, "mutex_watershed", background="none")


@pytest.mark.parametrize("box", [(1, 1, 1), (2, 2, 2), (3, 9, 9)])
def test_a_foreground_thinner_than_the_reach_is_an_object(installed, box):
    foreground = np.zeros((9, 10, 12), bool)
    foreground[tuple(slice(1, 1 + size) for size in box)] = True
    embeddings = np.zeros((2, *foreground.shape), np.float32)
    labels = cluster_embeddings(embeddings, "mutex_watershed", foreground=foreground, min_size=1)
    assert np.array_equal(labels, foreground)
