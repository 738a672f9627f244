"""One pass over the voxels of a crop that returns, per anchor, every sum that the loss terms are made of.

No large tensor of anchors x voxels is kept: the pass goes over chunks of voxels, and the backward pass makes each
chunk's distances again, except for small crops, whose distances are kept. Voxels come sorted by object and along a
space-filling curve, so that a chunk lies close together in the embedding space and most anchors are out of its reach;
those are left out, on the CPU, where looking at values does not hold up a queue. Distances inside a chunk are taken
about the chunk's mean, which keeps the cancellation of the matrix product small where distances are small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import NamedTuple

import torch
from torch import Tensor

from spoco_bundle.core.embedding_space import full_precision

# values per chunk and kind of device: what fits the caches of a CPU core, and what keeps a GPU busy
CHUNK_VALUES = {"cpu": 2**18, "other": 2**24}
# values that a forward pass keeps for its backward pass at most (64 MB in float32); beyond, they are made again
KEPT_VALUES = 2**24

Known = Callable[[slice, Tensor | slice], Tensor]


class AnchorSums(NamedTuple):
    """Sums over voxels, one (C,) vector each, where p = exp(-d^2 / s) and d is the distance to the anchor.

    Attributes:
        pull: sum over own voxels of `[d - delta_var]+^2`.
        overlap: sum over own voxels of `p`.
        squares: sum over all voxels of `p^2`.
        entropy: sum over own voxels of `-ln p` and over all others of `-ln(1 - p)`.
        hinge: sum over the voxels outside all clusters of `[delta_dist - d]+^2`.

    Where something is unknown to a cluster, all voxels are those that are known to it.
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
        outside_weight: for how many voxels one outside all clusters stands in `squares` and `entropy`; in `hinge` it is
            one.
    """

    delta_var: float
    delta_dist: float
    scale: float
    pull: bool = True
    dice: bool = True
    bce: bool = False
    hinge: bool = True
    outside_weight: float = 1.0

    def reach(self, dtype: torch.dtype) -> float:
        """Distance beyond which a voxel of another object adds nothing: kernel values under the machine epsilon."""
        kernel = kernel_reach(self.scale, dtype) if self.dice or self.bce else 0.0
        return max(kernel, self.delta_dist if self.hinge else 0.0)

    def far(self, dtype: torch.dtype) -> float:
        """Squared distance that stands for all beyond."""
        return max(2 * kernel_reach(self.scale, dtype) ** 2, 2 * self.delta_dist**2)


def kernel_reach(scale: float, dtype: torch.dtype) -> float:
    """Distance at which the kernel `exp(-d^2 / s)` falls to the machine epsilon of `dtype`."""
    return math.sqrt(-math.log(torch.finfo(dtype).eps) * scale)


def chunks(rows: Tensor, anchors: int) -> Iterator[slice]:
    """Ranges of (V, E) rows whose distances to all anchors are in memory at the same time."""
    values = CHUNK_VALUES.get(rows.device.type, CHUNK_VALUES["other"])
    size = max(1024, values // max(anchors, rows.shape[1]))
    for start in range(0, len(rows), size):
        yield slice(start, min(start + size, len(rows)))


def worth_keeping(rows: Tensor, fields: int) -> bool:
    """Whether so many (V,) fields of (V, E) rows, and the two factors of their distances, are few values."""
    return len(rows) * (fields + 2 * rows.shape[1] + 2) <= KEPT_VALUES


def reachable(points: Tensor, anchors: Tensor, reach: float) -> Tensor | slice:
    """Anchors within `reach` of the box around some points; all of them on a GPU, where asking would cost more.

    Args:
        points: (n, E).
        anchors: (C, E).
        reach: distance.

    Returns:
        An index into the anchors.
    """
    if points.device.type != "cpu":
        return slice(None)
    # folded, as torch reduces few long columns many times slower than many short ones; the last rows may count twice
    folds = min(64, len(points))
    head = points[: len(points) // folds * folds].reshape(-1, folds * points.shape[1])
    tail = points[-folds:].reshape(-1)
    low = torch.minimum(head.amin(0), tail).reshape(folds, -1).amin(0)
    high = torch.maximum(head.amax(0), tail).reshape(folds, -1).amax(0)
    gap = torch.maximum(low - anchors, anchors - high).clamp_min_(0)
    # asked this way round, what is not a number stays in and shows in the sums
    return (~(gap.square().sum(1) > reach**2)).nonzero()[:, 0]


def kernel(sq_dist: Tensor, scale: float) -> Tensor:
    """The kernel `exp(-d^2 / s)`, as a power of 2, which torch computes several times faster on a CPU."""
    return torch.exp2(sq_dist * (-1 / (scale * math.log(2))))


@dataclass(frozen=True)
class Pairs:
    """Squared distances of all pairs of an anchor and a point of a chunk, and what their gradient needs.

    Attributes:
        sq_dist: (C, n) squared distances, within the limits given to `pair_distances`.
        points: (n, E).
        anchors: (C, E).
        left: (C, E + 2) `[-2 a, 1, |a|^2]`; with `right` its product is the squared distance.
        right: (n, E + 2) `[x, |x|^2, 1]`.
    """

    sq_dist: Tensor
    points: Tensor
    anchors: Tensor
    left: Tensor
    right: Tensor

    def select(self, index: Tensor) -> Pairs:
        """The pairs of some anchors only."""
        return Pairs(self.sq_dist[index], self.points, self.anchors[index], self.left[index], self.right)

    def gradients(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of `sum(weights * sq_dist)` for the points (n, E) and for the anchors (C, E)."""
        channels = self.points.shape[1]
        from_left, from_right = weights.T @ self.left, weights @ self.right
        for_points = torch.addcmul(from_left[:, :channels], self.points, from_left[:, channels, None], value=2)
        for_anchors = 2 * (self.anchors * from_right[:, channels + 1 :] - from_right[:, :channels])
        return for_points, for_anchors


