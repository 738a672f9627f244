"""What holds of the loss for any shape, type and numbering."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_crops import reference

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


@FEW
@given(crop=crops())
def test_small_crops_agree_with_brute_force(crop):
    embeddings, labels = crop
    found = SpocoLoss()(embeddings, labels)
    expected = [reference(*item) for item in zip(embeddings.double(), labels)]
    tolerance = {"rel": 2e-3, "abs": 2e-4} if embeddings.dtype == torch.float32 else {"rel": 1e-9, "abs": 1e-9}
    for name in expected[0]:
        wanted = sum(float(one[name]) for one in expected) / len(expected)
        assert float(found[name]) == pytest.approx(wanted, **tolerance), name


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
