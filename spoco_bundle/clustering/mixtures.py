"""Mixtures of embeddings: a network's output is smooth, so that a voxel between objects has something of each."""

from __future__ import annotations

import torch
from torch import Tensor

from spoco_bundle.clustering.assignment import nearest_centre

MIXED = 3  # regions in a mixture: few windows see more objects
BORDER_NEIGHBOURS = 10  # densest regions around a border that are looked at
LARGER = 2.0  # times as many blocks as a blurred border has each region that it is a mixture of
MOST_ENDS = 8  # first of the ends that all points have in common, whose mixtures are looked for
AT_ONCE = 1 << 10  # points whose products with all their ends are held in memory

__all__ = ["MIXED", "MOST_ENDS", "borders", "from_mixtures", "mixed"]


def from_mixtures(points: Tensor, ends: Tensor, first: Tensor, others: Tensor, parts: int = MIXED) -> Tensor:
    """What points (N, V, E) differ by, (N, V, E), from a near mixture (convex combination) of some ends.

    As Frank and Wolfe ("An algorithm for quadratic programming", 1956) go: from the nearest end on, a step goes towards
    the end furthest ahead in the direction of the point, as far as that brings it nearer. The length of the result is
    an upper bound of the distance to the nearest mixture, which for two ends it is.

    Args:
        points: (N, V, E), N groups of V points.
        ends: (N, K, E) of every group.
        first: (N, K) bool, which ends a mixture can start from. Without any, a group's result is infinite.
        others: (N, K) bool, which can be mixed in.
        parts: most ends in a mixture, 1 or more.
    """
    if ends.shape[1] == 0:
        return torch.full_like(points, torch.inf)
    centre = ends.mean(1, keepdim=True)  # large coordinates cancel badly
    points, ends = points - centre, ends - centre
    squares = ends.square().sum(2)[:, None]

    def picked(index: Tensor) -> Tensor:
        return ends.gather(1, index[..., None].expand(-1, -1, ends.shape[2]))

    to_ends = torch.bmm(points, ends.transpose(1, 2))  # (N, V, K)
    start = (squares - 2 * to_ends).masked_fill(~first[:, None], torch.inf).argmin(2)
    rest = points - picked(start)
    for _ in range(parts - 1):
        ahead = torch.bmm(rest, ends.transpose(1, 2)).masked_fill(~others[:, None], -torch.inf).argmax(2)
        way = picked(ahead) - (points - rest)
        length = way.square().sum(2).clamp(min=1e-12)
        share = ((rest * way).sum(2) / length).clamp(0, 1) * others.gather(1, ahead)
        rest -= share[..., None] * way
    return rest.masked_fill_(~first.any(1)[:, None, None], torch.inf)


def mixed(points: Tensor, ends: Tensor, tolerance: float) -> Tensor:
    """Points (N, E) near an end (K, E), or a mixture of some of the first `MOST_ENDS` ends, (N,) bool."""
    near = nearest_centre(points, ends)[1] < tolerance**2
    ends = ends[None, :MOST_ENDS]
    every = torch.ones(ends.shape[:2], dtype=torch.bool, device=ends.device)
    parts = [from_mixtures(part[None], ends, every, every)[0] for part in points.split(AT_ONCE)]
    return near | (torch.cat(parts).square().sum(1) < tolerance**2)


def borders(edges: Tensor, means: Tensor, likeness: Tensor, size: Tensor, core: Tensor, tolerance: float) -> Tensor:
    """Regions that are blurred borders or noise, (K + 1,) bool.

    A region without a core belongs to its surroundings if its mean lies within `tolerance` of a denser region around
    it, or of a mixture of it with others that are larger by `LARGER`: a border is thinner than what it lies between.

    Args:
        edges: (n, 2) regions near each other.
        means: (K + 1, E) of the regions.
        likeness: (K + 1,) greatest likeness of a block in the region (`climb`).
        size: (K + 1,) number of blocks.
        core: (K + 1,) bool, regions with a core.
        tolerance: in embedding units.
    """
    both = torch.cat([edges, edges.flip(1)])
    both = both[~core[both[:, 0]] & (likeness[both[:, 1]] > likeness[both[:, 0]])]
    order = torch.argsort(likeness[both[:, 1]], descending=True, stable=True)
    both = both[order][torch.argsort(both[order, 0], stable=True)]
    region, row, degree = torch.unique_consecutive(both[:, 0], return_inverse=True, return_counts=True)
    place = torch.arange(len(both), device=both.device) - (torch.cumsum(degree, 0) - degree)[row]
    near = torch.zeros(len(region), BORDER_NEIGHBOURS, dtype=torch.long, device=both.device)
    kept = place < BORDER_NEIGHBOURS
    near[row[kept], place[kept]] = both[kept, 1]
    found = torch.zeros(len(means), dtype=torch.bool, device=both.device)
    for some, others in zip(region.split(AT_ONCE), near.split(AT_ONCE), strict=True):
        larger = (others > 0) & (size[others] >= LARGER * size[some][:, None])
        rest = from_mixtures(means[some][:, None], means[others], others > 0, larger)[:, 0]
        found[some] = rest.square().sum(1) < tolerance**2
    return found
