"""A small volume of balls as the output of a network, and jobs that segment it in blocks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zarr
from monai.data import MetaTensor

from spoco_bundle.blockwise.embedders import StoredEmbedder
from spoco_bundle.blockwise.engine import dask_client, job_engine
from spoco_bundle.blockwise.grid import BlockGrid
from spoco_bundle.blockwise.job import Job
from spoco_bundle.blockwise.segment import segment
from spoco_bundle.blockwise.work import WorkFolder
from spoco_bundle.formats.lazy import open_volume
from spoco_bundle.formats.ome_zarr import label_pyramid_shapes
from spoco_bundle.networks import Decoder
from spoco_bundle.transforms import ClusterEmbeddingsd

SHAPE = (28, 44, 46)
SCALE = 2.5
SPACING = (2.0, 1.0, 1.0)


def make_output(pitch, radius, seed=0, noise=0.02):
    """Raw output (E + 1, *SHAPE) of a network for balls around a jittered lattice, and their labels."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(SHAPE, SPACING)], indexing="ij"), -1)
    centres = np.stack(
        np.meshgrid(*[np.arange(pitch / 2, n * s, pitch) for n, s in zip(SHAPE, SPACING)], indexing="ij"), -1
    ).reshape(-1, 3)
    centres = centres + random.uniform(-1.5, 1.5, centres.shape)
    nearest = np.zeros(SHAPE, int)
    best = np.full(SHAPE, np.inf)
    for number, centre in enumerate(centres):
        distance = np.linalg.norm(grid - centre, axis=-1)
        closer = distance < best
        nearest[closer], best[closer] = number, distance[closer]
    labels = np.where(best <= radius, nearest + 1, 0)
    output = random.normal(0, noise, (6, *SHAPE)).astype(np.float32)
    output[:3] += np.moveaxis(centres[nearest] - grid, -1, 0).astype(np.float32) / SCALE
    output[3:5] += random.normal(size=(2, len(centres)))[:, nearest]
    output[5] = np.where(labels > 0, 3, -3)
    return output, labels


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Well-separated balls, and touching ones, each stored as Zarr, with the labels of the whole volume."""
    made = {}
    for name, pitch, radius in (("separate", 14, 4.5), ("touching", 9, 5.5)):
        folder = tmp_path_factory.mktemp(name)
        output, truth = make_output(pitch, radius)
        array = zarr.create_array(
            str(folder / "output"), shape=output.shape, chunks=(6, 8, 16, 16), dtype="f4", zarr_format=2
        )
        array[:] = output
        array.attrs["_ARRAY_DIMENSIONS"] = list("czyx")
        image = MetaTensor(torch.zeros(1, *SHAPE), affine=torch.diag(torch.tensor([*SPACING, 1.0])))
        found = clustering()({"image": image, "pred": torch.from_numpy(output)})
        made[name] = SimpleNamespace(
            source=open_volume(folder / "output"), truth=truth, whole=found["pred"][0].numpy().astype(int)
        )
    return made


def clustering(**options):
    return ClusterEmbeddingsd(
        decoder=Decoder(3, objectness=True, coordinate_scale=SCALE),
        objectness_threshold=0.5,
        **options,
    )


def make_job(scene, folder: Path, block=(16, 16, 24), overlap=(6, 12, 12), embedder=None, shape=SHAPE) -> Job:
    """A job for an image of that shape, which the network sees as one of ``SHAPE``."""
    return Job(
        grid=BlockGrid(shape, block, overlap, (2, 2, 2), (1, 1, 1), SHAPE),
        embedder=embedder or StoredEmbedder(scene.source),
        clustering=clustering(),
        spacing=SPACING,
        work=WorkFolder(folder / "work"),
        levels=label_pyramid_shapes(shape, SPACING, 16),
        least_share=0.5,
        thin_voxels=20,
        agreement_distance=1.0,
        threads=1,
    )


def run_job(job: Job, scheduler="threads", workers=1, retries=0) -> np.ndarray:
    job.work.open({"block": list(job.grid.block)})
    with dask_client(scheduler, workers, retries) as client, job_engine(job, client, retries, False) as engine:
        labels = segment(
            job,
            engine,
            chunks=(4, 8, 8),
            min_size=20,
            spacing=SPACING,
            translation=(0.0, 0.0, 0.0),
            unit="micrometer",
            name="labels",
            like=None,
            pyramid=True,
        )
        return labels[:].astype(int)


@pytest.fixture
def blocks():
    """What makes and runs jobs."""
    return SimpleNamespace(make_job=make_job, run_job=run_job, clustering=clustering)
