"""The part of a large image that a validation looks at."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from itertools import combinations_with_replacement

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from spoco_bundle.core.boxes import largest_box
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import in_words
from spoco_bundle.transforms.crops import cut, instance_table
from spoco_bundle.transforms.hold_out import HeldOut

logger = logging.getLogger(__name__)


class ValidationPartd(MapTransform):
    """Cuts an image that is too large for a validation to the part that holds the most annotated objects.

    All its voxels together would take memory and time that a training does not have: their embeddings alone are many
    times as large as the image. An image of no more than ``voxels`` stays whole. One line says what is left out.

    Args:
        keys: images and labels (C, *spatial) of one grid, MetaTensors. Objects are those of "label" that validate.
        voxels: of the part at most, 1 or more.
        held_out: which objects these are, None for all.
        ignore_label: id that is no object, or None.
        background_label: id that is no object, or None.

    Raises:
        SpocoError: if ``voxels`` is out of its range.
    """

    def __init__(
        self,
        keys: KeysCollection,
        voxels: int,
        held_out: HeldOut | None = None,
        ignore_label: int | None = None,
        background_label: int | None = None,
    ):
        super().__init__(keys)
        if voxels < 1:
            raise SpocoError(f"validation_voxels is {voxels}: give 1 or more, or None to look at whole images")
        self.voxels = voxels
        self.held_out = held_out
        self.special = (ignore_label, background_label)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Returns a copy of the sample; a part lies where it lay in the whole (affine)."""
        sample = dict(data)
        label = sample["label"]
        shape = np.asarray(label.shape[1:])
        if shape.prod() <= self.voxels:
            return sample
        boxes = self._boxes(label)
        side = largest_box(shape, self.voxels)
        start, held = fullest_part(boxes, shape, side)
        window = [slice(a, a + n) for a, n in zip(start.tolist(), side.tolist())]
        for key in self.key_iterator(sample):
            sample[key] = cut(sample[key], window)
        logger.info(
            "%s: only a part of %s voxels is scored, with %d of %d annotated objects; --validation_voxels allows more",
            *(sample[self.keys[0]].meta.get("filename_or_obj", "an image"), in_words(side.tolist()), held, len(boxes)),
        )
        return sample

    def _boxes(self, label: MetaTensor) -> np.ndarray:
        """First voxel and last + 1 (objects, 2, D) of the objects that validate."""
        table = instance_table(label, *self.special).numpy()
        validate = None if self.held_out is None else self.held_out.objects(label, "val")
        if validate is not None:
            table = table[np.isin(table[:, 0], validate)]
        return table[:, 2:].reshape(len(table), 2, -1)


def fullest_part(boxes: np.ndarray, shape: np.ndarray, side: np.ndarray, most: int = 40) -> tuple[np.ndarray, int]:
    """Where a part of a volume holds the most objects, of parts around each object and midway between each two.

    Args:
        boxes: first voxel and last + 1 of each object, (objects, 2, D).
        shape: of the volume.
        side: of the part, no longer than the volume.
        most: objects of which that is tried, evenly spread over the list.

    Returns:
        First voxel (D,) of the part, and how many objects lie wholly in it; without objects the middle of the volume.
    """
    tried = boxes[np.unique(np.linspace(0, len(boxes) - 1, min(most, len(boxes))).astype(int))]
    pairs = [(one.mean(0) + other.mean(0)) / 2 for one, other in combinations_with_replacement(tried, 2)]
    middles = np.array(pairs or [shape / 2])
    starts = np.clip(np.round(middles - side / 2).astype(int), 0, shape - side)
    held = [int(((boxes[:, 0] >= start) & (boxes[:, 1] <= start + side)).all(1).sum()) for start in starts]
    best = int(np.argmax(held))
    return starts[best], held[best]
