"""From clusters to objects: connected parts, a smallest size, a seed in each, growth to the border, consecutive ids."""

from __future__ import annotations

import cc3d
import fastremap
import numpy as np

from spoco_bundle.clustering.seeded_watershed import seeded_watershed


def find_objects(
    labels: np.ndarray,
    objectness: np.ndarray | None = None,
    *,
    split_parts: bool = True,
    min_size: int = 20,
    seed_objectness: float = 0.5,
    extent_threshold: float | None = None,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Turn clusters into objects.

    Args:
        labels: (z, y, x) int32, 0 = background; overwritten.
        objectness: (z, y, x) in [0, 1].
        split_parts: whether every connected part (26 neighbours, 8 in an image) of a cluster is an object of its own.
        min_size: parts of fewer voxels go to the part of at least so many that they share most faces with; they are
            dropped where they touch none.
        seed_objectness: where an objectness is given, objects in which it stays below this everywhere are dropped.
        extent_threshold: where an objectness is given, objects grow at the end over voxels of at least this objectness,
            highest first (`seeded_watershed`); None leaves them as they are.
        mask: (z, y, x) bool, voxels that objects may grow over; None for all.

    Returns:
        (z, y, x) int32, ids 1..n in the order in which they first appear, 0 = background.
    """
    parts = cc3d.connected_components(labels, connectivity=26, out_dtype=np.uint32) if split_parts else labels
    del labels  # maps of a large volume are held one at a time
    size = cc3d.statistics(parts, no_slice_conversion=True)["voxel_counts"]
    small = size < min_size
    small[0] = False
    target = absorbed(parts, small)
    kept = np.full(len(size), objectness is None)
    if objectness is not None:
        kept[target[fastremap.unique(parts[objectness >= seed_objectness])]] = True
    kept[0] = False
    number = (target * kept[target]).astype(np.int32)
    objects = parts.view(np.int32)
    for plane in objects:
        plane[...] = number[plane]
    objects = fastremap.renumber(objects, in_place=True)[0].astype(np.int32, copy=False)
    if extent_threshold is None:
        return objects
    within = objectness >= extent_threshold
    return seeded_watershed(objects, objectness, within if mask is None else within & mask)


def absorbed(parts: np.ndarray, small: np.ndarray) -> np.ndarray:
    """Part (K + 1,) that each part becomes: a small one the larger part that it shares most faces with, 0 without one.

    Args:
        parts: (z, y, x) in 0..K.
        small: (K + 1,) bool, not true for background.
    """
    count = len(small)
    target = np.where(small, 0, np.arange(count))
    if not small.any():
        return target
    flat = parts.ravel()
    voxels = np.flatnonzero(small[parts].ravel())
    places = np.unravel_index(voxels, parts.shape)
    strides = (parts.shape[1] * parts.shape[2], parts.shape[2], 1)
    keys = []
    for place, stride, extent in zip(places, strides, parts.shape, strict=True):
        for step, beside in ((stride, place < extent - 1), (-stride, place > 0)):
            rows = voxels[beside]
            part, other = flat[rows].astype(np.int64), flat[rows + step].astype(np.int64)
            taken = ~small[other] & (other > 0)
            keys.append(part[taken] * count + other[taken])
    key, faces = np.unique(np.concatenate(keys), return_counts=True)
    part, other = key // count, key % count
    order = np.lexsort((-other, faces))  # of equally shared faces the part that appears first comes last, and stays
    target[part[order]] = other[order]
    return target
