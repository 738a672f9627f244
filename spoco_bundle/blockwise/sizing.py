"""How large the blocks of a run and the windows of its network are, so that they fit into memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spoco_bundle.blockwise.grid import BlockGrid, choose_window
from spoco_bundle.blockwise.memory import PROCESS, available_memory, block_memory, readable, window_voxels
from spoco_bundle.core.boxes import region_shape
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.per_axis import per_axis
from spoco_bundle.core.resampling import voxels_at_a_time

LEAST_SIDE = 16  # voxels: a smaller block is hardly more than its overlap and halo


@dataclass
class BlockSizing:
    """Sizes of blocks and windows.

    Attributes:
        networks: that run on every block, by the entry of their output.
        inferer: a ``HaloWindowInferer``.
        clustering: a ``ClusterEmbeddingsd``.
        largest_block: voxels per axis of the largest block, on the working grid.
        chunk_size: voxels per axis of a chunk of the result.
        overlap: voxels of the working grid clustered around a block; None takes ``overlap_diameters``.
        overlap_diameters: the overlap in diameters of a typical object (four coordinate scales).
        in_channels: image channels of the network.
        scheduler: see ``dask_client``.
        workers: see ``dask_client``.
        network_threads: threads of torch per worker; None shares the cores.
        max_memory: see ``available_memory``.
    """

    networks: dict[str, torch.nn.Module]
    inferer: Any
    clustering: Any
    largest_block: tuple[int, ...]
    chunk_size: tuple[int, ...]
    overlap: tuple[int, ...] | None
    overlap_diameters: float
    in_channels: int
    scheduler: str
    workers: int
    network_threads: int | None
    max_memory: str | float | None

    def grid_for(
        self,
        path: Path,
        shape: tuple[int, ...],
        working: tuple[int, ...],
        spacing: Sequence[float],
        block: tuple[int, ...] | None,
    ) -> BlockGrid:
        """The grid of an image; without a given block, of blocks so large that they fit into memory.

        Blocks are whole chunks, so that no two of them write into one. Where even a chunk is too large, chunks are as
        small as the blocks (see ``chunks``).

        Args:
            path: the image, for messages.
            shape: its voxels per axis.
            working: voxels per axis of the grid on which the network sees it.
            spacing: of the voxels of that grid.
            block: voxels of a block, or None.
        """
        largest = self.whole_chunks(_on_image(self.largest_block, shape, working))
        grid = self._grid(shape, working, spacing, block or largest)
        while block is None and self.block_bytes(grid) * self.threads_here() > self.memory_left():
            smaller = self.halved(grid.block)
            if smaller == grid.block:
                raise SpocoError(
                    f"{path}: even a block of {grid.block} voxels takes {readable(self.block_bytes(grid))} and "
                    f"{readable(max(0.0, self.memory_left()))} are free: give a smaller window_size, or more memory"
                )
            grid = self._grid(shape, working, spacing, smaller)
        return grid

    def _grid(
        self, shape: tuple[int, ...], working: tuple[int, ...], spacing: Sequence[float], block: tuple[int, ...]
    ) -> BlockGrid:
        network, dims = self.networks["pred"], len(self.chunk_size)
        overlap = self.overlap
        if overlap is None:
            if not self.clustering.decoder.coordinate_channels:
                raise SpocoError("overlap: without coordinates an object's size is unknown: set overlap in voxels")
            reach = self.overlap_diameters * 4 * self.clustering.decoder.scale
            overlap = tuple(math.ceil(reach / step) for step in spacing)
        overlap = _on_image(overlap, shape, working)
        multiple = self.inferer.multiples_of(network, dims)
        return BlockGrid(shape, block, overlap, self.inferer.halo_of(network, dims), multiple, working)

    def whole_chunks(self, block: Sequence[int]) -> tuple[int, ...]:
        """A block rounded up to whole chunks."""
        return tuple(-(-size // chunk) * chunk for size, chunk in zip(block, self.chunk_size))

    def chunks(self, block: tuple[int, ...]) -> tuple[int, ...]:
        """Voxels of a chunk of the result, of which two blocks never write into one."""
        return tuple(map(min, block, self.chunk_size))

    def halved(self, block: tuple[int, ...]) -> tuple[int, ...]:
        """A block of half the size along the axis of most chunks; the same where it is smallest."""
        counts = [size / chunk for size, chunk in zip(block, self.chunk_size)]
        axis = max(range(len(block)), key=lambda index: (counts[index], block[index]))
        half = int(counts[axis]) // 2 * self.chunk_size[axis] or max(LEAST_SIDE, block[axis] // 2)
        return (*block[:axis], min(block[axis], half), *block[axis + 1 :])

    def block_bytes(self, grid: BlockGrid) -> float:
        """Bytes of the largest block."""
        largest = grid.largest()
        network = self.networks["pred"]
        resampled = grid.working != grid.shape
        return block_memory(
            region_shape(largest.read),
            region_shape(largest.label),
            self.in_channels,
            getattr(network, "out_channels", 1) * len(self.networks),
            network.head.in_channels,
            math.prod(self.window(grid)),
            voxels_at_a_time(largest.read, grid.shape, grid.working),
            math.prod(region_shape(grid.compared(largest))) if resampled else 0,
        )

    def window(self, grid: BlockGrid) -> tuple[int, ...]:
        """Voxels of a window per axis: those given, or the best for a block that half of the free memory allows."""
        if self.inferer.roi_size is not None:
            return per_axis("window_size", self.inferer.roi_size, len(self.chunk_size))
        features = self.networks["pred"].head.in_channels
        memory = self.memory_left() / self.threads_here()
        largest = grid.largest()
        return choose_window(
            region_shape(largest.label),
            region_shape(largest.read),
            grid.halo,
            grid.multiple,
            window_voxels(self.inferer.window_voxels, memory, features),
        )

    def threads_here(self) -> int:
        """Blocks at work at a time on this machine."""
        return self.workers if self.scheduler in ("threads", "processes") else 1

    def memory_left(self) -> float:
        """Bytes for the blocks; the processes themselves are taken off a limit of the user's."""
        return available_memory(self.max_memory) - PROCESS * (self.max_memory is not None)

    def torch_threads(self) -> int | None:
        """Threads of torch in each worker."""
        if self.network_threads is not None or self.scheduler not in ("threads", "processes") or self.workers == 1:
            return self.network_threads
        return max(1, torch.get_num_threads() // self.workers)


def _on_image(voxels: Sequence[int], shape: Sequence[int], working: Sequence[int]) -> tuple[int, ...]:
    """A length in voxels of the working grid, in those of the image, rounded up."""
    return tuple(-(-length * size // seen) for length, size, seen in zip(voxels, shape, working))
