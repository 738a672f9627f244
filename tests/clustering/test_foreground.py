from __future__ import annotations

import numpy as np
import pytest

from spoco_bundle.clustering import cluster_embeddings


def noisy(s):
    """Intensities in which the objects are brighter."""
    return np.where(s.label > 0, 100.0, 10.0) + np.random.default_rng(0).normal(0, 5, s.label.shape)


@pytest.mark.parametrize(
    "method, rule",
    [
        *(("density_peaks", rule) for rule in ("objectness", "otsu", "largest", "none", "foreground", "auto")),
        ("mean_shift", "auto"),
    ],
)
def test_a_given_mask_holds_by_any_rule(scene, method, rule):
    s = scene(3)
    mask = s.label > 0
    mask[:, :, :14] = False
    objectness = s.objectness if rule in ("objectness", "auto") else None
    labels = cluster_embeddings(
        s.embeddings,
        method,
        background=rule,
        foreground=mask,
        objectness=objectness,
        image=noisy(s) if rule == "otsu" else None,
    )
    assert labels.max() >= 5
    assert not labels[~mask].any()


@pytest.mark.parametrize("rule", ["objectness", "otsu", "foreground", "largest"])
def test_every_rule_finds_the_balls(scene, rule):
    s = scene(3)
    given = {
        "objectness": {"objectness": s.objectness},
        "otsu": {"image": np.where(s.label > 0, 100.0, 10.0)[None]},
        "foreground": {"foreground": s.label > 0},
        "largest": {},
    }[rule]
    labels = cluster_embeddings(s.embeddings, background=rule, merge_distance=0.6, objectness_threshold=0.3, **given)
    assert labels.max() == 9
    assert np.array_equal(labels > 0, s.objectness > 0.3 if rule == "objectness" else s.label > 0)


def test_auto_takes_the_objectness_then_a_mask_then_the_largest_cluster(scene):
    s = scene(2)
    mask = (s.label > 0) & (s.label < 6)
    for given, rule in (
        ({"objectness": s.objectness, "foreground": mask}, "objectness"),
        ({"foreground": mask}, "foreground"),
        ({}, "largest"),
    ):
        automatic = cluster_embeddings(s.embeddings, merge_distance=0.6, **given)
        assert np.array_equal(automatic, cluster_embeddings(s.embeddings, merge_distance=0.6, background=rule, **given))
