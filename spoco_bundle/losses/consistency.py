"""The consistency term: student and teacher must select the same masks where nothing is annotated.

Anchors are drawn in the unlabeled region until it is covered; each selects a soft mask in the student's embedding and
one in the teacher's (Wolny et al., CVPR 2022):

    consistency = 1 - 2 sum p_f p_g / (sum p_f^2 + sum p_g^2),   p(v) = exp(-|e_v - e_anchor|^2 / s)

Sums run over all voxels that are not ignored, in a large crop over a sample of them (`sampled_voxels` of the loss),
pooled over the anchors or averaged over them. In the published code the weight of this term never reaches the loss and
its Dice sums over the wrong axis; this file follows the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spoco_bundle.core.embedding_space import squared_distances
from spoco_bundle.losses.sweep import (
    Pairs,
    chunks,
    in_full_precision,
    kernel,
    kernel_reach,
    pair_distances,
    reachable,
    worth_keeping,
)

SAMPLINGS = ("uniform", "density")
DENSITY_REFERENCES = 512  # candidates that the density of all of them is estimated from


def draw_anchors(
    unlabeled: Tensor,
    voxels: int,
    radius: float,
    max_anchors: int = 20,
    uncovered_fraction: float = 0.05,
    sampling: str = "uniform",
    candidates: int = 1024,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw anchors in the unlabeled region, each outside the reach of those before it, until the region is covered.

    A voxel is covered when it lies within `radius` of an anchor in the embedding space. Drawing stops when less than
    `uncovered_fraction` of the crop's voxels remain unlabeled and uncovered. Anchors come from a uniform subset of
    `candidates` unlabeled voxels, and coverage is measured on it: of the whole region if it is no larger.

    With coordinates in the embedding a few small balls never cover the region, and uniform anchors fall mostly on the
    background, whose voxels keep their spread in space and select nothing of interest. `sampling="density"` draws a
    candidate in proportion to the number of others within `radius` of it (counted on a sample), so that anchors fall
    where voxels have collapsed to a point: objects that nobody annotated.

    Args:
        unlabeled: (U, E) the student's embeddings of the unlabeled voxels.
        voxels: number of voxels of the crop, ignored ones left out.
        radius: reach of an anchor, `delta_var`.
        max_anchors: most anchors to draw.
        uncovered_fraction: drawing stops below this fraction, in [0, 1].
        sampling: "uniform" or "density".
        candidates: size of the subset, at least `max_anchors`.
        generator: source of randomness on the CPU; torch's global one by default.

    Returns:
        (A,) rows of `unlabeled`, A at most `max_anchors`; empty if the region is already below the fraction.
    """
    total = len(unlabeled)
    device = unlabeled.device
    if total == 0 or total < uncovered_fraction * voxels:
        return torch.zeros(0, dtype=torch.long, device=device)
    if total <= candidates:
        subset = torch.randperm(total, generator=generator)
    else:
        subset = torch.randint(total, (candidates,), generator=generator)
    priority = -torch.empty(len(subset), dtype=torch.float64).exponential_(generator=generator).log()
    subset, priority = subset.to(device), priority.to(device)
    points = unlabeled.detach()[subset]
    if sampling == "density":
        # the largest of Gumbel variables shifted by ln(weight) is a draw in proportion to the weight
        near = (squared_distances(points, points[:DENSITY_REFERENCES]) <= radius**2).to(points.dtype)
        priority = priority + (1 + near.sum(1)).log()
    stop = uncovered_fraction * voxels * len(subset) / total
    uncovered = torch.ones(len(subset), dtype=torch.bool, device=device)
    drawn, wanted = [], []
    for _ in range(max_anchors):
        # no value is read back in this loop, so that a GPU never waits for the host
        left = uncovered.sum()
        wanted.append((left > 0) & (left >= stop))
        anchor = torch.where(uncovered, priority, -torch.inf).argmax()
        drawn.append(subset[anchor])
        near = (points - points[anchor]).square().sum(1) <= radius**2
        uncovered = uncovered & ~near
    return torch.stack(drawn)[torch.stack(wanted)]


class _ConsistencySums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor, anchors: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(student, teacher, anchors)
        ctx.scale = scale
        overlap, squares = student.new_zeros(2, len(anchors))
        # of each anchor: two soft masks and the distances
        kept = ctx.kept = [] if worth_keeping(student, 3 * len(anchors)) else None
        for part in chunks(student, len(anchors)):
            masks = _soft_masks(student, teacher, anchors, part, scale)
            if kept is not None:
                kept.append(masks)
            if masks is None:
                continue
            index, soft_f, soft_g, _ = masks
            overlap[index] += torch.linalg.vecdot(soft_f, soft_g)
            squares[index] += torch.linalg.vecdot(soft_f, soft_f) + torch.linalg.vecdot(soft_g, soft_g)
        return overlap, squares

    @staticmethod
    @in_full_precision
    def backward(ctx, overlap: Tensor, squares: Tensor) -> tuple[Tensor, None, None, None]:
        student, teacher, anchors = ctx.saved_tensors
        grad, grad_anchors = torch.zeros_like(student), student.new_zeros(len(anchors), student.shape[1])
        for number, part in enumerate(chunks(student, len(anchors))):
            again = ctx.kept is None
            masks = _soft_masks(student, teacher, anchors, part, ctx.scale) if again else ctx.kept[number]
            if masks is None:
                continue
            index, soft_f, soft_g, pairs = masks
            slope = (soft_g * overlap[index, None]).addcmul_(soft_f, squares[index, None], value=2)
            grad[part], for_anchors = pairs.gradients(slope.mul_(soft_f).mul_(-1 / ctx.scale))
            grad_anchors[index] += for_anchors
        return grad.index_add_(0, anchors, grad_anchors), None, None, None


def _soft_masks(
    student: Tensor, teacher: Tensor, anchors: Tensor, part: slice, scale: float
) -> tuple[Tensor | slice, Tensor, Tensor, Pairs] | None:
    """Soft masks (A, n) of one chunk for the anchors in reach of it in either field.

    Returns the anchors' index, the student's masks, the teacher's, and the student's pairs; None if no anchor is in
    reach.
    """
    reach = kernel_reach(scale, student.dtype)
    fields = []
    for rows in (student, teacher):
        centre = rows[part].mean(0)
        fields.append((rows[part] - centre, rows[anchors] - centre))
    found = [reachable(points, near, reach) for points, near in fields]
    index = torch.cat(found).unique() if isinstance(found[0], Tensor) else found[0]
    if isinstance(index, Tensor) and len(index) == 0:
        return None
    pairs_f, pairs_g = (pair_distances(points, near[index], 2 * reach**2) for points, near in fields)
    return index, kernel(pairs_f.sq_dist, scale), kernel(pairs_g.sq_dist, scale), pairs_f


def consistency_sums(student: Tensor, teacher: Tensor, anchors: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Sums of the soft masks that student and teacher select from the same voxels.

    Args:
        student: (V, E) the student's embeddings.
        teacher: (V, E) the teacher's embeddings; no gradient goes there.
        anchors: (A,) rows that are the anchors.
        scale: scale s of the kernel.

    Returns:
        (A,) sums of p_f p_g and (A,) sums of p_f^2 + p_g^2, for `dice`.
    """
    return _ConsistencySums.apply(student, teacher, anchors, scale)
