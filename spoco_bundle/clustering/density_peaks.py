"""Density peaks on blocks of voxels: the default, linear in the number of voxels, no pairwise distances.

The idea of Rodriguez and Laio ("Clustering by fast search and find of density peaks", Science 2014), with neighbours in
the image instead of neighbours in the embedding space, because an object is a connected piece of the image:

1. `pool_blocks`: the volume is averaged over small blocks (2 x 2 x 2 voxels in a large volume);
2. `climb`: the density of a block is the kernel-weighted mass of the similar blocks around it, and every
   block follows its most similar denser neighbour up to a density peak, whose followers form a basin;
3. `merge_basins`: touching basins whose mean embeddings are closer than `merge_distance` become one region;
4. `borders`: a region without a core whose embedding is a mixture of its neighbours' is a blurred border;
5. `find_small_objects`: what else has no core is looked at again voxel by voxel, if it may be a small object;
6. `fill_blocks`, `assign_voxels`: what is left goes to the most similar region present around it. A voxel only chooses
   between the regions of the blocks nearest to it, so that outliers and blurred borders cannot jump to a far object.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from spoco_bundle.clustering.background import background_clusters, own_votes, same_embedding, vote_lines
from spoco_bundle.clustering.blocks import Blocks, Regions, block_size, pool_blocks
from spoco_bundle.clustering.half_voxels import NO_SHIFT, shift_from_mask, shift_from_votes
from spoco_bundle.clustering.mixtures import borders, mixed
from spoco_bundle.clustering.neighbourhood import neighbour_pairs, roots, touching, unique_pairs
from spoco_bundle.clustering.small_objects import find_small_objects
from spoco_bundle.clustering.voxel_labels import assign_voxels
from spoco_bundle.clustering.voxels import Volume
from spoco_bundle.core.embedding_space import kernel_scale
from spoco_bundle.core.errors import SpocoError

FAR_PAIR = 3.0  # basins further apart than so many merge distances never come closer by joining others
FILL_ROUNDS = 8  # blocks without a label take one from at most so many blocks away
SEEDED_FILL_ROUNDS = 2  # the same where an objectness is given: an object has its seed, debris around it has none
BORDER_REACH = 3  # blocks, along an axis, within which a blurred border has the regions that it is a mixture of
MEAN_PREFERENCE = 4.0  # object_preference where background is known by its mean embeddings
OWN_PREFERENCE = 6.0  # the same where it votes for its own place, to which it is much closer
CENTRED_PREFERENCE = 3.0  # the same where besides a shift was taken back: voxels at borders say more of themselves

__all__ = ["density_peaks"]


def density_peaks(
    volume: Volume,
    *,
    foreground: Tensor | None = None,
    objectness: Tensor | None = None,
    coordinate_channels: int = 0,
    background: str = "none",
    delta_var: float = 0.5,
    kernel_threshold: float = 0.5,
    merge_distance: float = 1.0,
    border_distance: float | None = None,
    core_density: float = 0.5,
    min_size: int = 20,
    smoothness: float = 0.1,
    outlier_distance: float | None = None,
    object_preference: float | None = None,
    half_voxels: Sequence[int] | None = None,
    max_blocks: int = 250_000,
    pooling: Sequence[int] | None = None,
) -> Tensor:
    """Cluster a volume; see the module's text for the steps.

    Args:
        volume: the embeddings.
        foreground: (z, y, x) bool, voxels of objects; each of them gets the label of an object near it.
        objectness: (z, y, x) float in [0, 1], weight of a voxel in the density.
        coordinate_channels: number of leading channels that vote for the object's centre, 0 to 3.
        background: "mask" (clusters mostly outside `foreground`), "density", "scatter", "largest" or "none".
        delta_var: radius of an object in the embedding space, above 0.
        kernel_threshold: kernel value at that radius, in (0, 1).
        merge_distance: touching clusters closer than this are one object, in embedding units, above 0: below the
            distance of touching objects' means (2 delta_dist if training succeeded), above the noise of a block's mean.
        border_distance: a region without a core that is closer than this to a denser neighbour, or to a mixture of
            some, is noise or a blurred border; by default merge_distance with coordinates, twice that without.
        core_density: share of the greatest possible density from which a region has a core and cannot be a blurred
            border, 0 to 1.
        min_size: regions with fewer voxels (weighted by objectness) near their mean embedding are dissolved among their
            neighbours: debris does not agree on an embedding. If that leaves room for objects less than three blocks
            wide, these are looked for voxel by voxel (`find_small_objects`).
        smoothness: squared embedding distance that one of the blocks nearest to a voxel is worth, in units of
            merge_distance squared, 0 or more.
        outlier_distance: distance beyond which a voxel's own embedding no longer speaks against its surroundings. By
            default 0.63 times the median distance of touching objects. Here votes for a centre and the other channels
            are weighted by their noise (`voxel_labels.channel_weights`).
        object_preference: how many times its length the distance to a background cluster counts, 1 or more: a voxel
            halfway between an object and the background belongs to the object. By default 6 where the background is
            known to vote for its own place (rule "density"), which it is much closer to than to a mean, 3 there with a
            shift (`half_voxels`), otherwise 4; less for small objects, of which a shell of one voxel is a large part.
        half_voxels: shift of the embeddings along z, y, x: 1 where they lie half a voxel before their voxels, -1 where
            half a voxel behind, 0 where on them. By default it is measured: against `foreground`, unless this follows
            from the objectness, or by the votes of background where these are known (rule "density"), for which the
            coordinates of the first voxel are 0.
        max_blocks: volumes of more voxels than this are averaged over 2 x 2 x 2 blocks, see `block_size`.
        pooling: voxels per block along z, y, x, each 1 or 2, in place of what follows from `max_blocks`: a piece of a
            volume is averaged like the whole.

    Returns:
        labels (z, y, x) int32, 0 = background, not yet consecutive.

    Raises:
        SpocoError: if `pooling` is not three numbers of 1 or 2, `half_voxels` not three of -1, 0 or 1, or embeddings
            are not finite.
    """
    size = block_size(volume.shape, max_blocks) if pooling is None else tuple(pooling)
    if len(size) != 3 or not set(size) <= {1, 2}:
        raise SpocoError(f"pooling is {pooling}: give three numbers, each 1 or 2, along z, y, x")
    if half_voxels is not None and (len(half_voxels) != 3 or not set(half_voxels) <= {-1, 0, 1}):
        raise SpocoError(f"half_voxels is {half_voxels}: give three numbers, each -1, 0 or 1, along z, y, x")
    blocks = pool_blocks(volume, size, foreground, objectness)
    density, likeness, peak = climb(blocks, delta_var, kernel_threshold, merge_distance)
    block = size[0] * size[1] * size[2]
    lone = block < min_size  # a block like none around it cannot be an object
    region, means = merge_basins(blocks, density, peak, merge_distance, least_blocks=2 if lone else 1)
    count = len(means)
    top = torch.zeros(count, device=volume.device)
    top.scatter_reduce_(0, region.flatten(), likeness.flatten(), "amax")
    neighbourhood = 3 ** sum(n > 1 for n in blocks.shape)
    core = top >= core_density * neighbourhood
    scale = kernel_scale(delta_var, kernel_threshold)
    if border_distance is None:
        border_distance = merge_distance if coordinate_channels else 2 * merge_distance
    extent = torch.bincount(region.flatten(), minlength=count)
    # where blocks are averages along all axes, an object less than three of them wide has no core
    averaged = all(step == 2 or n == 1 for step, n in zip(size, volume.shape, strict=True))
    looked_at_again = averaged and min_size < neighbourhood * block
    small = ~core & (extent < neighbourhood) & looked_at_again
    by_size = background in ("scatter", "largest")  # rules that compare all regions, small ones too
    unsure = ~core if by_size else ~core & ~small
    dissolved = borders(touching(region, BORDER_REACH, unsure), means, top, extent, core, border_distance)
    dissolved |= core_sizes(blocks, region, means, scale) < min_size
    if not by_size:
        dissolved |= small
    regions = Regions(means, torch.zeros(count, dtype=torch.bool, device=volume.device))
    if background == "mask":
        # a region's core says whether it is foreground, not its blurred border
        weight = blocks.weight * likeness.square()
        regions.empty = background_clusters("mask", region, count, weight, inside=weight * blocks.inside)
    elif background == "density":
        votes = blocks.mean[:coordinate_channels]
        regions.lines = vote_lines(votes)
        regions.empty = background_clusters("density", region, count, blocks.mass * likeness.square(), votes=votes)
        if half_voxels is None:
            cells = torch.nonzero(regions.empty[region].flatten()).squeeze(1)
            half_voxels = shift_from_votes(blocks, cells, coordinate_channels)
    if coordinate_channels:
        dissolved &= ~regions.empty  # pieces of it are small, since neighbours do not vote for one place
    region = region * ~dissolved[region]
    if by_size:
        alike = same_embedding(means, extent * ~dissolved, merge_distance) if background == "scatter" else None
        regions.empty = background_clusters(background, region, count, blocks.mass, alike=alike)
        if regions.empty.any():
            # pockets among objects, and where two backgrounds meet
            regions.empty |= mixed(means, largest_first(regions.empty, region, blocks.mass, means), border_distance)
        region = region * ~small[region]
    if looked_at_again:
        region, regions = find_small_objects(
            volume,
            blocks,
            region,
            regions,
            mask=foreground,
            coordinate_channels=coordinate_channels,
            tolerance=border_distance,
            merge_distance=merge_distance,
            scale=scale,
        )
    if background == "mask":
        region = region * ~regions.empty[region]
    rounds = FILL_ROUNDS if objectness is None else SEEDED_FILL_ROUNDS
    region = fill_blocks(blocks, region, regions, blocks.inside > 0, rounds)
    if looked_at_again:
        region = reunited(region, regions.mean, count, merge_distance)
    if half_voxels is None:
        # an objectness comes from the network that the embeddings come from, and says nothing of where either lies
        known = foreground is not None and objectness is None
        half_voxels = shift_from_mask(volume, foreground) if known else NO_SHIFT
    if object_preference is None:
        own = CENTRED_PREFERENCE if any(half_voxels) else OWN_PREFERENCE
        object_preference = MEAN_PREFERENCE if regions.lines is None else own
    return assign_voxels(
        volume,
        blocks,
        region,
        regions,
        mask=foreground,
        coordinate_channels=coordinate_channels,
        preference=object_preference**2,
        smoothness=smoothness * merge_distance**2,
        cap=outlier_distance,
        shift=tuple(half_voxels),
    )


def climb(blocks: Blocks, delta_var: float, kernel_threshold: float, reach: float) -> tuple[Tensor, Tensor, Tensor]:
    """Local density of every block, its surroundings' likeness, and the peak that it reaches by following denser ones.

    `density_i = sum_j w_j exp(-|e_i - e_j|^2 / s)` over the block and its 26 neighbours (8 in 2D), `s` from
    `embedding_space.kernel_scale`. The parent of a block is its most similar denser neighbour closer than `reach`.

    Returns:
        density (z, y, x); likeness (z, y, x), the same sum with all weights 1; peak (z, y, x), the flat index of the
        peak's block.
    """
    scale = kernel_scale(delta_var, kernel_threshold)
    pairs = list(neighbour_pairs(blocks.shape))
    density = blocks.weight.clone()
    likeness = torch.ones_like(density)
    for a, b in pairs:
        similar = neighbour_distances(blocks.mean, a, b).div_(-scale).exp_()
        density[a] += blocks.weight[b] * similar
        density[b] += blocks.weight[a] * similar
        likeness[a] += similar
        likeness[b] += similar
    order = torch.arange(density.numel(), device=density.device, dtype=torch.int32).reshape(density.shape)
    parent = order.clone()
    best = torch.full_like(density, reach**2)
    for a, b in pairs:
        squared = neighbour_distances(blocks.mean, a, b)  # anew: those of all pairs are as large as the blocks
        squared.masked_fill_(blocks.side[a] != blocks.side[b], torch.inf)
        ahead = density[b] > density[a]  # of two equal blocks the first in raster order counts as denser
        for low, high, chosen in ((a, b, ahead), (b, a, ~ahead)):
            closer = chosen & (squared < best[low])
            best[low] = torch.where(closer, squared, best[low])
            parent[low] = torch.where(closer, order[high], parent[low])
    return density, likeness, roots(parent.flatten()).reshape(density.shape)


def neighbour_distances(mean: Tensor, a: tuple, b: tuple) -> Tensor:
    """Squared embedding distances between the cells of two slices (`neighbour_pairs`) of (E, z, y, x)."""
    total = torch.zeros_like(mean[0][a])
    difference = torch.empty_like(total)
    for channel in mean:  # one by one: their differences stay in the cache
        torch.sub(channel[a], channel[b], out=difference)
        total.addcmul_(difference, difference)
    return total


def merge_basins(
    blocks: Blocks, density: Tensor, peak: Tensor, merge_distance: float, least_blocks: int = 1
) -> tuple[Tensor, Tensor]:
    """Join touching basins, nearest first, until all touching means are at least `merge_distance` apart.

    In every round a pair of basins that are each other's nearest is joined, together with all the basins whose nearest
    is one of the two; then the density-weighted means are taken anew. Basins of fewer than `least_blocks` do not count:
    at borders, where no two blocks are alike, they are most of all.

    Returns:
        region (z, y, x), 1..K, 0 = in no basin that counts; means (K + 1, E), row 0 unused.
    """
    basin = torch.bincount(peak.flatten(), minlength=peak.numel()) >= least_blocks
    label = (torch.cumsum(basin, 0) * basin)[peak]
    count = int(label.max()) + 1
    weight = torch.bincount(label.flatten(), density.flatten().double(), minlength=count)
    total = torch.stack(
        [torch.bincount(label.flatten(), (c * density).flatten().double(), minlength=count) for c in blocks.mean], 1
    )
    edges = touching(label)
    side = torch.zeros(count, dtype=torch.bool, device=label.device)
    side[label[blocks.side]] = True
    edges = edges[side[edges[:, 0]] == side[edges[:, 1]]]
    edges = edges[pair_distances(total, weight, edges) < (FAR_PAIR * merge_distance) ** 2]
    target = torch.arange(count, device=label.device)
    while len(edges):
        squared = pair_distances(total, weight, edges)
        order = torch.argsort(squared, stable=True)
        edges, squared = edges[order], squared[order]
        rank = torch.arange(len(edges), device=label.device)
        nearest = torch.full((count,), len(edges), device=label.device)
        for side in (0, 1):
            nearest.scatter_reduce_(0, edges[:, side], rank, "amin")
        a, b = edges.T
        close = squared < merge_distance**2
        mutual = close & (rank == nearest[a]) & (rank == nearest[b])
        if not mutual.any():
            break
        step = torch.arange(count, device=label.device)
        centre = torch.zeros(count, dtype=torch.bool, device=label.device)
        step[b[mutual]] = a[mutual]
        centre[a[mutual]] = centre[b[mutual]] = True
        for low, high in ((a, b), (b, a)):
            follows = close & (rank == nearest[low]) & centre[high] & ~centre[low]
            step[low[follows]] = step[high[follows]]
        moved = torch.nonzero(step != torch.arange(count, device=label.device)).squeeze(1)
        total.index_add_(0, step[moved], total[moved])
        weight.index_add_(0, step[moved], weight[moved])
        target = step[target]
        edges = unique_pairs(step[edges], count)
    survivors, region = torch.unique(target, return_inverse=True)
    mean = total[survivors] / weight[survivors, None].clamp(min=1e-12)
    mean[0] = 0
    return region[label], mean.float()


def reunited(region: Tensor, means: Tensor, count: int, merge_distance: float) -> Tensor:
    """Regions (z, y, x) of all blocks, small objects that touch a region of their embedding being part of it.

    A thin end of a large object looks like a small object, until the blocks between them are filled.

    Args:
        region: (z, y, x) region of every block, 0 = in none.
        means: (K + 1, E) embeddings of the regions; from `count` on those of small objects.
        count: number of regions before small objects were looked for, 0 included.
        merge_distance: touching regions closer than this are one; of several the nearest.
    """
    target = torch.arange(len(means), device=region.device)
    large, small = touching(region, among=target >= count).T
    pairs = (large < count) & (small >= count)
    large, small = large[pairs], small[pairs]
    squared = (means[large] - means[small]).square().sum(1)
    least = torch.full((len(means),), merge_distance**2, device=region.device)
    nearest = squared == least.scatter_reduce(0, small, squared, "amin")[small]
    target[small[nearest]] = large[nearest]
    return target[region]


def pair_distances(total: Tensor, weight: Tensor, pairs: Tensor) -> Tensor:
    """Squared distances (n,) between the means total / weight of pairs (n, 2)."""
    mean = total / weight[:, None]
    parts = [(mean[part[:, 0]] - mean[part[:, 1]]).square_().sum(1) for part in pairs.split(1 << 15)]
    return torch.cat(parts)


def largest_first(chosen: Tensor, region: Tensor, mass: Tensor, means: Tensor) -> Tensor:
    """Means (k, E) of the chosen regions (K + 1,), that of the largest region first."""
    size = torch.bincount(region.flatten(), mass.flatten(), minlength=len(chosen))
    return means[torch.argsort(size * chosen, descending=True, stable=True)[: int(chosen.sum())]]


def core_sizes(blocks: Blocks, region: Tensor, means: Tensor, scale: float) -> Tensor:
    """Weight (K + 1,) of every region near its mean embedding: a block counts by its kernel value around the mean."""
    owner = region.flatten()
    squared = blocks.squared_distances(owner, means)
    return torch.bincount(owner, blocks.weight.flatten() * torch.exp(squared / -scale), minlength=len(means))


def fill_blocks(blocks: Blocks, label: Tensor, regions: Regions, wanted: Tensor, rounds: int) -> Tensor:
    """Give unlabeled blocks (the wanted ones) the most similar label among their neighbours', growing inwards."""
    padded = functional.pad(label, (1, 1, 1, 1, 1, 1))
    flat = padded.view(-1)
    steps = torch.tensor([padded.stride(axis) for axis in range(3)])
    offsets = [int((torch.tensor(o) * steps).sum()) for o in itertools.product((-1, 0, 1), repeat=3) if any(o)]
    place = torch.arange(padded.numel(), device=label.device).view(padded.shape)[1:-1, 1:-1, 1:-1]
    for _ in range(rounds):
        missing = (label == 0) & wanted
        cells = place[missing]
        if len(cells) == 0:
            break
        vectors = blocks.mean[:, missing].T.contiguous()
        own = None if regions.lines is None else own_votes(regions.lines, torch.nonzero(missing, as_tuple=True))
        best = torch.full((len(cells),), torch.inf, device=label.device)
        chosen = torch.zeros_like(cells)
        for offset in offsets:
            near = flat[cells + offset]
            rows = torch.nonzero((near > 0) & (near != chosen)).squeeze(1)
            if len(rows) == 0:
                continue
            votes = None if own is None else own[rows]
            squared = regions.squared_distances(vectors[rows], near[rows], votes)
            closer = squared < best[rows]
            rows = rows[closer]
            best[rows] = squared[closer]
            chosen[rows] = near[rows]
        if not (chosen > 0).any():
            break
        flat[cells] = chosen
        label = padded[1:-1, 1:-1, 1:-1]
    return label
