"""Which voxels belong to objects at all, decided before any method tells the objects apart.

Rules, of which a given mask limits every one:

- `objectness`: the network's objectness is above a threshold;
- `foreground`: a given mask;
- `otsu`: brighter than Otsu's threshold of the image;
- `largest`: everything but the one largest cluster, as in the paper, known only after clustering;
- `none`: every voxel belongs to some object.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.errors import SpocoError

BACKGROUND_RULES = ("auto", "objectness", "foreground", "otsu", "largest", "none")


def automatic_rule(has_objectness: bool, has_mask: bool) -> str:
    """What "auto" stands for: the objectness if there is one, else a given mask, else the largest cluster."""
    if has_objectness:
        return "objectness"
    return "foreground" if has_mask else "largest"


def find_foreground(
    field: EmbeddingField, rule: str, mask: Tensor | None, image: Any, objectness_threshold: float
) -> Tensor | None:
    """Foreground (z, y, x) bool, None where every voxel may belong to an object.

    Args:
        field: the embeddings and their objectness.
        rule: one of `BACKGROUND_RULES` but "auto".
        mask: (z, y, x) bool, outside of which there are no objects, by any rule; None without one.
        image: (*spatial) or (C, *spatial) intensities, for "otsu".
        objectness_threshold: in (0, 1).

    Raises:
        SpocoError: for an unknown rule, a missing input or a threshold out of range.
    """
    if rule not in BACKGROUND_RULES:
        raise SpocoError(f"background rule {rule!r} is unknown: choose one of {', '.join(BACKGROUND_RULES)}")
    found = None
    if rule == "objectness":
        if field.objectness is None:
            raise SpocoError("background='objectness' needs an objectness: give it, or choose another rule")
        if not 0 < objectness_threshold < 1:
            raise SpocoError(f"objectness_threshold is {objectness_threshold}: give a number between 0 and 1")
        found = field.objectness > objectness_threshold
    elif rule == "otsu":
        if image is None:
            raise SpocoError("background='otsu' needs the image: give it, or choose another rule")
        found = bright(field, image)
    elif rule == "foreground" and mask is None:
        raise SpocoError("background='foreground' needs a foreground mask: give it, or choose another rule")
    if found is None or mask is None:
        return mask if found is None else found
    return found & mask


def bright(field: EmbeddingField, image: Any) -> Tensor:
    """Voxels brighter than Otsu's threshold of the image, averaged over its channels."""
    from skimage.filters import threshold_otsu

    if image.ndim == len(field.spatial) + 1:
        image = image.mean(0)
    intensity = field.grid(image, "image", torch.float32)
    return intensity > float(threshold_otsu(intensity.cpu().numpy()))


def drop_largest(labels: Tensor) -> Tensor:
    """Labels (z, y, x) without the label above 0 that has the most voxels."""
    size = torch.bincount(labels.flatten())
    size[0] = -1
    return labels * (labels != size.argmax())
