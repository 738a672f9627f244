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

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from spoco_bundle.clustering.blocks import PART, Blocks, block_size, pool_blocks
from spoco_bundle.clustering.centres import check_range
from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.embedding_space import kernel_scale
from spoco_bundle.core.errors import SpocoError


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
        max_blocks: volumes of more voxels than this, 1 or more, are averaged over blocks, see `block_size`.
        pooling: voxels per block along z, y, x, each 1 or 2, in place of what follows from `max_blocks`: a piece of a
            volume is averaged like the whole.

    Returns:
        labels (z, y, x) int32, 0 = background, not consecutive.

    Raises:
        SpocoError: for values out of range, or for embeddings that are not finite.
    """
    if not merge_distance > 0:
        raise SpocoError(f"merge_distance is {merge_distance}: give a distance in the embedding space above 0")
    check_range(1, max_blocks=max_blocks)
    size = block_size(field.shape, max_blocks) if pooling is None else tuple(pooling)
    if len(size) != 3 or not set(size) <= {1, 2}:
        raise SpocoError(f"pooling is {pooling}: give three numbers, each 1 or 2, along z, y, x")
    blocks = pool_blocks(field, size, foreground)
    scale = kernel_scale(delta_var, kernel_threshold)
    density, peak = climb(blocks, scale, merge_distance)
    region, means = merge_basins(blocks, density, peak, merge_distance)
    debris = core_sizes(blocks, region, means, scale) < min_size
    region = fill_blocks(blocks, region * ~debris[region], means, fill_rounds)
    labels = blocks.spread(region[:-1].to(torch.int32), field.shape)
    return labels if foreground is None else labels.mul_(foreground)


def climb(blocks: Blocks, scale: float, reach: float) -> tuple[Tensor, Tensor]:
    """Local density of every block, and the peak that it reaches by following denser ones.

    `density_i = sum_j w_j exp(-|e_i - e_j|^2 / scale)` over the block and its 26 neighbours (8 in 2D). The parent of a
    block is its most similar denser neighbour closer than `reach`.

    Returns:
        density (n,); peak (n,), the row of the peak's block.
    """
    density = blocks.weight.clone()
    for rows in blocks.parts():
        for near in blocks.beside(rows):
            similar = neighbour_distances(blocks.mean[rows], blocks.mean, near).div_(-scale).exp_()
            density[rows].addcmul_(blocks.weight.index_select(0, near), similar)
            density.index_add_(0, near, similar.mul_(blocks.weight[rows]))
    parent = torch.arange(len(density), device=density.device)
    best = torch.full_like(density, reach**2)
    for rows in blocks.parts():
        own = torch.arange(rows.start, rows.stop, device=density.device)
        for near in blocks.beside(rows):
            squared = neighbour_distances(blocks.mean[rows], blocks.mean, near)
            # of two equally dense blocks the first in raster order counts as denser
            ahead = density.index_select(0, near) > density[rows]
            for block, denser, chosen in ((own, near, ahead), (near, own, ~ahead)):
                closer = torch.nonzero(chosen & (squared < best.index_select(0, block))).squeeze(1)
                block = block[closer].long()
                best[block] = squared[closer]
                parent[block] = denser[closer].long()
    return density[:-1], roots(parent)[:-1]


def roots(parent: Tensor) -> Tensor:
    """Root (n,) of each node of a forest, whose nodes have these parents (n,) and roots themselves."""
    while True:
        further = parent[parent]
        if torch.equal(further, parent):
            return parent
        parent = further


def neighbour_distances(vectors: Tensor, others: Tensor, columns: Tensor) -> Tensor:
    """Squared distances (m,) between vectors (m, E) and `others[columns]`."""
    return others.index_select(0, columns).sub_(vectors).square_().sum(1)


def merge_basins(blocks: Blocks, density: Tensor, peak: Tensor, merge_distance: float) -> tuple[Tensor, Tensor]:
    """Join touching basins, nearest first, until the means of all that touch are at least `merge_distance` apart.

    In every round a pair of basins that are each other's nearest is joined, together with all the basins whose nearest
    is one of the two; then the density-weighted means are taken anew.

    Returns:
        region (n + 1,), 1..K, 0 for "no block"; means (K + 1, E), row 0 unused.
    """
    is_peak = torch.zeros(len(peak), dtype=torch.bool, device=peak.device)
    is_peak[peak] = True
    label = torch.cumsum(is_peak, 0)[peak]
    count = int(is_peak.sum()) + 1
    weight = torch.bincount(label, density.double(), minlength=count)
    channels = blocks.mean[:-1].T
    total = torch.stack([torch.bincount(label, (c * density).double(), minlength=count) for c in channels], 1)
    label = functional.pad(label, (0, 1))
    edges = touching(blocks, label)
    target = torch.arange(count, device=label.device)
    while len(edges):
        mean = total / weight[:, None].clamp(min=1e-12)
        squared = torch.cat([neighbour_distances(mean[part[:, 0]], mean, part[:, 1]) for part in edges.split(PART)])
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


def touching(blocks: Blocks, label: Tensor) -> Tensor:
    """Pairs (m, 2) of different labels above 0 (n + 1,) of blocks that share a face, once, the smaller first."""
    found = [label.new_zeros(0, 2)]
    for rows in blocks.parts():
        for near in blocks.beside(rows, faces=True):
            one, other = label[rows], label.index_select(0, near)
            border = torch.nonzero((one != other) & (other > 0)).squeeze(1)
            found.append(torch.stack([one[border], other[border]], 1))
    return unique_pairs(torch.cat(found), int(label.max()) + 1)


def unique_pairs(pairs: Tensor, count: int) -> Tensor:
    """Sorted pairs (n, 2) of different ids below `count`, each once, the smaller id first."""
    low, high = pairs.min(1).values, pairs.max(1).values
    key = torch.unique((low * count + high)[low != high])
    return torch.stack([key // count, key % count], 1)


def core_sizes(blocks: Blocks, region: Tensor, means: Tensor, scale: float) -> Tensor:
    """Weight (K + 1,) of every region near its mean embedding: a block counts by its kernel value around the mean."""
    squared = [neighbour_distances(blocks.mean[rows], means, region[rows]) for rows in blocks.parts()]
    near = torch.cat([*squared, means.new_zeros(1)]).div_(-scale).exp_()
    return torch.bincount(region, blocks.weight * near, minlength=len(means))


def fill_blocks(blocks: Blocks, label: Tensor, means: Tensor, rounds: int) -> Tensor:
    """Give blocks without a label (n + 1,) the most similar one among their neighbours', growing inwards."""
    for _ in range(rounds):
        filled = label.clone()
        for rows in torch.nonzero(label[:-1] == 0).squeeze(1).split(PART):
            vectors = blocks.mean[rows]
            best = torch.full((len(rows),), torch.inf, device=label.device)
            chosen = torch.zeros_like(rows)
            for near in blocks.beside(rows, ahead=False):
                other = label.index_select(0, near)
                squared = neighbour_distances(vectors, means, other)
                closer = (other > 0) & (squared < best)
                best = torch.where(closer, squared, best)
                chosen = torch.where(closer, other, chosen)
            filled[rows] = chosen
        if torch.equal(filled, label):
            break
        label = filled
    return label
