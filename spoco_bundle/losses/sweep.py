"""One pass over the voxels of a crop that returns, per anchor, every sum that the loss terms are made of.

No tensor of anchors x voxels is ever kept: the pass goes over chunks of voxels, and the backward pass makes each
chunk's distances again. Voxels come sorted by object, so that a chunk lies close together in the embedding space and
most anchors are out of its reach; those are left out, on the CPU, where looking at values does not hold up a queue.
Distances inside a chunk are taken about the chunk's mean, which keeps the cancellation of the matrix product small
where distances are small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["AnchorSums", "SweepParams", "anchor_sums", "chunks", "pair_distances", "pair_gradients", "reachable"]

# values per chunk and kind of device: what fits the caches of a CPU core, and what keeps a GPU busy
CHUNK_VALUES = {"cpu": 2**18, "other": 2**24}


class AnchorSums(NamedTuple):
    """Sums over voxels, one (C,) vector each, where p = exp(-d^2 / s) and d is the distance to the anchor.

    Attributes:
        pull: sum over own voxels of `[d - delta_var]+^2`.
        overlap: sum over own voxels of `p`.
        squares: sum over all voxels of `p^2`.
        entropy: sum over own voxels of `-ln p` and over all others of `-ln(1 - p)`.
        hinge: sum over the voxels outside all clusters of `[delta_dist - d]+^2`.
    """

    pull: Tensor
    overlap: Tensor
    squares: Tensor
    entropy: Tensor
    hinge: Tensor


@dataclass(frozen=True)
class SweepParams:
    """What the sweep computes; a sum whose part is off is 0.

    Attributes:
        delta_var: radius within which there is no pull.
        delta_dist: distance at which the hinge ends.
        scale: scale s of the kernel.
        pull: fill `pull`.
        dice: fill `overlap` and `squares`.
        bce: fill `entropy`.
        hinge: fill `hinge`.
    """

    delta_var: float
    delta_dist: float
    scale: float
    pull: bool = True
    dice: bool = True
    bce: bool = False
    hinge: bool = True

    def reach(self, dtype: torch.dtype) -> float:
        """Distance beyond which a voxel of another object adds nothing: kernel values under the machine epsilon."""
        kernel = math.sqrt(-math.log(torch.finfo(dtype).eps) * self.scale) if self.dice or self.bce else 0.0
        return max(kernel, self.delta_dist if self.hinge else 0.0)


def chunks(rows: Tensor, anchors: int) -> Iterator[slice]:
    """Ranges of (V, E) rows whose distances to all anchors are in memory at the same time."""
    values = CHUNK_VALUES.get(rows.device.type, CHUNK_VALUES["other"])
    size = max(1024, values // max(anchors, rows.shape[1]))
    for start in range(0, len(rows), size):
        yield slice(start, min(start + size, len(rows)))


def reachable(points: Tensor, anchors: Tensor, reach: float) -> Tensor | slice:
    """Anchors within `reach` of the sphere around some points; all of them on a GPU, where asking would cost more.

    Args:
        points: (n, E), about their own mean.
        anchors: (C, E), about the same origin.
        reach: distance.

    Returns:
        An index into the anchors.
    """
    if points.device.type != "cpu":
        return slice(None)
    radius = points.square().sum(1).max().sqrt()
    return (anchors.square().sum(1).sqrt() <= radius + reach).nonzero()[:, 0]


def pair_distances(points: Tensor, anchors: Tensor) -> Tensor:
    """(C, n) squared distances of (n, E) points to (C, E) anchors, both given about the points' mean.

    The smallest values are raised to the rounding error of the matrix product, about machine epsilon times the points'
    own squared norm, so that a direction is never taken from rounding noise.
    """
    norms = points.square().sum(1, keepdim=True)
    left = torch.cat([-2 * anchors, torch.ones_like(anchors[:, :1]), anchors.square().sum(1, keepdim=True)], 1)
    right = torch.cat([points, norms, torch.ones_like(norms)], 1)
    finfo = torch.finfo(points.dtype)
    return torch.maximum(left @ right.T, (finfo.eps * norms + finfo.tiny).T)


def pair_gradients(weights: Tensor, points: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `sum(weights * pair_distances(points, anchors))`.

    Args:
        weights: (C, n).
        points: (n, E).
        anchors: (C, E).

    Returns:
        (n, E) for the points and (C, E) for the anchors.
    """
    for_points = 2 * (points * weights.sum(0)[:, None] - weights.T @ anchors)
    for_anchors = 2 * (anchors * weights.sum(1)[:, None] - weights @ points)
    return for_points, for_anchors


def _others(
    rows: Tensor, anchors: Tensor, owner: Tensor, outside: int, part: slice, reach: float
) -> tuple[Tensor | slice, Tensor, Tensor, Tensor, int] | None:
    """Squared distances (C', n) of one chunk to the anchors in reach, infinite for an anchor's own voxels.

    Returns the anchors' index, the points and anchors about the chunk's mean, the distances, and how many of the points
    lie outside all clusters; None if no anchor is in reach.
    """
    points = rows[part]
    centre = points.mean(0)
    points = points - centre
    shifted = anchors - centre
    index = reachable(points, shifted, reach)
    near = shifted[index]
    if len(near) == 0:
        return None
    sq_dist = pair_distances(points, near)
    free = min(max(outside - part.start, 0), len(points))
    own = owner[max(part.start - outside, 0) : max(part.stop - outside, 0)]
    if len(own):
        position = torch.full((len(anchors),), -1, device=rows.device)
        position[index] = torch.arange(len(near), device=rows.device)
        line = position[own]
        # an anchor that is not in reach of its own voxel has no line to blank; line 0 is blanked with what it holds
        column = torch.arange(free, len(points), device=rows.device)
        held = sq_dist[line.clamp_min(0), column]
        sq_dist[line.clamp_min(0), column] = torch.where(line >= 0, torch.inf, held)
    if isinstance(index, Tensor):
        close = (sq_dist.amin(1) <= reach**2).nonzero()[:, 0]
        if len(close) == 0:
            return None
        if len(close) < len(index):
            index, near, sq_dist = index[close], near[close], sq_dist[close]
    return index, points, near, sq_dist, free


