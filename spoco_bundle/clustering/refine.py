"""From clusters to objects: disconnected parts split, small parts given to a neighbour or dropped, ids consecutive."""

from __future__ import annotations

import cc3d
import fastremap
import numpy as np

__all__ = ["refine"]


def refine(
    labels: np.ndarray,
    *,
    foreground: np.ndarray | None = None,
    objectness: np.ndarray | None = None,
    split_parts: bool = True,
    min_size: int = 20,
    seed_objectness: float = 0.5,
) -> np.ndarray:
    """Turn clusters into objects.

    Args:
        labels: (z, y, x) integers, 0 = background.
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
        labels = cc3d.connected_components(np.ascontiguousarray(labels, dtype=np.int32), connectivity=26)
    labels = np.ascontiguousarray(labels, dtype=np.int32)
    small = sizes(labels) < min_size
    small[0] = False
    if small.any():
        labels = absorb(labels, small, against_background=foreground is None)
    dropped = sizes(labels) < min_size
    if objectness is not None:
        top = np.zeros(len(dropped), np.float32)
        np.maximum.at(top, labels.ravel(), objectness.ravel())
        dropped |= top < seed_objectness
    if dropped.any():
        labels = np.where(dropped, 0, np.arange(len(dropped), dtype=np.int32))[labels]
    return fastremap.renumber(labels, preserve_zero=True, in_place=True)[0].astype(np.int32, copy=False)


def sizes(labels: np.ndarray) -> np.ndarray:
    """Voxels per label, counted plane by plane: NumPy counts a copy in 64 bits."""
    count = np.zeros(int(labels.max()) + 1, np.int64)
    for plane in labels:
        count += np.bincount(plane.ravel(), minlength=len(count))
    return count


def absorb(labels: np.ndarray, small: np.ndarray, against_background: bool) -> np.ndarray:
    """Give every small part to the larger part, or the background, that it shares most faces with."""
    count = len(small)
    flat = labels.ravel()
    voxels = np.flatnonzero(small[flat])
    keys = []
    for axis, stride in enumerate((labels.shape[1] * labels.shape[2], labels.shape[2], 1)):
        place = voxels // stride % labels.shape[axis]
        for step, beside in ((stride, place < labels.shape[axis] - 1), (-stride, place > 0)):
            rows = voxels[beside]
            part, other = flat[rows], flat[rows + step]
            kept = ~small[other] if against_background else ~small[other] & (other > 0)
            keys.append(part[kept].astype(np.int64) * count + other[kept])
    key, faces = np.unique(np.concatenate(keys), return_counts=True)
    part, other = key // count, key % count
    target = np.where(small, 0, np.arange(count)).astype(np.int32)
    order = np.lexsort((-other, faces))  # of equally shared faces the part that appears first wins, and it comes last
    target[part[order]] = other[order]
    return target[labels]
