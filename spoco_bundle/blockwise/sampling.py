"""A sample of the voxels of a large volume."""

from __future__ import annotations

import math

import numpy as np

from spoco_bundle.blockwise.working import WorkingImage
from spoco_bundle.core.boxes import region_shape, whole_region
from spoco_bundle.core.sampling import SAMPLED_VOXELS, sampled_places
from spoco_bundle.formats.lazy import LazyVolume

SLAB = 2**24  # voxels read at a time


def sample_voxels(volume: LazyVolume | WorkingImage, most_read: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of a volume, for what is fitted once and then used for every block.

    Volumes of up to ``most_read`` voxels are read once, slab by slab; the sample is the one that percentiles of the
    whole volume are computed from, so that they come out the same. Of larger ones as many voxels are read in boxes
    spread evenly over the volume.

    Args:
        volume: the image.
        most_read: voxels that are read at most.

    Returns:
        (C, n) in the image's data type, n at most about 4 million, and their flat indices (n,).
    """
    if volume.voxels > most_read:
        return _from_boxes(volume, most_read)
    places = sampled_places(volume.voxels)
    chosen = np.arange(volume.voxels) if places is None else np.sort(places)
    plane = math.prod(volume.shape[1:])
    step = max(1, SLAB // plane)
    parts = []
    for start in range(0, volume.shape[0], step):
        stop = min(volume.shape[0], start + step)
        first, last = np.searchsorted(chosen, [start * plane, stop * plane])
        if last > first:
            region = (slice(start, stop), *whole_region(volume.shape[1:]))
            values = volume.read(region).reshape(volume.channels, -1)
            parts.append(values[:, chosen[first:last] - start * plane])
    return np.concatenate(parts, axis=1), chosen


def _from_boxes(volume: LazyVolume | WorkingImage, most_read: int) -> tuple[np.ndarray, np.ndarray]:
    """The same number of random voxels from each of up to 64 boxes on a regular grid."""
    per_axis = 4
    size = max(1, int((most_read / per_axis ** len(volume.shape)) ** (1 / len(volume.shape))))
    random = np.random.default_rng(0)
    axes = []
    for extent in volume.shape:
        length = min(size, extent)
        count = min(per_axis, -(-extent // length))
        starts = np.linspace(0, extent - length, count).astype(int)
        axes.append([slice(int(start), int(start) + length) for start in starts])
    boxes = [tuple(axis[index] for axis, index in zip(axes, place)) for place in np.ndindex(*map(len, axes))]
    parts, places = [], []
    for box in boxes:
        values = volume.read(box).reshape(volume.channels, -1)
        chosen = random.integers(values.shape[1], size=-(-SAMPLED_VOXELS // len(boxes)))
        parts.append(values[:, chosen])
        inside = np.unravel_index(chosen, region_shape(box))
        places.append(np.ravel_multi_index([line + side.start for line, side in zip(inside, box)], volume.shape))
    return np.concatenate(parts, axis=1), np.concatenate(places)
