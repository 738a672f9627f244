"""Density peaks on blocks of voxels: the default, linear in the number of voxels, no pairwise distances.

The idea of Rodriguez and Laio ("Clustering by fast search and find of density peaks", Science 2014), with neighbours in
the image instead of neighbours in the embedding space, because an object is a connected piece of the image:

1. `pool_blocks`: a large volume is averaged over small blocks (2 x 2 x 2 voxels);
2. `climb`: the density of a block is the kernel-weighted mass of the similar blocks around it, and every
   block follows its most similar denser neighbour up to a density peak, whose followers form a basin;
3. `merge_basins`: touching basins whose mean embeddings are closer than `merge_distance` become one region;
4. regions with too little mass near their mean are debris, and their blocks go to the most similar region beside them
   (`fill_blocks`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from spoco_bundle.clustering.blocks import Blocks, block_size, pool_blocks, unpool
from spoco_bundle.clustering.neighbourhood import neighbour_pairs, roots, touching, unique_pairs
from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.embedding_space import kernel_scale
from spoco_bundle.core.errors import SpocoError

__all__ = ["density_peaks"]


def density_peaks(
    field: EmbeddingField,
    foreground: Tensor | None,
    *,
    delta_var: float = 0.5,
    kernel_threshold: float = 0.5,
    merge_distance: float = 1.0,
    min_size: int = 20,
    fill_rounds: int = 2,
    max_blocks: int = 250_000,
    pooling: Sequence[int] | None = None,
) -> Tensor:
    """Cluster a volume; see the module's text for the steps.

    Args:
        field: the embeddings; their objectness, where there is one, weights the density.
        foreground: (z, y, x) bool, voxels that get a label; None for all.
        delta_var: radius of an object in the embedding space, above 0.
        kernel_threshold: kernel value at that radius, in (0, 1).
        merge_distance: touching clusters closer than this are one object, in embedding units, above 0: below the
            distance of touching objects' means (2 delta_dist if training succeeded), above the noise of a block's mean.
        min_size: regions with fewer voxels (weighted by objectness) near their mean embedding are debris.
        fill_rounds: blocks without a region take that of a neighbour, at most so many blocks away.
        max_blocks: volumes of more voxels than this are averaged over blocks, see `block_size`.
        pooling: voxels per block along z, y, x, each 1 or 2, in place of what follows from `max_blocks`: a piece of a
            volume is averaged like the whole.

    Returns:
        labels (z, y, x) int32, 0 = background, not consecutive.

    Raises:
        SpocoError: if `pooling` is not three numbers of 1 or 2, or embeddings are not finite.
    """
    size = block_size(field.shape, max_blocks) if pooling is None else tuple(pooling)
    if len(size) != 3 or not set(size) <= {1, 2}:
        raise SpocoError(f"pooling is {pooling}: give three numbers, each 1 or 2, along z, y, x")
    blocks = pool_blocks(field, size, foreground)
    scale = kernel_scale(delta_var, kernel_threshold)
    density, peak = climb(blocks, scale, merge_distance)
    region, means = merge_basins(blocks, density, peak, merge_distance)
    debris = core_sizes(blocks, region, means, scale) < min_size
    region = fill_blocks(blocks, region * ~debris[region], means, fill_rounds)
    labels = unpool(region.to(torch.int32), size, field.shape)
    return labels if foreground is None else labels.mul_(foreground)


def climb(blocks: Blocks, scale: float, reach: float) -> tuple[Tensor, Tensor]:
    """Local density of every block, and the peak that it reaches by following denser ones.

    `density_i = sum_j w_j exp(-|e_i - e_j|^2 / scale)` over the block and its 26 neighbours (8 in 2D). The parent of a
    block is its most similar denser neighbour closer than `reach`; blocks without foreground take no part.

    Returns:
        density (z, y, x); peak (z, y, x), the flat index of the peak's block.
    """
    pairs = list(neighbour_pairs(blocks.shape))
    density = blocks.weight.clone()
    for a, b in pairs:
        similar = neighbour_distances(blocks.mean, a, b).div_(-scale).exp_()
        density[a] += blocks.weight[b] * similar
        density[b] += blocks.weight[a] * similar
    order = torch.arange(density.numel(), device=density.device, dtype=torch.int32).reshape(density.shape)
    parent = order.clone()
    best = torch.full_like(density, reach**2)
    for a, b in pairs:
        squared = neighbour_distances(blocks.mean, a, b)  # anew: those of all pairs are as large as the blocks
        squared.masked_fill_(~(blocks.inside[a] & blocks.inside[b]), torch.inf)
        ahead = density[b] > density[a]  # of two equal blocks the first in raster order counts as denser
        for low, high, chosen in ((a, b, ahead), (b, a, ~ahead)):
            closer = chosen & (squared < best[low])
            best[low] = torch.where(closer, squared, best[low])
            parent[low] = torch.where(closer, order[high], parent[low])
    return density, roots(parent.flatten()).reshape(density.shape)


def neighbour_distances(mean: Tensor, a: tuple, b: tuple) -> Tensor:
    """Squared embedding distances between the cells of two slices (`neighbour_pairs`) of (E, z, y, x)."""
    total = torch.zeros_like(mean[0][a])
    difference = torch.empty_like(total)
    for channel in mean:  # one by one: their differences stay in the cache
        torch.sub(channel[a], channel[b], out=difference)
        total.addcmul_(difference, difference)
    return total


def merge_basins(blocks: Blocks, density: Tensor, peak: Tensor, merge_distance: float) -> tuple[Tensor, Tensor]:
    """Join touching basins, nearest first, until the means of all that touch are at least `merge_distance` apart.

    In every round a pair of basins that are each other's nearest is joined, together with all the basins whose nearest
    is one of the two; then the density-weighted means are taken anew.

    Returns:
        region (z, y, x), 0 without foreground, otherwise 1..K; means (K + 1, E), row 0 unused.
    """
    is_peak = torch.zeros(peak.numel(), dtype=torch.bool, device=peak.device)
    is_peak[peak[blocks.inside]] = True
    label = torch.cumsum(is_peak, 0)[peak] * blocks.inside
    count = int(label.max()) + 1
    flat = label.flatten()
    weight = torch.bincount(flat, density.flatten().double(), minlength=count)
    total = torch.stack(
        [torch.bincount(flat, (c * density).flatten().double(), minlength=count) for c in blocks.mean], 1
    )
    edges = touching(label)
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
    return region[label], (total[survivors] / weight[survivors, None].clamp(min=1e-12)).float()


def pair_distances(total: Tensor, weight: Tensor, pairs: Tensor) -> Tensor:
    """Squared distances (n,) between the means total / weight of pairs (n, 2)."""
    mean = total / weight[:, None].clamp(min=1e-12)
    parts = [(mean[part[:, 0]] - mean[part[:, 1]]).square_().sum(1) for part in pairs.split(1 << 15)]
    return torch.cat(parts)


def core_sizes(blocks: Blocks, region: Tensor, means: Tensor, scale: float) -> Tensor:
    """Weight (K + 1,) of every region near its mean embedding: a block counts by its kernel value around the mean."""
    owner = region.flatten()
    squared = torch.zeros(len(owner), device=owner.device)
    for channel, mean in zip(blocks.mean, means.T, strict=True):  # one by one: no copy of all
        squared += (channel.flatten() - mean[owner]).square_()
    return torch.bincount(owner, blocks.weight.flatten() * squared.div_(-scale).exp_(), minlength=len(means))


def fill_blocks(blocks: Blocks, label: Tensor, means: Tensor, rounds: int) -> Tensor:
    """Give blocks of the foreground without a label the most similar one among their neighbours', growing inwards."""
    padded = functional.pad(label, (1, 1, 1, 1, 1, 1))
    flat = padded.view(-1)
    strides = padded.stride()
    offsets = [
        sum(o * s for o, s in zip(step, strides, strict=True)) for step in itertools.product((-1, 0, 1), repeat=3)
    ]
    place = torch.arange(padded.numel(), device=label.device).view(padded.shape)[1:-1, 1:-1, 1:-1]
    label = padded[1:-1, 1:-1, 1:-1]
    for _ in range(rounds):
        missing = (label == 0) & blocks.inside
        cells = place[missing]
        if len(cells) == 0:
            break
        vectors = blocks.mean[:, missing].T.contiguous()
        best = torch.full((len(cells),), torch.inf, device=label.device)
        chosen = torch.zeros_like(cells)
        for offset in offsets:
            near = flat[cells + offset]
            rows = torch.nonzero((near > 0) & (near != chosen)).squeeze(1)
            squared = (means[near[rows]] - vectors[rows]).square_().sum(1)
            closer = squared < best[rows]
            rows = rows[closer]
            best[rows] = squared[closer]
            chosen[rows] = near[rows]
        if not (chosen > 0).any():
            break
        flat[cells] = chosen
    return label
