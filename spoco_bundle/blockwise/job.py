"""The steps of a run, each for one block: label, link to the neighbours, renumber, coarsen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastremap
import numpy as np
import torch
import zarr

from spoco_bundle.blockwise.grid import Block, BlockGrid
from spoco_bundle.blockwise.stitch import Pieces, link_pieces, measure_pieces
from spoco_bundle.blockwise.work import WorkFolder
from spoco_bundle.blockwise.working import read_mask
from spoco_bundle.core.atomic_files import disk_errors
from spoco_bundle.core.boxes import Region, within
from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.memory import release_freed
from spoco_bundle.core.resampling import restore_region
from spoco_bundle.formats.lazy import LazyVolume
from spoco_bundle.formats.ome_zarr import chunk_regions, halve


@dataclass
class Job:
    """Everything a worker needs; every step reads and writes files only, so that steps may be repeated and killed.

    Attributes:
        grid: the blocks.
        embedder: maps a block to the network's output over its label region (see ``embedders``).
        clustering: a ``ClusterEmbeddingsd`` of the entry ``pred``.
        spacing: of the working grid's voxels, which coordinates are multiplied with.
        work: records; the labels of the blocks lie in ``labels`` inside it, the result in ``result.zarr``.
        levels: of the label pyramid.
        least_share: see ``link_pieces``.
        thin_voxels: see ``link_pieces``.
        agreement_distance: see ``link_pieces``.
        foreground: a mask beside the image, or None.
        threads: of torch in a worker; None leaves them.
    """

    grid: BlockGrid
    embedder: Callable[[Block], dict[str, torch.Tensor]]
    clustering: Any
    spacing: tuple[float, ...]
    work: WorkFolder
    levels: list[tuple[tuple[int, ...], tuple[int, ...]]]
    least_share: float
    thin_voxels: int
    agreement_distance: float
    foreground: LazyVolume | None = None
    threads: int | None = None

    @property
    def labels_path(self) -> Path:
        """Zarr array of the labels as numbered by each block."""
        return self.work.path / "labels"

    @property
    def result_path(self) -> Path:
        """Zarr image of the final labels."""
        return self.work.path / "result.zarr"

    @property
    def table_path(self) -> Path:
        """CSV table of the objects."""
        return self.work.path / "objects.csv"

    def run(self, stage: str, number: int) -> None:
        """Runs one step and records it.

        Raises:
            SpocoError: if the disk is full or the target cannot be written.
        """
        with disk_errors(self.work.path):
            if stage.startswith("level"):
                self.coarsen(int(stage.removeprefix("level")), number)
            else:
                getattr(self, stage)(number)
        release_freed()

    @torch.inference_mode()
    def label(self, number: int) -> None:
        """Embeds and clusters a block, writes the labels of its write region, records pieces and shared borders."""
        block = self.grid[number]
        outputs = self.embedder(block)
        if self.foreground is not None:
            mask = read_mask(self.foreground, self.grid.working, block.label)
            outputs["foreground"] = mask & outputs.get("foreground", mask)
        origin = [part.start for part in block.label]
        field = self.clustering.decoder.field(outputs["pred"], self.spacing, origin, outputs.get("second_pred"))
        found, confidence = self.clustering.cluster(field, outputs.get("foreground"))
        compared = self.grid.compared(block)
        grids = block.label, self.grid.working, self.grid.shape, compared
        labels = restore_region(found, *grids, self.clustering.outlines(field), self.clustering.outline)
        labels, found = (values.cpu().numpy().view(np.uint32) for values in (labels, found))
        confidence = np.ones(int(found.max())) if confidence is None else confidence.cpu().numpy()
        inside = within(block.write, compared)
        ids = fastremap.unique(labels[inside])
        ids = ids[ids > 0]
        table = np.zeros(int(found.max()) + 1, np.uint32)
        table[ids] = np.arange(1, len(ids) + 1)
        labels = table[labels]
        own = np.ascontiguousarray(labels[inside])
        pieces = measure_pieces(own, [part.start for part in block.write], self.grid.shape, confidence[ids - 1])
        slabs = {
            f"slab_{axis}_{side}": labels[within(region, compared)]
            for (axis, side), region in self.grid.slabs(block).items()
        }
        means = piece_means(field, table[found], len(ids))
        zarr.open_array(str(self.labels_path), mode="r+")[block.write] = own
        self.work.save("label", number, means=means, **vars(pieces), **slabs)

    def link(self, number: int) -> None:
        """Finds which pieces of a block are one object with which of its later neighbours'."""
        block = self.grid[number]
        found = [np.zeros((0, 4), np.int64)]
        with self.work.load("label", number) as mine:
            for step, neighbour in self.grid.neighbours(block):
                axis = next(axis for axis, move in enumerate(step) if move)
                shared = self.grid.shared(block, step)
                with self.work.load("label", neighbour.number) as theirs:
                    pairs = link_pieces(
                        self._slab(mine, block, axis, step[axis], shared),
                        self._slab(theirs, neighbour, axis, -step[axis], shared),
                        mine["means"],
                        theirs["means"],
                        self.least_share,
                        self.thin_voxels,
                        self.agreement_distance,
                    )
                found.append(np.insert(pairs, [0, 1], [number, neighbour.number], axis=1))
        self.work.save("link", number, links=np.concatenate(found))

    def _slab(self, record: Any, block: Block, axis: int, side: int, shared: Region) -> np.ndarray:
        return record[f"slab_{axis}_{side}"][within(shared, self.grid.slabs(block)[axis, side])]

    def renumber(self, number: int) -> None:
        """Writes the final ids of a block."""
        start, stop = np.load(self.work.path / "offsets.npy", mmap_mode="r")[number : number + 2]
        ids = np.load(self.work.path / "ids.npy", mmap_mode="r")[start:stop]
        source = zarr.open_array(str(self.labels_path), mode="r")
        target = zarr.open_array(str(self.result_path / "0"), mode="r+")
        table = np.concatenate([[0], ids]).astype(target.dtype)
        for part in chunk_regions(self.grid[number].write, target.chunks):
            values = np.asarray(source[part])
            if values.any():
                target[part] = table[values]
        self.work.save("renumber", number)

    def coarsen(self, level: int, number: int) -> None:
        """Writes one block of a level of the pyramid."""
        grid = self.level_grid(level)
        halve(self.result_path, level, grid[number].write, self.levels)
        self.work.save(f"level{level}", number)

    def level_grid(self, level: int) -> BlockGrid:
        """Blocks of a level of the pyramid."""
        shape = self.levels[level][0]
        none = (0,) * len(shape)
        return BlockGrid(shape, self.grid.block, none, none, (1,) * len(shape))

    def pieces_of(self, number: int) -> Pieces:
        """The measured pieces of a finished block."""
        with self.work.load("label", number) as record:
            return Pieces(**{name: record[name] for name in Pieces.__dataclass_fields__})


def piece_means(field: EmbeddingField, labels: np.ndarray, count: int) -> np.ndarray:
    """Mean embeddings (count + 1, E) float32 of the pieces 1..count of labels (*spatial), row 0 unused."""
    sums = torch.zeros(count + 1, field.channels, dtype=torch.float64)
    ids = torch.from_numpy(labels.astype(np.int64)).reshape(field.shape)
    for start, stop in field.slabs():
        owner = ids[start:stop].flatten()
        chosen = owner.nonzero()[:, 0]
        vectors = field.slab(start, stop).reshape(field.channels, -1)[:, chosen.to(field.device)]
        sums.index_add_(0, owner[chosen], vectors.T.double().cpu())
    voxels = np.bincount(labels.ravel(), minlength=count + 1)
    return (sums.numpy() / np.maximum(voxels, 1)[:, None]).astype(np.float32)
