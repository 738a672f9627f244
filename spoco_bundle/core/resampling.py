"""Images and labels on another grid of the same extent: the outer faces stay, the number of voxels changes.

What is made of a region equals that region of what is made of the whole, so that blocks agree with one piece.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from spoco_bundle.core.boxes import Region, region_shape, whole_region, within
from spoco_bundle.core.errors import SpocoError

Reader = Callable[[Region], Tensor]

_SLAB = 1 << 20  # voxels of the original grid that labels are restored on at once
_READ = 1 << 25  # voxels that are read at once
_LEAST_HEIGHT = 0.02  # of the objectness above or below a threshold: keeps an outline between the two voxels


def resized_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """Voxels of a volume at another spacing, 1 or more per axis.

    Args:
        shape: its voxels.
        spacing: its spacing.
        target: wanted, in the same unit; 0 leaves an axis as it is.

    Raises:
        SpocoError: if a target is negative or there is not one per axis.
    """
    if len(target) != len(shape):
        raise SpocoError(f"target_spacing: {list(target)} does not fit {len(shape)} axes: give one number per axis")
    if any(wanted < 0 for wanted in target):
        raise SpocoError(f"target_spacing: {list(target)}: give positive numbers, or 0 to leave an axis as it is")
    return tuple(
        max(1, round(size * now / wanted)) if wanted else size for size, now, wanted in zip(shape, spacing, target)
    )


def resize_linear(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """Resizes by linear interpolation, smoothed before where voxels grow; see ``read_linear``.

    Args:
        volume: (C, *spatial).
        shape: new spatial shape.

    Returns:
        (C, *shape) float32.
    """
    return read_linear(lambda part: volume[(slice(None), *part)], volume.shape[1:], shape, whole_region(shape))


def read_linear(read: Reader, old: Sequence[int], new: Sequence[int], region: Region) -> Tensor:
    """A region of a volume resized by linear interpolation, from no more of the volume than it takes.

    Along an axis whose voxels grow r times the volume is smoothed before, by a Gaussian of (r - 1) / 2 voxels as in
    ``skimage.transform.resize``, cut off at 4 standard deviations; beyond its faces the volume is 0.

    Args:
        read: gives (C, *part) of the volume; asked for at most ``voxels_at_a_time`` voxels, where a slice along the
            first axis is no more.
        old: voxels of the volume per axis.
        new: voxels of the resized volume per axis.
        region: of the resized volume, a slice with start and stop per axis.

    Returns:
        (C, *region) float32.
    """
    if tuple(old) == tuple(new):
        return read(region).float()
    near, index, weight = zip(*map(_smooth_line, old, new, region))
    slabs = []
    for _, values in _slabs(read, near):
        values = values.float()
        for axis in range(len(old) - 1, 0, -1):
            values = _weighed(values, axis + 1, index[axis], weight[axis])
        slabs.append(values)
    return _weighed(torch.cat(slabs, 1), 1, index[0], weight[0])


def resize_nearest(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """Resizes by the nearest voxel, exactly, for every dtype.

    Args:
        volume: (C, *spatial).
        shape: new spatial shape.

    Returns:
        (C, *shape), each voxel copied from the voxel that holds its centre.
    """
    return read_nearest(lambda part: volume[(slice(None), *part)], volume.shape[1:], shape, whole_region(shape))


def read_nearest(read: Reader, old: Sequence[int], new: Sequence[int], region: Region) -> Tensor:
    """A region of a volume resized by the nearest voxel; the arguments are those of ``read_linear``.

    Returns:
        (C, *region) in the dtype of what is read.
    """
    if tuple(old) == tuple(new):
        return read(region)
    index = [
        (2 * torch.arange(part.start, part.stop) + 1) * size // (2 * wanted)
        for size, wanted, part in zip(old, new, region)
    ]
    near = tuple(slice(int(line[0]), int(line[-1]) + 1) for line in index)
    slabs = []
    for start, values in _slabs(read, near):
        chosen = index[0][(index[0] >= start) & (index[0] < start + values.shape[1])] - start
        for axis, line in enumerate([chosen, *(line - line[0] for line in index[1:])], start=1):
            values = values.index_select(axis, line.to(values.device))
        slabs.append(values)
    return torch.cat(slabs, 1)


def voxels_at_a_time(region: Region, old: Sequence[int], new: Sequence[int]) -> int:
    """Voxels of the volume that ``read_linear`` holds at a time for a region; 0 where nothing is resized."""
    if tuple(old) == tuple(new):
        return 0
    near = [_smooth_line(*axis)[0] for axis in zip(old, new, region)]
    whole, *plane = region_shape(near)
    return min(whole * math.prod(plane), max(_READ, math.prod(plane)))


def restore_labels(
    labels: Tensor, shape: Sequence[int], objectness: Tensor | None = None, threshold: float = 0.5
) -> Tensor:
    """Labels on another grid, with outlines interpolated linearly; see ``restore_region``.

    Args:
        labels: (*spatial) ints, 0 = background.
        shape: of the other grid.
        objectness: (*spatial) in [0, 1]; None for the mask of all labels.
        threshold: of the objectness, in [0, 1].

    Returns:
        (*shape) in the dtype of the labels.
    """
    held = whole_region(labels.shape)
    return restore_region(labels, held, labels.shape, shape, whole_region(shape), objectness, threshold)


def restore_region(
    labels: Tensor,
    held: Region,
    old: Sequence[int],
    new: Sequence[int],
    region: Region,
    objectness: Tensor | None = None,
    threshold: float = 0.5,
) -> Tensor:
    """Labels of a region of another grid, with outlines interpolated linearly.

    A voxel is foreground where the interpolated objectness passes the threshold; before, the objectness is put on the
    side of the threshold on which its voxel's label says it is, so that no object appears, vanishes or fills up that
    the labels hold otherwise. A foreground voxel takes the label that weighs most among the neighbours that it was
    interpolated from.

    Args:
        labels: (*held) ints, 0 = background.
        held: the region of the labels' grid that they cover: all voxels around the centres of the other region's.
        old: voxels of the labels' grid per axis.
        new: voxels of the other grid per axis.
        region: of the other grid.
        objectness: (*held) in [0, 1]; None for the mask of all labels.
        threshold: of the objectness, in [0, 1].

    Returns:
        (*region) in the dtype of the labels.
    """
    if tuple(old) == tuple(new):
        return labels[within(region, held)]
    inside = labels > 0
    if objectness is None:
        height = inside.float() - 0.5
    else:
        height = objectness.float().reshape(labels.shape) - threshold
        height = torch.where(inside, height.clamp(min=_LEAST_HEIGHT), height.clamp(max=-_LEAST_HEIGHT))
    places = []
    for size, wanted, part, kept in zip(old, new, region, held):
        lower, upper, share = (line.to(labels.device) for line in _between(size, wanted, part))
        last = kept.stop - kept.start - 1  # an upper voxel beyond it has no share
        places.append((lower - kept.start, (upper - kept.start).clamp(max=last), share.float()))
    shape = region_shape(region)
    restored = torch.zeros(shape, dtype=labels.dtype, device=labels.device)
    thick = max(1, _SLAB // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], thick):
        lower, upper, share = (line[start : start + thick] for line in places[0])
        near = slice(int(lower.min()), int(upper.max()) + 1)
        slab = [(lower - near.start, upper - near.start, share), *places[1:]]
        restored[start : start + thick] = _vote(labels[near], height[near], slab)
    return restored


def _vote(labels: Tensor, height: Tensor, places: list[tuple[Tensor, ...]]) -> Tensor:
    """Labels at places between voxels, 0 where the interpolated height is not positive."""
    for axis, (lower, upper, share) in enumerate(places):
        weight = share.reshape([-1 if other == axis else 1 for other in range(labels.ndim)])
        height = torch.lerp(height.index_select(axis, lower), height.index_select(axis, upper), weight)
    inside = torch.nonzero(height > 0, as_tuple=True)
    ends = [(lower[index], upper[index], share[index]) for index, (lower, upper, share) in zip(inside, places)]
    corners = []
    for choice in itertools.product((0, 1), repeat=labels.ndim):
        weight = math.prod(end[2] if side else 1 - end[2] for side, end in zip(choice, ends))
        corners.append((labels[tuple(end[side] for side, end in zip(choice, ends))], weight))
    best = torch.zeros_like(corners[0][0])
    most = torch.full_like(corners[0][1], -1)
    for label, _ in corners:
        total = sum(weight * (other == label) for other, weight in corners)
        better = (label > 0) & (total > most)
        best, most = torch.where(better, label, best), torch.where(better, total, most)
    found = torch.zeros(height.shape, dtype=labels.dtype, device=labels.device)
    found[inside] = best
    return found


def _slabs(read: Reader, near: Region) -> Iterator[tuple[int, Tensor]]:
    """A part of a volume, piece by piece along its first axis, each with the index of its first voxel there."""
    first, *plane = near
    thick = max(1, _READ // max(1, math.prod(region_shape(plane))))
    for start in range(first.start, first.stop, thick):
        yield start, read((slice(start, min(first.stop, start + thick)), *plane))


def _between(old: int, new: int, part: slice) -> tuple[Tensor, Tensor, Tensor]:
    """For the centres of a part of ``new`` voxels the ``old`` voxels around each, and the upper one's share."""
    centres = torch.arange(part.start, part.stop, dtype=torch.float64) + 0.5
    position = (centres * old / new - 0.5).clamp(0, old - 1)
    lower = position.floor().long()
    return lower, (lower + 1).clamp(max=old - 1), position - lower


