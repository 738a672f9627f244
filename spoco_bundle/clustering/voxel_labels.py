"""Labels of voxels from those of blocks.

A voxel chooses among the labels of the blocks nearest to it, 8 in 3D. These are the same for all voxels between the
centres of 2 x 2 x 2 blocks, a window: where its blocks agree nobody has to look at the embeddings of its voxels. Where
blocks are single voxels each is a window with those that share a face with it; only where a mask tells background from
objects, and embeddings lie on their voxels, is its label that of its block.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from spoco_bundle.clustering.background import own_votes
from spoco_bundle.clustering.blocks import Blocks, Regions
from spoco_bundle.clustering.half_voxels import NO_SHIFT, centred
from spoco_bundle.clustering.neighbourhood import distinct, places_of, touching
from spoco_bundle.clustering.voxels import Volume

LARGE = 2.0  # times the median size of an object from which the whole of `object_preference` holds
SIZE_EXPONENT = 0.05  # a voxel halfway between two objects goes to the smaller one, to which it matters more
OWN_BLOCK = 1e-4  # squared distance by which the label of a voxel's own block is preferred: who is cut off has a choice
OUTLIER = 0.63  # times the distance of touching objects: halfway between two a voxel still speaks for itself
QUIET = 4  # of so many blocks the one nearest to its object shows the noise; others lie at borders
MOST_WEIGHT = 4.0  # of channels, over that of the others

__all__ = ["assign_voxels"]


def assign_voxels(
    volume: Volume,
    blocks: Blocks,
    label: Tensor,
    regions: Regions,
    *,
    mask: Tensor | None,
    coordinate_channels: int,
    preference: float,
    smoothness: float,
    cap: float | None,
    shift: tuple[int, int, int] = NO_SHIFT,
) -> Tensor:
    """Label (z, y, x) int32 of every voxel, chosen among those of the blocks nearest to it (`choose`).

    Background and voxels off the mask get 0.

    Args:
        volume: the embeddings.
        blocks: their averages.
        label: (z, y, x) region of every block, 0 = none.
        regions: what the labels name.
        mask: (z, y, x) bool, voxels that get a label, or None for all.
        coordinate_channels: number of leading channels that vote for the object's centre.
        preference: see `choose`.
        smoothness: see `choose`.
        cap: see `choose`; by default `OUTLIER` times the median distance of touching objects.
        shift: of the embeddings against the voxels, see `half_voxels.centred`.
    """
    objects = ~regions.empty
    objects[0] = False
    pairs = touching(label)
    pairs = pairs[objects[pairs].all(1)]
    if cap is None:
        cap = OUTLIER * distance_between(pairs, regions.mean)
    weights = channel_weights(blocks, label, regions, pairs, coordinate_channels)
    regions = Regions(regions.mean * weights, regions.empty, regions.lines)
    size = torch.bincount(label.flatten(), minlength=len(objects))
    present = size[objects & (size > 0)]
    size = size.clamp(min=1).float()
    if len(present):
        size /= present.median()
    windows = Windows(label.to(torch.int32), volume.shape, blocks.size, beside=mask is None or any(shift))
    result = torch.zeros(volume.shape, dtype=torch.int32, device=volume.device)
    for start, stop in volume.slabs(multiple=blocks.size[0]):
        near = windows.labels(start, stop)
        undecided = (near != near[0]).any(0)
        near = near[:, undecided]
        worth = objects[near].any(0)  # between backgrounds there is nothing to choose
        undecided[undecided.clone()] = worth
        number = torch.cumsum(undecided.flatten(), 0, dtype=torch.int32).view_as(undecided) * undecided
        number = windows.spread(number, start, stop)
        agreed = windows.own_labels(start, stop)
        if mask is not None:
            inside = mask[start:stop].flatten()
            number *= inside
            agreed *= inside
        rows = torch.nonzero(number).squeeze(1)
        if len(rows):
            vectors = centred(volume, start, stop, shift, rows).T * weights
            votes_here = None
            if regions.lines is not None:
                votes_here = own_votes(regions.lines, block_places(rows, volume.shape, blocks.size, start, shift))
                votes_here *= weights[: votes_here.shape[1]]
            near = near[:, worth]
            candidates = distinct(near, len(near))
            agreeing = torch.stack([(near == candidate).sum(0) for candidate in candidates])
            agreed[rows] = choose(
                vectors,
                agreed[rows],
                number[rows].long() - 1,
                candidates,
                agreeing,
                regions,
                own=votes_here,
                size=size,
                preference=preference,
                smoothness=smoothness,
                cap=cap,
            )
        agreed.masked_fill_(regions.empty[agreed], 0)
        result[start:stop] = agreed.reshape(stop - start, *volume.shape[1:])
    return result


def distance_between(pairs: Tensor, means: Tensor) -> float:
    """Median distance between pairs (n, 2) of means (K + 1, E), infinite without any."""
    if len(pairs) == 0:
        return math.inf
    return float((means[pairs[:, 0]] - means[pairs[:, 1]]).norm(dim=1).median())


def channel_weights(blocks: Blocks, label: Tensor, regions: Regions, pairs: Tensor, votes: int) -> Tensor:
    """Weights (E,) by which votes for a centre and the other channels say equally well which object a voxel is of.

    In inverse proportion to the scatter of blocks around the means of their objects, like the linear discriminant of
    Fisher ("The use of multiple measurements in taxonomic problems", Annals of Eugenics 1936), with one scatter for all
    channels of a kind, so that it does not matter how these are rotated. The median distance of touching objects stays
    as it is.

    Args:
        blocks: averages of the embeddings.
        label: (z, y, x) region of every block, 0 = none.
        regions: what the labels name.
        pairs: (n, 2) touching objects.
        votes: number of leading channels that vote for the object's centre.
    """
    weights = torch.ones(regions.mean.shape[1], device=label.device)
    if not 0 < votes < len(weights) or len(pairs) == 0:
        return weights
    owner = label.flatten()
    objects = (owner > 0) & ~regions.empty[owner]
    scatter = []
    for channels in (slice(votes), slice(votes, None)):
        squared = blocks.squared_distances(owner, regions.mean, channels)[objects]
        scatter.append(squared.kthvalue(1 + len(squared) // QUIET).values / len(weights[channels]))
    ratio = ((scatter[0] + 1e-6) / (scatter[1] + 1e-6)).sqrt()
    weights[votes:] = ratio.clamp(1 / MOST_WEIGHT, MOST_WEIGHT)
    return weights * (distance_between(pairs, regions.mean) / distance_between(pairs, regions.mean * weights))


class Windows:
    """Which blocks voxels choose among.

    Args:
        label: (z, y, x) int32 label of every block.
        shape: voxels per axis.
        size: voxels per block and axis, 1 or 2.
        beside: whether along axes of single voxels those before and after are among them, one step away in all.
    """

    def __init__(self, label: Tensor, shape: tuple[int, int, int], size: tuple[int, int, int], beside: bool) -> None:
        self.label = self.padded = label
        self.block, self.window = [], []  # along every axis that of each voxel
        places = []  # of the blocks of a window along every axis
        for axis, (extent, step) in enumerate(zip(shape, size, strict=True)):
            voxel = torch.arange(extent, device=label.device)
            self.block.append(voxel // step)
            self.window.append((voxel + step - 1) // step)
            places.append(range(2) if step == 2 else range(3) if beside and extent > 1 else range(1))
            if len(places[-1]) > 1:  # at the border a window has some blocks twice
                place = torch.arange(-1, label.shape[axis] + 1, device=label.device).clamp(0, label.shape[axis] - 1)
                self.padded = self.padded.index_select(axis, place)
        single = [axis for axis in range(3) if len(places[axis]) == 3]
        self.corners = [
            corner for corner in itertools.product(*places) if sum(corner[axis] != 1 for axis in single) <= 1
        ]

    def labels(self, start: int, stop: int) -> Tensor:
        """Labels (C, z, y, x) of the blocks of the windows in which the planes start..stop-1 of voxels lie."""
        first, last = int(self.window[0][start]), int(self.window[0][stop - 1]) + 1
        height, width = (int(index[-1]) + 1 for index in self.window[1:])
        return torch.stack(
            [self.padded[first + z : last + z, y : y + height, x : x + width] for z, y, x in self.corners]
        )

    def spread(self, values: Tensor, start: int, stop: int) -> Tensor:
        """Values (n,) of the voxels of planes start..stop-1 from those (z, y, x) of their windows."""
        planes = self.window[0][start:stop]
        return upsampled(values, [planes - planes[0], *self.window[1:]])

    def own_labels(self, start: int, stop: int) -> Tensor:
        """Label (n,) of the block of each voxel of planes start..stop-1."""
        return upsampled(self.label, [self.block[0][start:stop], *self.block[1:]])


def upsampled(grid: Tensor, places: list[Tensor]) -> Tensor:
    """Values (n,) of a grid at all combinations of places along its axes."""
    for axis, place in enumerate(places):
        grid = grid.index_select(axis, place)
    return grid.flatten()


def block_places(
    rows: Tensor, shape: tuple[int, int, int], size: tuple[int, int, int], start: int, shift: tuple[int, int, int]
) -> list[Tensor]:
    """Places z, y, x (n,) in blocks of the voxels (n,) of a slab that starts at a plane, given by flat index.

    Blocks are averages of embeddings with their shift (`half_voxels.centred`), and lie so much beside their voxels.
    """
    z, y, x = places_of(rows, shape)
    return [
        (voxel + 0.5 + half / 2) / step - 0.5 for voxel, step, half in zip((z + start, y, x), size, shift, strict=True)
    ]


def choose(
    vectors: Tensor,
    own_label: Tensor,
    window: Tensor,
    candidates: Tensor,
    agreeing: Tensor,
    regions: Regions,
    *,
    own: Tensor | None,
    size: Tensor,
    preference: float,
    smoothness: float,
    cap: float,
) -> Tensor:
    """Label (N,) of each voxel, among the candidates of its window.

    The object that minimises `min(size^p d^2, cap^2) - smoothness * votes`, d = the distance to the region
    (`Regions.squared_distances`), votes = the number of blocks that name it, p = `SIZE_EXPONENT`; or the background
    that minimises the same without `size^p`, if it is less than the object's without it even with `preference` in front
    of d^2, in full where the object is large.

    Args:
        vectors: (N, E) embeddings.
        own_label: (N,) label of the voxel's own block, taken where all else is equal.
        window: (N,) which window the voxel is in.
        candidates: (C, W) labels of the blocks of every window, each once, 0 = fewer; at least one object among them.
        agreeing: (C, W) blocks of each label.
        regions: (K + 1) regions that the labels name.
        own: (N, D) votes for the place of each voxel, or None.
        size: (K + 1,) of the regions, over the median of the objects'.
        preference: at least 1.
        smoothness: squared distance that a vote is worth.
        cap: distance beyond which a voxel's embedding no longer speaks.
    """
    count = len(vectors)
    weight = torch.where(regions.empty, 1.0, size**SIZE_EXPONENT)  # among objects; background knows no size
    # of every voxel the best object, and after all these the best background
    cost = torch.full((2 * count,), torch.inf, device=vectors.device)
    squared, votes = torch.zeros_like(cost), torch.zeros_like(cost)
    chosen = torch.zeros(2 * count, dtype=candidates.dtype, device=candidates.device)
    rows = torch.arange(count, device=vectors.device)
    for labels, numbers in zip(candidates, agreeing, strict=True):
        here = window.index_select(0, rows)
        which = labels.index_select(0, here)
        present = torch.nonzero(which).squeeze(1)
        if len(present) < len(rows):  # who has no candidate here has none further on
            rows, here, which = (values.index_select(0, present) for values in (rows, here, which))
        place = None if own is None else own.index_select(0, rows)
        distance = regions.squared_distances(vectors.index_select(0, rows), which, place)
        biased = (distance * weight.index_select(0, which)).clamp_(max=cap**2)
        distance.clamp_(max=cap**2)
        named = numbers.index_select(0, here).to(distance.dtype)
        loss = biased.sub_(named, alpha=smoothness)
        loss.sub_((own_label.index_select(0, rows) == which).to(loss.dtype), alpha=OWN_BLOCK)
        slot = rows + count * regions.empty.index_select(0, which)
        better = torch.nonzero(loss < cost.index_select(0, slot)).squeeze(1)
        slot = slot.index_select(0, better)
        for table, values in ((cost, loss), (squared, distance), (votes, named), (chosen, which)):
            table.index_copy_(0, slot, values.index_select(0, better))
    chosen, lost = chosen[:count], chosen[count:]
    rows = torch.nonzero((chosen > 0) & (lost > 0)).squeeze(1)
    share = (size[chosen[rows]] / LARGE).clamp(max=1)
    dear = (preference * share).clamp(min=1) * squared[count:][rows] - smoothness * votes[count:][rows]
    rows = rows[dear < squared[rows] - smoothness * votes[rows]]
    chosen[rows] = lost[rows]
    return chosen
