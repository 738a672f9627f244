"""Blocks against the whole: equality of the partitions, memory, speed, cost of the network, and 10^9 voxels.

    python scripts/benchmark_blockwise.py equality                    # benchmark volumes, blocks of several sizes
    python scripts/benchmark_blockwise.py memory --folder SCRATCH     # 256^3 and 1024 x 1024 x 512 voxels
    python scripts/benchmark_blockwise.py scaling --folder SCRATCH    # one and two workers
    python scripts/benchmark_blockwise.py network                     # the shipped network, bare and in blocks
    python scripts/benchmark_blockwise.py tiled IMAGE --folder SCRATCH --spacing 1.75 0.8 0.8   # 10^9 voxels

``memory`` and ``scaling`` use a stand-in for the network: embeddings of balls on a jittered lattice, computed block by
block from the voxels' positions, while the image is read from OME-Zarr as ever. Clustering, stitching, writing, pyramid
and table are those of ``spoco predict``. ``tiled`` repeats what the shipped network gives for one real volume.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from embedding_volumes import volume
from measuring import processor, resident
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from one_line import one_line_errors

from spoco_bundle.app.config import find_config, read_configs, shipped_weights
from spoco_bundle.blockwise.embedders import StoredEmbedder
from spoco_bundle.blockwise.engine import dask_client, job_engine
from spoco_bundle.blockwise.grid import Block, BlockGrid, choose_window
from spoco_bundle.blockwise.job import Job
from spoco_bundle.blockwise.segment import segment
from spoco_bundle.blockwise.work import WorkFolder
from spoco_bundle.core.boxes import region_shape
from spoco_bundle.formats import read_image
from spoco_bundle.formats.lazy import LazyVolume, open_volume
from spoco_bundle.formats.ome_zarr import label_pyramid_shapes
from spoco_bundle.inferers.halo_window import HaloWindowInferer, windows_along_axis
from spoco_bundle.metrics.contingency import contingency_table
from spoco_bundle.metrics.partition import adapted_rand_error
from spoco_bundle.networks import Decoder, load_weights
from spoco_bundle.transforms import ClusterEmbeddingsd

BLOCK = 64  # voxels along each axis of the blocks of the stand-in
DIAMETERS = 1.5  # overlap, in diameters of the objects
VOXELS, WORKERS = 1e9, 2  # of `tiled`
PITCH = 32  # voxels between the balls of the stand-in
RADIUS = 11.0
MERGE_DISTANCE = {False: 1.0, True: 0.6}  # the generator scales the free channels of semi-convolutional volumes by 0.2


@dataclass
class BallEmbedder:
    """Embeddings of one ball per cell of a lattice, shifted at random within it; every voxel votes for its centre.

    Attributes:
        source: the image, read with a halo as a network would.
        halo: voxels around the label region.
    """

    source: LazyVolume
    halo: int = 20

    def __call__(self, block: Block) -> dict[str, torch.Tensor]:
        """Raw output (9, *block.label): 3 offsets, 5 colours, 1 objectness logit."""
        self.source.read(block.read)
        axes = [torch.arange(part.start, part.stop, dtype=torch.float32) for part in block.label]
        cells = [axis.long() // PITCH for axis in axes]
        z, y, x = (cell.reshape([-1 if i == a else 1 for i in range(3)]) for a, cell in enumerate(cells))
        lot = (z * 73856093) ^ (y * 19349663) ^ (x * 83492791)
        output = torch.empty(9, *lot.shape)
        distance = torch.zeros(lot.shape)
        for axis in range(3):
            shift = ((lot >> (4 * axis)) % 9 - 4).float()
            cell = cells[axis].reshape([-1 if i == axis else 1 for i in range(3)]) * PITCH
            place = axes[axis].reshape([-1 if i == axis else 1 for i in range(3)])
            offset = cell + PITCH / 2 + shift - place
            distance += offset.square()
            output[axis] = offset / (RADIUS / 2)
        for channel in range(3, 8):
            output[channel] = ((lot >> channel) % 7).float() / 7
        output[8] = RADIUS - distance.sqrt_()
        return {"pred": output}


@dataclass
class TiledEmbedder:
    """What the network gave for one real volume, repeated along all axes.

    Attributes:
        source: the image, read with a halo as a network would.
        output: .npy of (C, *tile) raw output.
    """

    source: LazyVolume
    output: Path

    def __call__(self, block: Block) -> dict[str, torch.Tensor]:
        """Raw output (C, *block.label)."""
        self.source.read(block.read)
        tile = np.load(self.output, mmap_mode="r")
        places = [np.arange(part.start, part.stop) % size for part, size in zip(block.label, tile.shape[1:])]
        return {"pred": torch.from_numpy(tile[:, *np.ix_(*places)])}


def balls(folder: Path, shape: tuple[int, int, int]) -> LazyVolume:
    """An OME-Zarr image, uint8, as the input of the stand-in; noise, so that it does not compress away."""
    path = folder / f"image_{'x'.join(map(str, shape))}.ome.zarr"
    if not path.is_dir():
        partial = path.with_suffix(".partial")
        group = zarr.open_group(str(partial), mode="w", zarr_format=2)
        array = zarr.create_array(str(partial / "0"), shape=shape, chunks=(64, 128, 128), dtype="u1", zarr_format=2)
        random = np.random.default_rng(0)
        for start in range(0, shape[0], 64):
            array[start : start + 64] = random.integers(0, 64, (min(64, shape[0] - start), *shape[1:]), dtype=np.uint8)
        axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
        scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
        dataset = {"path": "0", "coordinateTransformations": scale}
        group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [dataset]}]
        partial.rename(path)
    return open_volume(path)


def job_of(grid: BlockGrid, work: Path, spacing: Sequence[float] = (1.0,) * 3, **given: Any) -> Job:
    """A job that joins pieces as `spoco predict` does."""
    settings = {"least_share": 0.5, "thin_voxels": 20, "agreement_distance": 1.0, "threads": 1, **given}
    levels = label_pyramid_shapes(grid.shape, spacing, 256)
    return Job(grid=grid, work=WorkFolder(work), spacing=tuple(spacing), levels=levels, **settings)


def ball_job(source: LazyVolume, work: Path) -> Job:
    """The job that segments the balls."""
    grid = BlockGrid(source.shape, (BLOCK,) * 3, (PITCH // 2,) * 3, (20, 20, 20), (4, 8, 8))
    decoder = Decoder(3, objectness=True, coordinate_scale=RADIUS / 2)
    clustering = ClusterEmbeddingsd(decoder=decoder, objectness_threshold=0.5)
    return job_of(grid, work, embedder=BallEmbedder(source), clustering=clustering)


def run_job(job: Job, scheduler: str, workers: int, progress: bool = False, chunk: int = 64) -> tuple[int, float]:
    """Runs a job from nothing; returns the number of objects and the seconds from the start of the first block."""
    shutil.rmtree(job.work.path, ignore_errors=True)
    job.work.open({})
    with dask_client(scheduler, workers, 0) as client, job_engine(job, client, 0, progress) as engine:
        began = time.perf_counter()
        segment(
            job,
            engine,
            chunks=(chunk,) * 3,
            min_size=20,
            spacing=(1.0, 1.0, 1.0),
            translation=(0.0, 0.0, 0.0),
            unit="micrometer",
            name="labels",
            like=None,
            pyramid=True,
        )
        seconds = time.perf_counter() - began
    objects = sum(1 for _ in job.table_path.open()) - 1
    return objects, seconds


def equality(options: argparse.Namespace) -> None:
    """Partitions of the benchmark volumes, blocks against whole."""
    print("| objects | embeddings | foreground | blocks | overlap | whole / blocks objects | ARE |")
    print("|---|---|---|---|---|---|---|")
    for count, coordinates in itertools.product(options.objects, (True, False)):
        embeddings, truth = volume((options.side,) * 3, count, coordinates=coordinates)
        radius = 0.55 * (options.side**3 / count) ** (1 / 3)
        if coordinates:  # the generator adds them over the mean radius
            for axis, grid in enumerate(np.ogrid[tuple(slice(n) for n in truth.shape)]):
                embeddings[axis] -= grid.astype(np.float32) / np.float32(radius)
        overlap = min(options.side, math.ceil(DIAMETERS * 2 * radius))
        for foreground in (True, False):
            clustering = ClusterEmbeddingsd(
                decoder=Decoder(3 * coordinates, coordinate_scale=radius),
                foreground_key="foreground" if foreground else None,
                merge_distance=MERGE_DISTANCE[coordinates],
            )
            sample = {"image": MetaTensor(torch.zeros(1, *truth.shape)), "pred": torch.from_numpy(embeddings)}
            sample["foreground"] = torch.from_numpy(truth[None] > 0)
            whole = clustering(sample)["pred"][0].numpy()
            for block in options.blocks:
                found = in_blocks(embeddings, truth > 0, clustering, block, overlap)
                error = adapted_rand_error(contingency_table(whole, found))
                print(
                    f"| {count} | {'semi-convolutional' if coordinates else 'non-spatial'} "
                    f"| {'given' if foreground else 'largest cluster'} | {block} | {overlap} "
                    f"| {whole.max()} / {found.max()} | {error:.5f} |",
                    flush=True,
                )


def in_blocks(
    embeddings: np.ndarray, foreground: np.ndarray, clustering: ClusterEmbeddingsd, block: int, overlap: int
) -> np.ndarray:
    """Labels of stored embeddings, clustered in blocks."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for entry, values in (("embeddings", embeddings), ("foreground", foreground.astype(np.uint8))):
            array = zarr.create_array(
                str(folder / entry), shape=values.shape, chunks=(32,) * values.ndim, dtype=values.dtype, zarr_format=2
            )
            array.attrs["_ARRAY_DIMENSIONS"] = list("czyx"[-values.ndim :])
            array[:] = values
        job = job_of(
            BlockGrid(foreground.shape, (block,) * 3, (overlap,) * 3, (0, 0, 0), (1, 1, 1)),
            folder / "work",
            embedder=StoredEmbedder(open_volume(folder / "embeddings")),
            clustering=clustering.for_pieces_of(foreground.shape),
            foreground=open_volume(folder / "foreground") if clustering.foreground_key else None,
        )
        run_job(job, "threads", 1, chunk=block)
        return zarr.open_array(str(job.result_path / "0"), mode="r")[:].astype(np.int64)


