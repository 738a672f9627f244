"""Annotated objects pasted into crops, so that a few of them are seen in many places."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import fastremap
import numpy as np
import torch
from monai.transforms import MapTransform, Randomizable
from scipy import ndimage

from spoco_bundle.annotation.scope import WHOLE
from spoco_bundle.core.boxes import Region
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.plain_tensors import plain
from spoco_bundle.dataset.label_checks import object_ids
from spoco_bundle.transforms.crops import INSTANCES_KEY, SCOPE_KEY, CropAnnotatedd


class PasteObjectsd(MapTransform, Randomizable):
    """Cuts a crop, and pastes objects of further crops of the same image where no object is annotated.

    After Ghiasi et al., "Simple copy-paste is a strong data augmentation method for instance segmentation" (CVPR 2021).
    An object is pasted at a random place, with the voxels next to it, so that its outline looks as it did. It covers
    what nobody annotated, as an object in front would. Objects that touch the border of their crop are not pasted, nor
    those drawn in part, whose outline nobody knows.

    Args:
        crop: cuts the crops; what it cuts is pasted: the image, the label and, if there is one, the scope.
        most: crops whose objects are pasted: a random number up to this one, 0 for none.
        tries: random places that are tried for each object.
        ignore_label: id of voxels that count nowhere, or None.
        background_label: id of voxels known to belong to no object, or None.

    Raises:
        SpocoError: if ``most`` is negative.
    """

    def __init__(
        self,
        crop: CropAnnotatedd,
        most: int = 0,
        tries: int = 10,
        ignore_label: int | None = None,
        background_label: int | None = None,
    ):
        super().__init__(crop.keys)
        if most < 0:
            raise SpocoError(f"most is {most}: give the number of crops whose objects are pasted, 0 for none")
        self.crop = crop
        self.most = most
        self.tries = tries
        self.special = [label for label in (ignore_label, background_label) if label is not None]

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> PasteObjectsd:
        """Lets the crops draw from the same generator."""
        super().set_random_state(seed, state)
        self.crop.set_random_state(state=self.R)
        return self

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, Any]:
        """Returns what the crop returns, with objects pasted."""
        scene = self.crop(data)
        for _ in range(self.R.randint(self.most + 1) if self.most else 0):
            self._paste(self.crop(data), scene)
        return scene

    def _paste(self, source: Mapping[Hashable, torch.Tensor], scene: Mapping[Hashable, torch.Tensor]) -> None:
        """Pastes the objects of one crop into another one, in place, with ids above all others of the image."""
        ids, taken = (object_ids(np.asarray(one[self.crop.label_key])[0], self.special) for one in (source, scene))
        if SCOPE_KEY in source:
            ids[np.asarray(source[SCOPE_KEY])[0] != WHOLE] = 0
        ids, _ = fastremap.renumber(ids)
        number = max([taken.max(), *scene[INSTANCES_KEY][:, 0].tolist(), *self.special])
        for instance, box in enumerate(ndimage.find_objects(ids), start=1):
            if any(side.start == 0 or side.stop == size for side, size in zip(box, ids.shape)):
                continue
            box = tuple(slice(side.start - 1, side.stop + 1) for side in box)
            inside = ids[box] == instance
            rim = ndimage.binary_dilation(inside, np.ones((3,) * inside.ndim))
            place = self._free_place(rim, taken)
            if place is None:
                continue
            number += 1
            taken[place][inside] = number
            for key in self.key_iterator(scene):
                copied = torch.from_numpy(inside if key in (self.crop.label_key, SCOPE_KEY) else rim)
                pasted = plain(source[key])[(slice(None), *box)][:, copied]
                plain(scene[key])[(slice(None), *place)][:, copied] = number if key == self.crop.label_key else pasted

    def _free_place(self, rim: np.ndarray, taken: np.ndarray) -> Region | None:
        """A random place for an object with its rim where no object is annotated; None where none was found."""
        if any(size > room for size, room in zip(rim.shape, taken.shape)):
            return None
        for _ in range(self.tries):
            start = [self.R.randint(room - size + 1) for room, size in zip(taken.shape, rim.shape)]
            place = tuple(slice(first, first + size) for first, size in zip(start, rim.shape))
            if not taken[place][rim].any():
                return place
        return None
