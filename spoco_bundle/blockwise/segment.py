"""From a job to the labels and the table: all stages in order, with what joins them in between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import zarr

from spoco_bundle.blockwise.engine import Engine
from spoco_bundle.blockwise.job import Job
from spoco_bundle.blockwise.stitch import Pieces, merge_pieces, object_rows
from spoco_bundle.core.atomic_files import atomic_write, disk_errors
from spoco_bundle.formats.objects_table import write_objects_table
from spoco_bundle.formats.ome_zarr import create_array, create_label_image


def segment(
    job: Job,
    engine: Engine,
    *,
    chunks: Sequence[int],
    min_size: int,
    spacing: Sequence[float] | None,
    translation: Sequence[float],
    unit: str,
    name: str,
    like: str | None,
    pyramid: bool,
    voxel_volume: float | None = None,
) -> zarr.Array:
    """Runs a job to its end, or from where it was killed to its end.

    Args:
        job: its work folder is open.
        engine: runs its steps.
        chunks: of the result; the blocks are multiples of them.
        min_size: objects of fewer voxels are dropped.
        spacing: along z, y, x or y, x, as the image has it; None where unknown.
        translation: of the first voxel.
        unit: in which the image's file states them, as the results will.
        name: of the result.
        like: relative path of an OME-Zarr source, None for others.
        pyramid: whether to make the coarser levels.
        voxel_volume: see ``objects_table``.

    Returns:
        The labels, level 0 of ``job.result_path``: uint16, or uint32 where an id is above 65,535. The table of objects
        is ``job.table_path``.

    Raises:
        SpocoError: if blocks fail, or the target cannot be written.
    """
    grid, work = job.grid, job.work
    with disk_errors(work.path):
        create_array(job.labels_path, grid.shape, chunks, np.uint32)
    engine.run("label", len(grid), lambda number: str(grid[number]))
    engine.run("link", len(grid), lambda number: str(grid[number]))
    with disk_errors(work.path):
        objects = join(job, min_size)
        write_objects_table(job.table_path, object_rows(objects, spacing, unit, voxel_volume), len(grid.shape))
        if not job.result_path.is_dir():
            work.forget("renumber")
            for level in range(1, len(job.levels)):
                work.forget(f"level{level}")
        levels = job.levels if pyramid else job.levels[:1]
        dtype = np.uint16 if len(objects.voxels) < 2**16 else np.uint32
        create_label_image(job.result_path, levels, chunks, dtype, spacing, translation, unit, name, like)
    engine.run("renumber", len(grid), lambda number: str(grid[number]))
    for level in range(1, len(levels)):
        engine.run(f"level{level}", len(job.level_grid(level)), lambda number: f"block {number} of the pyramid")
    return zarr.open_array(str(job.result_path / "0"), mode="r")


def join(job: Job, min_size: int) -> Pieces:
    """Joins the pieces of all blocks, and writes the final id of every piece for the workers."""
    work, blocks = job.work, range(len(job.grid))
    pieces = [job.pieces_of(number) for number in blocks]
    offsets = np.concatenate([[0], np.cumsum([len(part.voxels) for part in pieces])])
    links = [np.zeros((0, 2), np.int64)]
    for number in blocks:
        with work.load("link", number) as record:
            rows = record["links"]
        links.append(np.stack([offsets[rows[:, side]] + rows[:, side + 1] - 1 for side in (0, 2)], axis=1))
    ids, objects = merge_pieces(Pieces.joined(pieces), np.concatenate(links), min_size)
    for name, values in (("ids.npy", ids.astype(np.uint32)), ("offsets.npy", offsets)):
        with atomic_write(work.path / name) as partial, partial.open("wb") as file:
            np.save(file, values)
    return objects
