"""Blocks of a volume: what each one reads, what it labels and what it writes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from spoco_bundle.core.boxes import Region, region_shape
from spoco_bundle.core.errors import SpocoError

MOST_WINDOWS = 12  # per axis of a block that are thought of


@dataclass(frozen=True)
class Block:
    """A block of the grid; regions are slices in voxels of the whole volume, along z, y, x or y, x.

    Attributes:
        number: place in raster order, from 0.
        place: the same per axis.
        write: voxels that this block is responsible for; those of all blocks tile the volume.
        label: voxels of the working grid that are clustered: ``write`` and the overlap around it.
        read: voxels of the working grid that the network sees: ``label`` and the halo around it, from the network's
            stride grid.
    """

    number: int
    place: tuple[int, ...]
    write: Region
    label: Region
    read: Region

    def __str__(self) -> str:
        return f"block {self.number} ({in_words(self.write)})"


@dataclass(frozen=True)
class BlockGrid:
    """Blocks that tile a volume, which the network may see on a grid of other voxels and the same extent.

    Args:
        shape: voxels of the volume per axis.
        block: voxels of a block's write region; the last block of an axis may be smaller.
        overlap: voxels of the volume that are clustered around the write region. Objects up to that long are complete
            in every block that writes a part of them.
        halo: voxels of the working grid that the network reads around those, its receptive radius.
        multiple: stride of the network: read regions start on multiples of it.
        working: voxels of the working grid, on which the network sees the volume; the volume's own where left out.

    Raises:
        SpocoError: if an entry is out of range or has another number of axes than the shape.
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]
    overlap: tuple[int, ...]
    halo: tuple[int, ...]
    multiple: tuple[int, ...]
    working: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "working", self.working or self.shape)
        for name, least in (("block", 1), ("overlap", 0), ("halo", 0), ("multiple", 1), ("working", 1)):
            values = getattr(self, name)
            if len(values) != len(self.shape) or min(values) < least:
                raise SpocoError(f"{name}: expected {len(self.shape)} ints of at least {least}, got {values}")

    @property
    def counts(self) -> tuple[int, ...]:
        """Blocks per axis."""
        return tuple(-(-size // step) for size, step in zip(self.shape, self.block))

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __getitem__(self, number: int) -> Block:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self.at(tuple(map(int, np.unravel_index(number, self.counts))))

    def at(self, place: tuple[int, ...]) -> Block:
        """The block at a place of the grid."""
        write, label, read = [], [], []
        for index, size, step, overlap, halo, multiple, working in zip(
            place, self.shape, self.block, self.overlap, self.halo, self.multiple, self.working
        ):
            start, stop = index * step, min(size, (index + 1) * step)
            write.append(slice(start, stop))
            start, stop = _around(max(0, start - overlap), min(size, stop + overlap), size, working)
            # from even voxels: a clustering that averages 2 x 2 x 2 voxels then sees the same averages in every block
            start, stop = start // 2 * 2, min(working, -(-stop // 2) * 2)
            label.append(slice(start, stop))
            start, stop = max(0, start - halo) // multiple * multiple, -(-(stop + halo) // multiple) * multiple
            read.append(slice(start, min(working, stop)))
        number = int(np.ravel_multi_index(place, self.counts))
        return Block(number, place, tuple(write), tuple(label), tuple(read))

    def largest(self) -> Block:
        """A block than which no other one reads more voxels, nor, of those that read as many, labels more."""

        def sides(axis: int, index: int) -> tuple[int, ...]:
            block = self.at(tuple(index if other == axis else 0 for other in range(len(self.shape))))
            return region_shape((block.read[axis], block.label[axis]))

        counts = enumerate(self.counts)
        return self.at(tuple(max(range(count), key=partial(sides, axis)) for axis, count in counts))

    def neighbours(self, block: Block) -> Iterator[tuple[tuple[int, ...], Block]]:
        """Blocks that touch this one by a face, an edge or a corner and come after it in raster order.

        Yields:
            The step per axis (-1, 0 or 1) and the neighbour.
        """
        for step in itertools.product((-1, 0, 1), repeat=len(self.shape)):
            place = tuple(index + move for index, move in zip(block.place, step))
            if step > (0,) * len(step) and all(0 <= index < count for index, count in zip(place, self.counts)):
                yield step, self.at(place)

    def reach(self) -> tuple[int, ...]:
        """Voxels on either side of a border within which two blocks' labels are compared: half the overlap."""
        return tuple(max(1, overlap // 2) if overlap else 0 for overlap in self.overlap)

    def compared(self, block: Block) -> Region:
        """The voxels that a block writes, and around them those in which it is compared with its neighbours."""
        return tuple(
            slice(max(0, part.start - reach), min(size, part.stop + reach))
            for part, reach, size in zip(block.write, self.reach(), self.shape)
        )

    def shared(self, block: Block, step: tuple[int, ...]) -> Region:
        """Where the labels of a block and of its neighbour are compared: around their common face, edge or corner."""
        region = []
        for part, move, reach, size in zip(block.write, step, self.reach(), self.shape):
            border = part.stop if move > 0 else part.start
            region.append(slice(max(0, border - reach), min(size, border + reach)) if move else part)
        return tuple(region)

    def slabs(self, block: Block) -> dict[tuple[int, int], Region]:
        """The regions around the faces of a block, (axis, side -1 or 1) to region; they hold all shared regions."""
        found = {}
        for axis, count in enumerate(self.counts):
            for side in (-1, 1):
                if 0 <= block.place[axis] + side < count:
                    step = tuple(side if other == axis else 0 for other in range(len(self.shape)))
                    wide, thin = self.compared(block), self.shared(block, step)
                    found[axis, side] = (*wide[:axis], thin[axis], *wide[axis + 1 :])
        return found


def choose_window(
    kept: Sequence[int], read: Sequence[int], halo: Sequence[int], multiple: Sequence[int], most_voxels: float
) -> tuple[int, ...]:
    """The window with which the network runs over a volume, or a block of one, for the least arithmetic.

    Args:
        kept: voxels per axis whose outputs are kept.
        read: voxels per axis that are there to be read.
        halo: voxels cut off a window's inner faces.
        multiple: stride of the network.
        most_voxels: that a window may have; the smallest possible one may have more.

    Returns:
        Voxels per axis.
    """
    choices = []
    for size, whole, edge, step in zip(kept, read, halo, multiple, strict=True):
        sizes = {min(whole, -(-size // count) + 2 * edge) for count in range(1, MOST_WINDOWS + 1)}
        axis = []
        for window in sizes:
            window = -(-max(window, 2 * edge + step) // step) * step
            core = window if window >= whole else (window - 2 * edge) // step * step
            axis.append((window, 1 if window >= whole else -(-size // core)))
        choices.append(axis)
    found = []
    for axes in itertools.product(*choices):
        voxels = math.prod(window for window, _ in axes)
        arithmetic = voxels * math.prod(count for _, count in axes)
        found.append((max(0, voxels - most_voxels), arithmetic, tuple(window for window, _ in axes)))
    return min(found)[2]


def _around(start: int, stop: int, size: int, working: int) -> tuple[int, int]:
    """The voxels of the working grid from which those of the volume are interpolated: all around their centres."""
    first, last = ((2 * index + 1) * working - size for index in (start, stop - 1))  # positions times 2 size
    return max(0, first // (2 * size)), working if stop == size else -(-last // (2 * size)) + 1


def in_words(region: Region) -> str:
    """A region as a person reads it, such as ``y 0:64, x 64:128``."""
    return ", ".join(f"{name} {part.start}:{part.stop}" for name, part in zip("zyx"[-len(region) :], region))
