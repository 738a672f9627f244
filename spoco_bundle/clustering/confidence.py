"""How far an object can be trusted: the geometric mean of what speaks for it, each in [0, 1].

- *coherence*: soft intersection over union of the object with the soft mask that its mean embedding selects around it.
  It falls where the object is a part of something, where parts of others belong to it, and where its voxels scatter;
- *free border*: 1 where it touches no other object, down to 1/2 where others surround it, since a border between two
  may run elsewhere;
- *contrast*, where an objectness is given: its mean in the object minus its mean in the background just around it;
- *agreement*, where there is a teacher: soft intersection over union of its masks in student and teacher.
"""

from __future__ import annotations

import math

import torch
from scipy import ndimage
from torch import Tensor

from spoco_bundle.clustering.voxels import Volume
from spoco_bundle.embedding_space import kernel_scale, soft_mask

__all__ = ["object_confidence", "object_means"]

AROUND = 2  # voxels around an object that are looked at
BOX = 500_000  # voxels of an object's box beyond which every second (third, ...) one per axis is looked at


def object_confidence(
    volume: Volume,
    labels: Tensor,
    *,
    objectness: Tensor | None = None,
    teacher: Volume | None = None,
    delta_var: float = 0.5,
    kernel_threshold: float = 0.5,
) -> Tensor:
    """Confidence (n,) float32 in [0, 1] of the objects 1..n; see the module's text.

    Args:
        volume: the student's embeddings.
        labels: (z, y, x) consecutive objects, 0 = background.
        objectness: (z, y, x) in [0, 1].
        teacher: the teacher's embeddings.
        delta_var: radius of an object in the embedding space, above 0.
        kernel_threshold: kernel value at that radius, in (0, 1).
    """
    kernel_scale(delta_var, kernel_threshold)  # refuses bad values even where there is no object
    scores = []
    for number, box in enumerate(ndimage.find_objects(labels.cpu().numpy()), start=1):
        wide = tuple(
            slice(max(0, part.start - AROUND), min(extent, part.stop + AROUND))
            for part, extent in zip(box, labels.shape, strict=True)
        )
        around = labels[wide]
        step = math.ceil((around.numel() / BOX) ** (1 / 3))
        thin = (slice(None, None, step),) * 3
        around = around[thin]
        inside = around == number
        if not inside.any():  # finer than the steps
            step, thin, around = 1, (slice(None),) * 3, labels[wide]
            inside = around == number
        soft = []
        for source in (volume,) if teacher is None else (volume, teacher):
            vectors = source.box(wide)[(slice(None), *thin)]
            mean = vectors[:, inside].mean(1)
            squared = torch.zeros(inside.shape, device=inside.device)
            for channel, middle in zip(vectors, mean, strict=True):
                squared += (channel - middle).square_()
            soft.append(soft_mask(squared, delta_var, kernel_threshold))
        shell = grown(inside, AROUND) & ~inside
        parts = [1 - 0.5 * (shell & (around > 0)).sum() / shell.sum().clamp(min=1)]
        if teacher is not None:
            parts.append(soft_overlap(*soft))
        selected = soft[0]
        if objectness is not None:
            likely = objectness[wide][thin]
            selected = selected * likely
            empty = shell & (around == 0)
            outside = likely[empty].mean() if empty.any() else likely.new_zeros(())
            parts.append((likely[inside].mean() - outside).clamp(min=0))
        parts.append(soft_overlap(selected, inside.float()))
        scores.append(torch.stack(parts).log().mean().exp())
    return torch.stack(scores).float() if scores else torch.zeros(0, device=labels.device)


def soft_overlap(one: Tensor, other: Tensor) -> Tensor:
    """Soft intersection over union `sum min / sum max` of two masks with values in [0, 1]; 0 of two empty ones."""
    return torch.minimum(one, other).sum() / torch.maximum(one, other).sum().clamp(min=1e-12)


def grown(mask: Tensor, steps: int) -> Tensor:
    """A mask (z, y, x) grown by so many voxels along axes of more than one voxel, and diagonals."""
    size = [2 * steps + 1 if extent > 1 else 1 for extent in mask.shape]
    padding = [extent // 2 for extent in size]
    return torch.nn.functional.max_pool3d(mask[None, None].float(), size, 1, padding)[0, 0] > 0


def object_means(vectors: Tensor, owner: Tensor, count: int) -> Tensor:
    """Mean embeddings (count, E) of vectors (N, E) by owner (N,); 0 where an owner has no vector."""
    total = torch.zeros(count, vectors.shape[1], dtype=torch.float64, device=vectors.device)
    total.index_add_(0, owner, vectors.double())
    return (total / torch.bincount(owner, minlength=count).clamp(min=1)[:, None]).float()
