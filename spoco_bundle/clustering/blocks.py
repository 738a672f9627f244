"""A volume as blocks of voxels, which cluster much faster than voxels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.errors import SpocoError

__all__ = ["Blocks", "block_size", "pool_blocks", "unpool"]


@dataclass
class Blocks:
    """Averages over the foreground voxels of blocks.

    Attributes:
        size: voxels per block and axis, 1 or 2.
        mean: (E, z, y, x) mean embedding, 0 without a foreground voxel.
        weight: (z, y, x) number of foreground voxels, each counted by its objectness where there is one.
        inside: (z, y, x) bool, blocks with a foreground voxel.
    """

    size: tuple[int, int, int]
    mean: Tensor
    weight: Tensor
    inside: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Blocks per axis."""
        return tuple(self.weight.shape)


def block_size(shape: tuple[int, int, int], max_blocks: int) -> tuple[int, int, int]:
    """Voxels per block and axis, 1 or 2: longest axes are halved first until at most `max_blocks` blocks remain."""
    size = [1, 1, 1]
    for axis in sorted(range(3), key=lambda a: (-shape[a], -a)):
        blocks = [-(-n // s) for n, s in zip(shape, size, strict=True)]
        if blocks[0] * blocks[1] * blocks[2] > max_blocks and shape[axis] > 1:
            size[axis] = 2
    return tuple(size)


def pool_blocks(field: EmbeddingField, size: tuple[int, int, int], foreground: Tensor | None) -> Blocks:
    """Averages embeddings over the foreground voxels of every block, and weights the blocks by voxels and objectness.

    Raises:
        SpocoError: if embeddings are not finite.
    """
    shape = [-(-n // s) for n, s in zip(field.shape, size, strict=True)]
    mean = torch.empty(field.channels, *shape, device=field.device)
    weight = torch.empty(shape, device=field.device)
    inside = torch.empty(shape, dtype=torch.bool, device=field.device)
    for start, stop in field.slabs(multiple=size[0]):
        rows = slice(start // size[0], -(-stop // size[0]))
        vectors = field.slab(start, stop)
        mask = torch.ones_like(vectors[:1]) if foreground is None else foreground[None, start:stop].float()
        voxels = add_up(mask, size)[0]
        mean[:, rows] = add_up(vectors * mask, size).div_(voxels.clamp(min=1))
        if field.objectness is None:
            weight[rows] = voxels
        else:
            weight[rows] = add_up(mask * field.objectness[start:stop], size)[0]
        inside[rows] = voxels > 0
    if not all(torch.isfinite(channel).all() for channel in mean):  # one by one: isfinite copies what it looks at
        raise SpocoError("embeddings hold NaN or infinite values: check the network's weights and its input")
    return Blocks(size, mean, weight, inside)


def add_up(values: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Sums of (C, z, y, x) over blocks, those cut by the border included."""
    for axis, step in enumerate(size, start=1):
        if step == 2:  # axis by axis, which is much faster than pooling in 3D
            pairs, cut = divmod(values.shape[axis], 2)
            first, second = values.narrow(axis, 0, 2 * pairs).unflatten(axis, (pairs, 2)).unbind(axis + 1)
            total = first + second
            values = torch.cat([total, values.narrow(axis, 2 * pairs, 1)], axis) if cut else total
    return values


def unpool(values: Tensor, size: tuple[int, int, int], shape: tuple[int, int, int]) -> Tensor:
    """Values (z, y, x) of blocks for each of their voxels (*shape)."""
    for axis, (step, extent) in enumerate(zip(size, shape, strict=True)):
        if step == 2:
            values = values.repeat_interleave(2, axis).narrow(axis, 0, extent)
    return values
