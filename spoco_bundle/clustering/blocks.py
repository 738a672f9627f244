"""A volume as blocks of voxels, which cluster much faster than voxels, and the regions that they form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spoco_bundle.clustering.voxels import Volume
from spoco_bundle.core.errors import SpocoError

OBJECTNESS_FLOOR = 0.05  # weight of a block where the objectness is 0: background still forms regions

__all__ = ["Blocks", "Regions", "block_size", "pool_blocks"]


@dataclass
class Blocks:
    """Averages over blocks of voxels.

    Attributes:
        size: voxels per block and axis.
        mean: (E, z, y, x) mean embedding.
        mass: (z, y, x) number of voxels.
        weight: (z, y, x) mass times mean objectness (mass alone without objectness).
        inside: (z, y, x) share of foreground voxels, 1 without a given foreground.
        side: (z, y, x) bool; blocks of different sides never join. With an objectness the sides are mostly foreground
            and mostly not: outside its objects a network's embeddings are arbitrary.
    """

    size: tuple[int, int, int]
    mean: Tensor
    mass: Tensor
    weight: Tensor
    inside: Tensor
    side: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Blocks per axis."""
        return tuple(self.mass.shape)

    def squared_distances(self, owner: Tensor, means: Tensor, channels: slice = slice(None)) -> Tensor:
        """Squared distances (blocks,), in some channels, of all blocks to those means (K, E) that `owner` names."""
        squared = torch.zeros(len(owner), device=owner.device)
        for channel, mean in zip(self.mean[channels], means.T[channels], strict=True):  # one by one: no copy of all
            squared += (channel.flatten() - mean[owner]).square_()
        return squared


@dataclass
class Regions:
    """What voxels and blocks are assigned to.

    Attributes:
        mean: (K + 1, E) mean embedding of every region, row 0 unused.
        empty: (K + 1,) bool, regions that are background.
        lines: what background votes for its own place (`vote_lines` of the blocks), where it is known to vote so.
    """

    mean: Tensor
    empty: Tensor
    lines: list[tuple[int, float, float]] | None = None

    def squared_distances(self, vectors: Tensor, which: Tensor, own: Tensor | None) -> Tensor:
        """Squared distances (n,) of vectors (n, E) to regions (n,): to the mean, in background with its own votes.

        Args:
            vectors: (n, E).
            which: (n,) region of each.
            own: (n, D) votes for the place of each vector, where `lines` say them.
        """
        target = self.mean.index_select(0, which)
        if own is not None:
            target[:, : own.shape[1]] = torch.where(self.empty[which][:, None], own, target[:, : own.shape[1]])
        return target.sub_(vectors).square_().sum(1)

    def extended(self, mean: Tensor) -> Regions:
        """These regions, and objects of mean embeddings (k, E) after them."""
        objects = torch.zeros(len(mean), dtype=torch.bool, device=mean.device)
        return Regions(torch.cat([self.mean, mean]), torch.cat([self.empty, objects]), self.lines)


def block_size(shape: tuple[int, int, int], max_blocks: int = 250_000) -> tuple[int, int, int]:
    """Voxels per block and axis, 1 or 2: longest axes are halved first until at most `max_blocks` blocks remain."""
    size = [1, 1, 1]
    for axis in sorted(range(3), key=lambda a: (-shape[a], -a)):
        blocks = [-(-n // s) for n, s in zip(shape, size, strict=True)]
        if blocks[0] * blocks[1] * blocks[2] > max_blocks and shape[axis] > 1:
            size[axis] = 2
    return tuple(size)


def pool_blocks(
    volume: Volume, size: tuple[int, int, int], foreground: Tensor | None = None, objectness: Tensor | None = None
) -> Blocks:
    """Average embeddings over every block, and weight the blocks by their size (and objectness, where given)."""
    shape = [-(-n // s) for n, s in zip(volume.shape, size, strict=True)]
    mean = torch.empty(volume.channels, *shape, device=volume.device)
    for start, stop in volume.slabs(multiple=size[0]):
        mean[:, start // size[0] : -(-stop // size[0])] = pool(volume.slab(start, stop), size)
    if not all(torch.isfinite(channel).all() for channel in mean):  # one by one: isfinite copies what it looks at
        raise SpocoError("embeddings hold NaN or infinite values: check the network's weights and its input")
    mass = torch.ones(shape, device=volume.device)
    for axis, (extent, step) in enumerate(zip(volume.shape, size, strict=True)):
        length = torch.full((shape[axis],), float(step), device=volume.device)
        length[-1] = extent - step * (shape[axis] - 1)  # the last block may be cut by the border
        mass *= length.reshape([-1 if a == axis else 1 for a in range(3)])
    weight = mass
    if objectness is not None:
        weight = mass * pool(objectness[None], size)[0].clamp(min=OBJECTNESS_FLOOR)
    inside = torch.ones_like(mass) if foreground is None else pool(foreground[None].float(), size)[0]
    side = torch.ones_like(inside, dtype=torch.bool) if objectness is None else inside >= 0.5
    return Blocks(size, mean, mass, weight, inside, side)


def pool(values: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Mean of (C, z, y, x) over blocks; blocks cut by the border are averaged over the voxels that they have."""
    for axis, step in enumerate(size, start=1):
        if step == 2:  # axis by axis, which is much faster than pooling in 3D
            pairs, cut = divmod(values.shape[axis], 2)
            first, second = values.narrow(axis, 0, 2 * pairs).unflatten(axis, (pairs, 2)).unbind(axis + 1)
            mean = torch.add(first, second).mul_(0.5)
            values = torch.cat([mean, values.narrow(axis, 2 * pairs, 1)], axis) if cut else mean
    return values