def memory(options: argparse.Namespace) -> None:
    """Peak resident memory of a small and of a large volume, in fresh processes."""
    if options.shape:
        source = balls(options.folder, tuple(options.shape))
        before = resident("VmRSS")
        found, seconds = run_job(ball_job(source, options.folder / "run"), "threads", 1, progress=True)
        peak = resident("VmHWM")
        print(
            json.dumps({"before": before, "peak": peak, "objects": found, "seconds": seconds, "voxels": source.voxels})
        )
        return
    rows = []
    for shape in ((256, 256, 256), (512, 1024, 1024)):
        balls(options.folder, shape)
        command = [sys.executable, __file__, "memory", "--folder", str(options.folder)]
        output = subprocess.run(
            [*command, "--shape", *map(str, shape)], stdout=subprocess.PIPE, check=True, text=True
        ).stdout
        rows.append(json.loads(output.splitlines()[-1]))
        row = rows[-1]
        cells = math.prod(shape) // PITCH**3
        print(
            f"{' x '.join(map(str, shape))}: {row['objects']} objects of {cells}, peak {row['peak'] / 2**30:.3f} GiB "
            f"({row['before'] / 2**30:.3f} before), {row['seconds']:.0f} s, "
            f"{row['voxels'] / row['seconds'] / 1e6:.2f} million voxels per second",
            flush=True,
        )
    print(f"ratio of the peaks: {rows[1]['peak'] / rows[0]['peak']:.3f}")


