"""Mean-shift (Comaniciu and Meer, "Mean shift: a robust approach toward feature space analysis", PAMI 2002)."""

from __future__ import annotations

import torch
from torch import Tensor

from spoco_bundle.clustering.centres import assign_to_centres, check_range, sample_voxels
from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.errors import SpocoError


def mean_shift(
    field: EmbeddingField,
    foreground: Tensor | None,
    *,
    bandwidth: float = 0.5,
    max_samples: int = 20_000,
    max_seeds: int = 2_000,
    min_share: float = 1e-3,
    max_iterations: int = 50,
    seed: int = 0,
) -> Tensor:
    """Cluster a volume around the modes of its embeddings' density.

    Volumes of more than `max_samples` foreground voxels are subsampled; all voxels then go to the nearest mode.

    Args:
        field: the embeddings.
        foreground: (z, y, x) bool; only these voxels are clustered; None for all.
        bandwidth: radius of the flat kernel, above 0; delta_var, or more for noisy embeddings.
        max_samples: voxels that the density is estimated from, 1 or more; time grows with max_samples x max_seeds.
        max_seeds: voxels that climb to a mode, 1 or more; several times the number of objects.
        min_share: modes with a smaller share of the samples within the bandwidth are noise, 0 to 1.
        max_iterations: steps of a seed at most.
        seed: of the random subsample.

    Returns:
        labels (z, y, x) int32, 0 outside the foreground.

    Raises:
        SpocoError: for values out of range, or for embeddings that are not finite.
    """
    if not bandwidth > 0:
        raise SpocoError(f"bandwidth is {bandwidth}: give a distance in the embedding space above 0, such as delta_var")
    check_range(1, max_samples=max_samples, max_seeds=max_seeds)
    check_range(0, 1, min_share=min_share)
    index = sample_voxels(field, foreground, max_samples, seed)
    samples = field.take(index)
    if len(index) == 0:
        return torch.zeros(field.shape, dtype=torch.int32, device=field.device)
    modes = find_modes(samples, bandwidth, max_seeds, min_share, max_iterations, seed)
    return assign_to_centres(field, modes, foreground)


def find_modes(
    samples: Tensor, bandwidth: float, max_seeds: int, min_share: float, max_iterations: int, seed: int
) -> Tensor:
    """Modes (K, E) that random samples reach by moving to the mean of the samples (N, E) within the bandwidth.

    Modes nearer to a denser mode than the bandwidth are dropped. The densest mode always stays.
    """
    origin = samples.mean(0)
    samples = samples - origin
    chosen = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))[:max_seeds]
    points = samples[chosen.to(samples.device)]
    count = torch.ones(len(points), device=samples.device)
    moving = torch.arange(len(points), device=samples.device)
    squares = samples.square().sum(1)
    for _ in range(max_iterations):
        shifted = torch.empty_like(points[moving])
        for start in range(0, len(moving), 256):
            rows = moving[start : start + 256]
            squared = torch.addmm(squares, points[rows], samples.T, alpha=-2) + points[rows].square().sum(1)[:, None]
            near = (squared <= bandwidth**2).float()
            count[rows] = near.sum(1)
            shifted[start : start + 256] = near @ samples / count[rows].clamp(min=1)[:, None]
        lonely = count[moving] == 0
        shifted[lonely] = points[moving[lonely]]
        step = (shifted - points[moving]).square().sum(1)
        points[moving] = shifted
        moving = moving[step > (1e-3 * bandwidth) ** 2]
        if len(moving) == 0:
            break
    order = torch.argsort(count, descending=True, stable=True)
    points, count = points[order], count[order]
    kept = torch.zeros(len(points), dtype=torch.bool, device=samples.device)
    open_points = count >= min_share * len(samples)
    open_points[0] = True
    while open_points.any():
        first = int(torch.nonzero(open_points)[0])
        kept[first] = True
        open_points &= (points - points[first]).square().sum(1) > bandwidth**2
    return points[kept] + origin
