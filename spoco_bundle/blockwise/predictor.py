"""Prediction block by block, for volumes of any size: what ``configs/inference_blockwise.json`` runs."""

from __future__ import annotations

import copy
import logging
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from distributed import Client

from spoco_bundle.blockwise.embedders import NetworkEmbedder
from spoco_bundle.blockwise.engine import dask_client, job_engine
from spoco_bundle.blockwise.estimate import duration, estimate_seconds
from spoco_bundle.blockwise.fitting import fit_image
from spoco_bundle.blockwise.job import Job
from spoco_bundle.blockwise.memory import PROCESS, readable
from spoco_bundle.blockwise.segment import segment
from spoco_bundle.blockwise.sizing import BlockSizing
from spoco_bundle.blockwise.work import WorkFolder, digest
from spoco_bundle.blockwise.working import WorkingImage
from spoco_bundle.clustering.foreground import automatic_rule
from spoco_bundle.core.atomic_files import atomic_write, disk_errors
from spoco_bundle.core.errors import SpocoError, naming, unwrapped
from spoco_bundle.core.per_axis import per_axis
from spoco_bundle.dataset import image_name
from spoco_bundle.dataset.datalist import OUTPUT_ENDING
from spoco_bundle.dataset.foreground_path import foreground_path
from spoco_bundle.dataset.resume import TABLE_ENDING
from spoco_bundle.formats import geometry
from spoco_bundle.formats.files import check_result, write_instances
from spoco_bundle.formats.lazy import LazyVolume, open_volume, unpack
from spoco_bundle.formats.names import is_zarr, result_suffix
from spoco_bundle.formats.ome_zarr import is_label_image, label_pyramid_shapes
from spoco_bundle.networks import load_weights

logger = logging.getLogger(__name__)

#: of the working resolution, what results depend on
_SIZES = ("diameter", "object_diameter", "large_diameter", "target_spacing")


