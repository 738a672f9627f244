"""How large annotated objects are, and whether an image shows its own at another size than the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from spoco_bundle.dataset.label_checks import MeasuredObject, measured_objects
from spoco_bundle.dataset.object_size import ball_radius

__all__ = ["AnnotatedSize", "annotated_sizes", "equal_scale"]


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
    min_voxels: int = 8,
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
        min_voxels: smaller whole objects are fragments and left out.
    """
    items = [(item, kinds.get(item.id, annotation)) for item in measured_objects(ids)]
    gaps = _gaps([item for item, kind in items if kind == "slices"], ids.ndim)
    sizes = []
    for item, kind in items:
        if kind == "whole" and item.voxels.sum() < min_voxels:
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