def _smooth_line(old: int, new: int, part: slice) -> tuple[slice, Tensor, Tensor]:
    """The ``old`` voxels that a part of an axis of ``new`` voxels is made of; place and weight of each, (n, k)."""
    lower, _, share = _between(old, new, part)
    sigma = max(0.0, old / new - 1) / 2
    tail = int(4 * sigma + 0.5)
    edges = (torch.arange(-tail, tail + 2, dtype=torch.float64) - 0.5) / (math.sqrt(2) * sigma)
    kernel = torch.erf(edges).diff()[None] / 2  # without smoothing, erf of infinity: 1
    weight = (1 - share)[:, None] * torch.nn.functional.pad(kernel, (0, 1))
    weight += share[:, None] * torch.nn.functional.pad(kernel, (1, 0))
    index = lower[:, None] + torch.arange(-tail, tail + 2)
    weight[(index < 0) | (index >= old)] = 0
    used = (weight != 0).any(0)
    index, weight = index[:, used].clamp(0, old - 1), weight[:, used].float()
    near = slice(int(index.min()), int(index.max()) + 1)
    return near, index - near.start, weight


def _weighed(values: Tensor, axis: int, index: Tensor, weight: Tensor) -> Tensor:
    """Sums along an axis of the values at (n, k) places, weighed; n are left there."""
    shape = [-1 if other == axis else 1 for other in range(values.ndim)]
    found: Tensor | None = None
    for places, share in zip(index.T.to(values.device), weight.T.to(values.device)):
        term = values.index_select(axis, places) * share.reshape(shape)
        found = term if found is None else found.add_(term)
    return found