def pair_distances(points: Tensor, anchors: Tensor, far: float) -> Pairs:
    """Squared distances of (n, E) points to (C, E) anchors, both given about the points' mean.

    The smallest values are raised to the rounding error of the matrix product, about machine epsilon times the points'
    own squared norm, so that a direction is never taken from rounding noise. The largest are lowered to `far`: kernel
    values that underflow cost many times the time of others.
    """
    ones = torch.ones_like(points[:, :1])
    norms = points.square() @ points.new_ones(points.shape[1], 1)
    left = torch.cat([-2 * anchors, torch.ones_like(anchors[:, :1]), anchors.square().sum(1, keepdim=True)], 1)
    right = torch.cat([points, norms, ones], 1)
    finfo = torch.finfo(points.dtype)
    nearest = (finfo.eps * norms + finfo.tiny).T
    sq_dist = torch.clamp(left @ right.T, nearest, points.new_tensor(far))
    return Pairs(sq_dist, points, anchors, left, right)


def _others(
    rows: Tensor, anchors: Tensor, owner: Tensor, outside: int, part: slice, params: SweepParams, known: Known | None
) -> tuple[Tensor | slice, Pairs, int] | None:
    """Pairs of one chunk with the anchors in reach, far apart for an anchor's own voxels and for what is unknown to it.

    Returns the anchors' index, the pairs, and how many of the points lie outside all clusters; None if no anchor is in
    reach.
    """
    reach = params.reach(rows.dtype)
    points = rows[part]
    centre = points.mean(0)
    points = points - centre
    shifted = anchors - centre
    index = reachable(points, shifted, reach)
    near = shifted[index]
    if not reach or len(near) == 0:
        return None
    far = params.far(rows.dtype)
    pairs = pair_distances(points, near, far)
    free = min(max(outside - part.start, 0), len(points))
    own = owner[max(part.start - outside, 0) : max(part.stop - outside, 0)]
    if len(own):
        position = torch.full((len(anchors),), -1, device=rows.device)
        position[index] = torch.arange(len(near), device=rows.device)
        line = position[own]
        # an anchor that is not in reach of its own voxel has no line to blank; line 0 is blanked with what it holds
        place = line.clamp_min(0), torch.arange(free, len(points), device=rows.device)
        pairs.sq_dist[place] = torch.where(line >= 0, far, pairs.sq_dist[place])
    if known is not None and free:
        unknown = ~known(slice(part.start, part.start + free), index).T
        # at this distance kernel, hinge and slopes are exactly 0; infinity would slow the square root down
        pairs.sq_dist[:, :free].masked_fill_(unknown, torch.finfo(rows.dtype).max)
    if isinstance(index, Tensor):
        close = (~(pairs.sq_dist.amin(1) > reach**2)).nonzero()[:, 0]
        if len(close) == 0:
            return None
        if len(close) < len(index):
            index, pairs = index[close], pairs.select(close)
    return index, pairs, free


def _weighted(values: Tensor, free: int, params: SweepParams) -> Tensor:
    """Values (C, n) of pairs, in place, those of points outside all clusters times what one of these stands for."""
    if params.outside_weight != 1:
        values[:, :free] *= params.outside_weight
    return values


def in_full_precision(backward: Callable) -> Callable:
    """Run a backward pass in the precision of its forward pass, whatever surrounds the call of `backward()`."""

    @wraps(backward)
    def run(ctx, *grads: Tensor) -> object:
        with full_precision(grads[0].device):
            return backward(ctx, *grads)

    return run