class _AnchorSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, anchors: Tensor, owner: Tensor, outside: int, params: SweepParams) -> AnchorSums:
        ctx.save_for_backward(rows, anchors, owner)
        ctx.outside, ctx.params = outside, params
        clusters, scale = len(anchors), params.scale
        reach = params.reach(rows.dtype)
        pull, overlap, squares, entropy, hinge = rows.new_zeros(5, clusters)
        for part in chunks(rows, clusters):
            own = owner[max(part.start - outside, 0) : max(part.stop - outside, 0)]
            if len(own):
                sq_dist = (rows[part.stop - len(own) : part.stop] - anchors[own]).square().sum(1)
                if params.pull:
                    pull.index_add_(0, own, (sq_dist.sqrt() - params.delta_var).clamp_min(0).square())
                if params.dice:
                    soft = torch.exp(sq_dist / -scale)
                    overlap.index_add_(0, own, soft)
                    squares.index_add_(0, own, soft.square())
                if params.bce:
                    entropy.index_add_(0, own, sq_dist / scale)
            if not reach or (found := _others(rows, anchors, owner, outside, part, reach)) is None:
                continue
            index, _, _, sq_dist, free = found
            if params.dice:
                squares[index] += torch.exp(sq_dist * (-2 / scale)).sum(1)
            if params.bce:
                power = sq_dist.clamp_min(scale * torch.finfo(rows.dtype).eps) / -scale
                entropy[index] -= torch.log(-torch.expm1(power)).sum(1)
            if params.hinge and free:
                hinge[index] += (params.delta_dist - sq_dist[:, :free].sqrt()).clamp_min_(0).square_().sum(1)
        return AnchorSums(pull, overlap, squares, entropy, hinge)

    @staticmethod
    def backward(ctx, pull: Tensor, overlap: Tensor, squares: Tensor, entropy: Tensor, hinge: Tensor):
        rows, anchors, owner = ctx.saved_tensors
        outside, params = ctx.outside, ctx.params
        scale = params.scale
        reach = params.reach(rows.dtype)
        grad_rows, grad_anchors = torch.zeros_like(rows), torch.zeros_like(anchors)
        for part in chunks(rows, len(anchors)):
            own = owner[max(part.start - outside, 0) : max(part.stop - outside, 0)]
            if len(own):
                members = slice(part.stop - len(own), part.stop)
                difference = rows[members] - anchors[own]
                sq_dist = difference.square().sum(1)
                weight = torch.zeros_like(sq_dist)
                if params.pull:
                    weight += pull[own] * (1 - params.delta_var / sq_dist.sqrt().clamp_min(params.delta_var))
                if params.dice:
                    soft = torch.exp(sq_dist / -scale)
                    weight -= soft * (overlap[own] + 2 * squares[own] * soft) / scale
                if params.bce:
                    weight += entropy[own] / scale
                step = difference.mul_(2 * weight[:, None])
                grad_rows[members] = step
                grad_anchors.index_add_(0, own, step, alpha=-1)
            if not reach or (found := _others(rows, anchors, owner, outside, part, reach)) is None:
                continue
            index, points, near, sq_dist, free = found
            weights = torch.zeros_like(sq_dist)
            if params.dice:
                weights = torch.exp(sq_dist * (-2 / scale)).mul_((squares[index] * (-2 / scale))[:, None])
            if params.bce:
                floor = scale * torch.finfo(rows.dtype).eps
                slope = torch.where(sq_dist > floor, 1 / torch.expm1(sq_dist / scale), 0)
                weights -= slope * (entropy[index] / scale)[:, None]
            if params.hinge and free:
                slope = (1 - params.delta_dist / sq_dist[:, :free].sqrt()).clamp_max_(0)
                weights[:, :free] += slope.mul_(hinge[index][:, None])
            for_points, for_anchors = pair_gradients(weights, points, near)
            grad_rows[part] += for_points
            grad_anchors[index] += for_anchors
        return grad_rows, grad_anchors, None, None, None


def anchor_sums(rows: Tensor, anchors: Tensor, owner: Tensor, outside: int, params: SweepParams) -> AnchorSums:
    """Sums over voxels per anchor, differentiable once.

    Kernel values of other objects' voxels under the machine epsilon are left out.

    Args:
        rows: (V, E) embeddings, float32 or float64; first the rows outside all clusters, then cluster after cluster.
        anchors: (C, E) one anchor per cluster.
        owner: (V - outside,) cluster of each row from `outside` on.
        outside: number of rows that belong to no cluster.
        params: what to compute.

    Returns:
        The sums.
    """
    return AnchorSums(*_AnchorSums.apply(rows, anchors, owner, outside, params))
