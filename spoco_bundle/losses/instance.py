"""The instance term: differentiable selection of single objects (Wolny et al., CVPR 2022).

An anchor embedding a_k, the object's mean or one of its voxels, selects the soft mask p_k(v) = exp(-|e_v - a_k|^2 / s),
which is compared with the annotated mask t_k over the known region of k (see `known_region.py`): all voxels that are
not ignored, unless the object is annotated in part. Three comparisons:

    dice      1 - 2 sum p t / (sum p^2 + sum t^2), pooled over the objects of a crop or averaged over them
    bce       - mean over objects of the mean over their known voxels of t ln p + (1 - t) ln(1 - p)
    affinity  Dice between p(v) p(v + o) and t(v) t(v + o), pairs of known voxels that belong to one object, over
              offsets o
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spoco_bundle.core.embedding_space import squared_distances
from spoco_bundle.core.errors import SpocoError

# codes beside the numbers of objects
NO_OBJECT, NOWHERE = -1, -2
TOGETHER = 8  # objects whose soft masks are held at once


def dice(overlap: Tensor, squares: Tensor, pooled: bool = True) -> Tensor:
    """Dice loss `1 - 2 sum p q / (sum p^2 + sum q^2)`.

    Args:
        overlap: (K,) sums of p q, one per pair of masks.
        squares: (K,) sums of p^2 + q^2.
        pooled: add numerators and denominators over the pairs before the division, or else average the quotients.

    Returns:
        Scalar in [0, 1]; 0 for K = 0.
    """
    if len(overlap) == 0:
        return overlap.sum()
    if pooled:
        overlap, squares = overlap.sum(), squares.sum()
    return (1 - 2 * overlap / squares).mean()


def binary_cross_entropy(entropy: Tensor, voxels: int | Tensor) -> Tensor:
    """Binary cross entropy of soft masks against annotated masks.

    Args:
        entropy: (K,) per object the sum of `-t ln p - (1 - t) ln(1 - p)` over its known voxels, see `AnchorSums`.
        voxels: number of these voxels, the same for all objects or (K,).

    Returns:
        Scalar, at least 0.
    """
    return (entropy / voxels).mean() if isinstance(voxels, Tensor) else entropy.mean() / voxels


def sample_members(counts: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw one voxel of every object uniformly.

    Args:
        counts: (K,) voxels per object, at least 1.
        generator: source of randomness on the CPU; torch's global one by default.

    Returns:
        (K,) positions among the objects' voxels laid out object after object.
    """
    uniform = torch.rand(len(counts), generator=generator, dtype=torch.float64).to(counts.device)
    starts = counts.cumsum(0) - counts
    return starts + torch.minimum((uniform * counts).long(), counts - 1)


def _steps(offsets: Sequence[Sequence[int]] | None, dims: int) -> list[list[int]]:
    if offsets is None:
        return torch.eye(dims, dtype=torch.int64).tolist()
    if len(offsets) == 0 or any(len(offset) != dims for offset in offsets):
        raise SpocoError(f"affinity_offsets are {offsets}; give steps of {dims} integers, one per axis, or None")
    return [list(offset) for offset in offsets]


def _shifted(volume: Tensor, offset: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Views (..., *overlap) of a volume (..., *spatial) at v and at v + offset, for all v where both lie inside."""
    here, there = volume, volume
    first = volume.dim() - len(offset)
    for axis, step in enumerate(offset, start=first):
        length = max(volume.shape[axis] - abs(step), 0)
        here = here.narrow(axis, min(max(-step, 0), volume.shape[axis] - length), length)
        there = there.narrow(axis, min(max(step, 0), volume.shape[axis] - length), length)
    return here, there


def _affinity_sums(
    anchors: Tensor,
    objects: Tensor,
    embeddings: Tensor,
    owner: Tensor,
    scale: float,
    offsets: Sequence[Sequence[int]],
    known: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, Tensor]:
    shape = owner.shape
    soft = torch.exp(squared_distances(anchors, embeddings.flatten(1).T) / -scale).reshape(-1, *shape)
    hard = (owner == objects.reshape(-1, *[1] * len(shape))).to(soft.dtype)
    # a pair with an ignored or unknown end counts nowhere
    soft = soft * (owner != NOWHERE)
    if known is not None:
        soft = soft * known(objects)
    overlap, squares = soft.new_zeros(len(anchors)), soft.new_zeros(len(anchors))
    for offset in offsets:
        soft_here, soft_there = _shifted(soft, offset)
        hard_here, hard_there = _shifted(hard, offset)
        soft_pair, hard_pair = (soft_here * soft_there).flatten(1), (hard_here * hard_there).flatten(1)
        overlap = overlap + (soft_pair * hard_pair).sum(1)
        squares = squares + soft_pair.square().sum(1) + hard_pair.sum(1)
    return overlap, squares


def affinity_dice(
    embeddings: Tensor,
    owner: Tensor,
    anchors: Tensor,
    scale: float,
    offsets: Sequence[Sequence[int]] | None = None,
    pooled: bool = True,
    known: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Dice loss between soft and annotated affinities.

    The affinity of voxels v and v + o to an object is p(v) p(v + o): both belong to it. Soft masks are made for a
    few objects at a time and made again in the backward pass.

    Args:
        embeddings: (E, *spatial) float32 or float64.
        owner: (*spatial) object of every voxel, or `NO_OBJECT`, or `NOWHERE` for a voxel that counts nowhere.
        anchors: (K, E) one anchor embedding per object.
        scale: scale s of the kernel.
        offsets: the o, each with one integer per spatial axis; unit steps by default.
        pooled: as in `dice`.
        known: given (k,) objects, says (k, *spatial) bool which voxels are known to them; None means all.

    Returns:
        Scalar in [0, 1]; an object without any pair of voxels in one offset's reach counts by its soft pairs alone.

    Raises:
        SpocoError: if there are no offsets, or one does not have one integer per axis.
    """
    offsets = _steps(offsets, owner.dim())
    objects = torch.arange(len(anchors), device=anchors.device)
    sums = [
        checkpoint(_affinity_sums, part, ids, embeddings, owner, scale, offsets, known, use_reentrant=False)
        for part, ids in zip(anchors.split(TOGETHER), objects.split(TOGETHER), strict=True)
    ]
    overlap, squares = (torch.cat(parts) for parts in zip(*sums, strict=True))
    return dice(overlap, squares.clamp_min(torch.finfo(squares.dtype).tiny), pooled)
