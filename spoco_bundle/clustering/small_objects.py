"""Objects a few voxels wide: what blocks of voxels cannot tell from blurred borders is looked at voxel by voxel.

An object that fills no block leaves blocks that are mixtures of it and of what lies around it, no two alike: a region
without a core, as a blurred border is. But a border is a mixture of the regions beside it and of nothing else. So

1. `Surroundings`: the regions around a block, and background, are what it can be a mixture of;
2. blocks further than a tolerance from every mixture (`from_mixtures`) hold something else, most of it the one that is
   further than all its neighbours (`furthest`);
3. `purest`: there, in a window of the block and one voxel around it, one voxel together with what is around explains
   most of those that are no mixtures: it lies in a small object, of which the others have a share. What an outlier
   explains is itself;
4. all is repeated with what was found among the regions, until no more is found; what is a mixture of other finds is
   dropped (`mixtures_of_others`);
5. `joined`: finds near each other with nearly the same embedding are one object.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spoco_bundle.clustering.background import own_votes, same_embedding, vote_lines
from spoco_bundle.clustering.blocks import Blocks, Regions
from spoco_bundle.clustering.mixtures import AT_ONCE, MIXED, MOST_ENDS, from_mixtures
from spoco_bundle.clustering.neighbourhood import Padded, components, cube, distinct, places_of, scattered
from spoco_bundle.clustering.voxels import Volume

ROUNDS = 6  # of looking for objects beside those just found
MOST_AROUND = 16  # regions around a block that are looked at
JOIN_REACH = 3  # blocks between two finds of one object
PARTS = 5  # regions in a mixture: between small objects a window sees more than elsewhere
STRICT = 0.75  # times the tolerance of whole regions: a block that holds a small object is part of it only
EXPLAINED = 9  # voxels that have a share of an object, at least
VOXEL_TOLERANCE = 1.2  # of a single voxel, over that of a block, whose noise is averaged
MODE_TOLERANCE = 0.8  # the same of the mean of those that agree on an embedding
LATER_TOLERANCE = 0.55  # the same where finds are compared with each other
NEAR_AT_ONCE = 1 << 12  # blocks whose surroundings are held in memory, 27 or more numbers each
WINDOWS_AT_ONCE = 1 << 6  # held in memory with the kernel values of all pairs of their voxels
BESIDE = cube(1)  # offsets in blocks, where what a block is a mixture of is looked for
RAYS = sorted({*BESIDE, *cube(2, 2)})
CUBE = cube(2)

__all__ = ["find_small_objects"]


def find_small_objects(
    volume: Volume,
    blocks: Blocks,
    region: Tensor,
    regions: Regions,
    *,
    mask: Tensor | None,
    coordinate_channels: int,
    tolerance: float,
    merge_distance: float,
    scale: float,
) -> tuple[Tensor, Regions]:
    """Small objects among blocks of no region, or far from the mean of theirs.

    Args:
        volume: the embeddings.
        blocks: their averages.
        region: (z, y, x) region of every block, 0 = in none.
        regions: their embeddings.
        mask: (z, y, x) bool, voxels of objects, if these are given.
        coordinate_channels: number of leading channels that vote for the object's centre.
        tolerance: distance between a block and what it is a mixture of, in embedding units.
        merge_distance: embeddings closer than this are of one object.
        scale: of the kernel between two blocks or voxels and a mean.

    Returns:
        The regions with those found, and the region of every block: 0 where it may belong to one of these.
    """
    tolerance = STRICT * tolerance
    lines = regions.lines
    if lines is None and coordinate_channels and regions.empty.any():
        lines = vote_lines(blocks.mean[:coordinate_channels])
    kinds = background_kinds(blocks, region, regions, coordinate_channels, merge_distance)
    loose = loose_blocks(blocks, region, regions, lines, tolerance, mask is not None)
    around = Surroundings(region, regions, lines, kinds)
    vectors = blocks.mean.flatten(1)
    cells = torch.nonzero(loose.flatten()).squeeze(1)
    # most are mixtures of what touches them, of two or three
    cells = cells[around.squared_distances(cells, vectors, BESIDE, background=False, most=MIXED) > tolerance**2]
    squared = around.squared_distances(cells, vectors, RAYS)
    unexplained = cells[squared > tolerance**2]
    finds = Finds(cells[:0], regions.mean[:0], regions.mean[:0, 0])
    for _ in range(ROUNDS):
        strange = squared > tolerance**2
        cells, squared = cells[strange], squared[strange]
        if len(cells) == 0:
            break
        chosen = furthest(cells, squared, region.shape)
        found = purest(volume, blocks, cells[chosen], around, mask, tolerance, scale)
        cells, squared = cells[~chosen], squared[~chosen]
        finds = finds.followed_by(found)
        before = len(around.regions.mean)
        around = around.with_finds(found)
        new = (around.padded.around(cells, RAYS) >= before).any(0)  # around the others all is as before
        squared[new] = around.squared_distances(cells[new], vectors, RAYS)
    finds = finds.only(~mixtures_of_others(finds, around, merge_distance, tolerance))
    region = region.clone()
    region.view(-1)[unexplained] = 0
    member = joined(finds, merge_distance, region.shape)
    beside = scattered(finds.cells, torch.ones_like(finds.mass), region.shape)
    region[(functional.max_pool3d(beside[None], 3, 1, 1)[0] > 0) & loose] = 0
    region.view(-1)[finds.cells] = len(regions.mean) + member
    weight = torch.bincount(member, finds.mass)
    total = finds.mean.new_zeros(len(weight), volume.channels).index_add_(0, member, finds.mean * finds.mass[:, None])
    return region, regions.extended(total / weight[:, None])


@dataclass
class Finds:
    """What was found.

    Attributes:
        cells: (n,) flat indices of blocks.
        mean: (n, E) embedding of the object found there.
        mass: (n,) voxels that agree on it.
    """

    cells: Tensor
    mean: Tensor
    mass: Tensor

    def only(self, chosen: Tensor) -> Finds:
        """Those chosen, by (n,) bool or by index."""
        return Finds(*(part[chosen] for part in self.parts()))

    def followed_by(self, other: Finds) -> Finds:
        """Both, one after the other."""
        return Finds(*(torch.cat(pair) for pair in zip(self.parts(), other.parts(), strict=True)))

    def parts(self) -> tuple[Tensor, ...]:
        """All attributes."""
        return self.cells, self.mean, self.mass


def background_kinds(
    blocks: Blocks, region: Tensor, regions: Regions, coordinate_channels: int, merge_distance: float
) -> Tensor:
    """Mean embeddings (k, E) of the largest backgrounds of different embedding, coordinates aside, k up to `MOST_ENDS`.

    Background is in many pieces, and one that lies hidden in a border shares its embedding with a larger one elsewhere.
    """
    size = torch.bincount(region.flatten(), blocks.mass.flatten(), minlength=len(regions.mean)) * regions.empty
    size[0] = 0
    kind = same_embedding(regions.mean[:, coordinate_channels:], size, merge_distance)
    kind = torch.unique(kind[size > 0])
    return regions.mean[kind[torch.argsort(size[kind], descending=True, stable=True)[:MOST_ENDS]]]


def loose_blocks(
    blocks: Blocks,
    region: Tensor,
    regions: Regions,
    lines: list[tuple[int, float, float]] | None,
    tolerance: float,
    masked: bool,
) -> Tensor:
    """Blocks (z, y, x) bool in no region, or further than `tolerance` from the mean of theirs.

    Background counts where its votes are known, and where a mask says that a part of the block lies in objects.
    """
    owner = region.flatten()
    empty = regions.empty[owner]
    far = blocks.squared_distances(owner, regions.mean) > tolerance**2
    if lines is None:
        far &= ~empty
    else:
        cells = torch.nonzero(empty & (owner > 0)).squeeze(1)
        vectors = blocks.mean.flatten(1)[:, cells].T.contiguous()
        own = own_votes(lines, places_of(cells, region.shape))
        far[cells] = regions.squared_distances(vectors, owner[cells], own) > tolerance**2
    loose = far | (owner == 0)
    if masked:
        loose = (loose | empty) & (blocks.inside.flatten() > 0)
    return loose.reshape(region.shape)


class Surroundings:
    """What a block or voxel can be a mixture of: the regions around it, and background.

    Args:
        region: (z, y, x) region of every block, 0 = in none.
        regions: their embeddings.
        lines: what background votes for its own place, if it does.
        kinds: (k, E) embeddings of background.
    """

    def __init__(
        self, region: Tensor, regions: Regions, lines: list[tuple[int, float, float]] | None, kinds: Tensor
    ) -> None:
        self.region, self.regions, self.lines, self.kinds = region, regions, lines, kinds
        self.padded = Padded(region, 2)

    def with_finds(self, finds: Finds) -> Surroundings:
        """These, and what was found among them."""
        region = self.region.clone()
        region.view(-1)[finds.cells] = len(self.regions.mean) + torch.arange(len(finds.cells), device=region.device)
        return Surroundings(region, self.regions.extended(finds.mean), self.lines, self.kinds)

    def near(self, cells: Tensor, offsets: Sequence[tuple[int, int, int]]) -> Tensor:
        """Regions (n, K), each once, at offsets in blocks from cells (n,), given by flat index; 0 where fewer."""
        return distinct(self.padded.around(cells, offsets), MOST_AROUND).T.long()

    def ends(self, cells: Tensor, near: Tensor, background: bool = True) -> tuple[Tensor, Tensor]:
        """Embeddings (n, K, E) that cells (n,) can be mixtures of, and which of them (n, K) there are.

        Args:
            cells: flat indices of blocks.
            near: (n, K) regions around them.
            background: whether background from elsewhere comes after them.
        """
        kinds = self.kinds if background else self.kinds[:0]
        ends = torch.cat([self.regions.mean[near], kinds.expand(len(cells), -1, -1)], 1)
        empty = functional.pad(self.regions.empty[near], (0, len(kinds)), value=True)
        if self.lines is not None:
            own = own_votes(self.lines, places_of(cells, self.region.shape))
            votes = ends[..., : own.shape[1]]
            votes.copy_(torch.where(empty[..., None], own[:, None], votes))
        return ends, functional.pad(near > 0, (0, len(kinds)), value=True)

    def squared_distances(
        self,
        cells: Tensor,
        vectors: Tensor,
        offsets: Sequence[tuple[int, int, int]],
        background: bool = True,
        most: int = PARTS,
    ) -> Tensor:
        """Squared distance (n,) of cells (n,) of vectors (E, cells) from mixtures of so many of what is at the offsets.

        With background from elsewhere, unless that is refused.
        """
        parts = [torch.zeros(0, device=cells.device)]
        for some in cells.split(NEAR_AT_ONCE) if len(cells) else ():
            near = self.near(some, offsets)
            number = (near > 0).sum(1)
            found = torch.zeros(len(some), device=cells.device)
            for rows in torch.argsort(number, stable=True).split(AT_ONCE):  # as many regions around them together
                part = some[rows]
                ends, present = self.ends(part, near[rows, : int(number[rows[-1]])], background)
                vector = vectors[:, part].T[:, None]
                squared = from_mixtures(vector, ends, present, present, most)[:, 0].square().sum(1)
                # where nothing is around, whatever tells neighbours apart
                found[rows] = torch.where(squared.isinf(), 1e6 * (1 + vector.square().sum((1, 2))), squared)
            parts.append(found)
        return torch.cat(parts)


def furthest(cells: Tensor, squared: Tensor, shape: Sequence[int]) -> Tensor:
    """Cells (n,) bool whose squared distance (n,) is the greatest among the cells beside them."""
    number = torch.arange(1, len(cells) + 1, device=cells.device)
    near = Padded(scattered(cells, number, shape), 1).around(cells, BESIDE)
    return squared >= functional.pad(squared, (1, 0))[near].amax(0)


def purest(
    volume: Volume,
    blocks: Blocks,
    cells: Tensor,
    around: Surroundings,
    mask: Tensor | None,
    tolerance: float,
    scale: float,
) -> Finds:
    """Embeddings of small objects, each in a window of a block and one voxel around it.

    If v is what a voxel differs by from the nearest mixture of what is around (`from_mixtures`), then voxels of which
    the same object has a smaller share differ by about s v, with s between 0 and 1. The voxel that so explains most of
    those that are no mixtures is the purest. Only where enough are explained, and the mean of those near it is no
    mixture, there is an object.

    Args:
        volume: the embeddings.
        blocks: their averages.
        cells: (n,) flat indices of blocks.
        around: what the voxels can be mixtures of.
        mask: (z, y, x) bool, voxels of objects, or None.
        tolerance: distance from a mixture up to which a block is one.
        scale: of the kernel between a voxel and a mean.
    """
    least = (VOXEL_TOLERANCE * tolerance) ** 2
    finds = []
    for part in cells.split(WINDOWS_AT_ONCE):
        vectors, inside = window(volume, blocks, part, mask)
        near = around.near(part, RAYS)
        ends, present = around.ends(part, near, background=False)
        rest = from_mixtures(vectors, ends, present, present, PARTS)
        centred = vectors - vectors.mean(1, keepdim=True)
        rest = torch.where(rest.isinf(), centred, rest)  # where nothing is around, from what the window has in common
        apart = rest.square().sum(2)
        strange = inside & (apart > least)
        product = torch.bmm(rest, rest.transpose(1, 2))
        share = (product / apart[:, None].clamp(min=1e-12)).clamp_(0, 1)
        left = apart[:, :, None] - share * (2 * product - share * apart[:, None])
        explained = ((left < least) & strange[:, :, None]).sum(1) * strange
        squares = centred.square().sum(2)
        squared = squares[:, :, None] + squares[:, None] - 2 * torch.bmm(centred, centred.transpose(1, 2))
        # the difference of two voxels has twice the variance of that of one
        weight = torch.exp(squared / (-2 * scale)) * strange[:, None]
        row = torch.arange(len(part), device=part.device)
        # of those that explain as many, one in a dense place
        chosen = (explained + weight.sum(2) / weight.shape[2]).masked_fill_(~strange, -1).argmax(1)
        mean = weighted_mean(vectors, weight[row, chosen])
        weight = torch.exp((vectors - mean[:, None]).square().sum(2) / (-2 * scale)) * strange
        mean = weighted_mean(vectors, weight)
        ends, present = around.ends(part, near)
        rest = from_mixtures(mean[:, None], ends, present, present, PARTS)[:, 0]
        squared = rest.square().sum(1)
        good = (explained[row, chosen] >= EXPLAINED) & (squared > (MODE_TOLERANCE * tolerance) ** 2)
        finds.append(Finds(part, mean, weight.sum(1)).only(good))
    return functools.reduce(Finds.followed_by, finds)


def window(volume: Volume, blocks: Blocks, cells: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Embeddings (n, V, E) of blocks (n,) and one voxel around them, and which voxels (n, V) there are in the mask."""
    steps = [torch.arange(-1, size + 1, device=cells.device) for size in blocks.size]
    steps = [step.flatten() for step in torch.meshgrid(*steps, indexing="ij")]
    voxels = []
    inside = torch.ones(len(cells), len(steps[0]), dtype=torch.bool, device=cells.device)
    for place, size, step, extent in zip(places_of(cells, blocks.shape), blocks.size, steps, volume.shape, strict=True):
        along = place[:, None] * size + step
        inside &= (along >= 0) & (along < extent)
        voxels.append(along.clamp(0, extent - 1))
    if mask is not None:
        inside &= mask[tuple(voxels)]
    return volume.at(*voxels), inside


