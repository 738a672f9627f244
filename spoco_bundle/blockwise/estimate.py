"""How long a run in blocks takes, said before it begins."""

from __future__ import annotations

import math
import time

import torch

from spoco_bundle.blockwise.job import Job
from spoco_bundle.core.boxes import region_shape

# measured on one thread, see docs/measurements/clustering.md
CLUSTER_SECONDS = 4e-7  # per clustered voxel
TRIAL_VOXELS = 2**19  # that the network is timed on


@torch.inference_mode()
def estimate_seconds(job: Job, blocks: int, device: torch.device) -> float:
    """Seconds that so many blocks take one after the other, from a timed trial of the network on noise."""
    network = job.embedder.networks["pred"]
    window = job.embedder.inferer.roi_size
    multiples = job.grid.multiple
    share = min(1.0, (TRIAL_VOXELS / math.prod(window)) ** (1 / len(window)))
    trial = [max(m, int(share * size) // m * m) for size, m in zip(window, multiples)]
    image = torch.rand(1, job.embedder.image.channels, *trial, device=device)
    network(image)
    began = time.perf_counter()
    network(image).sum().item()
    per_voxel = (time.perf_counter() - began) / math.prod(trial) * len(job.embedder.networks)
    largest = job.grid.largest()
    waste = 1.0
    for size, part, halo in zip(window, region_shape(largest.read), job.grid.halo):
        waste *= size / max(1, size - 2 * halo) if part > size else 1.0
    return blocks * math.prod(region_shape(largest.label)) * (waste * per_voxel + CLUSTER_SECONDS)


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
