"""The discriminative loss and its extension to voxels without a label.

Pull, push and regularizer after De Brabandere, Neven and Van Gool, "Semantic instance segmentation with a
discriminative loss function", 2017; unlabeled push after Wolny et al., CVPR 2022. With e the embedding of a voxel, m_k
the mean embedding of cluster k out of C, V_k its voxels, U_k the voxels outside all clusters that are known not to be
its own, and [x]+ = max(0, x):

    pull            1/C sum_k 1/|V_k| sum_{v in V_k} [ |e_v - m_k| - delta_var ]+^2
    push            1/(C (C - 1)) sum_{k != l} [ 2 delta_dist - |m_k - m_l| ]+^2
    regularizer     1/C sum_k |m_k|
    unlabeled_push  1/C sum_k 1/|U_k| sum_{v in U_k} [ delta_dist - |e_v - m_k| ]+^2

U_k is what the known region of k (see `known_region.py`) holds outside all clusters: all that lies there, unless k is
annotated in part. An object with an empty U_k adds 0 and is one of the C all the same, so that how one object is
annotated does not change the weight of another.

The published code counts the mean of the unlabeled voxels in the regularizer; the paper, and this file, do not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spoco_bundle.losses.sorted_crop import SortedCrop
from spoco_bundle.losses.sweep import chunks


class _ClusterMeans(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, counts: Tensor, owner: Tensor, outside: int) -> Tensor:
        ctx.save_for_backward(counts, owner)
        ctx.shape, ctx.outside = rows.shape, outside
        # float64, since adding many float32 far from the origin loses digits that the distances need
        sums = rows.new_zeros(len(counts), rows.shape[1], dtype=torch.float64)
        members = rows[outside:]
        for part in chunks(members, 1):
            sums.index_add_(0, owner[part], members[part].double())
        return sums.div_(counts[:, None]).to(rows.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        counts, owner = ctx.saved_tensors
        rows = grad.new_empty(ctx.shape)
        rows[: ctx.outside] = 0
        torch.index_select(grad / counts[:, None], 0, owner, out=rows[ctx.outside :])
        return rows, None, None, None


def cluster_means(rows: Tensor, crop: SortedCrop) -> Tensor:
    """Mean embedding of every cluster.

    Args:
        rows: (V, E) embeddings in the crop's order.
        crop: the sorted crop.

    Returns:
        (C, E) means.
    """
    return _ClusterMeans.apply(rows, crop.counts, crop.owner, crop.outside)


def pull(pull_sums: Tensor, counts: Tensor) -> Tensor:
    """Pull voxels to within `delta_var` of their cluster's mean.

    Args:
        pull_sums: (C,) per cluster the sum of `[d - delta_var]+^2` over its voxels, see `AnchorSums`; C at least 1.
        counts: (C,) voxels per cluster.

    Returns:
        Scalar, at least 0.
    """
    return (pull_sums / counts).mean()


def push(means: Tensor, delta_dist: float) -> Tensor:
    """Push the means of different clusters beyond twice `delta_dist` from each other.

    Args:
        means: (C, E) cluster means.
        delta_dist: half of the distance to reach.

    Returns:
        Scalar, at least 0; 0 for fewer than two clusters. Coinciding means have gradient 0, as no direction is better.
    """
    clusters = len(means)
    if clusters < 2:
        return 0 * means.sum()
    distances = torch.pdist(means)
    return (2 * delta_dist - distances).clamp_min(0).square().mean()


def regularizer(means: Tensor, coordinate_channels: int = 0) -> Tensor:
    """Mean norm of the cluster means, which keeps them near the origin.

    Args:
        means: (C, E) cluster means, C at least 1.
        coordinate_channels: number of leading channels that hold coordinates; these are not drawn to the origin.

    Returns:
        Scalar, at least 0.
    """
    return torch.linalg.vector_norm(means[:, coordinate_channels:], dim=1).mean()


def unlabeled_push(hinge_sums: Tensor, outside: int | Tensor) -> Tensor:
    """Push voxels outside all objects beyond `delta_dist` from every object's mean.

    Args:
        hinge_sums: (K,) per object the sum of `[delta_dist - d]+^2` over its voxels U_k, see `AnchorSums`.
        outside: number of these voxels, the same for all objects or (K,).

    Returns:
        Scalar, at least 0; 0 if there is no such voxel.
    """
    if isinstance(outside, Tensor):
        return (hinge_sums / outside.clamp_min(1)).mean()
    return hinge_sums.mean() / max(outside, 1)
