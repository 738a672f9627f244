"""What holds of every clustering method for any shape and embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform

from spoco_bundle.clustering import cluster_embeddings
from support import same_partition

FEW = settings(max_examples=15, deadline=None, derandomize=True)
#: a fresh environment compiles HDBSCAN for half a minute
METHODS = ["density_peaks", "mean_shift", pytest.param("hdbscan", marks=pytest.mark.slow), "consistency"]
SHAPES = st.one_of(st.tuples(*[st.integers(1, 14)] * 2), st.tuples(*[st.integers(1, 7)] * 3))


def clustered(method, embeddings, **options):
    if method == "consistency":
        options["teacher_embeddings"] = embeddings
    if method == "hdbscan":
        options["min_cluster_size"] = 3
    return cluster_embeddings(embeddings, method, min_size=1, return_confidence=True, **options)


@pytest.mark.parametrize("method", METHODS)
@FEW
@given(
    shape=SHAPES,
    channels=st.integers(3, 5),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([np.float32, np.float64]),
    spread=st.sampled_from([0.0, 0.3, 5.0, 1000.0]),
    share=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_any_embeddings_give_consecutive_labels_inside_the_foreground(
    method, shape, channels, seed, dtype, spread, share
):
    random = np.random.default_rng(seed)
    embeddings = (random.normal(size=(channels, *shape)) * spread).astype(dtype)
    foreground = random.random(shape) < share
    labels, confidence = clustered(method, embeddings, foreground=foreground, background="foreground")
    assert labels.shape == shape and labels.dtype == np.int32
    assert set(np.unique(labels)) - {0} == set(range(1, labels.max() + 1))
    assert not labels[~foreground].any()
    assert confidence.shape == (labels.max(),)
    assert ((0 <= confidence) & (confidence <= 1)).all()


@st.composite
def scenes(draw):
    """Boxes of at least 27 voxels that do not touch, each with a colour of its own far from the others'."""
    counts = draw(st.tuples(*[st.integers(1, 2)] * draw(st.integers(2, 3))))
    sizes = [draw(st.lists(st.integers(4, 6), min_size=n, max_size=n)) for n in counts]
    truth = np.zeros([sum(size) + n + 1 for size, n in zip(sizes, counts)], dtype=np.int64)
    for number, place in enumerate(np.ndindex(*counts), start=1):
        low = [1 + sum(size[:at]) + at for size, at in zip(sizes, place)]
        truth[tuple(slice(start, start + size[at]) for start, size, at in zip(low, sizes, place))] = number
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    colours = 6.0 * np.eye(truth.max() + 1, max(truth.max() + 1, 4))
    embeddings = np.moveaxis(colours[truth], -1, 0) + 0.05 * random.normal(size=(colours.shape[1], *truth.shape))
    return truth, embeddings.astype(np.float32)


def brute_force(embeddings, foreground, reach=2.0):
    """Partition of the foreground by single linkage of all pairs of vectors."""
    vectors = embeddings[:, foreground].T
    near = coo_matrix(squareform(pdist(vectors)) < reach)
    labels = np.zeros(foreground.shape, dtype=np.int64)
    labels[foreground] = connected_components(near, directed=False)[1] + 1
    return labels


@pytest.mark.parametrize("method", METHODS)
@FEW
@given(scene=scenes(), as_tensor=st.booleans())
def test_separated_objects_agree_with_brute_force_and_the_truth(method, scene, as_tensor):
    truth, embeddings = scene
    assume(method != "hdbscan" or truth.max() > 1)  # it takes a single density peak for noise
    given_as = torch.from_numpy(embeddings) if as_tensor else embeddings
    labels, _ = clustered(method, given_as, foreground=truth > 0, background="foreground")
    labels = np.asarray(labels)
    assert same_partition(labels, brute_force(embeddings, truth > 0))
    assert same_partition(labels, truth)


@FEW
@given(scene=scenes())
def test_centre_votes_of_separated_objects_give_the_truth(scene):
    truth, embeddings = scene
    dims = truth.ndim
    for number in range(1, truth.max() + 1):
        centre = np.argwhere(truth == number).mean(0)
        embeddings[:dims, truth == number] = (centre / 2.0)[:, None]
    labels, _ = clustered(
        "density_peaks", embeddings, foreground=truth > 0, background="foreground", coordinate_channels=dims
    )
    assert same_partition(labels, truth)
