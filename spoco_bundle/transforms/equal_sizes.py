"""Images of unknown voxel size that show their objects at another size than the others, brought to one size."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from spoco_bundle.core.lengths import PIXEL
from spoco_bundle.dataset.annotated_sizes import annotated_sizes, equal_scale
from spoco_bundle.dataset.label_checks import object_ids
from spoco_bundle.formats.geometry import voxel_spacing
from spoco_bundle.transforms.spacing import with_spacing


class EqualSizesd(MapTransform):
    """Gives an image that does not state its voxel size the one at which its objects are as large as usual.

    A network that sees objects of one size learns sooner what they look like, and prediction brings images to that size
    too. Where the annotated objects of an image are larger or smaller than usual (see ``equal_scale``), its affine says
    so, and ``ResampleToSpacingd``, which comes after, resamples it. Other images are left as they are.

    Args:
        keys: MetaTensors of one grid. The objects of "label" are measured.
        diameter: of a typical object, in pixels of the training.
        annotation: how objects are annotated that the sample's ``kinds`` do not name, see ``KINDS``.
        ignore_label: id of voxels that count nowhere.
        background_label: id of voxels known to belong to no object.
        allow_missing_keys: whether a sample without the key passes through.
    """

    def __init__(
        self,
        keys: KeysCollection,
        diameter: float,
        annotation: str = "whole",
        ignore_label: int | None = None,
        background_label: int | None = None,
        allow_missing_keys: bool = False,
    ):
        super().__init__(keys, allow_missing_keys)
        self.diameter = diameter
        self.annotation = annotation
        self.special = [number for number in (ignore_label, background_label) if number is not None]

    def __call__(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, MetaTensor]:
        """Returns a copy of the sample, with other affines where its objects are of another size."""
        sample = dict(data)
        label = sample["label"]
        if str(label.meta["length_unit"]) != PIXEL:
            return sample
        ids = object_ids(np.asarray(label)[0], self.special)
        spacing = np.asarray(voxel_spacing(label, ids.ndim))
        sizes = annotated_sizes(ids, sample.get("kinds", {}), self.annotation, spacing)
        diameters = np.array([one.diameter for one in sizes if one.diameter is not None])
        scale = equal_scale(diameters, self.diameter, ids.ndim)
        if scale == 1:
            return sample
        for key in self.key_iterator(sample):
            sample[key] = with_spacing(sample[key], scale * spacing)
        return sample
