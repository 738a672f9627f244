"""The discriminative loss and its extension to voxels without a label.

Pull, push and regularizer after De Brabandere, Neven and Van Gool, "Semantic instance segmentation with a
discriminative loss function", 2017; unlabelled push after Wolny et al., CVPR 2022. With e the embedding of a voxel, m_k
the mean embedding of cluster k out of C, V_k its voxels, U the voxels outside all clusters and [x]+ = max(0, x):

    pull            1/C sum_k 1/|V_k| sum_{v in V_k} [ |e_v - m_k| - delta_var ]+^2
    push            1/(C (C - 1)) sum_{k != l} [ 2 delta_dist - |m_k - m_l| ]+^2
    regularizer     1/C sum_k |m_k|
    unlabeled_push  1/C sum_k 1/|U| sum_{v in U} [ delta_dist - |e_v - m_k| ]+^2

The published code counts the mean of the unlabelled voxels in the regularizer; the paper, and this file, do not.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cluster_means", "pull", "push", "regularizer", "unlabeled_push"]


def cluster_means(members: Tensor, counts: Tensor) -> Tensor:
    """Mean embedding of every cluster.

    Args:
        members: (M, E) embeddings of the voxels that belong to clusters, cluster after cluster.
        counts: (C,) voxels per cluster, at least 1, that sum to M.

    Returns:
        (C, E) means.
    """
    owner = torch.repeat_interleave(counts)
    sums = members.new_zeros(len(counts), members.shape[1]).index_add(0, owner, members)
    return sums / counts[:, None]


def pull(sq_dist: Tensor, owner: Tensor, counts: Tensor, delta_var: float) -> Tensor:
    """Pull voxels to within `delta_var` of their cluster's mean.

    Args:
        sq_dist: (M,) squared distance of each member voxel to its cluster's mean.
        owner: (M,) cluster of each member voxel.
        counts: (C,) voxels per cluster, C at least 1.
        delta_var: radius within which there is no pull.

    Returns:
        Scalar, at least 0.
    """
    # from d^2 > delta_var^2 on the square root has a finite slope, below it the hinge is flat
    excess = sq_dist.clamp_min(max(delta_var, torch.finfo(sq_dist.dtype).tiny) ** 2).sqrt() - delta_var
    return (excess.square() / counts[owner]).sum() / len(counts)


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


def unlabeled_push(hinge_sums: Tensor, outside: int) -> Tensor:
    """Push voxels outside all objects beyond `delta_dist` from every object's mean.

    Args:
        hinge_sums: (K,) per object the sum of `[delta_dist - d]+^2` over all voxels outside, see `others_sums`.
        outside: number of these voxels.

    Returns:
        Scalar, at least 0; 0 if there is no such voxel.
    """
    return hinge_sums.mean() / max(outside, 1)
