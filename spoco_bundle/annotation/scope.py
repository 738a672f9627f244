"""How far the knowledge of each annotated object reaches, voxel by voxel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import fastremap
import numpy as np
from scipy import ndimage

from spoco_bundle.annotation.kinds import KINDS

#: scope of the voxels of an object that is drawn in all its voxels
WHOLE = -1


def annotation_scope(ids: np.ndarray, kinds: Mapping[int, str], default: str) -> np.ndarray:
    """What the loss has to know of partly drawn objects.

    The planes in which a slices object is outlined are the fewest that hold all of its voxels, see
    ``outlined_planes``. Outlined planes of all axes are numbered from 1 on; a plane has one number, whichever objects
    are outlined in it.

    Args:
        ids: (*spatial) integers; below 1 is no object.
        kinds: of the objects that are not of the default kind, one of ``KINDS`` each; ids that do not occur do not
            matter.
        default: kind of all other objects.

    Returns:
        (A, *spatial) int16, a channel per axis of a volume (A = 3), one for a flat image (A = 1). In a voxel

        - of a whole object: ``WHOLE`` in every channel;
        - of an object of strokes or points: 0;
        - of a slices object: the number of the plane along that axis through it if it is outlined there, else 0;
        - of no object: the number of the plane along that axis through it if any object is outlined there, else 0.

    Raises:
        ValueError: if there is no such kind, a flat image has slices objects, or planes outnumber int16.
    """
    unknown = {default, *kinds.values()} - set(KINDS)
    if unknown:
        raise ValueError(f"kind is {min(unknown)!r}: give one of {', '.join(KINDS)}")
    small, numbers = fastremap.renumber(np.where(ids < 1, 0, ids), preserve_zero=True)
    kind_of = {new: kinds.get(int(old), default) for old, new in numbers.items() if new}
    sliced = sorted(new for new, kind in kind_of.items() if kind == "slices")
    if sliced and ids.ndim != 3:
        raise ValueError(f"slices of objects lie in volumes, the labels have {ids.ndim} axes")
    axes = 3 if ids.ndim == 3 else 1

    boxes = ndimage.find_objects(small) if sliced else []
    planes = {new: list(outlined_planes(small[boxes[new - 1]] == new)) for new in sliced}
    outlined = [np.zeros(size, dtype=bool) for size in ids.shape[:axes]]
    for new, found in planes.items():
        for axis, at in found:
            outlined[axis][boxes[new - 1][axis]][at] = True
    number_of = _numbered(outlined)

    scope = np.empty((axes, *ids.shape), dtype=np.int16)
    table = np.full(len(numbers) + 1, WHOLE, dtype=np.int16)
    table[[new for new, kind in kind_of.items() if kind != "whole"]] = 0
    inside, of_objects = small > 0, table[small]
    for axis, numbered in enumerate(number_of):
        scope[axis] = np.where(inside, of_objects, _along(numbered, axis, ids.ndim))
    for new, found in planes.items():
        box = boxes[new - 1]
        inside = small[box] == new
        for axis, numbered in enumerate(number_of):
            own = np.zeros_like(numbered[box[axis]])
            index = [at for along, at in found if along == axis]
            own[index] = numbered[box[axis]][index]
            np.copyto(scope[axis][box], _along(own, axis, ids.ndim), where=inside)
    return scope


def outlined_planes(mask: np.ndarray) -> Iterator[tuple[int, int]]:
    """The planes along z, y or x that hold all voxels of an object, taken greedily.

    The plane with the most voxels that no plane before it holds comes first; of several the one along the lower axis,
    then the lower one.

    Args:
        mask: (*spatial) bool.

    Yields:
        Planes as (axis, index).
    """
    left = np.stack(mask.nonzero())
    ends = np.cumsum(mask.shape)
    while left.shape[1]:
        counts = [np.bincount(along, minlength=size) for along, size in zip(left, mask.shape, strict=True)]
        best = int(np.concatenate(counts).argmax())
        axis = int(np.searchsorted(ends, best, side="right"))
        at = best - int(ends[axis]) + mask.shape[axis]
        yield axis, at
        left = left[:, left[axis] != at]


def _numbered(outlined: list[np.ndarray]) -> list[np.ndarray]:
    """Numbers of the outlined planes along each axis, from 1 on and no number twice; 0 for the others."""
    every = np.concatenate(outlined)
    if np.count_nonzero(every) > np.iinfo(np.int16).max:
        raise ValueError(f"objects are outlined in {np.count_nonzero(every)} planes, more than int16 can number")
    numbers = np.where(every, np.cumsum(every), 0).astype(np.int16)
    return np.split(numbers, np.cumsum([len(along) for along in outlined])[:-1])


def _along(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Values (n,) of the planes along an axis, to be broadcast over an array of this rank."""
    return values.reshape([-1 if a == axis else 1 for a in range(rank)])
