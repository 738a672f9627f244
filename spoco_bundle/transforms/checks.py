"""Checks on annotations as they load."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from spoco_bundle.core.lengths import parse_unit
from spoco_bundle.dataset.label_checks import check_labels, check_same_grid
from spoco_bundle.transforms.annotation import KINDS_KEY, checked_kind

logger = logging.getLogger(__name__)

# Formats that place the image in the world; TIFF knows a spacing at most.
_LOCATED = {"nifti", "itk"}


class CheckLabelsd(MapTransform):
    """Stops at annotations that would train nonsense; the message names the file and the remedy.

    What is merely doubtful is warned of, once.

    Comes right after ``LoadVolumed``, or after ``ReadAnnotationd``, whose ``kinds`` it heeds. See ``check_labels`` for
    what is checked; besides, where both files state their place in the world (NIfTI and ITK formats, not TIFF), they
    must agree to half a voxel. Labels that pass lie on the grid of their image, whatever their own file says or leaves
    out, and take over its affine and spacing.

    Args:
        keys: label MetaTensors (1, *spatial) of the entry "image", with ``filename_or_obj`` in their metadata.
        annotation: kind of the objects that ``kinds`` does not name; only whole ones are asked to look whole.
        ignore_label: id of voxels that count nowhere; may be negative.
        background_label: id of voxels known to belong to no object; may be negative.
        require_objects: refuse labels without a single object.
        allow_binary: accept ids in several separate pieces, or that fill the image, as one object each.
        allow_thin: accept objects that look like slices or strokes as whole.
        min_voxels: whole objects with fewer voxels teach nothing.
        check_affine: compare the affines of image and label.
        allow_missing_keys: whether a sample without labels passes through.

    Raises:
        SpocoError: when called, at the first thing that is wrong.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        annotation: str = "whole",
        ignore_label: int | None = None,
        background_label: int | None = None,
        require_objects: bool = True,
        allow_binary: bool = False,
        allow_thin: bool = False,
        min_voxels: int = 8,
        check_affine: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.check_affine = check_affine
        self.options = {
            "annotation": checked_kind(annotation),
            "ignore_label": ignore_label,
            "background_label": background_label,
            "require_objects": require_objects,
            "allow_binary": allow_binary,
            "allow_thin": allow_thin,
            "min_voxels": min_voxels,
        }
        self._said: set[str] = set()

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Returns a copy of the sample; the labels have the image's affine and spacing."""
        sample = dict(data)
        image = sample["image"]
        for key in self.key_iterator(sample):
            labels = sample[key]
            paths = str(image.meta["filename_or_obj"]), str(labels.meta["filename_or_obj"])
            kinds = sample.get(KINDS_KEY)
            for doubt in check_labels(image.numpy(), labels.numpy(), *paths, kinds=kinds, **self.options):
                if doubt not in self._said:
                    self._said.add(doubt)
                    logger.warning("%s", doubt)
            if self.check_affine and {image.meta["file_format"], labels.meta["file_format"]} <= _LOCATED:
                check_same_grid(*_comparable(image, labels), labels.shape[1:], *paths)
            geometry = {name: image.meta[name] for name in ("file_unit", "length_unit", "stated_size", "file_affine")}
            geometry["affine"] = image.affine.clone()
            sample[key] = MetaTensor(labels.as_tensor(), meta=labels.meta | geometry)
        return sample


def _comparable(image: MetaTensor, labels: MetaTensor) -> tuple[np.ndarray, np.ndarray]:
    """Both affines in one unit; where one file leaves it out, as many do, in the numbers of the files."""
    affines = image.affine.numpy(), labels.affine.numpy()
    if image.meta["length_unit"] == labels.meta["length_unit"]:
        return affines
    in_numbers = []
    for affine, volume in zip(affines, (image, labels), strict=True):
        unit = parse_unit(str(volume.meta["file_unit"]))
        in_numbers.append(affine / np.array([*[unit.micrometers if unit else 1.0] * (len(affine) - 1), 1.0])[:, None])
    return in_numbers[0], in_numbers[1]
