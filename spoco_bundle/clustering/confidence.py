"""How far an object can be trusted: what the embeddings and what the objectness say of it, in equal shares.

    confidence = sqrt((coherence * agreement + contrast) / 2),    without an objectness sqrt(coherence * agreement)

- *coherence*: soft intersection over union of the object with the soft mask that its mean embedding selects around it,
  times the objectness. It falls where the object is a part of something, where parts of others belong to it, and where
  its voxels scatter;
- *agreement*: soft intersection over union of its masks in student and teacher; 1 without a teacher;
- *contrast*: how far the objectness falls from the object to its border (`border_contrast`). It is near 1 where
  background or a membrane lies all around, and falls the more of the border runs through the inside of something, as
  where a cell was cut in two.

A mean and not a product: where the embeddings of objects spread wider than `delta_var`, as those of large cells in
tissue do, the coherence is near 0 for all of them, and its ratios, which rank in a product, tell little but their size.
The root changes no ranking; it brings well outlined nuclei, whose mean objectness is around 0.7, to about 0.8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from scipy import ndimage
from torch import Tensor

from spoco_bundle.core.boxes import region_shape, within
from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.embedding_space import kernel_scale, soft_mask

#: a region of a volume, along z, y, x
Box = tuple[slice, slice, slice]

AROUND = 2  # voxels around an object's box that are looked at
MAX_BOX = 500_000  # of a box of more voxels every second (third, ...) one per axis is looked at
TOGETHER = 1 << 17  # voxels of a region whose objects are looked at at once
SLAB = 1 << 20  # voxels whose faces are looked at at once


def object_confidence(
    field: EmbeddingField,
    labels: Tensor,
    *,
    delta_var: float = 0.5,
    kernel_threshold: float = 0.5,
) -> Tensor:
    """Confidence (n,) float32 in [0, 1] of the objects 1..n; see the module's text.

    Args:
        field: the embeddings; with an objectness and those of a second network these count, too.
        labels: (z, y, x) consecutive objects, 0 = background.
        delta_var: radius of an object in the embedding space, above 0.
        kernel_threshold: kernel value at that radius, in (0, 1).
    """
    kernel_scale(delta_var, kernel_threshold)  # refuses bad values even where there is no object
    boxes = {
        number: tuple(
            slice(max(0, part.start - AROUND), min(extent, part.stop + AROUND))
            for part, extent in zip(box, labels.shape, strict=True)
        )
        for number, box in enumerate(ndimage.find_objects(labels.cpu().numpy()), start=1)
    }
    if not boxes:
        return torch.zeros(0, device=labels.device)
    mask = partial(soft_mask, delta_var=delta_var, kernel_threshold=kernel_threshold)
    confidence = torch.cat([_coherence(field, labels, group, mask) for group in _groups(boxes)])
    if field.objectness is not None:
        confidence = (confidence + border_contrast(labels, field.objectness, len(boxes))) / 2
    return confidence.sqrt().float()


def kernel_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """Of the parameters of a clustering those that say the kernel, for `object_confidence`."""
    return {name: params[name] for name in object_confidence.__kwdefaults__ if name in params}


def _hull(*boxes: Box) -> Box:
    """The smallest box around some."""
    return tuple(slice(min(s.start for s in parts), max(s.stop for s in parts)) for parts in zip(*boxes, strict=True))


def _groups(boxes: dict[int, Box]) -> Iterator[dict[int, Box]]:
    """Objects that are looked at together: one, or several whose boxes lie in one of `TOGETHER` voxels at most."""
    group: dict[int, Box] = {}
    hull = boxes[1]
    for number, box in boxes.items():
        hull = _hull(hull, box)
        if group and math.prod(region_shape(hull)) > TOGETHER:
            yield group
            group, hull = {}, box
        group[number] = box
    yield group


def _coherence(
    field: EmbeddingField, labels: Tensor, boxes: dict[int, Box], mask: Callable[[Tensor], Tensor]
) -> Tensor:
    """Coherence times agreement (objects,) float64 of some objects, looked at in their boxes."""
    hull = _hull(*boxes.values())
    near = labels[hull]
    places, insides = [], []
    for number, box in boxes.items():
        extents = region_shape(box)
        axes = sum(extent > 1 for extent in extents)
        step = math.ceil((math.prod(extents) / MAX_BOX) ** (1 / max(1, axes)))
        for stride in (step, 1):  # 1 for what is finer than the steps
            place = tuple(slice(part.start, part.stop, stride) for part in within(box, hull))
            inside = near[place] == number
            if inside.any():
                break
        places.append(place)
        insides.append(inside.flatten())
    inside = torch.cat(insides)
    sizes = torch.tensor([len(one) for one in insides], device=labels.device)
    owner = torch.repeat_interleave(torch.arange(len(boxes), device=labels.device), sizes)

    def around(values: Tensor) -> Tensor:
        return torch.cat([values[(slice(None), *place)].flatten(1) for place in places], 1)

    def total(values: Tensor) -> Tensor:
        return torch.zeros(len(boxes), dtype=torch.float64, device=values.device).index_add_(0, owner, values.double())

    def overlap(one: Tensor, other: Tensor) -> Tensor:
        """Soft intersection over union `sum min / sum max` of every object's masks, 0 of two empty ones."""
        return total(torch.minimum(one, other)) / total(torch.maximum(one, other)).clamp(min=1e-12)

    soft = []
    for source in (field,) if field.second is None else (field, field.second):
        vectors = around(source.box(hull))
        means = object_means(vectors[:, inside].T, owner[inside], len(boxes))
        squared = torch.zeros(len(owner), device=labels.device)
        for channel, mean in zip(vectors, means.T, strict=True):
            squared += mean.index_select(0, owner).sub_(channel).square_()
        soft.append(mask(squared))
    selected = soft[0] if field.objectness is None else soft[0] * around(field.objectness[None, *hull])[0]
    coherence = overlap(selected, inside.float())
    return coherence if field.second is None else coherence * overlap(*soft)


