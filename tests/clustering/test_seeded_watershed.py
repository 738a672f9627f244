from __future__ import annotations

import numpy as np
import pytest

from spoco_bundle.clustering import cluster_embeddings
from spoco_bundle.clustering.seeded_watershed import seeded_watershed
from spoco_bundle.core.errors import SpocoError


def membranes(shape, *planes):
    """Objectness 1 but for membranes across the last axis, at which it falls to 0 over two voxels either side."""
    x = np.arange(shape[-1])
    distance = np.abs(x[:, None] - np.array(planes)).min(1)
    return np.broadcast_to(np.minimum(distance / 3, 1), shape).astype(np.float32)


def test_objects_meet_where_the_objectness_is_lowest_not_halfway_between_them():
    objectness = membranes((3, 4, 30), 8)
    labels = np.zeros(objectness.shape, np.int32)
    labels[1, 1, 2], labels[1, 1, 28] = 7, 3
    grown = seeded_watershed(labels, objectness, np.ones(labels.shape, bool))
    assert (grown[..., :8] == 7).all() and (grown[..., 9:] == 3).all() and set(np.unique(grown[..., 8])) <= {3, 7}


def test_only_voxels_within_the_mask_are_taken_and_none_is_changed():
    objectness = membranes((1, 12, 30), 8)
    labels = np.zeros(objectness.shape, np.int32)
    labels[0, 3:6, 2:20] = 5  # lies over the membrane
    within = objectness > 0.5
    within[0, :, 25:] = False
    grown = seeded_watershed(labels, objectness, within)
    assert (grown[labels > 0] == 5).all()
    assert np.array_equal(grown > 0, within | (labels > 0))
    assert not seeded_watershed(np.zeros_like(labels), objectness, within).any()


@pytest.mark.parametrize("shape", [(20, 30), (6, 20, 30)])
def test_clusters_of_the_inside_get_their_whole_extent_back(shape):
    objectness = membranes(shape, 9, 19)
    embeddings = np.zeros((2, *shape), np.float32)  # one embedding: only the membranes tell the cells apart
    given = {"objectness": objectness, "objectness_threshold": 0.9}
    inside = cluster_embeddings(embeddings, **given)
    assert inside.max() == 3 and np.array_equal(inside > 0, objectness > 0.9)
    whole = cluster_embeddings(embeddings, **given, extent_threshold=0)
    assert whole.min() == 1 and np.array_equal(whole[inside > 0], inside[inside > 0])
    assert [len(np.unique(whole[..., part])) for part in (slice(9), slice(10, 19), slice(20, None))] == [1, 1, 1]
    some = cluster_embeddings(embeddings, **given, extent_threshold=0.5)
    assert np.array_equal(some > 0, objectness >= 0.5)
    foreground = np.zeros(shape, bool)
    foreground[..., 3:25] = True
    held = cluster_embeddings(embeddings, **given, foreground=foreground, extent_threshold=0)
    assert np.array_equal(held > 0, foreground)


@pytest.mark.parametrize("objectness, threshold", [(None, 0.5), ("given", 1.5), ("given", -0.1)])
def test_extent_needs_an_objectness_and_a_threshold_in_range(objectness, threshold):
    given = None if objectness is None else membranes((8, 8), 4)
    with pytest.raises(SpocoError, match="extent_threshold"):
        cluster_embeddings(np.zeros((2, 8, 8), np.float32), objectness=given, extent_threshold=threshold)