class _AnchorSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, rows: Tensor, anchors: Tensor, owner: Tensor, outside: int, params: SweepParams, known: Known | None
    ) -> AnchorSums:
        ctx.save_for_backward(rows, anchors, owner)
        ctx.outside, ctx.params, ctx.known = outside, params, known
        clusters, scale = len(anchors), params.scale
        kept = ctx.kept = [] if worth_keeping(rows, clusters) else None
        pull, overlap, squares, entropy, hinge = rows.new_zeros(5, clusters)
        for part in chunks(rows, clusters):
            own = owner[max(part.start - outside, 0) : max(part.stop - outside, 0)]
            if len(own):
                sq_dist = (rows[part.stop - len(own) : part.stop] - anchors[own]).square().sum(1)
                if params.pull:
                    pull.index_add_(0, own, (sq_dist.sqrt() - params.delta_var).clamp_min(0).square())
                if params.dice:
                    soft = kernel(sq_dist, scale)
                    overlap.index_add_(0, own, soft)
                    squares.index_add_(0, own, soft.square())
                if params.bce:
                    entropy.index_add_(0, own, sq_dist / scale)
            found = _others(rows, anchors, owner, outside, part, params, known)
            if kept is not None:
                kept.append(found)
            if found is None:
                continue
            index, pairs, free = found
            sq_dist = pairs.sq_dist
            if params.dice:
                squares[index] += _weighted(kernel(sq_dist, scale / 2), free, params).sum(1)
            if params.bce:
                power = sq_dist.clamp_min(scale * torch.finfo(rows.dtype).eps) / -scale
                entropy[index] -= _weighted(torch.log(-torch.expm1(power)), free, params).sum(1)
            if params.hinge and free:
                hinge[index] += (params.delta_dist - sq_dist[:, :free].sqrt()).clamp_min_(0).square_().sum(1)
        return AnchorSums(pull, overlap, squares, entropy, hinge)

    @staticmethod
    @in_full_precision
    def backward(ctx, pull: Tensor, overlap: Tensor, squares: Tensor, entropy: Tensor, hinge: Tensor):
        rows, anchors, owner = ctx.saved_tensors
        outside, params = ctx.outside, ctx.params
        scale = params.scale
        grad_rows, grad_anchors = torch.zeros_like(rows), torch.zeros_like(anchors)
        for number, part in enumerate(chunks(rows, len(anchors))):
            own = owner[max(part.start - outside, 0) : max(part.stop - outside, 0)]
            if len(own):
                members = slice(part.stop - len(own), part.stop)
                difference = rows[members] - anchors[own]
                sq_dist = difference.square().sum(1)
                weight = torch.zeros_like(sq_dist)
                if params.pull:
                    weight += pull[own] * (1 - params.delta_var / sq_dist.sqrt().clamp_min(params.delta_var))
                if params.dice:
                    soft = kernel(sq_dist, scale)
                    weight -= soft * (overlap[own] + 2 * squares[own] * soft) / scale
                if params.bce:
                    weight += entropy[own] / scale
                step = difference.mul_(2 * weight[:, None])
                grad_rows[members] = step
                grad_anchors.index_add_(0, own, step, alpha=-1)
            again = ctx.kept is None
            found = _others(rows, anchors, owner, outside, part, params, ctx.known) if again else ctx.kept[number]
            if found is None:
                continue
            index, pairs, free = found
            sq_dist = pairs.sq_dist
            weights = torch.zeros_like(sq_dist)
            if params.dice:
                weights = kernel(sq_dist, scale / 2).mul_((squares[index] * (-2 / scale))[:, None])
            if params.bce:
                floor = scale * torch.finfo(rows.dtype).eps
                slope = torch.where(sq_dist > floor, 1 / torch.expm1(sq_dist / scale), 0)
                weights -= slope * (entropy[index] / scale)[:, None]
            weights = _weighted(weights, free, params)
            if params.hinge and free:
                slope = (1 - params.delta_dist / sq_dist[:, :free].sqrt()).clamp_max_(0)
                weights[:, :free] += slope.mul_(hinge[index][:, None])
            for_points, for_anchors = pairs.gradients(weights)
            grad_rows[part] += for_points
            grad_anchors[index] += for_anchors
        return grad_rows, grad_anchors, None, None, None, None


def anchor_sums(
    rows: Tensor, anchors: Tensor, owner: Tensor, outside: int, params: SweepParams, known: Known | None = None
) -> AnchorSums:
    """Sums over voxels per anchor, differentiable once.

    Kernel values of other objects' voxels under the machine epsilon are left out.

    Args:
        rows: (V, E) embeddings, float32 or float64; first the rows outside all clusters, then cluster after cluster.
        anchors: (C, E) one anchor per cluster.
        owner: (V - outside,) cluster of each row from `outside` on.
        outside: number of rows that belong to no cluster.
        params: what to compute.
        known: given some rows outside all clusters and an index into the anchors, says (n, C) bool which rows are known
            to which anchor's cluster; pairs that are not count nowhere. None means all are.

    Returns:
        The sums.
    """
    return AnchorSums(*_AnchorSums.apply(rows, anchors, owner, outside, params, known))