def weighted_mean(vectors: Tensor, weight: Tensor) -> Tensor:
    """Means (n, E) of vectors (n, V, E) by weights (n, V)."""
    return torch.bmm(weight[:, None], vectors)[:, 0] / weight.sum(1, keepdim=True).clamp(min=1e-6)


def mixtures_of_others(finds: Finds, around: Surroundings, merge_distance: float, tolerance: float) -> Tensor:
    """Finds (n,) bool that are mixtures of what is around them, other finds of other embeddings included.

    At a flat border of a small object more voxels are explained by a mixture of it than by the object, which is found
    later.

    Args:
        finds: n finds.
        around: what is around them, all finds included.
        merge_distance: embeddings closer than this are of one object.
        tolerance: distance from a mixture up to which a block is one.
    """
    found = torch.zeros(len(finds.cells), dtype=torch.bool, device=finds.mean.device)
    for rows in torch.arange(len(found), device=found.device).split(AT_ONCE):
        some = finds.only(rows)
        ends, present = around.ends(some.cells, around.near(some.cells, CUBE))
        present &= (ends - some.mean[:, None]).square().sum(2) > merge_distance**2  # others than of the same object
        rest = from_mixtures(some.mean[:, None], ends, present, present, PARTS)[:, 0]
        found[rows] = rest.square().sum(1) < (LATER_TOLERANCE * tolerance) ** 2
    return found


def joined(finds: Finds, merge_distance: float, shape: Sequence[int]) -> Tensor:
    """Consecutive number (n,) of the object of each find: chains of near ones closer than `merge_distance` are one.

    Args:
        finds: n finds.
        merge_distance: in embedding units.
        shape: blocks per axis.
    """
    number = torch.arange(1, len(finds.cells) + 1, device=finds.cells.device)
    near = Padded(scattered(finds.cells, number, shape), JOIN_REACH).around(finds.cells, cube(JOIN_REACH))
    place, one = torch.nonzero(near, as_tuple=True)
    other = near[place, one].long() - 1
    close = (finds.mean[one] - finds.mean[other]).square().sum(1) < merge_distance**2
    return torch.unique(components(one[close], other[close], len(number)), return_inverse=True)[1]
