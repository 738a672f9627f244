"""A subsample of voxels, and the assignment of all voxels to cluster centres found on it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.errors import SpocoError

CHUNK_DISTANCES = 1 << 23  # distances held at once


def check_range(low: float, high: float = math.inf, **values: float) -> None:
    """Refuses parameters below or above what they may be."""
    for name, value in values.items():
        if not low <= value <= high:
            wanted = f"{low} or more" if high == math.inf else f"a number from {low} to {high}"
            raise SpocoError(f"{name} is {value}: give {wanted}")


def sample_voxels(field: EmbeddingField, foreground: Tensor | None, max_samples: int, seed: int) -> Tensor:
    """Ascending flat indices of at most `max_samples` foreground voxels, one drawn from each of as many equal runs."""
    if foreground is None:
        count, index = field.voxels, None
    else:
        index = torch.nonzero(foreground.flatten()).squeeze(1)
        count = len(index)
    if count <= max_samples:
        return torch.arange(count, device=field.device) if index is None else index
    generator = torch.Generator().manual_seed(seed)
    jitter = torch.rand(max_samples, generator=generator, dtype=torch.float64)
    chosen = ((torch.arange(max_samples) + jitter) * (count / max_samples)).long().to(field.device)
    return chosen if index is None else index[chosen]


def nearest_centre(vectors: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Index of and squared distance to the nearest of the centres (K, E), both (N,), for vectors (N, E)."""
    step = max(1, CHUNK_DISTANCES // max(1, len(centres)))
    origin = centres.mean(0)  # near the data, so that the matrix product does not cancel at large coordinates
    squares = (centres - origin).square().sum(1)
    index = torch.empty(len(vectors), dtype=torch.long, device=vectors.device)
    for start in range(0, len(vectors), step):
        score = torch.addmm(squares, vectors[start : start + step] - origin, (centres - origin).T, alpha=-2)
        index[start : start + step] = score.argmin(1)
    return index, (vectors - centres[index]).square().sum(1)


def assign_to_centres(field: EmbeddingField, centres: Tensor, foreground: Tensor | None) -> Tensor:
    """Label (z, y, x) int32 of every voxel: 1 + index of the nearest centre; 0 outside the foreground."""
    labels = torch.zeros(field.shape, dtype=torch.int32, device=field.device)
    for start, stop in field.slabs(values=1 << 23):
        vectors = field.slab(start, stop).reshape(field.channels, -1).T
        nearest = nearest_centre(vectors, centres)[0].to(torch.int32) + 1
        labels[start:stop] = nearest.reshape(stop - start, *field.shape[1:])
    return labels if foreground is None else labels * foreground
