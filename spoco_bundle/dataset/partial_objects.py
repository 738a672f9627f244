"""Objects that look as if only slices of them, or strokes in them, were drawn.

Two things have to come together: what is drawn is thin, and the image goes on beyond it. An object that is thin itself,
such as a filament or a lesion in a single slice, looks different from what lies beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from spoco_bundle.annotation.scope import outlined_planes
from spoco_bundle.dataset.object_size import ball_volume

if TYPE_CHECKING:
    from spoco_bundle.dataset.label_checks import MeasuredObject

# Objects are looked at within so many voxels along each axis, so that a large one takes no more time than others.
_WINDOW = 96
# The first and the last of several slices that are drawn have this part of the area of the largest; objects taper.
_FLAT_ENDS = 0.7
# The image goes on where voxels beside what is drawn are told from those in it with an area under the receiver
# operating characteristic that is nearer than this to 0.5.
_CONTRAST = 0.2
# No square of so many pixels, or cube of so many voxels, fits into strokes,
_WIDTH = {2: 7, 3: 3}
# and they are so many times as large as the largest disc, or ball, in them.
_LENGTH = {2: 3.0, 3: 5.0}
# What is drawn in some planes of a volume is no whole object: to be strokes and no slices, this length will do.
_LENGTH_IN_SLICES = 2.0


def look_at_objects(
    image: np.ndarray, ids: np.ndarray, objects: Sequence[MeasuredObject], max_objects: int = 100
) -> dict[int, str]:
    """Says of objects whether they look whole, or as if only slices or strokes of them were drawn.

    Args:
        image: (C, *spatial).
        ids: (*spatial) object ids.
        objects: those to look at.
        max_objects: of more than these, so many are looked at, evenly spread.

    Returns:
        ``"whole"``, ``"slices"`` or ``"strokes"`` by id, of the objects looked at.
    """
    chosen = objects[:: max(1, math.ceil(len(objects) / max_objects))]
    return {found.id: _look(*_cut(image, ids, found)) for found in chosen}


def _cut(image: np.ndarray, ids: np.ndarray, found: MeasuredObject) -> tuple[np.ndarray, np.ndarray]:
    """Mask (*window) of an object with what lies beside it, and the image (C, *window) there."""
    box = tuple(slice(max(0, a - 1), b + 1) for a, b in zip(found.first.min(0), found.stop.max(0), strict=True))
    mask = ids[box] == found.id
    inside = np.flatnonzero(mask)
    middle = np.unravel_index(inside[len(inside) // 2], mask.shape)
    window = tuple(slice(max(0, at - _WINDOW // 2), at + _WINDOW // 2) for at in middle)
    return mask[window], image[(slice(None), *box)][(slice(None), *window)]


def _look(mask: np.ndarray, values: np.ndarray) -> str:
    if mask.ndim == 2:
        return "strokes" if _are_strokes([(mask, values)], _LENGTH[2]) else "whole"
    planes = _slab(mask) or _crossing_planes(mask)
    if not planes:
        return "strokes" if _are_strokes([(mask, values)], _LENGTH[3]) else "whole"
    drawn = [(mask.take(at, axis), values.take(at, axis + 1)) for axis, at in planes]
    if _are_strokes(drawn, _LENGTH_IN_SLICES):
        return "strokes"
    return "slices" if _goes_on(*_beyond(mask, values, planes)) else "whole"


def _slab(mask: np.ndarray) -> list[tuple[int, int]]:
    """Planes along one axis, (axis, index), if an object consists of thin slabs of them whose ends are flat."""
    occupied = [np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    extent = [places[-1] - places[0] + 1 for places in occupied]
    for axis, places in enumerate(occupied):
        area = mask.sum(tuple({0, 1, 2} - {axis}))
        slabs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
        ends_in_image = 0 < places[0] and places[-1] < len(area) - 1
        thickest = max(len(slab) for slab in slabs)
        if (
            (ends_in_image or len(slabs) > 1)
            and 2 * thickest <= min(extent[other] for other in {0, 1, 2} - {axis})
            and all(min(area[slab[0]], area[slab[-1]]) >= _FLAT_ENDS * area[slab].max() for slab in slabs)
        ):
            return [(axis, int(at)) for at in places]
    return []


def _crossing_planes(mask: np.ndarray) -> list[tuple[int, int]]:
    """Planes along several axes, (axis, index), if an object consists of planes that lie apart."""
    planes: list[tuple[int, int]] = []
    for axis, at in outlined_planes(mask):
        if {(axis, at - 1), (axis, at + 1)} & set(planes):
            return []
        planes.append((axis, at))
    return planes if len(planes) > 1 else []


def _are_strokes(pieces: Sequence[tuple[np.ndarray, np.ndarray]], length: float) -> bool:
    """Whether masks, each with its image, are thin, long and look like what lies around them."""
    dims = pieces[0][0].ndim
    # what the border of the image cuts goes on there
    if any(ndimage.minimum_filter(mask, _WIDTH[dims], mode="nearest").any() for mask, _ in pieces):
        return False
    radii = np.array([ndimage.distance_transform_edt(mask).max() for mask, _ in pieces])
    balls = ball_volume(radii, dims).sum()
    if sum(np.count_nonzero(mask) for mask, _ in pieces) < length * balls:
        return False
    inside = [values[:, mask] for mask, values in pieces]
    around = [values[:, ndimage.maximum_filter(mask, 3) & ~mask] for mask, values in pieces]
    return _goes_on(np.concatenate(inside, 1), np.concatenate(around, 1))


def _beyond(mask: np.ndarray, values: np.ndarray, planes: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Values (C, n) in an object, and at the same places in the planes before and behind, where these are free."""

    def free() -> Iterator[np.ndarray]:
        for axis, at in planes:
            for beside in {at - 1, at + 1} & set(range(mask.shape[axis])):
                yield values.take(beside, axis + 1)[:, mask.take(at, axis) & ~mask.take(beside, axis)]

    return values[:, mask], np.concatenate(list(free()), axis=1)


def _goes_on(inside: np.ndarray, beside: np.ndarray) -> bool:
    """Whether values (C, n) in an object and values (C, m) beside it are alike in every channel."""
    from scipy.stats import rankdata  # loads most of SciPy; a prediction loads this module and does without

    if not beside.size:
        return False
    few, many = inside.shape[1], inside.shape[1] * beside.shape[1]
    ranks = rankdata(np.concatenate([inside, beside], axis=1), axis=1)[:, :few].sum(1)
    above = (ranks - few * (few + 1) / 2) / many
    return bool((np.abs(above - 0.5) < _CONTRAST).all())
