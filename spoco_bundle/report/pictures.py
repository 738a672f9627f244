"""Pictures of images, embeddings and instances, for people to look at.

Matplotlib and scikit-image are imported where something is drawn: a prediction loads this module too and draws nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from spoco_bundle.core.embedding_field import EmbeddingField

LIMITS_VOXELS = 2_000_000  # voxels that the limits of intensity are taken from
PCA_VOXELS = 20_000  # voxels that the principal components are fitted on
GOLDEN_RATIO = 0.618034


def embedding_colours(field: EmbeddingField, axis: int | None = None, index: int = 0) -> np.ndarray:
    """Colours of embeddings by their first three principal components, dark where the objectness is low.

    Args:
        field: the embeddings, any number of channels.
        axis: axis of a volume across which a plane is drawn; None draws all voxels.
        index: of the plane.

    Returns:
        (*spatial, 3), or (*plane, 3), in [0, 1]; percentiles 1 and 99 of each component over the whole field span its
        colour, missing components are 0.
    """
    chosen = np.random.default_rng(0).integers(field.voxels, size=min(field.voxels, PCA_VOXELS))
    sample = field.take(torch.from_numpy(np.sort(chosen)).to(field.device)).cpu().numpy()
    mean = sample.mean(axis=0)
    axes = np.linalg.svd(sample - mean, full_matrices=False)[2][:3].T
    low, high = np.percentile((sample - mean) @ axes, [1, 99], axis=0)
    region = tuple(
        slice(index, index + 1) if axis == number else slice(0, size) for number, size in enumerate(field.shape)
    )
    vectors = field.box(region).cpu().numpy()
    components = (vectors.reshape(len(vectors), -1).T - mean) @ axes
    colours = np.zeros((len(components), 3), dtype=np.float32)
    colours[:, : axes.shape[1]] = np.clip((components - low) / np.maximum(high - low, 1e-6), 0, 1)
    if field.objectness is not None:
        colours *= field.objectness[region].reshape(-1, 1).cpu().numpy()
    shape = field.spatial if axis is None else tuple(n for number, n in enumerate(field.shape) if number != axis)
    return colours.reshape(*shape, 3)


def label_colours(labels: np.ndarray) -> np.ndarray:
    """Colours of instances, the same id always the same colour.

    Args:
        labels: (*spatial) ints; ids below 1 are black.

    Returns:
        (*spatial, 3) in [0, 1].
    """
    from matplotlib.colors import hsv_to_rgb

    ids, inverse = np.unique(np.asarray(labels), return_inverse=True)
    hue = (ids * GOLDEN_RATIO) % 1.0  # neighbouring ids get unlike hues
    table = hsv_to_rgb(np.stack([hue, np.full(len(ids), 0.75), 0.75 + 0.25 * (ids % 2)], axis=1))
    table[ids < 1] = 0
    return table[inverse].reshape(*np.shape(labels), 3)


def fullest_plane(labels: np.ndarray, axis: int) -> int:
    """Index along an axis of the plane with most labelled voxels; the middle one of a volume without any."""
    inside = np.asarray(labels) > 0
    filled = inside.sum(axis=tuple(other for other in range(3) if other != axis))
    return int(filled.argmax()) if filled.any() else inside.shape[axis] // 2


def intensity_limits(image: np.ndarray) -> tuple[float, float]:
    """Percentiles 1 and 99.8 of an image of any shape, of some million voxels where there are more."""
    values = np.asarray(image).reshape(-1)
    low, high = np.percentile(values[:: max(1, values.size // LIMITS_VOXELS)], [1, 99.8])
    return float(low), float(high)


def gray(image: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """An image as gray values, or as it is where it is RGB.

    Args:
        image: (C, *spatial), any range.
        limits: intensities shown as 0 and 1; by default those of :func:`intensity_limits`.

    Returns:
        (*spatial, 3) in [0, 1].
    """
    values = np.asarray(image, dtype=np.float32)
    low, high = intensity_limits(values) if limits is None else limits
    shown = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    return np.moveaxis(shown if len(shown) == 3 else np.repeat(shown[:1], 3, axis=0), 0, -1)


def instance_overlay(image: np.ndarray, labels: np.ndarray, alpha: float = 0.35) -> np.ndarray:
    """Instances as tinted areas with outlines over a 2D image.

    Args:
        image: (C, y, x).
        labels: (y, x) ints, 0 = background.
        alpha: strength of the tint, in [0, 1].

    Returns:
        (y, x, 3) in [0, 1].
    """
    from skimage.segmentation import find_boundaries

    picture, colours = gray(image), label_colours(labels)
    inside = (np.asarray(labels) > 0)[..., None]
    picture = np.where(inside, (1 - alpha) * picture + alpha * colours, picture)
    outline = find_boundaries(labels, mode="inner")[..., None]
    return np.where(outline, colours, picture)


def overview_picture(
    path: str | Path,
    image: np.ndarray,
    prediction: np.ndarray,
    truth: np.ndarray | None = None,
    field: EmbeddingField | None = None,
    spacing: tuple[float, ...] | None = None,
    title: str = "",
) -> None:
    """Writes a PNG with image, embedding, prediction and truth side by side; of a volume, three planes in rows.

    The planes go through the middle of the labelled region.

    Args:
        path: the PNG file.
        image: (C, z, y, x) or (C, y, x).
        prediction: instances (z, y, x) or (y, x).
        truth: true instances of the same shape, or None.
        field: the embeddings, or None.
        spacing: voxel size per axis, so that planes keep their proportions.
        title: text above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dims = np.ndim(prediction)
    steps = (1.0,) * dims if spacing is None else tuple(spacing)
    planes = _planes(prediction if truth is None or not np.any(truth) else truth)
    names = ["image", *(["embedding"] if field is not None else []), "instances found"]
    names += ["truth"] if truth is not None else []
    figure = Figure(figsize=(3.2 * len(names), 3.2 * len(planes) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(planes), len(names), squeeze=False)
    for number, (row, (plane, index)) in enumerate(zip(axes, planes, strict=True)):
        rows, columns = (axis for axis in range(dims) if (dims == 2 or axis != plane))
        part = [slice(None)] * dims
        if dims == 3:
            part[plane] = index
        cut = tuple(part)
        shown = {"image": gray(image[(slice(None), *cut)])}
        if field is not None:
            shown["embedding"] = embedding_colours(field, plane if dims == 3 else None, index)
        shown["instances found"] = instance_overlay(image[(slice(None), *cut)], prediction[cut])
        if truth is not None:
            shown["truth"] = instance_overlay(image[(slice(None), *cut)], truth[cut])
        for axis, name in zip(row, names, strict=True):
            axis.imshow(shown[name], aspect=steps[rows] / steps[columns], interpolation="nearest")
            axis.set_axis_off()
            if number == 0:
                axis.set_title(name, fontsize=11)
    figure.suptitle(title, fontsize=12)
    figure.savefig(path, dpi=110, format="png")


def _planes(labels: np.ndarray) -> list[tuple[int, int]]:
    """(axis, index) of the planes shown: the fullest one across each axis of a volume; (0, 0) of an image."""
    if np.ndim(labels) == 2:
        return [(0, 0)]
    return [(axis, fullest_plane(labels, axis)) for axis in range(3)]
