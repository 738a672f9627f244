"""Decisions about predicted objects, each as a change of voxels that can be taken back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import cc3d
import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed


@dataclass(frozen=True)
class Edit:
    """Voxels whose ids change, among the objects that are checked and among those that nobody has checked.

    Attributes:
        places: index of each voxel along each axis, (voxels,) each.
        checked: ids before and after, (voxels,) each.
        unchecked: ids before and after, (voxels,) each.
    """

    places: tuple[np.ndarray, ...]
    checked: tuple[np.ndarray, np.ndarray]
    unchecked: tuple[np.ndarray, np.ndarray]

    @property
    def region(self) -> tuple[slice, ...]:
        """The box around the voxels, of which there is at least one."""
        return tuple(slice(int(along.min()), int(along.max()) + 1) for along in self.places)

    def back(self) -> Edit:
        """The change that takes this one back."""
        return Edit(self.places, self.checked[::-1], self.unchecked[::-1])

    def still_open(
        self, labels: np.ndarray, change: tuple[np.ndarray, np.ndarray]
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """The voxels of one label image that are to change and hold what they held before, and their new ids.

        Where somebody has painted since, the paint stays.

        Args:
            labels: (*spatial) ids.
            change: ``checked`` or ``unchecked``, whichever the labels are.
        """
        before, after = change
        open_ = (before != after) & (labels[self.places] == before)
        return tuple(along[open_] for along in self.places), after[open_].astype(labels.dtype)

    def apply(self, checked: np.ndarray, unchecked: np.ndarray) -> None:
        """Changes two label images (*spatial) in place."""
        for labels, change in ((checked, self.checked), (unchecked, self.unchecked)):
            places, ids = self.still_open(labels, change)
            labels[places] = ids


def accept(checked: np.ndarray, unchecked: np.ndarray, objects: Sequence[int]) -> Edit:
    """Moves objects among the checked ones under their ids; what is annotated there already stays.

    Args:
        checked: (*spatial) ids, 0 = nothing.
        unchecked: (*spatial) ids, none of which occurs in ``checked``.
        objects: ids of unchecked objects.
    """
    places, own, ids = _voxels(checked, unchecked, objects)
    return Edit(places, (own, np.where(own == 0, ids, own)), (ids, np.zeros_like(ids)))


def delete(checked: np.ndarray, unchecked: np.ndarray, objects: Sequence[int]) -> Edit:
    """Takes unchecked objects away; arguments as for ``accept``."""
    places, own, ids = _voxels(checked, unchecked, objects)
    return Edit(places, (own, own), (ids, np.zeros_like(ids)))


def merge(checked: np.ndarray, unchecked: np.ndarray, objects: Sequence[int]) -> Edit:
    """Makes one unchecked object of several, under the lowest of their ids; arguments as for ``accept``."""
    places, own, ids = _voxels(checked, unchecked, objects)
    return Edit(places, (own, own), (ids, np.full_like(ids, min(objects))))


def split(
    checked: np.ndarray,
    unchecked: np.ndarray,
    number: int,
    free: Iterable[int],
    seeds: np.ndarray | None = None,
    spacing: Sequence[float] | None = None,
) -> Edit | None:
    """Makes several unchecked objects of one. The largest part keeps its id, the others get free ones.

    Args:
        checked: see ``accept``.
        unchecked: see ``accept``.
        number: id of the object.
        free: ids that no object has, as many as there are parts.
        seeds: (n, D) voxels, see ``split_by_seeds``; None divides the object into its connected pieces.
        spacing: of the voxels along each axis; None for equal ones.

    Returns:
        The change, None where there are fewer than two parts.
    """
    places, own, ids = _voxels(checked, unchecked, [number])
    if not ids.size:
        return None
    first = np.array([along.min() for along in places])
    local = tuple(along - start for along, start in zip(places, first, strict=True))
    inside = np.zeros([along.max() + 1 for along in local], dtype=bool)
    inside[local] = True
    parts = (pieces(inside) if seeds is None else split_by_seeds(inside, np.asarray(seeds) - first, spacing))[local]
    sizes = np.bincount(parts)[1:]
    if len(sizes) < 2:
        return None
    others = np.delete(np.arange(1, len(sizes) + 1), sizes.argmax())
    of_part = np.full(len(sizes) + 1, number, dtype=ids.dtype)
    of_part[others] = list(islice(free, len(others)))
    return Edit(places, (own, own), (ids, of_part[parts]))


def split_by_seeds(inside: np.ndarray, seeds: np.ndarray, spacing: Sequence[float] | None = None) -> np.ndarray:
    """Divides an object among seeds, where it is narrowest between them.

    A seeded watershed (Vincent and Soille, "Watersheds in digital spaces", 1991) on the distance to the object's
    border, measured in the units of ``spacing``. A piece without a seed goes to the part next to it.

    Args:
        inside: (*spatial) bool, the object.
        seeds: (n, D) voxels; those outside of the object do not count.
        spacing: of the voxels along each axis; None for equal ones.

    Returns:
        (*spatial) int32, 1 to n in the object in the order of its seeds, 0 outside.
    """
    markers = np.zeros(inside.shape, dtype=np.int32)
    for seed in np.asarray(seeds, dtype=np.int64).reshape(-1, inside.ndim):
        place = tuple(seed)
        within = all(0 <= at < size for at, size in zip(place, inside.shape, strict=True))
        if within and inside[place] and markers[place] == 0:
            markers[place] = markers.max() + 1
    # a margin of nothing, so that the border of the array is a border of the object
    depth = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=spacing)
    depth = depth[(slice(1, -1),) * inside.ndim]
    parts = watershed(-depth, markers, mask=inside).astype(np.int32, copy=False)
    loose = pieces(inside & (parts == 0))
    if markers.any() and loose.any():
        distance, nearest = ndimage.distance_transform_edt(parts == 0, sampling=spacing, return_indices=True)
        closest = ndimage.minimum_position(distance, loose, np.arange(1, loose.max() + 1))
        takers = [0, *(parts[tuple(nearest[(slice(None), *place)])] for place in closest)]
        parts += np.array(takers, dtype=np.int32)[loose]
    return parts


def pieces(inside: np.ndarray) -> np.ndarray:
    """Numbers the connected pieces of an object: (*spatial) bool to (*spatial) 1 to n, 0 outside.

    Voxels that meet at a corner are connected.
    """
    return cc3d.connected_components(inside, connectivity=26 if inside.ndim == 3 else 8)


def least_certain(confidence: Mapping[int, float | None], after: int | None = None) -> int | None:
    """The object to look at next: the one of least confidence, then those without one, in the order of ids.

    Args:
        confidence: of every unchecked object, None where it is not known.
        after: id of the object that was looked at last, which the one that comes after it follows; behind the last one
            it begins anew.

    Returns:
        An id, None where there is no object.
    """
    known = {number: value for number, value in confidence.items() if value is not None}
    order = sorted(known, key=lambda number: (known[number], number)) + sorted(confidence.keys() - known.keys())
    if not order:
        return None
    return order[(order.index(after) + 1) % len(order)] if after in order else order[0]


def _voxels(
    checked: np.ndarray, unchecked: np.ndarray, objects: Sequence[int]
) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]:
    """The voxels of unchecked objects, with the ids that lie there in both label images."""
    places = np.nonzero(np.isin(unchecked, objects))
    return places, checked[places], unchecked[places]
