"""From embeddings to objects, in four stages: foreground -> method -> objects -> confidence.

A method is `(field, foreground, **parameters) -> labels`: it tells objects apart within a foreground that is decided
before it (`foreground.py`). Connected parts, the smallest size, seeds and growth come after it (`objects.py`), then the
confidence of every object (`confidence.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spoco_bundle.clustering.centres import check_range
from spoco_bundle.clustering.confidence import kernel_of, object_confidence
from spoco_bundle.clustering.consistency import consistency
from spoco_bundle.clustering.density_peaks import density_peaks
from spoco_bundle.clustering.foreground import BACKGROUND_RULES, automatic_rule, drop_largest, find_foreground
from spoco_bundle.clustering.hdbscan import hdbscan
from spoco_bundle.clustering.mean_shift import mean_shift
from spoco_bundle.clustering.mutex_watershed import mutex_watershed
from spoco_bundle.clustering.objects import find_objects
from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.memory import release_freed

__all__ = [
    "BACKGROUND_RULES",
    "METHODS",
    "check_parameters",
    "cluster_embeddings",
    "cluster_field",
    "default_parameters",
    "kernel_of",
    "object_confidence",
]

#: voxels from which what a method held is given back to the system before the next stage: in a flat image that is
#: little, and asking the system for it again takes as long as a fifth of the work
_LARGE = 2**21

METHODS: dict[str, Callable[..., Tensor]] = {
    "density_peaks": density_peaks,
    "mean_shift": mean_shift,
    "hdbscan": hdbscan,
    "consistency": consistency,
    "mutex_watershed": mutex_watershed,
}


def cluster_embeddings(
    embeddings: np.ndarray | Tensor,
    method: str = "density_peaks",
    *,
    teacher_embeddings: np.ndarray | Tensor | None = None,
    coordinate_channels: int = 0,
    foreground: np.ndarray | Tensor | None = None,
    objectness: np.ndarray | Tensor | None = None,
    return_confidence: bool = False,
    **params: Any,
) -> np.ndarray | Tensor | tuple:
    """Cluster pixel embeddings into objects.

    Args:
        embeddings: (E, y, x) or (E, z, y, x), floating array (memory-mapped or not) or tensor; coordinates already
            added. Read in slabs, never copied as a whole.
        method: one of `METHODS`.
        teacher_embeddings: the teacher's embeddings, same shape; needed by `consistency`, and used by the confidence.
        coordinate_channels: number D of leading channels that vote for the object's centre: the spatial axes, or 0.
        foreground: (*spatial) or (1, *spatial), non-zero where there are objects; no object lies outside of it.
        objectness: (*spatial) or (1, *spatial) probabilities in [0, 1] that a voxel belongs to an object.
        return_confidence: also return one confidence per object.
        params: of `cluster_field` and of the method (see its function).

    Returns:
        labels (*spatial) int32, consecutive, 0 = background: a tensor on the input's device for a tensor, an array for
        an array. With `return_confidence` also the float32 confidences (n,) in [0, 1], that of object i at index i - 1.

    Raises:
        SpocoError: an unknown method, rule or keyword, a shape that does not fit, a missing input.

    Example:
        >>> embeddings = np.zeros((2, 16, 16), np.float32)
        >>> embeddings[0, 2:8, 2:8] = embeddings[1, 9:14, 9:14] = 5
        >>> int(cluster_embeddings(embeddings, foreground=embeddings.any(0)).max())
        2
    """
    axes = embeddings.ndim - 1
    if coordinate_channels not in (0, axes):
        raise SpocoError(f"coordinate_channels is {coordinate_channels}: give 0 or {axes}, one per axis")
    second = None if teacher_embeddings is None else EmbeddingField(teacher_embeddings)
    field = EmbeddingField(embeddings, objectness=objectness, second=second)
    labels = cluster_field(field, method, foreground=foreground, **params)
    result = field.shaped_like_input(labels)
    if not return_confidence:
        return result
    confidence = object_confidence(field, labels, **kernel_of(params))
    return result, confidence if torch.is_tensor(embeddings) else confidence.numpy()


def cluster_field(
    field: EmbeddingField,
    method: str = "density_peaks",
    *,
    foreground: np.ndarray | Tensor | None = None,
    image: np.ndarray | Tensor | None = None,
    background: str = "auto",
    objectness_threshold: float = 0.1,
    seed_objectness: float = 0.5,
    extent_threshold: float | None = None,
    min_size: int = 20,
    split_parts: bool = True,
    **params: Any,
) -> Tensor:
    """Cluster a field into objects: foreground, method, objects.

    Args:
        field: what the network says of a volume.
        method: one of `METHODS`.
        foreground: see `cluster_embeddings`.
        image: (*spatial) or (C, *spatial) intensities, for the background rule "otsu".
        background: how the background is told from objects, see `foreground.py`.
        objectness_threshold: for the rule "objectness", in (0, 1).
        seed_objectness: see `find_objects`.
        extent_threshold: see `find_objects`.
        min_size: smallest object before it grows, in voxels, 1 or more.
        split_parts: see `find_objects`.
        params: of the method (see its function).

    Returns:
        labels (z, y, x) int32 on the device of the field, consecutive, 0 = background.

    Raises:
        SpocoError: as `cluster_embeddings`.
    """
    check_parameters(method, params)
    if min_size < 1:
        raise SpocoError(f"min_size is {min_size}: give a number of voxels, 1 or more")
    check_range(0, 1, seed_objectness=seed_objectness)
    if extent_threshold is not None and (field.objectness is None or not 0 <= extent_threshold <= 1):
        missing = ", without an objectness" if field.objectness is None else ""
        raise SpocoError(
            f"extent_threshold is {extent_threshold}{missing}: give a number from 0 to 1 and an objectness, or None"
        )
    rule = background
    if background == "auto":
        rule = automatic_rule(field.objectness is not None, foreground is not None)
    mask = None if foreground is None else field.grid(foreground, "foreground", torch.bool)
    inside = find_foreground(field, rule, mask, image, objectness_threshold)
    # the one parameter that the objects share with a method: it must not lose what they would keep
    if "min_size" in METHODS[method].__kwdefaults__:
        params["min_size"] = min_size

    def clusters() -> np.ndarray:
        with torch.no_grad():
            labels = METHODS[method](field, inside, **params)
        if labels.numel() > _LARGE:
            release_freed()
        return (drop_largest(labels) if rule == "largest" else labels).cpu().numpy()

    objects = find_objects(
        clusters(),
        None if field.objectness is None else field.objectness.cpu().numpy(),
        split_parts=split_parts,
        min_size=min_size,
        seed_objectness=seed_objectness,
        extent_threshold=extent_threshold,
        mask=None if mask is None else mask.cpu().numpy(),
    )
    return torch.from_numpy(objects).to(field.device)


def check_parameters(method: str, params: Iterable[str]) -> None:
    """Refuses an unknown method, and keywords that neither it nor `cluster_field` takes.

    Args:
        method: one of `METHODS`.
        params: names of the keywords.

    Raises:
        SpocoError: the message lists what there is.
    """
    if method not in METHODS:
        raise SpocoError(f"clustering method {method!r} is unknown: choose one of {', '.join(METHODS)}")
    known = default_parameters(method)
    unknown = [name for name in params if name not in known]
    if unknown:
        raise SpocoError(f"{method} takes no {', '.join(unknown)}: its parameters are {', '.join(known)}")


def default_parameters(method: str) -> dict[str, Any]:
    """Parameters of a method, and those of the stages around it, with their defaults."""
    around = {
        name: value for name, value in cluster_field.__kwdefaults__.items() if name not in ("foreground", "image")
    }
    return around | METHODS[method].__kwdefaults__
