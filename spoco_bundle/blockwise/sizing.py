"""How large the blocks of a run and the windows of its network are, so that they fit into memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spoco_bundle.blockwise.grid import BlockGrid, choose_window, region_shape
from spoco_bundle.blockwise.memory import PROCESS, available_memory, block_memory, readable, window_voxels
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.per_axis import per_axis

__all__ = ["BlockSizing"]


@dataclass
class BlockSizing:
    """Sizes of blocks and windows.

    Attributes:
        networks: that run on every block, by the entry of their output.
        inferer: a ``HaloWindowInferer``.
        clustering: a ``ClusterEmbeddingsd``.
        largest_block: voxels per axis of the largest block.
        chunk_size: voxels per axis of a chunk of the result.
        overlap: voxels clustered around a block; None takes ``overlap_diameters``.
        overlap_diameters: the overlap in diameters of a typical object (four coordinate scales).
        in_channels: image channels of the network.
        scheduler: see ``job_engine``.
        workers: see ``job_engine``.
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
        self, path: Path, shape: tuple[int, ...], affine: np.ndarray, block: tuple[int, ...] | None
    ) -> BlockGrid:
        """The grid of an image; without a given block, of blocks so large that they fit into memory.

        Args:
            path: the image, for messages.
            shape: its voxels per axis.
            affine: its affine.
            block: voxels of a block, or None.
        """
        grid = self._grid(shape, affine, block)
        while block is None and self.block_bytes(grid) * self.threads_here() > self.memory_left():
            smaller = self.halved(grid.block)
            if smaller == grid.block:
                raise SpocoError(
                    f"{path}: even a block of {grid.block} voxels takes {readable(self.block_bytes(grid))} and "
                    f"{readable(self.memory_left())} are free: give smaller window_size and chunk_size, or more memory"
                )
            grid = self._grid(shape, affine, smaller)
        return grid

    def _grid(self, shape: tuple[int, ...], affine: np.ndarray, block: tuple[int, ...] | None) -> BlockGrid:
        """Blocks are whole chunks, so that no two of them write into one."""
        network = self.networks["pred"]
        size = tuple(-(-b // c) * c for b, c in zip(block or self.largest_block, self.chunk_size))
        overlap = self.overlap
        if overlap is None:
            if not self.clustering.decoder.coordinate_channels:
                raise SpocoError("overlap: without coordinates an object's size is unknown: set overlap in voxels")
            reach = self.overlap_diameters * 4 * self.clustering.decoder.scale
            steps = np.linalg.norm(affine[: len(self.chunk_size), : len(self.chunk_size)], axis=0)
            overlap = tuple(math.ceil(reach / step) for step in steps)
        halo = self.inferer.halo_of(network, len(self.chunk_size))
        return BlockGrid(shape, size, overlap, halo, self.inferer.multiples_of(network, len(self.chunk_size)))

    def halved(self, block: tuple[int, ...]) -> tuple[int, ...]:
        """A block of half the size along the axis of most chunks."""
        counts = [size // chunk for size, chunk in zip(block, self.chunk_size)]
        axis = max(range(len(self.chunk_size)), key=lambda index: (counts[index], block[index]))
        return tuple(
            max(1, counts[index] // 2) * self.chunk_size[index] if index == axis else size
            for index, size in enumerate(block)
        )

    def block_bytes(self, grid: BlockGrid) -> float:
        """Bytes of the largest block."""
        largest = grid.largest()
        network = self.networks["pred"]
        return block_memory(
            region_shape(largest.read),
            region_shape(largest.label),
            self.in_channels,
            getattr(network, "out_channels", 1) * len(self.networks),
            network.head.in_channels,
            math.prod(self.window(grid)),
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
