"""Mutex watershed (Wolf et al., ECCV 2018) over embedding distances, by the `mwatershed` package.

Neighbouring voxels attract each other by the similarity of their embeddings, voxels some way apart repel each other by
their dissimilarity, and a greedy pass over all these edges, strongest first, joins voxels that nothing keeps apart. No
number of objects, no distance of centres: it suits long and branching objects. Edges are as many as voxels times
offsets, and sorting them makes it the slowest method of all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from spoco_bundle.core.boxes import region_shape
from spoco_bundle.core.embedding_field import EmbeddingField, check_finite
from spoco_bundle.core.embedding_space import kernel_scale
from spoco_bundle.core.errors import SpocoError


def mutex_watershed(
    field: EmbeddingField,
    foreground: Tensor | None,
    *,
    delta_var: float = 0.5,
    kernel_threshold: float = 0.5,
    merge_distance: float = 1.0,
    reach: int | Sequence[int] = 5,
    repulsion_stride: int = 2,
    max_voxels: int = 500_000,
) -> Tensor:
    """Cluster a volume by mutex watershed.

    With the kernel `k = exp(-d^2 / s)` of the embedding distance `d` (`s` from `embedding_space.kernel_scale`), face
    neighbours attract with weight `k` where `d` is below `merge_distance`; voxels `reach` apart along an axis or a
    diagonal repel with weight `1 - k`. Edges end at the border of the foreground.

    Args:
        field: the embeddings.
        foreground: (z, y, x) bool; only these voxels are clustered; None for all.
        delta_var: radius of an object in the embedding space, above 0.
        kernel_threshold: kernel value at that radius, in (0, 1).
        merge_distance: neighbours further apart than this are not joined directly, in embedding units, above 0.
        reach: length of the repelling edges in voxels, one number or one per axis, 2 or more; near the thickness of
            the objects, since voxels of one object at that distance should still be alike.
        repulsion_stride: repelling edges start at every so many-th voxel per axis, 1 or more: fewer of them split less.
        max_voxels: a foreground whose bounding box is larger is thinned out to every second voxel (third, ...) per
            axis, and every voxel takes the object of the nearest one kept. Half a million voxels take some 10 s.

    Returns:
        labels (z, y, x) int32, 0 outside the foreground, not yet consecutive.

    Raises:
        SpocoError: if the package is not installed, for values out of range, or for embeddings that are not finite.
    """
    try:
        import mwatershed
    except ImportError as error:
        raise SpocoError(
            "method 'mutex_watershed' needs the package mwatershed: pip install 'spoco-bundle[graph]', or choose "
            "another method"
        ) from error
    if not merge_distance > 0 or max_voxels < 1 or repulsion_stride < 1:
        raise SpocoError(
            f"merge_distance is {merge_distance}, repulsion_stride {repulsion_stride}, max_voxels {max_voxels}: give a "
            "distance above 0 and numbers of 1 or more"
        )
    offsets(field.shape, reach)  # refuses bad values even where there is no foreground
    inside = np.ones(field.shape, bool) if foreground is None else foreground.cpu().numpy()
    labels = torch.zeros(field.shape, dtype=torch.int32, device=field.device)
    if np.count_nonzero(inside) < 2:  # nothing to join
        return labels.masked_fill_(torch.from_numpy(inside).to(field.device), 1)
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    inside = inside[box]
    thin = max(1, math.ceil((inside.size / max_voxels) ** (1 / sum(n > 1 for n in inside.shape)) - 1e-9))
    grid = (slice(None, None, thin),) * 3
    shape = inside[grid].shape
    # the package panics at steps longer than the volume, which join nothing
    steps = [s for s in offsets(field.shape, reach, thin) if all(abs(a) <= n for a, n in zip(s, shape, strict=True))]
    vectors = field.box(box)[(slice(None), *grid)]
    check_finite(vectors)
    weights = edge_weights(vectors, inside[grid], steps, merge_distance, kernel_scale(delta_var, kernel_threshold))
    strides = [[1] * 3] * 3 + [[repulsion_stride] * 3] * (len(steps) - 3)
    found = mwatershed.agglom(weights, steps, strides=strides).astype(np.int32) * inside[grid]
    if thin > 1:
        # voxels of the foreground whose kept neighbour lies outside take the nearest label, as every other voxel does
        kept = np.zeros(inside.shape, np.int32)
        kept[grid] = found
        nearest = ndimage.distance_transform_edt(kept == 0, return_distances=False, return_indices=True)
        found = kept[tuple(nearest)] * inside
    labels[box] = torch.from_numpy(found).to(field.device)
    return labels


def offsets(shape: Sequence[int], reach: int | Sequence[int], thin: int = 1) -> list[list[int]]:
    """Three steps to face neighbours, then repelling steps along the axes and the diagonals of their pairs.

    Args:
        shape: (z, y, x) of the volume.
        reach: see `mutex_watershed`.
        thin: distance in voxels of those between which the steps go.
    """
    real = [axis for axis, size in enumerate(shape) if size > 1]
    given = [reach] * len(real) if isinstance(reach, int) else list(reach)
    if len(given) != len(real) or min(given, default=2) < 2:
        raise SpocoError(f"reach is {reach}: give one number of voxels, 2 or more, or one for each of {len(real)} axes")
    length = {axis: max(2, round(one / thin)) for axis, one in zip(real, given)}
    steps = [[int(axis == other) for other in range(3)] for axis in range(3)]
    for axis in real:
        steps.append([length[axis] * (axis == other) for other in range(3)])
    for one, two in itertools.combinations(real, 2):
        for sign in (1, -1):
            step = [0, 0, 0]
            step[one], step[two] = length[one], sign * length[two]
            steps.append(step)
    return steps


def edge_weights(
    vectors: Tensor, inside: np.ndarray, steps: Sequence[Sequence[int]], merge_distance: float, scale: float
) -> np.ndarray:
    """Signed weights (edges, z, y, x) float64 of the edge from each voxel by each step; 0 where there is none.

    Args:
        vectors: embeddings (E, z, y, x).
        inside: (z, y, x) bool; edges join two such voxels.
        steps: offsets in voxels, three attractive ones first.
        merge_distance: greatest distance of an attractive edge.
        scale: of the kernel.
    """
    weights = np.zeros((len(steps), *inside.shape))
    for number, step in enumerate(steps):
        if any(abs(s) >= n for s, n in zip(step, inside.shape)):
            continue
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, inside.shape, strict=True))
        there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(step, inside.shape, strict=True))
        squared = torch.zeros(region_shape(here), device=vectors.device)
        for channel in vectors:  # one by one: no copy of all differences
            squared += (channel[here] - channel[there]).square_()
        kernel = torch.exp(squared / -scale)
        weight = torch.where(squared < merge_distance**2, kernel, 0) if number < 3 else kernel - 1
        weights[(number, *here)] = weight.cpu().numpy() * (inside[here] & inside[there])
    return weights
