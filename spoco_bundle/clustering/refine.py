"""From clusters to objects: disconnected parts split, small parts given to a neighbour or dropped, ids consecutive."""

from __future__ import annotations

import torch
from torch import Tensor

from spoco_bundle.clustering.connected_parts import connected_parts
from spoco_bundle.clustering.neighbourhood import places_of, run_starts

__all__ = ["refine"]


def refine(
    labels: Tensor,
    *,
    foreground: Tensor | None = None,
    objectness: Tensor | None = None,
    split_parts: bool = True,
    min_size: int = 20,
    seed_objectness: float = 0.5,
) -> Tensor:
    """Turn clusters into objects, on the device that they are on.

    Args:
        labels: (z, y, x) int32, 0 = background.
        foreground: (z, y, x) bool, voxels that background does not compete for.
        split_parts: whether every connected part (26 neighbours, 8 in an image) of a cluster is an object of its own.
        min_size: parts of fewer voxels go to the object or background that they share most faces with; with a
            foreground to the object, where there is one.
        objectness: (z, y, x) in [0, 1].
        seed_objectness: where an objectness is given, objects in which it stays below this everywhere are dropped.

    Returns:
        (z, y, x) int32, ids 1..n in the order in which they first appear, 0 = background.
    """
    if split_parts:
        labels = connected_parts(labels)
    flat = labels.flatten()
    size = torch.bincount(flat)
    small = size < min_size
    small[0] = False
    target = absorbed(labels, small, against_background=foreground is None)
    kept = torch.zeros_like(size).index_add_(0, target, size) >= min_size
    if objectness is not None:
        top = torch.zeros(len(size), device=labels.device)
        for plane, values in zip(labels, objectness, strict=True):  # one by one: the indices take 64 bits
            top.scatter_reduce_(0, target[plane.flatten().long()], values.flatten(), "amax")
        kept &= top >= seed_objectness
    kept[0] = False
    first = torch.full_like(size, len(flat)).scatter_reduce_(0, target, first_voxels(flat, len(size)), "amin")
    objects = torch.nonzero(kept).squeeze(1)
    objects = objects[torch.argsort(first[objects])]
    number = torch.zeros(len(size), dtype=torch.int32, device=labels.device)
    number[objects] = torch.arange(1, len(objects) + 1, dtype=torch.int32, device=labels.device)
    return number[target].index_select(0, flat).view_as(labels)


def first_voxels(flat: Tensor, count: int) -> Tensor:
    """Index (count,) of the first voxel of each label of a map (n,), n where there is none."""
    place = torch.nonzero(run_starts(flat)).squeeze(1)
    first = torch.full((count,), len(flat), device=flat.device)
    return first.scatter_reduce_(0, flat[place].long(), place, "amin")


def absorbed(labels: Tensor, small: Tensor, against_background: bool) -> Tensor:
    """Label (K + 1,) that each part becomes: a small one that which it shares most faces with, another stays.

    Args:
        labels: (z, y, x) int32 in 0..K.
        small: (K + 1,) bool, not true for background.
        against_background: whether background takes small parts; otherwise only one that touches no large part is lost.
    """
    count = len(small)
    flat = labels.flatten()
    voxels = torch.nonzero(small.index_select(0, flat)).squeeze(1)
    strides = (labels.shape[1] * labels.shape[2], labels.shape[2], 1)
    keys = []
    for place, stride, extent in zip(places_of(voxels, labels.shape), strides, labels.shape, strict=True):
        for step, beside in ((stride, place < extent - 1), (-stride, place > 0)):
            rows = voxels[beside]
            part, other = flat[rows].long(), flat[rows + step].long()
            taken = ~small[other] if against_background else ~small[other] & (other > 0)
            keys.append(part[taken] * count + other[taken])
    key, faces = torch.unique(torch.cat(keys), return_counts=True)
    part, other = key // count, key % count
    most = torch.zeros_like(small, dtype=faces.dtype).scatter_reduce_(0, part, faces, "amax")
    best = faces == most[part]
    # of equally shared faces the part that appears first
    chosen = torch.full_like(most, count).scatter_reduce_(0, part[best], other[best], "amin")
    return torch.where(small, chosen % count, torch.arange(count, device=labels.device))
