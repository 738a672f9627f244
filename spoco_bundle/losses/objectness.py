"""The objectness term: how deep inside an object a voxel lies, learnt from annotated objects alone.

The target is the distance to the object's border over the largest such distance in the object: 1 at its centre, falling
off towards the border, 0 in a thin shell around annotated objects and on known background. All other voxels without a
label count nowhere, so that a prediction inside an object that nobody annotated is never called wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

__all__ = ["OBJECTNESS_LOSSES", "objectness_loss", "objectness_target"]

OBJECTNESS_LOSSES = ("bce", "smooth_l1")


def _object_border(labels: np.ndarray) -> np.ndarray:
    """Voxels with a face neighbour of another label; beyond the crop nothing is known, so its edge is no border."""
    border = np.zeros(labels.shape, dtype=bool)
    for axis in range(labels.ndim):
        differs = np.diff(labels, axis=axis) != 0
        before = [slice(None)] * labels.ndim
        after = [slice(None)] * labels.ndim
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        border[tuple(before)] |= differs
        border[tuple(after)] |= differs
    return border


def objectness_target(
    labels: Tensor,
    spacing: Sequence[float] | None = None,
    shell: int = 1,
    dense: bool = False,
    background_label: int | None = None,
    ignore_label: int | None = None,
) -> Tensor:
    """Target of the objectness channel for one crop.

    One distance transform serves all objects: distances are taken to the objects' outermost voxels, which a straight
    way out of an object always meets first, so touching objects both fall off towards their common border. Half a voxel
    is added, so that objects one or two voxels thick have a target above 0.

    Args:
        labels: (*spatial) integers, 0 = unlabelled (background if `dense`).
        spacing: voxel size per axis; 1 by default. Only the ratios matter.
        shell: width in voxels of the shell around annotated objects whose target is 0.
        dense: whether 0 is known background.
        background_label: id of voxels known to belong to no object; target 0.
        ignore_label: id of voxels that count nowhere.

    Returns:
        (*spatial) float32 on the device of `labels`: in [0, 1], or -1 where a voxel counts nowhere.
    """
    ids = labels.detach().cpu().numpy()
    steps = [1.0] * ids.ndim if spacing is None else [float(step) for step in spacing]
    inside = ids > 0
    for special in (background_label, ignore_label):
        if special is not None:
            inside &= ids != special
    target = np.full(ids.shape, 0.0 if dense else -1.0, dtype=np.float32)
    if background_label is not None:
        target[ids == background_label] = 0
    if inside.any():
        near = ndimage.maximum_filter(inside, size=2 * shell + 1) if shell else inside
        target[near & ~inside] = 0
        border = _object_border(ids)
        # without a border inside the crop all of it is one object of unknown extent
        depth = ndimage.distance_transform_edt(~border, sampling=steps) if border.any() else np.ones(ids.shape)
        depth = depth[inside] + min(steps) / 2
        _, owner = np.unique(ids[inside], return_inverse=True)
        deepest = np.zeros(owner.max() + 1)
        np.maximum.at(deepest, owner, depth)
        target[inside] = depth / deepest[owner]
    if ignore_label is not None:
        target[ids == ignore_label] = -1
    return torch.from_numpy(target).to(labels.device)


def objectness_loss(logits: Tensor, target: Tensor, kind: str = "bce") -> Tensor:
    """Mean loss of the objectness logits over the voxels that count.

    Args:
        logits: (*spatial).
        target: (*spatial) in [0, 1], negative where a voxel counts nowhere.
        kind: "bce", binary cross entropy, or "smooth_l1" on the sigmoid.

    Returns:
        Scalar, at least 0; 0 if no voxel counts.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target = target.to(logits.dtype)
    counts = target >= 0
    wanted = target.clamp_min(0)
    if kind == "bce":
        losses = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    else:
        losses = functional.smooth_l1_loss(logits.sigmoid(), wanted, reduction="none")
    return (losses * counts).sum() / counts.sum().clamp_min(1)
