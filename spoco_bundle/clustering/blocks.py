"""A volume as blocks of voxels, which cluster much faster than voxels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spoco_bundle.core.embedding_field import EmbeddingField, check_finite

#: blocks whose neighbours are looked at together: what is computed of all at once would outgrow the blocks themselves
PART = 1 << 17


@dataclass
class Blocks:
    """The n blocks of a volume that hold foreground, averages over their foreground voxels, and who is beside whom.

    The row after the last stands for "no block": infinitely far from all others, without weight.

    Attributes:
        size: voxels per block and axis, 1 or 2.
        inside: (z, y, x) bool, which blocks of the volume these are; rows follow them in raster order.
        mean: (n + 1, E) mean embedding.
        weight: (n + 1,) number of foreground voxels, each counted by its objectness where there is one.
    """

    size: tuple[int, int, int]
    inside: Tensor
    mean: Tensor
    weight: Tensor

    def __post_init__(self) -> None:
        around = tuple(slice(1, n + 1) for n in self.inside.shape)
        device, none = self.inside.device, len(self)
        self._row = torch.full([n + 2 for n in self.inside.shape], none, dtype=torch.int32, device=device)
        self._row[around][self.inside] = torch.arange(none, dtype=torch.int32, device=device)
        self._place = torch.nonzero(self._row.view(-1) < none).squeeze(1)

    def __len__(self) -> int:
        return len(self.weight) - 1

    def parts(self) -> Iterator[slice]:
        """All rows, part by part."""
        for start in range(0, len(self), PART):
            yield slice(start, min(start + PART, len(self)))

    def beside(self, rows: slice | Tensor, ahead: bool = True, faces: bool = False) -> Iterator[Tensor]:
        """Rows (m,) int32 of the blocks beside some, for one direction after the other; n where there is none.

        Args:
            rows: m blocks.
            ahead: whether to look in the directions later in raster order only, so that each pair is met once.
            faces: whether neighbours share a face; else an edge or a corner is enough.
        """
        place = self._place[rows]
        for step in itertools.product((-1, 0, 1), repeat=3):
            axes = sum(map(abs, step))
            thin = any(one and extent == 1 for one, extent in zip(step, self.inside.shape, strict=True))
            if thin or axes == 0 or faces and axes > 1 or ahead and step < (0, 0, 0):
                continue
            away = sum(one * stride for one, stride in zip(step, self._row.stride(), strict=True))
            yield self._row.view(-1).index_select(0, place + away)

    def spread(self, values: Tensor, shape: Sequence[int]) -> Tensor:
        """Values (n,) of the blocks for each of their voxels (*shape), 0 elsewhere."""
        grid = torch.zeros(self.inside.shape, dtype=values.dtype, device=values.device)
        grid[self.inside] = values
        for axis, (step, extent) in enumerate(zip(self.size, shape, strict=True)):
            if step == 2:
                grid = grid.repeat_interleave(2, axis).narrow(axis, 0, extent)
        return grid


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
    mask = torch.ones(field.shape, dtype=torch.bool, device=field.device) if foreground is None else foreground
    voxels = add_up(mask[None].to(torch.uint8), size)[0]
    inside = voxels > 0
    voxels = voxels[inside].float()
    mean = torch.full((len(voxels) + 1, field.channels), torch.inf, device=field.device)
    weight = torch.zeros(len(voxels) + 1, device=field.device)
    last = 0
    for start, stop in field.slabs(multiple=size[0]):
        vectors = field.slab(start, stop)
        check_finite(vectors)
        here = inside[start // size[0] : -(-stop // size[0])]
        first, last = last, last + int(here.sum())
        counted = mask[None, start:stop].float()
        mean[first:last] = add_up(vectors * counted, size)[:, here].T
        if field.objectness is not None:
            weight[first:last] = add_up(counted * field.objectness[start:stop], size)[0][here]
    if field.objectness is None:
        weight[:-1] = voxels
    mean[:-1] /= voxels[:, None]
    return Blocks(size, inside, mean, weight)


def add_up(values: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Sums of (C, z, y, x) over blocks, those cut by the border included."""
    for axis, step in enumerate(size, start=1):
        if step == 2:  # axis by axis, which is much faster than pooling in 3D
            pairs, cut = divmod(values.shape[axis], 2)
            first, second = values.narrow(axis, 0, 2 * pairs).unflatten(axis, (pairs, 2)).unbind(axis + 1)
            total = first + second
            values = torch.cat([total, values.narrow(axis, 2 * pairs, 1)], axis) if cut else total
    return values
