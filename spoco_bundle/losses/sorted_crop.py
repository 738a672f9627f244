"""The voxels of one crop, sorted by what their labels say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.losses.known_region import KnownRegion, known_region


@dataclass(frozen=True)
class SortedCrop:
    """The order in which the loss walks through the voxels of one crop; ignored voxels are left out.

    Rows come as `[unlabeled | background | cluster 0 | cluster 1 | ...]`. A cluster is an annotated object, or, under
    dense supervision, the background, which is cluster 0 then. The rows of each part follow a space-filling curve, so
    that neighbouring rows are neighbours in space and, mostly, in the embedding; it is the same on every device, and so
    are the samples that are drawn by it.

    Attributes:
        order: (V,) index of each row's voxel in the flattened crop.
        owner: (V - outside,) cluster of each row from `outside` on, ascending.
        counts: (C,) voxels of each cluster, at least 1.
        unlabeled: number of rows without a label.
        outside: number of rows that belong to no cluster, unlabeled or known background.
        background_clusters: 1 if cluster 0 is the background, else 0.
        outside_weight: for how many voxels each of these rows stands: more than 1 where they are a sample.
        region: where objects that are annotated in part are known; None if all are whole.
    """

    order: Tensor
    owner: Tensor
    counts: Tensor
    unlabeled: int
    outside: int
    background_clusters: int
    outside_weight: float = 1.0
    region: KnownRegion | None = None

    @property
    def known_outside(self) -> int | Tensor:
        """Rows outside all clusters that are known: one number for all clusters if these are whole, else (C,)."""
        return self.outside if self.region is None else self.region.sizes()


def sort_crop(
    labels: Tensor,
    dense: bool = False,
    background_label: int | None = None,
    ignore_label: int | None = None,
    scope: Tensor | None = None,
    most_outside: int | None = None,
    generator: torch.Generator | None = None,
) -> SortedCrop:
    """Sort the voxels of one crop by label.

    Args:
        labels: (*spatial) integers below 2^31; 0 is unlabeled (background if `dense`), other ids are arbitrary.
        dense: whether 0 is the background, a cluster of its own.
        background_label: id of voxels known to belong to no object.
        ignore_label: id of voxels that count nowhere.
        scope: (A, *spatial) integers, see `known_region.py`; None if all objects are whole. Not if `dense`.
        most_outside: of more voxels that belong to no cluster a sample of so many is taken; None takes all.
        generator: source of randomness on the CPU for the sample; torch's global one by default.

    Returns:
        The sorted crop.

    Raises:
        SpocoError: when a label is negative and neither `background_label` nor `ignore_label`, or a scope below -1.
    """
    curve = _space_filling(tuple(labels.shape), labels.device)
    flat = labels.reshape(-1)[curve]
    # unlabeled voxels, most of a crop, need no sort; int32 because its sort is several times faster than that of int64
    flat = flat.to(torch.int32)
    labeled = flat.nonzero()[:, 0]
    values, order = torch.sort(flat[labeled], stable=True)
    zeros = (flat == 0).nonzero()[:, 0]
    order = curve[torch.cat([zeros, labeled[order]])]
    ids, counts = torch.unique_consecutive(torch.cat([values.new_zeros(len(zeros)), values]), return_counts=True)
    sizes = counts.tolist()
    unlabeled, background, objects = [], [], []
    background_clusters = 0
    for label, rows in zip(ids.tolist(), order.split(sizes), strict=True):
        if label == ignore_label:
            continue
        if label == background_label:
            background.append(rows)
        elif label == 0 and dense:
            objects.insert(0, rows)
            background_clusters = 1
        elif label == 0:
            unlabeled.append(rows)
        elif label < 0:
            raise SpocoError(f"labels hold the negative id {label}; use ids above 0, or name it as ignore_label")
        else:
            objects.append(rows)
    counts = torch.tensor([len(rows) for rows in objects], dtype=torch.int64, device=labels.device)
    outside = torch.cat([order[:0], *unlabeled, *background])
    without_label, outside_weight = sum(map(len, unlabeled)), 1.0
    if most_outside is not None and len(outside) > most_outside:
        sample = evenly_spread(len(outside), most_outside, generator)
        without_label, outside_weight = int((sample < without_label).sum()), len(outside) / most_outside
        outside = outside[sample.to(outside.device)]
    order = torch.cat([outside, *objects])
    owner = torch.repeat_interleave(counts)
    region = None if scope is None else known_region(scope.flatten(1)[:, order], owner, len(counts), without_label)
    return SortedCrop(
        order=order,
        owner=owner,
        counts=counts,
        unlabeled=without_label,
        outside=len(outside),
        background_clusters=background_clusters,
        outside_weight=outside_weight,
        region=region,
    )


def evenly_spread(total: int, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Places at equal steps between 0 and `total` - 1 from a random start (systematic sampling).

    Args:
        total: number of places.
        count: number of places to take, at most `total`.
        generator: source of randomness on the CPU; torch's global one by default.

    Returns:
        (count,) int64 on the CPU, ascending, none twice; every place is as likely as any other.
    """
    start = torch.rand(1, dtype=torch.float64, generator=generator)
    return ((torch.arange(count, dtype=torch.float64) + start) * (total / max(count, 1))).long().clamp_max(total - 1)


@lru_cache(maxsize=4)
def _space_filling(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Voxels of a flattened crop along the Z-order curve (Morton 1966): by interleaved bits of their coordinates."""
    axes = torch.meshgrid(*(torch.arange(size, device="cpu") for size in shape), indexing="ij")
    key = torch.zeros(shape, dtype=torch.int64, device="cpu")
    for bit in range(max(shape, default=0).bit_length()):
        for axis, coordinate in enumerate(axes):
            key |= (coordinate >> bit & 1) << bit * len(shape) + axis
    return key.flatten().argsort().to(device)


class _TakeRows(torch.autograd.Function):
    """Gather distinct voxels; unlike that of plain indexing, the backward pass need not accumulate."""

    @staticmethod
    def forward(ctx, embeddings: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        ctx.voxels, ctx.dtype = embeddings.shape[1], embeddings.dtype
        dtype = torch.promote_types(embeddings.dtype, torch.float32)
        return embeddings.T.contiguous().index_select(0, order).to(dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (order,) = ctx.saved_tensors
        rows = grad.new_zeros(ctx.voxels, grad.shape[1], dtype=ctx.dtype)
        return rows.index_copy_(0, order, grad.to(ctx.dtype)).T, None


def take_rows(embeddings: Tensor, order: Tensor) -> Tensor:
    """Embeddings of one crop in the order of its sorted rows.

    Args:
        embeddings: (E, *spatial).
        order: (V,) index of each row's voxel, none twice, see `SortedCrop`.

    Returns:
        (V, E) float32 (float64 for float64 input), differentiable.
    """
    return _TakeRows.apply(embeddings.flatten(1), order)
