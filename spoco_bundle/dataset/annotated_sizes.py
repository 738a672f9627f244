"""How large annotated objects are, and whether images show them at different sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from spoco_bundle.dataset.label_checks import MeasuredObject, measured_objects
from spoco_bundle.dataset.object_size import ball_radius

#: whole objects with fewer voxels are fragments
LEAST_VOXELS = 8


class AnnotatedSize(NamedTuple):
    """An annotated object.

    Attributes:
        kind: how it is annotated, see ``KINDS``.
        first: its first voxel along each axis.
        stop: the voxel after its last one.
        diameter: of the ball (disc) that is as large, in units of length; None where nothing says it.
        edges: of its box, in units of length; None where nothing says them.
    """

    kind: str
    first: np.ndarray
    stop: np.ndarray
    diameter: float | None
    edges: np.ndarray | None


def annotated_sizes(
    ids: np.ndarray,
    kinds: Mapping[int, str],
    annotation: str,
    spacing: np.ndarray,
    diameter: float | None = None,
) -> list[AnnotatedSize]:
    """Sizes of the annotated objects of an image.

    An object that is outlined in slices or marked by strokes is taken for the ellipsoid (ellipse) in the box around
    what is drawn of it. Where some objects of an image are outlined in several slices, each ends half a gap between two
    slices beyond its first and its last one. Along an axis on which that is still two voxels or less, it is as large as
    along the others, or as the image.

    Args:
        ids: (*spatial) integers, 0 for what is no object.
        kinds: how the objects are annotated that ``annotation`` does not say.
        annotation: how the others are, see ``KINDS``.
        spacing: of the voxels along each axis.
        diameter: of the objects in pixels of the image plane, where it is known.

    Returns:
        One entry per object, without whole ones of fewer than ``LEAST_VOXELS``, which are fragments.
    """
    items = [(item, kinds.get(item.id, annotation)) for item in measured_objects(ids)]
    gaps = _gaps([item for item, kind in items if kind == "slices"], ids.ndim)
    sizes = []
    for item, kind in items:
        if kind == "whole" and item.voxels.sum() < LEAST_VOXELS:
            continue
        volume, edges = _size(item, kind, spacing, diameter, gaps, ids.shape) or (None, None)
        across = None if volume is None else 2 * float(ball_radius(volume, ids.ndim))
        sizes.append(AnnotatedSize(kind, item.first.min(0), item.stop.max(0), across, edges))
    return sizes


def equal_scale(
    diameters: np.ndarray, usual: float, dims: int, enough: int = 3, tolerance: float = 1.25, growth: float = 10.0
) -> float:
    """By how much an image is enlarged for its objects to be as large as usual; 1 where they nearly are.

    Args:
        diameters: (n,) of its annotated objects.
        usual: diameter of a typical object of all images.
        dims: axes of the image.
        enough: of fewer objects the size says nothing.
        tolerance: ratio up to which sizes count as the same.
        growth: ratio of voxels up to which an image is enlarged, or shrunk: a few specks are no reason for more.

    Example:
        >>> equal_scale(np.array([38, 40, 44]), 20, dims=2)
        0.5
    """
    if len(diameters) < enough:
        return 1.0
    scale, limit = usual / float(np.median(diameters)), growth ** (1 / dims)
    return min(max(scale, 1 / limit), limit) if max(scale, 1 / scale) > tolerance else 1.0


def equal_scales(
    diameters: Sequence[np.ndarray], dims: int, wanted: bool | Literal["auto"] = "auto", differ: float = 0.4
) -> np.ndarray:
    """By how much each image is enlarged for its objects to be as large as in all, see ``equal_scale``.

    Args:
        diameters: for each image those of its annotated objects.
        dims: axes of an image.
        wanted: True does it, False leaves all images as they are; "auto" does it where the sizes of objects differ
            between images rather than within them, as they do at several magnifications.
        differ: for "auto", share of the variance that lies between images from which on they differ. Measured: 0.46 to
            0.55 in images of several magnifications, where it pays, and 0 to 0.36 in others, where it costs.

    Returns:
        (n,) float64, 1 for an image that stays as it is.
    """
    if not wanted or wanted == "auto" and share_between(diameters) < differ:
        return np.ones(len(diameters))
    usual = float(np.median(np.concatenate(diameters)))
    return np.array([equal_scale(one, usual, dims) for one in diameters])


def share_between(diameters: Sequence[np.ndarray], enough: int = 3) -> float:
    """Share of the variance of log diameters that lies between images: their intraclass correlation.

    It is ICC(1) of a one-way analysis of variance with groups of different sizes (Shrout and Fleiss, Psychological
    Bulletin 86, 1979): (B - W) / (B + (m - 1) W), with the mean squares B between images and W within them, and m
    objects in an image.

    Args:
        diameters: for each image those of its objects.
        enough: images of fewer objects are left out.

    Returns:
        At most 1; about 0, or below, where images do not differ, and 0 where fewer than two images are left.

    Example:
        >>> round(share_between([np.array([9.0, 10, 11]), np.array([18.0, 20, 22])]), 2)
        0.96
    """
    groups = [np.log(one) for one in diameters if len(one) >= enough]
    if len(groups) < 2:
        return 0.0
    counts, means = np.array([len(one) for one in groups]), np.array([one.mean() for one in groups])
    total, images = counts.sum(), len(groups)
    between = float((counts * (means - np.concatenate(groups).mean()) ** 2).sum()) / (images - 1)
    within = sum(float(((one - mean) ** 2).sum()) for one, mean in zip(groups, means, strict=True)) / (total - images)
    usual = (total - (counts**2).sum() / total) / (images - 1)
    spread = between + (usual - 1) * within
    return float((between - within) / spread) if spread > 1e-12 else 0.0  # all of one size, but for rounding


def _is_thin(item: MeasuredObject) -> np.ndarray:
    """Whether all pieces of an object are two voxels or less, per axis."""
    return (item.stop - item.first <= 2).all(0)


def _gaps(items: Sequence[MeasuredObject], dims: int) -> np.ndarray:
    """Voxels from one outlined slice of an object to its next one, the median, per axis; 1 where there are not two."""
    gaps = np.ones(dims)
    for axis in range(dims):
        steps = [np.diff(np.sort(item.first[:, axis])) for item in items if _is_thin(item)[axis]]
        steps = np.concatenate([[], *steps])
        if (steps > 1).any():
            gaps[axis] = np.median(steps[steps > 1])
    return gaps


def _size(
    item: MeasuredObject,
    kind: str,
    spacing: np.ndarray,
    diameter: float | None,
    gaps: np.ndarray,
    shape: Sequence[int],
) -> tuple[float, np.ndarray] | None:
    """Volume of an object and the edges of its box, both in units of length; None where nothing says them."""
    dims = len(spacing)
    ellipsoid = math.pi / (2 * dims)  # share of its box: pi / 4 of an ellipse, pi / 6 of an ellipsoid
    if diameter is not None:
        edges = np.full(dims, diameter * math.sqrt(spacing[-2] * spacing[-1]))
        return ellipsoid * edges.prod(), edges
    if kind == "whole":
        return item.voxels.sum() * spacing.prod(), item.extent * spacing
    extent = item.extent + np.where(_is_thin(item), gaps - 1, 0) * (kind == "slices")
    edges, thin = extent * spacing, extent <= 2
    if thin.all():
        return None
    edges[thin] = np.minimum(np.exp(np.log(edges[~thin]).mean()), shape * spacing)[thin]
    return ellipsoid * edges.prod(), edges