def border_contrast(labels: Tensor, objectness: Tensor, count: int) -> Tensor:
    """Mean objectness of every object less that of its border, 0 where the border's is higher.

    The border are the faces between the object's voxels and others, of background or of other objects; a face has the
    lower objectness of its two voxels, so that a background and a membrane between cells, on whichever side of it the
    border runs, are both near 0. The volume's own faces do not count.

    Args:
        labels: (z, y, x) in 0..count, 0 = background.
        objectness: (z, y, x) in [0, 1].
        count: number of objects.

    Returns:
        (count,) float64 in [0, 1]; the mean alone for an object without a border.
    """
    total, border = (torch.zeros(count + 1, dtype=torch.float64, device=labels.device) for _ in range(2))
    voxels, faces = (torch.zeros(count + 1, dtype=torch.long, device=labels.device) for _ in range(2))
    thick = max(1, SLAB // labels[0].numel())
    for start in range(0, len(labels), thick):  # slab by slab: the indices take 64 bits
        own = labels[start : start + thick].flatten().long()
        total.index_add_(0, own, objectness[start : start + thick].flatten().double())
        voxels += torch.bincount(own, minlength=count + 1)
        for axis in range(3):
            stop = start + thick + (axis == 0)  # with the next slab's first plane, for the faces towards it
            ids, likely = labels[start:stop], objectness[start:stop]
            pairs = ids.shape[axis] - 1
            place = torch.nonzero(ids.narrow(axis, 0, pairs) != ids.narrow(axis, 1, pairs), as_tuple=True)
            beside = tuple(index + 1 if number == axis else index for number, index in enumerate(place))
            lower = torch.minimum(likely[place], likely[beside]).double()
            for side in (place, beside):
                owner = ids[side].long()
                border.index_add_(0, owner, lower)
                faces += torch.bincount(owner, minlength=count + 1)
    fall = total / voxels.clamp(min=1) - border / faces.clamp(min=1)
    return fall[1:].clamp(min=0)


def object_means(vectors: Tensor, owner: Tensor, count: int) -> Tensor:
    """Mean embeddings (count, E) of vectors (N, E) by owner (N,); 0 where an owner has no vector."""
    total = torch.zeros(count, vectors.shape[1], dtype=torch.float64, device=vectors.device)
    total.index_add_(0, owner, vectors.double())
    return (total / torch.bincount(owner, minlength=count).clamp(min=1)[:, None]).float()