class BlockwisePredictor:
    """Segments images of any size in blocks, on Dask, and writes what ``SaveInstancesd`` writes for small ones.

    For an OME-Zarr or plain Zarr image the result is an OME-Zarr label image, otherwise a file of the image's format.
    An interrupted run goes on when it is started again: finished blocks lie in ``RESULT.partial`` beside the result.

    Args:
        images: datalist with the entry ``image``.
        output_dir: folder for ``NAME_instances.EXT`` and ``NAME_objects.csv``.
        network: the network.
        weights: its weights file.
        inferer: a ``HaloWindowInferer``; with a ``roi_size`` of None the windows are chosen to fit the blocks.
        clustering: a ``ClusterEmbeddingsd`` of the entry ``pred``.
        normalize: a ``NormalizePercentiled``.
        working: a ``WorkingSpacingd``, which decides at which resolution the network works.
        output: path of the result, an OME-Zarr folder, where there is one image only; None names it after the image.
        second_network: where student and teacher have to agree, the other one.
        second_weights: its weights file.
        device: where the network runs.
        spatial_dims: 2 or 3.
        in_channels: image channels of the network.
        axes: see ``open_volume``.
        spacing: see ``open_volume``.
        channel: see ``open_volume``.
        time: see ``open_volume``.
        foreground_ending: how the names of masks beside the images end, None without masks.
        image_ending: how the images' names end.
        block_size: voxels of a block along z, y, x; rounded up to whole chunks. None takes ``largest_block``, halved
            until a block fits into memory.
        largest_block: see ``block_size``; at the working resolution.
        chunk_size: voxels of a chunk of the result; fewer where a block has to be smaller.
        overlap: voxels clustered around a block, at the working resolution; None takes ``overlap_diameters``.
        overlap_diameters: the overlap in diameters of a typical object (four coordinate scales).
        stitch_share: overlap over union from which pieces of two blocks are one object.
        stitch_voxels: common voxels below which their embeddings have to agree; None takes the least object's.
        stitch_distance: embeddings closer than this agree.
        coarsest_level: voxels along the longest axis of the label pyramid's last level, at most.
        sample_voxels: voxels on which the range of intensities is fitted.
        scheduler: see ``dask_client``.
        workers: see ``dask_client``.
        network_threads: threads of torch per worker; None shares the cores.
        retries: see ``dask_client``.
        max_memory: see ``available_memory``.
        progress: whether to show progress bars.

    Raises:
        SpocoError: if an argument is out of range; when run, for all that the user can mend.
    """

    def __init__(
        self,
        images: Sequence[dict[str, str]],
        output_dir: str | Path,
        network: torch.nn.Module,
        weights: str | Path,
        inferer: Any,
        clustering: Any,
        normalize: Any,
        working: Any,
        output: str | Path | None = None,
        second_network: torch.nn.Module | None = None,
        second_weights: str | Path | None = None,
        device: torch.device | str = "cpu",
        spatial_dims: int = 3,
        in_channels: int = 1,
        axes: str | None = None,
        spacing: Sequence[float] | None = None,
        channel: int | None = None,
        time: int | None = None,
        foreground_ending: str | None = None,
        image_ending: str = "_raw",
        block_size: int | Sequence[int] | None = None,
        largest_block: int | Sequence[int] = (128, 256, 256),
        chunk_size: int | Sequence[int] = (64, 128, 128),
        overlap: int | Sequence[int] | None = None,
        overlap_diameters: float = 1.5,
        stitch_share: float = 0.5,
        stitch_voxels: int | None = None,
        stitch_distance: float = 1.0,
        coarsest_level: int = 256,
        sample_voxels: int = 2**28,
        scheduler: str = "threads",
        workers: int = 1,
        network_threads: int | None = None,
        retries: int = 2,
        max_memory: str | float | None = None,
        progress: bool = True,
    ) -> None:
        if output is not None and len(images) != 1:
            raise SpocoError(f"output {output}: names one result, but there are {len(images)} images: give a folder")
        if output is not None and not str(output).rstrip("/").endswith(".zarr"):
            raise SpocoError(f"output {output}: only OME-Zarr results are named: end it with .ome.zarr")
        if workers < 1 or retries < 0:
            raise SpocoError(f"workers is {workers}, retries {retries}: give at least 1 and 0")
        if not 0 < stitch_share <= 1:
            raise SpocoError(f"stitch_share is {stitch_share}: give a number above 0, up to 1")
        self.images = list(images)
        self.output_dir = Path(output_dir)
        self.output = None if output is None else Path(output)
        self.networks = {"pred": network} | ({} if second_network is None else {"second_pred": second_network})
        self.weights = [Path(weights)] + ([] if second_network is None else [Path(str(second_weights))])
        self.inferer = inferer
        self.clustering = clustering
        self.normalize = normalize
        self.working = working
        self.device = torch.device(device)
        self.dims = spatial_dims
        self.in_channels = in_channels
        self.reading = {"axes": axes, "spacing": spacing, "channel": channel, "time": time}
        self.foreground_ending = foreground_ending
        self.image_ending = image_ending
        self.chunk_size = per_axis("chunk_size", chunk_size, spatial_dims, 1)
        self.sizing = BlockSizing(
            self.networks,
            inferer,
            clustering,
            largest_block=per_axis("largest_block", largest_block, spatial_dims, 1),
            chunk_size=self.chunk_size,
            overlap=None if overlap is None else per_axis("overlap", overlap, spatial_dims),
            overlap_diameters=overlap_diameters,
            in_channels=in_channels,
            scheduler=scheduler,
            workers=workers,
            network_threads=network_threads,
            max_memory=max_memory,
        )
        given = None if block_size is None else per_axis("block_size", block_size, spatial_dims, 1)
        self.block_size = None if given is None else self.sizing.whole_chunks(given)
        self.stitching = {"least_share": stitch_share, "agreement_distance": stitch_distance}
        self.stitch_voxels = stitch_voxels
        self.coarsest_level = coarsest_level
        self.sample_voxels = sample_voxels
        self.scheduler = scheduler
        self.workers = workers
        self.retries = retries
        self.progress = progress

    def run(self) -> None:
        """Segments the images, one after the other; one that is bad does not keep the others from their results."""
        for network, file in zip(self.networks.values(), self.weights):
            load_weights(network, file).eval()
            logger.info("weights from %s", file)
        if not self.images:
            return  # without starting workers
        problems = []
        with dask_client(self.scheduler, self.workers, self.retries) as client:
            for item in self.images:
                try:
                    with unwrapped():
                        self.predict(Path(item["image"]), client)
                except SpocoError as error:
                    problems.append(naming(str(item["image"]), str(error)))
        if problems:
            others = len(self.images) - len(problems)
            raise SpocoError("; ".join(problems) + (f"; the other {others} images are done" if others else ""))

    def predict(self, path: Path, client: Client) -> Path:
        """Segments one image, on the workers of Dask.

        Returns:
            The result's path; the table of objects lies beside it.
        """
        result = self.result_path(path)
        table = result.with_name(f"{image_name(result).removesuffix(OUTPUT_ENDING)}{TABLE_ENDING}.csv")
        if result.resolve() == path.resolve():
            raise SpocoError(f"{result}: would overwrite the image it was made from: choose another name or folder")
        if result.is_dir() and not is_label_image(result):
            raise SpocoError(f"{result}: exists and is no result of this command: choose another name")
        if self.output is None:
            check_result(result, path, self.dims, self.reading["axes"])
        work = WorkFolder(result.with_name(f"{result.name}.partial"))
        source = self.open_source(path, work)
        job = self.plan(path, source, work)
        self.log_summary(path, job)
        with job_engine(job, client, self.retries, self.progress) as engine:
            zarr_result = is_zarr(path) or self.output is not None
            image = segment(
                job,
                engine,
                chunks=self.sizing.chunks(job.grid.block),
                min_size=least_voxels(job),
                spacing=source.spacing,
                translation=source.translation,
                voxel_volume=geometry.voxel_volume(source.affine),
                unit=source.file_unit,
                name=image_name(result),
                like=os.path.relpath(path, result) if is_zarr(path) else None,
                pyramid=zarr_result,
            )
        with disk_errors(result):
            # a table beside instances that it does not describe would look like a finished image
            table.unlink(missing_ok=True)
            if not zarr_result:
                write_instances(result, image, path, self.reading["axes"])
            else:
                if result.is_dir():
                    shutil.rmtree(result)
                os.replace(job.result_path, result)
            os.replace(job.table_path, table)
        work.remove()
        return result

    def result_path(self, path: Path) -> Path:
        """Where the segmentation of an image goes."""
        if self.output is not None:
            return self.output
        return self.output_dir / f"{image_name(path)}{OUTPUT_ENDING}{result_suffix(path)}"

    def open_source(self, path: Path, work: WorkFolder) -> LazyVolume:
        """The image, readable by region."""
        readable_path = path
        if path.name.lower().endswith(".nii.gz"):
            readable_path = work.path / "image.nii"
            if not readable_path.is_file():
                with disk_errors(work.path):
                    work.path.mkdir(parents=True, exist_ok=True)
                    with atomic_write(readable_path) as partial:
                        unpack(path, partial)
        source = open_volume(readable_path, self.dims, **self.reading)
        if source.channels != self.in_channels:
            raise SpocoError(
                f"{path}: has {source.channels} channels, the network takes {self.in_channels}: choose one of 0 to "
                f"{source.channels - 1} with --channel"
            )
        replaced = geometry.replacement_message(self.reading["spacing"], source.stated_size, str(path))
        if replaced is not None:
            logger.warning("%s", replaced)
        if source.spacing is None and self.working.assumed_spacing is not None:
            source.take_spacing(self.working.assumed_spacing)
            logger.info("%s", geometry.assumption_message(source.spacing, str(path)))
        return source

    def plan(self, path: Path, source: LazyVolume, work: WorkFolder) -> Job:
        """The job for an image; starts its work folder, or goes on with it.

        Raises:
            SpocoError: if the background is to be the largest cluster, which is another one in every block.
        """
        rule = self.clustering.params.get("background", "auto")
        if rule == "auto":
            rule = automatic_rule(self.clustering.decoder.objectness, self.foreground_ending is not None)
        if rule == "largest":
            whole = "" if is_zarr(path) else ", or --blockwise False"
            raise SpocoError(
                f"{path}: its background is the largest cluster (clustering#background), another one in every "
                f"block: give a foreground mask (--foreground_ending), --clustering#background none or otsu{whole}"
            )
        found = work.plan() or {}
        if found.get("image_state") != image_state(path, source):
            found = {}  # that run is refused when the folder is opened
        mask = self.open_foreground(path, source)
        fitted = found.get("fit") or self.fit(path, source, mask)
        ranges = torch.tensor(fitted["ranges"], dtype=torch.float64)
        image = WorkingImage(source, self.normalize, ranges, tuple(fitted["shape"]))
        affine, wanted = source.affine, fitted["spacing"]
        affine = affine if wanted is None else geometry.rescale_affine(affine, wanted)
        spacing = geometry.column_spacing(affine[:, : self.dims] * np.divide(source.shape, image.shape))
        blocks = self.block_size or (tuple(found["block_size"]) if found else None)
        grid = self.sizing.grid_for(path, source.shape, image.shape, spacing, blocks)
        clustering = self.clustering.for_pieces_of(image.shape)
        if fitted["bright"] is not None:
            clustering.params = {**clustering.params, "background": "foreground"}
        inferer = copy.copy(self.inferer)
        inferer.roi_size = self.sizing.window(grid)
        job = Job(
            grid=grid,
            embedder=NetworkEmbedder(image, self.networks, inferer, fitted["bright"]),
            clustering=clustering,
            spacing=spacing,
            work=work,
            levels=label_pyramid_shapes(source.shape, source.spacing or (1.0,) * self.dims, self.coarsest_level),
            thin_voxels=0,
            foreground=mask,
            threads=self.sizing.torch_threads(),
            **self.stitching,
        )
        job.thin_voxels = least_voxels(job) if self.stitch_voxels is None else self.stitch_voxels
        work.open(self.fingerprint(path, source, job, fitted))
        return job

    def fit(self, path: Path, source: LazyVolume, mask: LazyVolume | None) -> dict[str, Any]:
        """What all blocks share; see ``fit_image``."""
        # what the file states is of no more use where an option replaced it
        stated = source.stated_size if self.reading["spacing"] is None else ""
        bright = self.clustering.params.get("background") == "otsu"
        return fit_image(source, str(path), stated, mask, self.normalize, self.working, self.sample_voxels, bright)

    def open_foreground(self, path: Path, source: LazyVolume) -> LazyVolume | None:
        """The mask beside an image, where there are to be masks."""
        if self.foreground_ending is None:
            return None
        mask = foreground_path(path, self.foreground_ending, self.image_ending)
        volume = open_volume(mask, self.dims, axes=self.reading["axes"])
        if volume.shape != source.shape:
            raise SpocoError(f"{mask}: has shape {volume.shape}, its image {source.shape}: they must match")
        return volume

    def fingerprint(self, path: Path, source: LazyVolume, job: Job, fitted: dict[str, Any]) -> dict[str, Any]:
        """What the labels depend on: settings, and what was fitted to the image."""
        return {
            "image": str(path.resolve()),
            "image_state": image_state(path, source),
            "reading": self.reading | {"foreground_ending": self.foreground_ending},
            "weights": [digest(file) for file in self.weights],
            "network": str(self.networks["pred"]),
            "normalize": [self.normalize.lower, self.normalize.upper, self.normalize.invert, self.sample_voxels],
            "window": [self.inferer.roi_size, list(job.grid.halo), self.inferer.precision],
            "block_size": list(job.grid.block),
            "chunk_size": list(self.chunk_size),
            "overlap": list(job.grid.overlap),
            **{name: getattr(self.working, name) for name in _SIZES},
            "outline": job.clustering.outline,
            "fit": fitted,
            "clustering": {
                "scale": self.clustering.decoder.scale,
                **{k: v for k, v in sorted(vars(self.clustering).items()) if _is_setting(v)},
            },
            "stitching": [*self.stitching.values(), job.thin_voxels, self.coarsest_level],
        }

    def log_summary(self, path: Path, job: Job) -> None:
        """Says what is going to happen: blocks, memory and time."""
        grid = job.grid
        done = len(job.work.finished("label"))
        memory = self.sizing.block_bytes(grid) * self.sizing.threads_here() + PROCESS
        seconds = estimate_seconds(job, len(grid) - done, self.device) / self.sizing.threads_here()
        logger.info(
            "%s: %s voxels in %d blocks of %s%s; about %s of memory, about %s",
            path,
            " x ".join(map(str, grid.shape)),
            len(grid),
            " x ".join(map(str, grid.block)),
            f" ({done} already finished)" if done else "",
            readable(memory),
            duration(seconds),
        )


def least_voxels(job: Job) -> int:
    """Voxels of the image that the smallest object has; what is smaller are fragments on which two blocks disagree."""
    least = job.clustering.smallest_object(job.spacing)
    return max(1, least * math.prod(job.grid.shape) // math.prod(job.grid.working))


def image_state(path: Path, source: LazyVolume) -> list[Any]:
    """What shows that an image has changed, as JSON values."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, list(source.shape), str(source.dtype)]


def _is_setting(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, dict, tuple))
