"""HDBSCAN (Campello, Moulavi and Sander, "Density-based clustering based on hierarchical density estimates", 2013).

By the package `fast_hdbscan`: 50,000 voxels take about a second, a million about a minute.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spoco_bundle.clustering.centres import assign_to_centres, check_range, nearest_centre, sample_voxels
from spoco_bundle.clustering.confidence import object_means
from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.errors import SpocoError


def hdbscan(
    field: EmbeddingField,
    foreground: Tensor | None,
    *,
    min_cluster_size: int = 50,
    min_samples: int = 5,
    selection_epsilon: float = 0.0,
    max_samples: int = 200_000,
    keep_noise: bool = False,
    seed: int = 0,
) -> Tensor:
    """Cluster a volume by the density-based hierarchy of its embeddings.

    Volumes of more than `max_samples` foreground voxels are subsampled; all voxels then go to the nearest cluster mean.

    Args:
        field: the embeddings.
        foreground: (z, y, x) bool; only these voxels are clustered; None for all.
        min_cluster_size: smallest cluster, in voxels of the subsample, 2 or more.
        min_samples: neighbours that make a voxel dense, 1 or more.
        selection_epsilon: clusters closer than this distance are not split, 0 or more.
        max_samples: voxels of the subsample, at most, 1 or more.
        keep_noise: whether voxels that HDBSCAN calls noise become background instead of going to the nearest mean; only
            where the volume is not subsampled.
        seed: of the random subsample.

    Returns:
        labels (z, y, x) int32, 0 outside the foreground.

    Raises:
        SpocoError: for values out of range, for noise that cannot be kept, or for embeddings that are not finite.
    """
    # takes two seconds to import
    import numba
    from fast_hdbscan import HDBSCAN

    check_range(2, min_cluster_size=min_cluster_size)
    check_range(1, min_samples=min_samples, max_samples=max_samples)
    check_range(0, selection_epsilon=selection_epsilon)
    labels = torch.zeros(field.voxels, dtype=torch.int32, device=field.device)
    index = sample_voxels(field, foreground, max_samples, seed)
    inside = field.voxels if foreground is None else int(foreground.sum())
    if keep_noise and len(index) < inside:
        raise SpocoError(
            f"keep_noise is true and the volume of {inside} voxels is subsampled, where every voxel goes to a cluster: "
            f"set max_samples to {inside}, or keep_noise to false"
        )
    samples = field.take(index)
    if len(index) <= min_cluster_size:
        return assign_to_centres(field, samples.mean(0, keepdim=True), foreground)
    model = HDBSCAN(
        min_cluster_size=min_cluster_size,
        min_samples=min_samples,
        cluster_selection_epsilon=selection_epsilon,
    )
    threads = numba.get_num_threads()
    numba.set_num_threads(1)  # with several the clusters depend on their number
    try:
        owner = torch.from_numpy(model.fit_predict(samples.cpu().numpy())).long().to(field.device) + 1
    finally:
        numba.set_num_threads(threads)
    if owner.max() == 0:
        return labels.reshape(field.shape)
    means = object_means(samples[owner > 0], owner[owner > 0], int(owner.max()) + 1)[1:]
    if len(index) < inside:
        return assign_to_centres(field, means, foreground)
    if not keep_noise:
        noise = owner == 0
        owner[noise] = nearest_centre(samples[noise], means)[0] + 1
    labels[index] = owner.to(torch.int32)
    return labels.reshape(field.shape)
