"""Consistency clustering: clusters of the student that the teacher's embedding does not reproduce are dropped.

After Wolny, Yu, Pape and Kreshuk, "Sparse object-level supervision for instance segmentation with pixel
embeddings", CVPR 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spoco_bundle.clustering.centres import assign_to_centres, check_range, nearest_centre, sample_voxels
from spoco_bundle.clustering.mean_shift import find_modes
from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.errors import SpocoError


def consistency(
    field: EmbeddingField,
    foreground: Tensor | None,
    *,
    delta_var: float = 0.5,
    bandwidth: float = 0.5,
    anchors: int = 5,
    min_agreement: float = 0.5,
    max_samples: int = 20_000,
    max_seeds: int = 2_000,
    min_share: float = 1e-3,
    max_iterations: int = 50,
    seed: int = 0,
) -> Tensor:
    """Mean-shift on the student's embedding, clusters confirmed by the teacher's.

    In every cluster the `anchors` samples nearest to its mode are anchors. Each selects, in the teacher's embedding,
    the samples within `delta_var`; the cluster stays if the median intersection over union of these selections with the
    cluster's own core, its samples within `delta_var` of the mode, is at least `min_agreement`.

    Args:
        field: the student's embeddings; its `second` are the teacher's.
        foreground: (z, y, x) bool; only these voxels are clustered; None for all.
        delta_var: radius of an object in the embedding space, above 0.
        bandwidth: of the mean-shift, above 0.
        anchors: per cluster, 1 or more.
        min_agreement: smallest median intersection over union, 0 to 1.
        max_samples: see `mean_shift`.
        max_seeds: see `mean_shift`.
        min_share: see `mean_shift`.
        max_iterations: see `mean_shift`.
        seed: of the random subsample.

    Returns:
        labels (z, y, x) int32, 0 outside the foreground and in dropped clusters.

    Raises:
        SpocoError: without a teacher, for values out of range, or for embeddings that are not finite.
    """
    if field.second is None:
        raise SpocoError("method 'consistency' needs teacher_embeddings: give them, or choose another method")
    if not bandwidth > 0 or not delta_var > 0:
        raise SpocoError(f"bandwidth is {bandwidth} and delta_var {delta_var}: give distances above 0")
    check_range(1, anchors=anchors, max_samples=max_samples, max_seeds=max_seeds)
    check_range(0, 1, min_agreement=min_agreement, min_share=min_share)
    index = sample_voxels(field, foreground, max_samples, seed)
    samples, reference = field.take(index), field.second.take(index)
    if len(index) == 0:
        return torch.zeros(field.shape, dtype=torch.int32, device=field.device)
    modes = find_modes(samples, bandwidth, max_seeds, min_share, max_iterations, seed)
    owner, squared = nearest_centre(samples, modes)
    confirmed = torch.zeros(len(modes) + 1, dtype=torch.bool, device=field.device)
    for mode in range(len(modes)):
        core = (owner == mode) & (squared <= delta_var**2)
        members = torch.nonzero(core).squeeze(1)
        if len(members) == 0:
            continue
        picked = members[torch.argsort(squared[members], stable=True)[:anchors]]
        selected = (reference[None] - reference[picked, None]).square().sum(2) <= delta_var**2
        agreement = (selected & core).sum(1) / (selected | core).sum(1)
        confirmed[mode + 1] = agreement.median() >= min_agreement
    labels = assign_to_centres(field, modes, foreground)
    return labels * confirmed[labels.long()]
