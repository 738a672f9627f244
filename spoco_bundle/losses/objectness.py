"""The objectness term: whether a voxel belongs to an object, learnt from annotated objects and unlabeled space.

The target is 1 inside annotated objects ("binary"), or inside without their outermost voxels where these touch anything
else, which are 0 ("interior", for tissue in which every object touches others), or the distance to the object's border
over the largest such distance in the object ("distance": 1 at its centre, falling off towards the border). It is 0 in a
thin shell around annotated objects and on known background. An unlabeled voxel is more likely background than not, and
that is all that is known of it: such voxels count as a term of their own with target 0 and a small weight,

    objectness = mean over known voxels of BCE(logit, target)
        + unlabeled_weight * mean over unlabeled voxels of BCE(logit, 0).

Without that term nothing speaks against objects far from any annotation. With "interior" the mean over known voxels is
one of means, of each annotated object and of all known voxels outside: otherwise the largest cell of a tissue, nearly
all inside, would outvote the borders of all others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

__all__ = ["IGNORED", "OBJECTNESS_TARGETS", "UNLABELED", "objectness_loss", "objectness_target"]

OBJECTNESS_TARGETS = ("binary", "interior", "distance")
UNLABELED = -1.0
IGNORED = -2.0


def _shell_steps(shell: int, spacing: Sequence[float] | None, dims: int) -> list[int]:
    """Voxels of the shell along each axis: of one physical width, `shell` voxels of the finest axis; at least one."""
    steps = [1.0] * dims if spacing is None else [float(step) for step in spacing]
    return [max(1, round(shell * min(steps) / step)) if shell else 0 for step in steps]


def _grown(mask: Tensor, steps: Sequence[int]) -> Tensor:
    """A mask grown by so many voxels along each axis, and along the diagonals."""
    for axis, (size, count) in enumerate(zip(mask.shape, steps)):
        for _ in range(count):
            grown = mask.clone()
            grown.narrow(axis, 1, size - 1).logical_or_(mask.narrow(axis, 0, size - 1))
            grown.narrow(axis, 0, size - 1).logical_or_(mask.narrow(axis, 1, size - 1))
            mask = grown
    return mask


def _object_border(labels: np.ndarray) -> np.ndarray:
    """Voxels with a face neighbour of another label; beyond the crop nothing is known, so its edge is no border."""
    border = np.zeros(labels.shape, dtype=bool)
    for axis in range(labels.ndim):
        along, edge = np.moveaxis(labels, axis, 0), np.moveaxis(border, axis, 0)
        differs = along[1:] != along[:-1]
        edge[:-1] |= differs
        edge[1:] |= differs
    return border


def _relative_depth(labels: np.ndarray, inside: np.ndarray, spacing: Sequence[float] | None) -> Tensor:
    """Distance to the object's border over the largest in the object, float32, for each voxel inside an object.

    One distance transform serves all objects: distances are taken to the objects' outermost voxels, which a straight
    way out of an object always meets first, so touching objects both fall off towards their common border. Half a voxel
    is added, so that objects one or two voxels thick have values above 0.
    """
    steps = [1.0] * labels.ndim if spacing is None else [float(step) for step in spacing]
    border = _object_border(labels)
    # without a border inside the crop all of it is one object of unknown extent
    depth = ndimage.distance_transform_edt(~border, sampling=steps) if border.any() else np.ones(labels.shape)
    depth = depth[inside] + min(steps) / 2
    _, owner = np.unique(labels[inside], return_inverse=True)
    deepest = np.zeros(owner.max() + 1)
    np.maximum.at(deepest, owner, depth)
    return torch.from_numpy((depth / deepest[owner]).astype(np.float32))


def objectness_target(
    labels: Tensor,
    kind: str = "binary",
    spacing: Sequence[float] | None = None,
    shell: int = 1,
    dense: bool = False,
    background_label: int | None = None,
    ignore_label: int | None = None,
) -> Tensor:
    """Target of the objectness channel for one crop.

    Args:
        labels: (*spatial) integers, 0 = unlabeled (background if `dense`).
        kind: "binary", "interior" or "distance".
        spacing: voxel size per axis; 1 by default. Only the ratios matter.
        shell: width of the shell around annotated objects whose target is 0, in voxels of the finest axis; along
            coarser axes it has as many voxels as make up that width, at least one. For "interior" also the width of the
            layer inside the objects.
        dense: whether 0 is known background.
        background_label: id of voxels known to belong to no object; target 0.
        ignore_label: id of voxels that count nowhere.

    Returns:
        (*spatial) float32 on the device of `labels`: in [0, 1], or `UNLABELED`, or `IGNORED`.
    """
    inside = labels > 0
    for special in (background_label, ignore_label):
        if special is not None:
            inside &= labels != special
    target = torch.full(labels.shape, 0.0 if dense else UNLABELED, device=labels.device)
    steps = _shell_steps(shell, spacing, labels.dim())
    target[_grown(inside, steps)] = 0
    if background_label is not None:
        target[labels == background_label] = 0
    if kind == "binary":
        target[inside] = 1
    elif kind == "interior":
        border = torch.from_numpy(_object_border(labels.cpu().numpy())).to(labels.device)
        target[inside] = (
            (~_grown(border & inside, [max(step - 1, 0) for step in steps])[inside]).to(target.dtype) if shell else 1.0
        )
    elif inside.any():
        target[inside] = _relative_depth(labels.cpu().numpy(), inside.cpu().numpy(), spacing).to(target.device)
    if ignore_label is not None:
        target[labels == ignore_label] = IGNORED
    return target


def objectness_loss(
    logits: Tensor, target: Tensor, unlabeled_weight: float = 0.3, labels: Tensor | None = None
) -> Tensor:
    """The objectness term of one crop, see the module's text.

    Args:
        logits: (*spatial).
        target: (*spatial) as from `objectness_target`.
        unlabeled_weight: weight of the unlabeled voxels' mean, at least 0.
        labels: (*spatial) integers; where given, known voxels of each label count as much as those of any other.

    Returns:
        Scalar, at least 0; 0 if no voxel counts.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target = target.to(logits.dtype)
    losses = functional.binary_cross_entropy_with_logits(logits, target.clamp_min(0), reduction="none")
    known, unlabeled = target >= 0, target == UNLABELED
    weights = known if labels is None else _shares(labels, known)
    return _mean(losses, weights) + unlabeled_weight * _mean(losses, unlabeled)


def _shares(labels: Tensor, known: Tensor) -> Tensor:
    """Weights (*spatial) float32 of the known voxels that sum to the same for each label, 0 elsewhere."""
    _, owner, size = torch.unique(labels[known], return_inverse=True, return_counts=True)
    weights = torch.zeros(labels.shape, device=labels.device)
    weights[known] = len(owner) / (size[owner] * len(size))
    return weights


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean with weights (or over chosen voxels), which sum to 1 or more unless all are 0; then it is 0."""
    return (values * weights).sum() / weights.sum().clamp_min(1)
