"""The objectness term: whether a voxel belongs to an object, learnt from annotated objects and unlabeled space.

The target is 1 inside annotated objects ("binary"), or inside without their outermost voxels where these touch anything
else, which are 0 ("interior", for tissue in which every object touches others). It is 0 in a thin shell around
annotated objects and on known background. An unlabeled voxel is more likely background than not, and that is all that
is known of it, so it counts with a small weight:

    objectness = mean over objects and shells of BCE(logit, target)
        + sum over known background of BCE(logit, 0) / max(voxels of it, voxels of objects and shells)
        + unlabeled_weight * mean over unlabeled voxels of BCE(logit, 0).

A few strokes of known background count voxel by voxel as much as objects do, and a wide one no more than all of these:
in one mean with it, their outlines would be lost. Without the last term nothing speaks against objects far from any
annotation. In a crop with slices objects only the unlabeled voxels of outlined planes count in it: somebody looked
there, and elsewhere lies most of the outlined objects themselves. With "interior" the mean over objects and shells is
one of means, of each annotated object and of all shells: otherwise the largest cell of a tissue, nearly all inside,
would outvote the borders of all others.

Strokes say nothing of where their object ends, and around a cell of a tissue lie its neighbours, so objects in volumes
have no shell (`shell` 0). There all depends on that weight w. Of voxels that look alike, of which a share q lies in
objects, the objectness becomes q / (q + w f) where objects fill a share f of the unlabeled voxels. With `relative` the
weight given stands for w f, whatever f may be: f is taken to be the mean over unlabeled voxels of min(1, p / c), where
p is the objectness now and c its mean over annotated voxels (after Elkan and Noto, KDD 2008: c is the share of the
positives that are labeled). No gradient passes through f. The loss works with the large weight W all the same, since
with a small one the background is learnt slowly, and moves the logit by log(w / W), which leads to the same objectness.

Shell and outermost voxels need a border. That of a slices object is known in the planes in which it is outlined: its
shell and the layer inside grow from voxel to neighbour within one plane, and a voxel is an outermost one where a face
neighbour of another label lies in the same plane or is annotated itself. An object of strokes or points has no known
border, so no shell, and its voxels are 1. See `known_region.py` for scope.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from spoco_bundle.annotation.scope import WHOLE

OBJECTNESS_TARGETS = ("binary", "interior")
STRONG = 4.0  # W, with which a relative weight works
UNLABELED = -1.0
IGNORED = -2.0
BACKGROUND = -3.0


def _shell_steps(shell: int, spacing: Sequence[float] | None, dims: int) -> list[int]:
    """Voxels of the shell along each axis: of one physical width, `shell` voxels of the finest axis; at least one."""
    steps = [1.0] * dims if spacing is None else [float(step) for step in spacing]
    return [max(1, round(shell * min(steps) / step)) if shell else 0 for step in steps]


def _grown(mask: Tensor, steps: Sequence[int], planes: Tensor | None = None) -> Tensor:
    """A mask grown by so many voxels along each axis, and along the diagonals; within one plane if planes are given."""
    for axis, (size, count) in enumerate(zip(mask.shape, steps)):
        inside = None if planes is None else planes.narrow(axis, 1, size - 1) == planes.narrow(axis, 0, size - 1)
        for _ in range(count):
            grown = mask.clone()
            for here, there in ((0, 1), (1, 0)):
                reached = mask.narrow(axis, here, size - 1)
                grown.narrow(axis, there, size - 1).logical_or_(reached if inside is None else reached & inside)
            mask = grown
    return mask


def _grown_where_known(mask: Tensor, steps: Sequence[int], scope: Tensor | None) -> Tensor:
    """A mask of voxels of objects, grown around whole objects, and within the planes of slices objects."""
    if scope is None:
        return _grown(mask, steps)
    grown = mask | _grown(mask & _is_whole(scope), steps)
    for planes in scope:
        grown |= _grown(mask & (planes > 0), steps, planes)
    return grown


def _is_whole(scope: Tensor) -> Tensor:
    """Voxels (*spatial) of whole objects."""
    return (scope == WHOLE).any(0)


def _object_border(labels: Tensor, scope: Tensor | None = None, annotated: Tensor | None = None) -> Tensor:
    """Voxels with a face neighbour of another label; beyond the crop nothing is known, so its edge is no border.

    With scope, that neighbour of an object annotated in part has to be `annotated` itself or in the same plane.
    """
    border = torch.zeros_like(labels, dtype=torch.bool)
    for axis in range(labels.dim()):
        low, high = ((slice(None),) * axis + (ends,) for ends in (slice(None, -1), slice(1, None)))
        differs = labels[low] != labels[high]
        if scope is None:
            border[low] |= differs
            border[high] |= differs
            continue
        in_plane = ((scope[:, *low] == scope[:, *high]) & (scope[:, *low] > 0)).any(0)
        for here, there in ((low, high), (high, low)):
            border[here] |= differs & (_is_whole(scope[:, *here]) | in_plane | annotated[there])
    return border


def objectness_target(
    labels: Tensor,
    kind: str = "binary",
    spacing: Sequence[float] | None = None,
    shell: int = 1,
    dense: bool = False,
    background_label: int | None = None,
    ignore_label: int | None = None,
    scope: Tensor | None = None,
) -> Tensor:
    """Target of the objectness channel for one crop.

    Args:
        labels: (*spatial) integers, 0 = unlabeled (background if `dense`).
        kind: "binary" or "interior".
        spacing: voxel size per axis; 1 by default. Only the ratios matter.
        shell: width of the shell around annotated objects whose target is 0, in voxels of the finest axis; along
            coarser axes it has as many voxels as make up that width, at least one. For "interior" also the width of the
            layer inside the objects.
        dense: whether 0 is known background.
        background_label: id of voxels known to belong to no object.
        ignore_label: id of voxels that count nowhere.
        scope: (A, *spatial) integers, see `known_region.py`; None if all objects are whole.

    Returns:
        (*spatial) float32 on the device of `labels`: 1 or 0 in objects and shells, else `BACKGROUND` where that is
        known, or `UNLABELED`, or `IGNORED`. Beside slices objects the unlabeled voxels outside of outlined planes are
        `IGNORED`.
    """
    inside = labels > 0
    for special in (background_label, ignore_label):
        if special is not None:
            inside &= labels != special
    target = torch.full(labels.shape, BACKGROUND if dense else UNLABELED, device=labels.device)
    steps = _shell_steps(shell, spacing, labels.dim())
    if scope is not None and not dense:
        outlined = (scope > 0).any(0)
        if outlined[inside].any():
            target[~outlined] = IGNORED
    if background_label is not None:
        target[labels == background_label] = BACKGROUND
    target[_grown_where_known(inside, steps, scope)] = 0
    if kind == "binary":
        target[inside] = 1
    else:
        annotated = inside if background_label is None else inside | (labels == background_label)
        border = _object_border(labels, scope, annotated) & inside
        layer = _grown_where_known(border, [max(step - 1, 0) for step in steps], scope)
        if scope is not None:
            layer &= (scope != 0).any(0)  # strokes and points have none, nor a part of a neighbour's
        target[inside] = (~layer[inside]).to(target.dtype) if shell else 1.0
    if ignore_label is not None:
        target[labels == ignore_label] = IGNORED
    return target


def objectness_loss(
    logits: Tensor,
    target: Tensor,
    unlabeled_weight: float = 0.3,
    labels: Tensor | None = None,
    relative: bool = False,
) -> Tensor:
    """The objectness term of one crop, see the module's text.

    Args:
        logits: (*spatial).
        target: (*spatial) as from `objectness_target`.
        unlabeled_weight: weight of the unlabeled voxels' mean, at least 0.
        labels: (*spatial) integers; where given, each object counts as much as any other, and as all shells.
        relative: whether the weight is relative to the share of the unlabeled voxels that look like annotated ones.

    Returns:
        Scalar, at least 0; 0 if no voxel counts.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target = target.to(logits.dtype)
    near, background, unlabeled = target >= 0, target == BACKGROUND, target == UNLABELED
    if relative and unlabeled_weight > 0:
        annotated = target == 1
        if annotated.any() and unlabeled.any():
            weight = unlabeled_weight / _share_alike(logits, annotated, unlabeled)
            logits, unlabeled_weight = logits + math.log(weight / STRONG), STRONG
    losses = functional.binary_cross_entropy_with_logits(logits, target.clamp_min(0), reduction="none")
    weights = near if labels is None else _shares(labels, near)
    known_background = (losses * background).sum() / torch.maximum(background.sum(), near.sum()).clamp_min(1)
    return _mean(losses, weights) + known_background + unlabeled_weight * _mean(losses, unlabeled)


def _share_alike(logits: Tensor, annotated: Tensor, unlabeled: Tensor) -> float:
    """Share of the unlabeled voxels that look like annotated ones, above 0."""
    p = logits.detach().sigmoid()
    alike = (p[unlabeled] / p[annotated].mean().clamp_min(1e-6)).clamp_max(1)
    return max(alike.mean().item(), 1e-6)


def _shares(labels: Tensor, near: Tensor) -> Tensor:
    """Weights (*spatial) float32 of chosen voxels that sum to the same for each label and are 1 on average, else 0."""
    _, owner, size = torch.unique(labels[near], return_inverse=True, return_counts=True)
    weights = torch.zeros(labels.shape, device=labels.device)
    weights[near] = len(owner) / (size[owner] * len(size))
    return weights


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean with weights (or over chosen voxels), which sum to 1 or more unless all are 0; then it is 0."""
    return (values * weights).sum() / weights.sum().clamp_min(1)
