"""Boxes in a volume: regions of it, a slice with start and stop per axis, and how large they may be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

Region = tuple[slice, ...]


def whole_region(shape: Iterable[int]) -> Region:
    """All voxels of a volume."""
    return tuple(slice(0, size) for size in shape)


def region_shape(region: Iterable[slice]) -> tuple[int, ...]:
    """Voxels of a region per axis."""
    return tuple(part.stop - part.start for part in region)


def within(inner: Iterable[slice], outer: Iterable[slice]) -> Region:
    """A region in voxels of the volume, as slices of an array that covers another one."""
    return tuple(slice(part.start - whole.start, part.stop - whole.start) for part, whole in zip(inner, outer))


def largest_box(shape: Sequence[int], voxels: float) -> np.ndarray:
    """Sides (D,) of the box of at most so many voxels in a volume: a cube as far as the volume's shape allows."""
    whole = np.asarray(shape)
    side = whole.astype(float)
    for axis in np.argsort(whole):  # what a short axis does not use goes to the longer ones
        shorter = whole < whole[axis]
        side[axis] = min(whole[axis], (voxels / side[shorter].prod()) ** (1 / np.count_nonzero(~shorter)))
    return np.maximum(1, side).astype(int)
