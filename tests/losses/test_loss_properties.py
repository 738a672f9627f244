"""What holds of the loss for any shape, type and numbering."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spoco_bundle.losses import SpocoLoss

FEW = settings(max_examples=40, deadline=None, derandomize=True)
SHAPES = st.one_of(st.tuples(*[st.integers(1, 6)] * 2), st.tuples(*[st.integers(1, 4)] * 3))


@st.composite
def crops(draw, ids=(0, 1, 2, 3)):
    """Embeddings (B, E, *spatial) and labels (B, *spatial)."""
    shape, batch, channels = draw(SHAPES), draw(st.integers(1, 2)), draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = torch.from_numpy(random.choice(ids, (batch, *shape)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    spread = draw(st.sampled_from([0.0, 0.5, 3.0, 50.0]))
    return torch.from_numpy(random.normal(size=(batch, channels, *shape)) * spread).to(dtype), labels


def terms(embeddings, labels, **options):
    return SpocoLoss(consistency_weight=0, **options)(embeddings, labels)


def brute_force(embeddings, labels, delta_var=0.5, delta_dist=2.0):
    """Pull, push, regularizer, unlabeled push and Dice of one crop, voxel by voxel."""
    vectors = embeddings.reshape(len(embeddings), -1).T.double().numpy()
    flat = labels.reshape(-1).numpy()
    ids = [i for i in np.unique(flat) if i > 0]
    if not ids:
        return dict.fromkeys(("pull", "push", "regularizer", "unlabeled_push", "instance"), 0.0)
    means = {i: vectors[flat == i].mean(0) for i in ids}
    scale = delta_var**2 / math.log(2)
    pull, unlabeled, overlap, squares, masses = [], [], 0.0, 0.0, 0
    for i in ids:
        distance = [math.dist(vector, means[i]) for vector in vectors]
        pull.append(np.mean([max(0, d - delta_var) ** 2 for d, j in zip(distance, flat) if j == i]))
        outside = [max(0, delta_dist - d) ** 2 for d, j in zip(distance, flat) if j == 0]
        unlabeled.append(np.mean(outside) if outside else 0.0)
        masks = [math.exp(-(d**2) / scale) for d in distance]
        overlap += sum(m for m, j in zip(masks, flat) if j == i)
        squares += sum(m * m for m in masks)
        masses += int((flat == i).sum())
    pairs = [max(0, 2 * delta_dist - math.dist(means[i], means[j])) ** 2 for i in ids for j in ids if i != j]
    return {
        "pull": np.mean(pull),
        "push": np.mean(pairs) if pairs else 0.0,
        "regularizer": np.mean([np.linalg.norm(mean) for mean in means.values()]),
        "unlabeled_push": np.mean(unlabeled),
        "instance": 1 - 2 * overlap / (squares + masses),
    }


@FEW
@given(crop=crops())
def test_small_crops_agree_with_brute_force(crop):
    embeddings, labels = crop
    found = terms(embeddings, labels)
    expected = [brute_force(*item) for item in zip(embeddings, labels)]
    for name in expected[0]:
        wanted = float(np.mean([one[name] for one in expected]))
        assert float(found[name]) == pytest.approx(wanted, rel=2e-3, abs=2e-4), name


@FEW
@given(crop=crops(ids=(-1, 0, 1, 2, 70_000)), objectness=st.booleans(), seed=st.integers(0, 99))
def test_terms_and_gradients_are_finite_and_terms_not_negative(crop, objectness, seed):
    embeddings, labels = crop
    if objectness:
        embeddings = torch.cat([embeddings, embeddings[:, :1]], 1)
    embeddings.requires_grad_()
    loss = SpocoLoss(objectness=objectness, ignore_label=-1)
    found = loss(embeddings, labels, embeddings.detach() * 0.9, seeds=torch.full((len(labels),), seed))
    for name, value in found.items():
        assert torch.isfinite(value) and value >= -1e-6, name
    found["loss"].backward()
    assert embeddings.grad.shape == embeddings.shape and torch.isfinite(embeddings.grad).all()
