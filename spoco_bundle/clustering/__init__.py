"""Clustering of pixel embeddings into objects, one call for every algorithm."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from spoco_bundle.clustering.background import background_clusters
from spoco_bundle.clustering.confidence import object_confidence
from spoco_bundle.clustering.consistency import consistency
from spoco_bundle.clustering.density_peaks import density_peaks
from spoco_bundle.clustering.hdbscan import hdbscan
from spoco_bundle.clustering.mean_shift import mean_shift
from spoco_bundle.clustering.mutex_watershed import mutex_watershed
from spoco_bundle.clustering.refine import refine
from spoco_bundle.clustering.seeded_watershed import grow
from spoco_bundle.clustering.voxels import Volume
from spoco_bundle.core.errors import SpocoError

__all__ = ["BACKGROUND_RULES", "METHODS", "MIN_SIZE", "check_method", "cluster_embeddings", "default_parameters"]

ALGORITHMS = {
    "density_peaks": density_peaks,
    "mean_shift": mean_shift,
    "hdbscan": hdbscan,
    "consistency": consistency,
    "mutex_watershed": mutex_watershed,
}
METHODS = tuple(ALGORITHMS)
BACKGROUND_RULES = ("auto", "objectness", "foreground", "intensity", "density", "scatter", "largest", "none")
MIN_SIZE = 20  # default of the smallest object, in voxels
FILLED = ("volume", "foreground", "objectness", "teacher", "coordinate_channels", "background")


def cluster_embeddings(
    embeddings: np.ndarray | torch.Tensor,
    method: str = "density_peaks",
    *,
    teacher_embeddings: np.ndarray | torch.Tensor | None = None,
    coordinate_channels: int = 0,
    foreground: np.ndarray | torch.Tensor | None = None,
    objectness: np.ndarray | torch.Tensor | None = None,
    image: np.ndarray | torch.Tensor | None = None,
    background: str = "auto",
    objectness_threshold: float = 0.1,
    seed_objectness: float = 0.5,
    extent_threshold: float | None = None,
    min_size: int = MIN_SIZE,
    split_parts: bool = True,
    return_confidence: bool = False,
    **params: Any,
) -> np.ndarray | torch.Tensor | tuple:
    """Cluster pixel embeddings into objects.

    Args:
        embeddings: (E, y, x) or (E, z, y, x), floating array (memory-mapped or not) or tensor; coordinates already
            added. Read in slabs, never copied as a whole.
        method: one of `METHODS`.
        teacher_embeddings: the teacher's embeddings, same shape; needed by `consistency`, and used by the confidence.
        coordinate_channels: number D of leading channels that vote for the object's centre; 0 if non-spatial.
        foreground: (*spatial) or (1, *spatial), non-zero where there are objects.
        objectness: (*spatial) or (1, *spatial) probabilities in [0, 1], near 1 in the middle of an object and falling
            off towards its border.
        image: (*spatial) or (C, *spatial) intensities, for the background rule "intensity".
        background: how the background is told from objects. "objectness": below `objectness_threshold`; "foreground":
            outside `foreground`; "intensity": below Otsu's threshold of `image`; "density": clusters that keep the
            spread of their own positions (needs coordinates); "scatter": clusters much larger than the median that lie
            scattered among the others, alone or with others of the same embedding; "largest": the largest cluster;
            "none": every voxel belongs to an object; "auto": objectness if given, else foreground if given, else
            density with coordinates, else scatter.
        objectness_threshold: in (0, 1).
        seed_objectness: where an objectness is given, objects in which it stays below this everywhere are dropped.
        extent_threshold: where an objectness is given, objects grow at the end over voxels of an objectness of at least
            this, in [0, 1], highest first (`extent.grow`); None leaves them as they are.
        min_size: smallest object before it grows, in voxels, 1 or more.
        split_parts: whether disconnected parts of a cluster become objects of their own.
        return_confidence: also return one confidence per object.
        params: further keywords of the method (see its function).

    Returns:
        labels (*spatial) int32, consecutive, 0 = background: a tensor on the input's device for a tensor, an array for
        an array. With `return_confidence` also the float32 confidences (n,) in [0, 1], that of object i at index i - 1.

    Raises:
        SpocoError: an unknown method, rule or keyword, a shape that does not fit, a missing input.
    """
    check_method(method, params)
    algorithm = ALGORITHMS[method]
    accepted = inspect.signature(algorithm).parameters
    if min_size < 1:
        raise SpocoError(f"min_size is {min_size}: give a number of voxels, 1 or more")
    if extent_threshold is not None and (objectness is None or not 0 <= extent_threshold <= 1):
        missing = ", without an objectness" if objectness is None else ""
        raise SpocoError(
            f"extent_threshold is {extent_threshold}{missing}: give a number from 0 to 1 and an objectness, or None"
        )
    volume = Volume(embeddings)
    if not 0 <= coordinate_channels <= min(len(volume.spatial), volume.channels):
        raise SpocoError(
            f"coordinate_channels is {coordinate_channels}: {volume.channels} channels in {len(volume.spatial)}D"
            f" carry 0 or {len(volume.spatial)}"
        )
    teacher = None
    if teacher_embeddings is not None:
        teacher = Volume(teacher_embeddings)
        if (teacher.channels, teacher.spatial) != (volume.channels, volume.spatial):
            raise SpocoError(
                f"teacher_embeddings have shape {tuple(teacher_embeddings.shape)}: they must match the embeddings' "
                f"{tuple(embeddings.shape)}"
            )
    if background == "auto":
        background = automatic_rule(coordinate_channels, foreground, objectness)
    if background == "density" and coordinate_channels == 0:
        raise SpocoError("background='density' needs coordinate_channels: give them, or choose another rule")
    mask = foreground_mask(volume, background, foreground, objectness, objectness_threshold, image)
    given = {
        "foreground": mask,
        "objectness": None if objectness is None else volume.grid(objectness, "objectness", torch.float32),
        "coordinate_channels": coordinate_channels,
        "background": "mask" if mask is not None else background,
        "min_size": min_size,
        "teacher": teacher,
    }
    with torch.no_grad():
        labels = algorithm(volume, **{k: v for k, v in given.items() if k in accepted}, **params)
        if "background" not in accepted and mask is None:
            labels = drop_background(volume, labels, background, coordinate_channels)
    labels = refine(
        labels,
        foreground=mask,
        objectness=given["objectness"],
        seed_objectness=seed_objectness,
        split_parts=split_parts,
        min_size=min_size,
    )
    if extent_threshold is not None:
        within = given["objectness"] >= extent_threshold
        if foreground is not None:
            within &= volume.grid(foreground, "foreground", torch.bool)
        labels = grow(labels.cpu().numpy(), given["objectness"].cpu().numpy(), within.cpu().numpy())
        labels = torch.from_numpy(labels).to(volume.device)
    result = volume.shaped_like_input(labels)
    if not return_confidence:
        return result
    confidence = object_confidence(volume, labels, objectness=given["objectness"], teacher=teacher)
    return result, confidence if torch.is_tensor(embeddings) else confidence.numpy()


def check_method(method: str, params: Iterable[str]) -> None:
    """Refuses an unknown method, and keywords that neither it nor `cluster_embeddings` takes.

    Args:
        method: one of `METHODS`.
        params: names of the keywords.

    Raises:
        SpocoError: the message lists what there is.
    """
    if method not in ALGORITHMS:
        raise SpocoError(f"clustering method {method!r} is unknown: choose one of {', '.join(METHODS)}")
    accepted = inspect.signature(ALGORITHMS[method]).parameters
    shared = inspect.signature(cluster_embeddings).parameters
    unknown = [name for name in params if name not in shared and (name not in accepted or name in FILLED)]
    if unknown:
        known = [name for name in accepted if name not in FILLED]
        raise SpocoError(f"{method} takes no {', '.join(unknown)}: its parameters are {', '.join(known)}")


def default_parameters(method: str) -> dict[str, Any]:
    """Keywords that `cluster_embeddings` takes with a method, and their defaults; inputs are left out."""
    check_method(method, ())
    both = {**inspect.signature(ALGORITHMS[method]).parameters, **inspect.signature(cluster_embeddings).parameters}
    inputs = {*FILLED, "embeddings", "teacher_embeddings", "image", "method", "params", "return_confidence"}
    return {name: parameter.default for name, parameter in both.items() if name not in inputs - {"background"}}


def automatic_rule(coordinate_channels: int, foreground: Any, objectness: Any) -> str:
    """The rule that "auto" stands for."""
    if objectness is not None:
        return "objectness"
    if foreground is not None:
        return "foreground"
    return "density" if coordinate_channels else "scatter"


def foreground_mask(
    volume: Volume, rule: str, foreground: Any, objectness: Any, threshold: float, image: Any
) -> torch.Tensor | None:
    """Foreground (z, y, x) bool where the rule gives one voxel by voxel, otherwise None."""
    if rule not in BACKGROUND_RULES:
        raise SpocoError(f"background rule {rule!r} is unknown: choose one of {', '.join(BACKGROUND_RULES)}")
    if rule == "objectness":
        if objectness is None:
            raise SpocoError("background='objectness' needs the argument objectness: give it, or choose another rule")
        if not 0 < threshold < 1:
            raise SpocoError(f"objectness_threshold is {threshold}: give a number between 0 and 1")
        mask = volume.grid(objectness, "objectness", torch.float32) > threshold
        return mask if foreground is None else mask & volume.grid(foreground, "foreground", torch.bool)
    if rule == "foreground":
        if foreground is None:
            raise SpocoError("background='foreground' needs the argument foreground: give it, or choose another rule")
        return volume.grid(foreground, "foreground", torch.bool)
    if rule == "intensity":
        if image is None:
            raise SpocoError("background='intensity' needs the argument image: give it, or choose another rule")
        return bright(volume, image)
    return None


def drop_background(volume: Volume, labels: torch.Tensor, rule: str, coordinate_channels: int) -> torch.Tensor:
    """Labels without the clusters that are background, judged on every second voxel per axis of a large volume."""
    step = 2 if volume.voxels > 1_000_000 else 1
    coarse = labels[::step, ::step, ::step].long()
    votes = None
    if rule == "density":
        votes = torch.cat([volume.slab(z, z + 1)[:, :, ::step, ::step] for z in range(0, volume.shape[0], step)], 1)
        votes = votes[:coordinate_channels]
    empty = background_clusters(rule, coarse, int(labels.max()) + 1, torch.ones_like(coarse).float(), votes=votes)
    return labels * ~empty[labels.long()]


def bright(volume: Volume, image: Any) -> torch.Tensor:
    """Voxels brighter than Otsu's threshold of the image, averaged over its channels."""
    from skimage.filters import threshold_otsu

    if image.ndim == len(volume.spatial) + 1:
        image = image.mean(0)
    intensity = volume.grid(image, "image", torch.float32)
    return intensity > float(threshold_otsu(intensity.cpu().numpy()))
