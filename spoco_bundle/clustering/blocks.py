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
    """Averages over blocks of voxels.

    Attributes:
        size: voxels per block and axis, 1 or 2.
        mean: (E, z, y, x) mean embedding.
        weight: (z, y, x) number of voxels times mean objectness (number alone without objectness).
        inside: (z, y, x) share of foreground voxels, 1 without a foreground.
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
    """Averages embeddings over every block, and weights the blocks by their voxels and objectness.

    Raises:
        SpocoError: if embeddings are not finite.
    """
    shape = [-(-n // s) for n, s in zip(field.shape, size, strict=True)]
    mean = torch.empty(field.channels, *shape, device=field.device)
    for start, stop in field.slabs(multiple=size[0]):
        mean[:, start // size[0] : -(-stop // size[0])] = pool(field.slab(start, stop), size)
    if not all(torch.isfinite(channel).all() for channel in mean):  # one by one: isfinite copies what it looks at
        raise SpocoError("embeddings hold NaN or infinite values: check the network's weights and its input")
    weight = torch.ones(shape, device=field.device)
    for axis, (extent, step) in enumerate(zip(field.shape, size, strict=True)):
        length = torch.full((shape[axis],), float(step), device=field.device)
        length[-1] = extent - step * (shape[axis] - 1)  # the last block may be cut by the border
        weight *= length.reshape([-1 if a == axis else 1 for a in range(3)])
    if field.objectness is not None:
        weight *= pool(field.objectness[None], size)[0]
    if foreground is None:
        inside = torch.ones_like(weight)
    else:
        inside = torch.empty_like(weight)
        for start, stop in field.slabs(
            multiple=size[0]
        ):  # slab by slab: the mask as numbers takes four times its memory
            inside[start // size[0] : -(-stop // size[0])] = pool(foreground[None, start:stop].float(), size)[0]
    return Blocks(size, mean, weight, inside)


def pool(values: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Mean of (C, z, y, x) over blocks; blocks cut by the border are averaged over the voxels that they have."""
    for axis, step in enumerate(size, start=1):
        if step == 2:  # axis by axis, which is much faster than pooling in 3D
            pairs, cut = divmod(values.shape[axis], 2)
            first, second = values.narrow(axis, 0, 2 * pairs).unflatten(axis, (pairs, 2)).unbind(axis + 1)
            mean = torch.add(first, second).mul_(0.5)
            values = torch.cat([mean, values.narrow(axis, 2 * pairs, 1)], axis) if cut else mean
    return values


def unpool(values: Tensor, size: tuple[int, int, int], shape: tuple[int, int, int]) -> Tensor:
    """Values (z, y, x) of blocks for each of their voxels (*shape)."""
    for axis, (step, extent) in enumerate(zip(size, shape, strict=True)):
        if step == 2:
            values = values.repeat_interleave(2, axis).narrow(axis, 0, extent)
    return values
