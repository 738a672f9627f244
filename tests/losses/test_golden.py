"""Values and gradients against golden numbers of the published implementation, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spoco_bundle.losses import SpocoLoss

CASES = ("2d_many", "3d_many", "3d_one", "3d_dense")
NAMES = {
    "pull": "pull",
    "push": "push",
    "unlabeled_push": "unlabeled_push",
    "regularizer": "regularizer_labelled_only",
    "instance": "instance_dice_pooled",
}


@pytest.fixture(scope="module")
def golden(shared_dir):
    with np.load(shared_dir / "fixtures" / "loss_terms.npz") as archive:
        return dict(archive)


@pytest.mark.parametrize("term", NAMES)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_the_golden_ones(golden, case, term):
    embeddings = torch.tensor(golden[f"{case}/embeddings"])[None].requires_grad_()
    labels = torch.tensor(golden[f"{case}/labels"])[None]
    value = SpocoLoss()(embeddings, labels)[term]
    value.backward()
    expected = float(golden[f"{case}/{NAMES[term]}"])
    assert value.item() == pytest.approx(expected, rel=1e-6, abs=1e-14)
    key = f"{case}/grad_{NAMES[term]}"
    if key not in golden:
        assert expected == 0 and not embeddings.grad.any()
        return
    wanted = torch.tensor(golden[key])
    scale = wanted.abs().max()
    assert torch.allclose(embeddings.grad[0], wanted, rtol=1e-6, atol=1e-8 * scale)