def scaling(options: argparse.Namespace) -> None:
    """One worker against two, alternating, in one process."""
    source = balls(options.folder, (256, 256, 512))
    ratios = []
    for repeat in range(options.repeats):
        seconds = {}
        for workers in (1, 2) if repeat % 2 == 0 else (2, 1):
            job = ball_job(source, options.folder / "run")
            _, seconds[workers] = run_job(job, "processes", workers)
        ratios.append(seconds[1] / seconds[2])
        print(
            f"{len(job.grid)} blocks: one worker {seconds[1]:.1f} s, two {seconds[2]:.1f} s, ratio {ratios[-1]:.2f}; "
            f"load average {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    print(f"median ratio {np.median(ratios):.2f}")


def shipped_network() -> tuple[ConfigParser, torch.nn.Module]:
    """The configs of a prediction by blocks, and their network with the shipped weights."""
    parser = read_configs([find_config("inference"), find_config("inference_blockwise")], {})
    return parser, load_weights(parser.get_parsed_content("network_def"), shipped_weights(3) / "model.pt").eval()


def overlap_of(net: torch.nn.Module, spacing: Sequence[float]) -> tuple[int, ...]:
    """Voxels around a block: so many diameters of a typical object, which is four coordinate scales across."""
    return tuple(math.ceil(DIAMETERS * 4 * float(net.coordinate_scale) / step) for step in spacing)


@torch.inference_mode()
def network(options: argparse.Namespace) -> None:
    """The shipped network: voxels per second in one pass over a window, and what blocks with overlap and halos cost."""
    parser, net = shipped_network()
    block = tuple(parser.get_parsed_content("largest_block"))
    overlap = overlap_of(net, net.training_spacing.tolist())
    halo = net.receptive_radius
    grid = BlockGrid(tuple(3 * size for size in block), block, overlap, halo, net.total_stride)
    middle = grid.at((1, 1, 1))
    most = parser.get_parsed_content("window_voxels")
    roi_size = choose_window(region_shape(middle.label), region_shape(middle.read), halo, net.total_stride, most)
    windows = 1
    for read, label, size, edge, multiple in zip(middle.read, middle.label, roi_size, halo, net.total_stride):
        start, stop = label.start - read.start, label.stop - read.start
        axis = windows_along_axis(read.stop - read.start, size, edge, multiple)
        windows *= sum(w.core_start < stop and w.core_stop > start for w in axis)
    seen = windows * math.prod(roi_size)
    window = torch.rand(1, 1, *roi_size)
    net(window)
    seconds = []
    for _ in range(options.repeats):
        began = time.perf_counter()
        net(window)
        seconds.append(time.perf_counter() - began)
    speed = math.prod(roi_size) / min(seconds)
    overhead = seen / math.prod(block)
    block_seconds = seen / speed
    print(f"block {block}, overlap {overlap}, halo {halo}, window {roi_size}")
    print(f"bare pass: {speed / 1e6:.2f} million voxels per second, load average {os.getloadavg()[0]:.1f}")
    print(
        f"a block inside a volume takes {windows} windows: {overhead:.2f} times the arithmetic of a bare pass over its "
        f"voxels, {math.prod(region_shape(middle.label)) / math.prod(block):.2f} times of which for the overlap; "
        f"{math.prod(block) / block_seconds / 1e6:.3f} million voxels per second"
    )
    for voxels in (5.4e8, 1e9, 1e12):
        print(f"{voxels:.2g} voxels: {voxels / math.prod(block) * block_seconds / 3600:.1f} hours on this thread")


@torch.inference_mode()
def tiled(options: argparse.Namespace) -> None:
    """A volume of 10^9 voxels, tiled with what the shipped network gives for a real one."""
    parser, net = shipped_network()
    clustering = parser.get_parsed_content("clustering")
    image = read_image(options.image, "image").array
    normalized = parser.get_parsed_content("normalize")({"image": torch.from_numpy(image.astype(np.float32))})
    output, tile = options.folder / "tile.npy", image.shape[1:]
    raw = HaloWindowInferer()(normalized["image"][None], net)[0].float().numpy()
    np.save(output, raw)
    times = [1] * 3
    while math.prod(tile) * math.prod(times) < VOXELS:
        times[np.argmin(np.multiply(times, tile))] += 1
    shape = tuple(np.multiply(times, tile).tolist())
    source = balls(options.folder, shape)
    block, overlap = tuple(parser.get_parsed_content("largest_block")), overlap_of(net, options.spacing)
    grid = BlockGrid(shape, block, overlap, net.receptive_radius, net.total_stride)
    job = job_of(
        grid,
        options.folder / "run",
        options.spacing,
        embedder=TiledEmbedder(source, output),
        clustering=clustering,
        thin_voxels=clustering.smallest_object(options.spacing),
    )
    field = clustering.decoder.field(torch.from_numpy(raw), options.spacing)
    one = int(clustering.cluster(field, None)[0].max())
    objects, seconds = run_job(job, "processes", WORKERS, progress=True)
    print(
        f"{' x '.join(map(str, shape))}, {math.prod(shape):.3g} voxels, {math.prod(times)} tiles, {len(grid)} blocks, "
        f"{WORKERS} workers: {seconds / 60:.1f} minutes, {math.prod(shape) / seconds / 1e6:.2f} million voxels "
        f"per second; {objects} objects, {one} in one tile alone; load average {os.getloadavg()[0]:.1f}"
    )


@one_line_errors()
def main() -> None:
    """Runs one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("equality")
    command.add_argument("--side", type=int, default=128)
    command.add_argument("--objects", type=int, nargs="+", default=[60, 600, 3000])
    command.add_argument("--blocks", type=int, nargs="+", default=[48, 64])
    command.set_defaults(run=equality)
    command = commands.add_parser("memory")
    command.add_argument("--folder", type=Path, required=True)
    command.add_argument("--shape", type=int, nargs=3, help="only this volume, in this process")
    command.set_defaults(run=memory)
    command = commands.add_parser("scaling")
    command.add_argument("--folder", type=Path, required=True)
    command.add_argument("--repeats", type=int, default=3)
    command.set_defaults(run=scaling)
    command = commands.add_parser("network")
    command.add_argument("--repeats", type=int, default=3)
    command.set_defaults(run=network)
    command = commands.add_parser("tiled")
    command.add_argument("image", type=Path, help="a volume of nuclei")
    command.add_argument("--folder", type=Path, required=True)
    command.add_argument("--spacing", type=float, nargs=3, required=True, help="of the volume, micrometres")
    command.set_defaults(run=tiled)
    options = parser.parse_args()
    if getattr(options, "folder", None):
        options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    asked = ", ".join(f"{name} {value}" for name, value in vars(options).items() if name != "run")
    print(f"{processor()}, one thread a worker, {asked}", flush=True)
    options.run(options)


if __name__ == "__main__":
    main()
