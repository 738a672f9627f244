"""What an anchor sees of the voxels that are not its own: the part of the loss that grows as objects x voxels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spoco_bundle.embedding_space import squared_distances

__all__ = ["OthersSums", "others_sums"]


class OthersSums(NamedTuple):
    """Sums over the voxels that do not belong to an anchor's object, per anchor; p is the kernel `exp(-d^2 / s)`.

    Attributes:
        squares: (K,) sum of `p^2`.
        misses: (K,) sum of `-ln(1 - p)`.
        hinges: (K,) sum of `[delta_dist - d]+^2` over the first `outside` rows only.
    """

    squares: Tensor
    misses: Tensor
    hinges: Tensor


def others_sums(
    rows: Tensor, anchors: Tensor, owner: Tensor, outside: int, scale: float, delta_dist: float
) -> OthersSums:
    """Sums over all pairs of an anchor and a voxel that is not its object's.

    Args:
        rows: (V, E) embeddings, the voxels that belong to an object last.
        anchors: (K, E) one anchor embedding per object.
        owner: (M,) object of each of the last M rows.
        outside: number of leading rows that the hinge sees, at most V - M.
        scale: scale s of the kernel.
        delta_dist: distance at which the hinge ends.

    Returns:
        The sums per anchor.
    """
    voxels, members = len(rows), len(owner)
    sq_dist = squared_distances(anchors, rows)
    other = torch.ones_like(sq_dist, dtype=torch.bool)
    other[owner, torch.arange(voxels - members, voxels, device=rows.device)] = False
    power = sq_dist / -scale
    tiny = torch.finfo(rows.dtype).eps ** 2
    distance = sq_dist[:, :outside].clamp_min(tiny).sqrt()
    return OthersSums(
        squares=(2 * power).exp().mul(other).sum(1),
        misses=-torch.log(-torch.expm1(power.clamp_max(-torch.finfo(rows.dtype).eps))).mul(other).sum(1),
        hinges=(delta_dist - distance).clamp_min(0).square().sum(1),
    )
