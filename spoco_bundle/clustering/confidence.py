"""How far an object can be trusted: compactness of its embedding, objectness, agreement of student and teacher."""

from __future__ import annotations

import torch
from scipy import ndimage
from torch import Tensor

from spoco_bundle.clustering.voxels import Volume
from spoco_bundle.embedding_space import kernel_scale, soft_mask

__all__ = ["object_confidence", "object_means"]

SAMPLES = 1_000_000  # voxels that the compactness of all objects together is measured on


def object_confidence(
    volume: Volume,
    labels: Tensor,
    *,
    objectness: Tensor | None = None,
    teacher: Volume | None = None,
    delta_var: float = 0.5,
    kernel_threshold: float = 0.5,
) -> Tensor:
    """Confidence (n,) float32 in [0, 1] of the objects 1..n.

    With a teacher the agreement of the object's soft masks, otherwise the mean kernel value of the object's voxels
    around their mean; times the greatest objectness of a voxel in the object, where an objectness is given.

    Args:
        volume: the student's embeddings.
        labels: (z, y, x) consecutive objects, 0 = background.
        objectness: (z, y, x) in [0, 1].
        teacher: the teacher's embeddings.
        delta_var: radius of an object in the embedding space, above 0.
        kernel_threshold: kernel value at that radius, in (0, 1).
    """
    count = int(labels.max()) + 1
    if count == 1:
        return torch.zeros(0, device=labels.device)
    flat = labels.flatten().long()
    if teacher is not None:
        confidence = mask_agreement(volume, teacher, labels, delta_var, kernel_threshold)
    else:
        index = torch.nonzero(flat).squeeze(1)
        index = index[:: max(1, len(index) // SAMPLES)]
        vectors, owner = volume.take(index), flat[index]
        means = object_means(vectors, owner, count)
        similar = torch.exp((vectors - means[owner]).square().sum(1) / -kernel_scale(delta_var, kernel_threshold))
        number = torch.bincount(owner, minlength=count).clamp(min=1)
        confidence = (torch.bincount(owner, similar, minlength=count) / number)[1:]
    if objectness is not None:
        top = torch.zeros(count, device=labels.device)
        top.scatter_reduce_(0, flat, objectness.flatten(), "amax")
        confidence = confidence * top[1:]
    return confidence.float()


def object_means(vectors: Tensor, owner: Tensor, count: int) -> Tensor:
    """Mean embeddings (count, E) of vectors (N, E) by owner (N,); 0 where an owner has no vector."""
    total = torch.zeros(count, vectors.shape[1], dtype=torch.float64, device=vectors.device)
    total.index_add_(0, owner, vectors.double())
    return (total / torch.bincount(owner, minlength=count).clamp(min=1)[:, None]).float()


def mask_agreement(
    student: Volume, teacher: Volume, labels: Tensor, delta_var: float, kernel_threshold: float
) -> Tensor:
    """Soft intersection over union (n,) of each object's mask in the student's and in the teacher's embedding.

    The anchor is the object's mean embedding in either; `sum min(s, t) / sum max(s, t)` runs over the object's bounding
    box, one voxel wider on each side.
    """
    boxes = ndimage.find_objects(labels.cpu().numpy())
    scores = []
    for number, box in enumerate(boxes, start=1):
        wide = tuple(
            slice(max(0, part.start - 1), min(extent, part.stop + 1))
            for part, extent in zip(box, labels.shape, strict=True)
        )
        inside = labels[wide] == number
        soft = []
        for volume in (student, teacher):
            vectors = volume.box(wide)
            mean = vectors[:, inside].mean(1)
            squared = (vectors - mean[:, None, None, None]).square().sum(0)
            soft.append(soft_mask(squared, delta_var, kernel_threshold))
        scores.append(torch.minimum(*soft).sum() / torch.maximum(*soft).sum())
    return torch.stack(scores)
