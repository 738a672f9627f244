from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.cluster import HDBSCAN

from spoco_bundle.clustering import cluster_embeddings
from spoco_bundle.clustering.centres import sample_voxels
from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.errors import SpocoError
from support import matched


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(
    "method", ["mean_shift", "hdbscan", pytest.param("compiled hdbscan", marks=pytest.mark.slow), "consistency"]
)
def test_methods_find_the_balls(scene, method, spatial_dims, monkeypatch):
    if method == "hdbscan":  # the same by scikit-learn, since a fresh environment compiles it for half a minute
        monkeypatch.setitem(sys.modules, "fast_hdbscan", SimpleNamespace(HDBSCAN=partial(HDBSCAN, copy=True)))
    method = method.removeprefix("compiled ")
    s = scene(spatial_dims)
    extra = {"teacher_embeddings": s.embeddings + 0.01} if method == "consistency" else {}
    if method == "hdbscan":
        extra |= {"min_cluster_size": 20}
    keywords = {"max_samples": 4000, **extra}
    for foreground in (s.label > 0, None):
        background = "largest" if foreground is None else "foreground"
        labels = cluster_embeddings(s.embeddings, method, foreground=foreground, background=background, **keywords)
        assert labels.max() == matched(s.label, labels) == 9
        assert np.array_equal(
            labels, cluster_embeddings(s.embeddings, method, foreground=foreground, background=background, **keywords)
        )


def test_consistency_drops_what_the_teacher_does_not_see(scene):
    s = scene(3)
    teacher = s.embeddings.copy()
    teacher[:, s.label == 5] = 3 * np.random.default_rng(0).normal(size=(8, (s.label == 5).sum()))
    labels = cluster_embeddings(
        s.embeddings, "consistency", teacher_embeddings=teacher, foreground=s.label > 0, max_samples=5000
    )
    assert labels.max() == 8
    assert (labels[s.label == 5] == 0).mean() > 0.9


def test_consistency_asks_for_the_teacher(scene):
    with pytest.raises(SpocoError, match="needs teacher_embeddings"):
        cluster_embeddings(scene(2).embeddings, "consistency")


@pytest.mark.parametrize("method", ["mean_shift", "hdbscan", "consistency"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_embeddings_that_are_not_finite_are_refused(scene, method, everywhere, monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_hdbscan", SimpleNamespace(HDBSCAN=HDBSCAN))
    s = scene(2)
    broken = s.embeddings.copy()
    broken[:, slice(None) if everywhere else 7] = np.nan
    objectness = np.where(everywhere, np.nan, s.objectness)
    for given, teacher in ((broken, s.embeddings), (s.embeddings, broken)):
        if given is broken or method == "consistency":
            with pytest.raises(SpocoError, match="NaN or infinite"):
                cluster_embeddings(given, method, teacher_embeddings=teacher, objectness=objectness)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        *(("density_peaks", one) for one in ({"merge_distance": 0}, {"max_blocks": 0}, {"seed_objectness": 1.5})),
        *(("mean_shift", one) for one in ({"max_seeds": 0}, {"max_samples": 0}, {"min_share": 2}, {"bandwidth": 0})),
        *(("consistency", one) for one in ({"anchors": 0}, {"max_seeds": 0}, {"min_agreement": -1}, {"delta_var": 0})),
        *(("hdbscan", one) for one in ({"min_cluster_size": 1}, {"min_samples": 0}, {"selection_epsilon": -1})),
        ("hdbscan", {"keep_noise": True, "max_samples": 100}),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(scene, method, params, monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_hdbscan", SimpleNamespace(HDBSCAN=HDBSCAN))
    s = scene(2)
    with pytest.raises(SpocoError, match=next(iter(params))):
        cluster_embeddings(s.embeddings, method, teacher_embeddings=s.embeddings, background="none", **params)


@pytest.mark.parametrize(("min_share", "count"), [(0.01, 2), (0.0, 3)])
def test_few_voxels_of_their_own_are_no_centre(min_share, count):
    embeddings = np.zeros((1, 40, 40), np.float32)
    embeddings[0, 20:], embeddings[0, 5, 5] = 10, 5
    options = {"background": "none", "min_size": 1, "split_parts": False}
    found = cluster_embeddings(embeddings, "mean_shift", min_share=min_share, **options)
    assert found.max() == count and found.all()


def test_consistency_goes_by_most_anchors_of_an_object():
    """Of one object the teacher sees two fifths as the student does: on the average enough, but not most of it."""
    embeddings = np.zeros((2, 20, 20), np.float32)
    embeddings[0, :, 10:] = 10
    teacher = embeddings.copy()
    teacher[:, 8:, 10:] += 6 * np.random.default_rng(0).normal(size=(2, 12, 10)).astype(np.float32)
    options = {"background": "none", "anchors": 400, "min_size": 1}
    found = {
        agreement: cluster_embeddings(
            embeddings, "consistency", teacher_embeddings=teacher, min_agreement=agreement, **options
        ).max()
        for agreement in (0.0, 0.1)
    }
    assert found == {0.0: 2, 0.1: 1}


@pytest.mark.parametrize(("delta_var", "count"), [(0.6, 1), (0.8, 2)])
def test_a_mask_of_the_teacher_reaches_as_far_as_delta_var(delta_var, count):
    """The teacher sees half of an object 0.7 away from its other half."""
    embeddings = np.zeros((2, 20, 20), np.float32)
    embeddings[0, :, 10:] = 10
    teacher = embeddings.copy()
    teacher[1, 10:, 10:] = 0.7
    given = {"teacher_embeddings": teacher, "background": "none", "min_size": 1, "min_agreement": 0.6}
    assert cluster_embeddings(embeddings, "consistency", delta_var=delta_var, **given).max() == count


def test_the_sample_of_a_volume_has_one_voxel_of_each_equal_run():
    found = sample_voxels(EmbeddingField(np.zeros((1, 50, 60), np.float32)), None, max_samples=100, seed=0)
    assert (np.asarray(found) // 30).tolist() == list(range(100))


def test_a_sample_too_small_for_two_clusters_is_one(scene, monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_hdbscan", SimpleNamespace(HDBSCAN=HDBSCAN))
    s = scene(2)
    options = {"split_parts": False, "max_samples": 40, "min_cluster_size": 50}
    labels = cluster_embeddings(s.embeddings, "hdbscan", foreground=s.label > 0, **options)
    assert np.array_equal(labels, s.label > 0)
