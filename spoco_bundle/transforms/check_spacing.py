"""Notices images whose voxel spacing is unknown or unlike that of the training."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from spoco_bundle.formats.geometry import rescale_affine, spacing_warning, voxel_spacing

logger = logging.getLogger(__name__)


class CheckSpacingd(MapTransform):
    """Says in the log where a spacing is unknown or differs from the training's by more than 1.5 times.

    Only the first image of each kind is named, the others would fill the log.

    An image without a spacing of its own is taken to have that of the training, if the network knows one, else 1 per
    axis. Only the affine changes; ``spacing_known`` stays 0, so that sizes are reported in voxels.

    Args:
        keys: images, MetaTensors from ``LoadVolumed``.
        network: network with the buffer ``training_spacing``; None while there is none to compare with.
        target_spacing: spacing that the images are resampled to later, which is the one that the network meets; 0
            leaves an axis as it is. None where they are not resampled.
        allow_missing_keys: whether a sample without the key passes through.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        network: torch.nn.Module | None = None,
        target_spacing: Sequence[float] | None = None,
        allow_missing_keys: bool = False,
    ):
        super().__init__(keys, allow_missing_keys)
        self.network = network
        self.target_spacing = target_spacing
        self._said: set[bool] = set()

    def __call__(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, MetaTensor]:
        """Returns a copy of the sample, with the assumed spacing in the affine where the file had none."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = sample[key]
            dims = image.ndim - 1
            known = bool(image.meta["spacing_known"])
            training = None
            if self.network is not None and (self.network.training_spacing > 0).all():
                training = tuple(self.network.training_spacing.double().tolist())
            warning = spacing_warning(
                self._met_by_the_network(voxel_spacing(image, dims)) if known else None,
                str(image.meta["spacing_unit"]),
                training,
                name=str(image.meta["filename_or_obj"]),
            )
            if warning is not None and known not in self._said:
                self._said.add(known)
                assumed = "; until then " + ("1 per axis" if training is None else "the training's") + " is assumed"
                logger.warning("%s%s", warning, "" if known else assumed)
            if not known and training is not None:
                sample[key] = image.clone()
                sample[key].affine = torch.as_tensor(rescale_affine(image.affine, training))
        return sample

    def _met_by_the_network(self, spacing: tuple[float, ...]) -> tuple[float, ...]:
        # a target with another number of axes is refused by the resampling itself
        if self.target_spacing is None or len(self.target_spacing) != len(spacing):
            return spacing
        return tuple(target or step for target, step in zip(self.target_spacing, spacing, strict=True))
