"""Where two networks see something different: places worth a person's annotation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.embedding_space import soft_mask


def disagreement_map(field: EmbeddingField, delta_var: float = 0.5, kernel_threshold: float = 0.5) -> Tensor:
    """How much two networks differ at every voxel.

    Whether there is an object: the difference of the objectness. Which object: 1 minus the kernel between both
    embeddings, weighted by the larger objectness, since background has no embedding to agree on.

    Args:
        field: embeddings and objectness of one network; its `second` are those of the other. Without an objectness
            every voxel counts as an object.
        delta_var: radius of an object in the embedding space, above 0.
        kernel_threshold: kernel value at that radius, in (0, 1).

    Returns:
        (*spatial) float32 in [0, 2].
    """
    found = torch.empty(field.shape, device=field.device)
    for start, stop in field.slabs():
        squared = (field.slab(start, stop) - field.second.slab(start, stop)).square_().sum(0)
        found[start:stop] = 1 - soft_mask(squared, delta_var, kernel_threshold)
    one, other = field.objectness, field.second.objectness
    if one is not None:
        found = (one - other).abs() + found * torch.maximum(one, other)
    return found.reshape(field.spatial)


def most_disputed(
    disagreement: np.ndarray, candidates: np.ndarray, spacing: Sequence[float], radius: float, count: int = 1
) -> list[tuple[tuple[int, ...], float]]:
    """Centres of the places of an object's size where a disagreement is largest.

    Args:
        disagreement: (*spatial) non-negative.
        candidates: (*spatial) bool, voxels that count and where a place may lie: seen as an object by at least one of
            the networks, since both only guess elsewhere, and not judged by a person yet.
        spacing: voxel size per axis.
        radius: typical radius of an object in the unit of spacing: the width of the averaging, and places lie at least
            twice that far apart.
        count: most places to return.

    Returns:
        Voxel index and mean disagreement around it, largest first; fewer where nothing is left.
    """
    sigma = [radius / step for step in spacing]
    mean = ndimage.gaussian_filter(np.where(candidates, disagreement, 0).astype(np.float32), sigma, mode="constant")
    mean[~candidates] = -1
    places = []
    grids = np.ogrid[tuple(slice(size) for size in mean.shape)]
    while len(places) < count and mean.max() >= 0:
        place = np.unravel_index(int(mean.argmax()), mean.shape)
        places.append((tuple(int(index) for index in place), float(mean[place])))
        distance = sum(((grid - index) * step) ** 2 for grid, index, step in zip(grids, place, spacing))
        mean[distance < (2 * radius) ** 2] = -1
    return places
