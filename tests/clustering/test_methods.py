from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.cluster import HDBSCAN

from spoco_bundle.clustering import METHODS, cluster_embeddings
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


def test_names():
    assert {"density_peaks", "mean_shift", "hdbscan", "consistency", "mutex_watershed"} == set(METHODS)
