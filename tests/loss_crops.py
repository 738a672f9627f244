"""Crops on which the loss is tested, and one of its terms with its gradient."""

from __future__ import annotations

import torch

from spoco_bundle.losses import SpocoLoss

TERMS = ("pull", "push", "regularizer", "instance", "unlabeled_push", "consistency")


def make_crop(shape, channels=4, batch=1, dtype=torch.float64, seed=0, spread=1.0):
    """Embeddings around one centre per label, labels with gaps between the ids, and a teacher close by."""
    torch.manual_seed(seed)
    labels = torch.zeros(batch, *shape, dtype=torch.int64)
    third = shape[-1] // 3
    labels[..., : shape[-2] // 2, :third] = 7
    labels[..., : shape[-2] // 2, third : 2 * third] = 40
    labels[..., shape[-2] // 2 :, 2 * third :] = 900
    labels[..., -1, 0] = 5
    labels[..., 0, -1] = -1
    centres = spread * torch.randn(902, channels, dtype=dtype)
    embeddings = centres[labels + 1].movedim(-1, 1) + 0.4 * torch.randn(batch, channels, *shape, dtype=dtype)
    return embeddings, labels, embeddings + 0.2 * torch.randn_like(embeddings)


def terms_and_gradient(term, embeddings, *args, **options):
    leaf = embeddings.clone().requires_grad_()
    value = SpocoLoss(**options)(leaf, *args)[term]
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient
