"""Embeddings that lie between the voxels: a shift of half a voxel along an axis, measured and taken back.

Filters of even width and resampling from another grid give a voxel the mean of what is at the voxel and at the one
before it. Then the embedding of a voxel at a flat border between two objects has half of each, and does not say to
which of them the voxel belongs. Averaged once more, with the voxel after it, it lies on the voxel again: it is the mean
of three voxels with the weights 1/4, 1/2, 1/4, in which the voxel itself counts most.

The embeddings alone do not tell in which direction they are shifted: mirrored, they are those of a mirrored volume with
the opposite shift. What tells is

- a mask of the objects (`shift_from_mask`): embeddings change at its faces, as much before as behind them if they lie
  on the voxels, and behind them if they lie half a voxel before;
- background that votes for its own place (`shift_from_votes`): it votes for half a voxel before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spoco_bundle.clustering.background import vote_axes
from spoco_bundle.clustering.blocks import Blocks
from spoco_bundle.clustering.neighbourhood import places_of
from spoco_bundle.clustering.voxels import Volume

MOST_FACES = 5_000  # along each axis that are looked at
CLEAR_FACE = 2.0  # times what embeddings change elsewhere, that they change at a face of the mask
FIT_ROUNDS = 3  # of fitting votes, each without what lay far from the fit before

__all__ = ["NO_SHIFT", "centred", "shift_from_mask", "shift_from_votes"]

NO_SHIFT = (0, 0, 0)


def centred(volume: Volume, start: int, stop: int, shift: Sequence[int], rows: Tensor) -> Tensor:
    """Embeddings (E, n) float32, without their shift, of voxels (n,) of planes start..stop-1, given by flat index.

    Args:
        volume: the embeddings.
        start: first plane.
        stop: plane behind the last.
        shift: along z, y, x: 1 where embeddings lie half a voxel before their voxels, which are then averaged with the
            next ones, -1 where half a voxel behind, averaged with the previous ones, 0 where they lie on them. A voxel
            at the edge of the volume that has no such neighbour stays as it is along that axis.
        rows: the voxels, from 0 at the first of plane `start`.
    """
    first, last = max(start - (shift[0] < 0), 0), min(stop + (shift[0] > 0), volume.shape[0])
    found = torch.empty(volume.channels, len(rows), device=volume.device)
    for channel, target in zip(volume.slab(first, last), found, strict=True):  # one by one: each stays in the cache
        for axis, step in enumerate(shift):
            channel = averaged(channel, axis, step) if step else channel
        torch.index_select(channel[start - first : stop - first].flatten(), 0, rows, out=target)
    return found


def averaged(values: Tensor, axis: int, step: int) -> Tensor:
    """Mean of values (z, y, x) and the next (step 1) or the previous (-1) ones along an axis, at the edge as it was."""
    length = values.shape[axis] - 1
    mean = torch.empty_like(values)
    kept, edge = (0, length) if step > 0 else (1, 0)
    torch.add(values.narrow(axis, 0, length), values.narrow(axis, 1, length), out=mean.narrow(axis, kept, length))
    mean.narrow(axis, kept, length).mul_(0.5)
    mean.narrow(axis, edge, 1).copy_(values.narrow(axis, edge, 1))
    return mean


def shift_from_mask(volume: Volume, mask: Tensor) -> tuple[int, int, int]:
    """Shift of the embeddings along z, y, x against a mask of objects, see `centred`.

    At faces of the mask between voxels v and v + 1, with two voxels of the same kind on either side, embeddings change
    by squared steps from v - 1 to v, from v to v + 1, and from v + 1 to v + 2. Embeddings on the voxels change in the
    middle, and as much before as behind; half a voxel before, as much behind as in the middle.

    Args:
        volume: the embeddings.
        mask: (z, y, x) bool.
    """
    shift = []
    for axis, extent in enumerate(volume.shape):
        length = extent - 3
        found = 0
        if length > 0:
            one, two, three, four = (mask.narrow(axis, start, length) for start in range(4))
            faces = (one == two) & (two != three) & (three == four)
            cells = torch.nonzero(faces.flatten()).squeeze(1)
            cells = cells[:: max(1, len(cells) // MOST_FACES)]
            found = leaning(steps_along(volume, axis, places_of(cells, faces.shape))) if len(cells) else 0
        shift.append(found)
    return tuple(shift)


def steps_along(volume: Volume, axis: int, places: Sequence[Tensor]) -> list[float]:
    """Median squared steps of the embeddings between four voxels in a row, which begin at places z, y, x (n,)."""
    vectors = [
        volume.at(*(place + behind * (along == axis) for along, place in enumerate(places))) for behind in range(4)
    ]
    return [float((b - a).square().sum(1).median()) for a, b in zip(vectors, vectors[1:], strict=False)]


def leaning(steps: Sequence[float]) -> int:
    """1 where the last of three steps is more like the middle one than like the first, -1 the other way round, or 0."""
    before, middle, behind = steps
    least = min(before, behind)
    if middle <= CLEAR_FACE * least:
        return 0
    lean = (behind - before) / (middle - least)
    return int(lean > 0.5) - int(lean < -0.5)


def shift_from_votes(blocks: Blocks, cells: Tensor, votes: int) -> tuple[int, int, int]:
    """Shift of embeddings along z, y, x, see `centred`, by the places that background votes for.

    A straight line is fitted to the votes of background over their places: where it is 0 lies the origin of
    coordinates, on the first voxel, or half a voxel beside it.

    Args:
        blocks: averages of the embeddings, with coordinates from 0 at the first voxel.
        cells: (n,) flat indices of blocks of background; a few may be none.
        votes: number of leading channels that vote for a place.
    """
    shift = [0, 0, 0]
    for axis, channel in zip(vote_axes(blocks.shape, votes), blocks.mean, strict=False):
        step = blocks.size[axis]
        place = (places_of(cells, blocks.shape)[axis] * step + (step - 1) / 2).double()
        vote = channel.flatten()[cells].double()
        for _ in range(FIT_ROUNDS if len(cells) else 0):
            centre, mean = place.mean(), vote.mean()
            slope = ((place - centre) * (vote - mean)).sum() / (place - centre).square().sum()
            far = (vote - mean - slope * (place - centre)).abs()
            origin = float(centre - mean / slope)  # nan, or far away, where nothing follows the place
            near = far <= 2 * far.median()
            place, vote = place[near], vote[near]
        if len(cells) and 0.25 < abs(origin) < 0.75:
            shift[axis] = 1 if origin > 0 else -1
    return tuple(shift)
