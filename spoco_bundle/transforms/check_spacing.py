"""The lengths with which a network sees an image, and a line where they are unknown or unlike the training's."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import PIXEL
from spoco_bundle.formats.geometry import voxel_spacing
from spoco_bundle.networks.lengths import spacing_for
from spoco_bundle.transforms.spacing import with_spacing

logger = logging.getLogger(__name__)

_IN_WORDS = {"micrometer": "a voxel size", "pixel": "no voxel size", "unknown": "a voxel size without a unit"}


class CheckSpacingd(MapTransform):
    """Gives images the lengths with which the network works (see ``networks.lengths``), and says what is unusual.

    Only the first image of each kind is named, the others would fill the log. Only the affine changes: what the file
    states stays in the metadata, for the results. Comes after ``ResampleToSpacingd``, which goes by the file's lengths.

    Args:
        keys: images, MetaTensors from ``LoadVolumed``.
        network: network with the buffers of ``EmbeddingUNet``; None for images to learn from, which then all have to
            state lengths of one kind.
        allow_missing_keys: whether a sample without the key passes through.

    Raises:
        SpocoError: when called, if images to learn from state lengths of several kinds.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        network: torch.nn.Module | None = None,
        allow_missing_keys: bool = False,
    ):
        super().__init__(keys, allow_missing_keys)
        self.network = network
        self._said: set[str] = set()
        self._first: tuple[str, str] | None = None

    def __call__(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, MetaTensor]:
        """Returns a copy of the sample, with the network's lengths in the affine."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = sample[key]
            unit, name = str(image.meta["length_unit"]), str(image.meta["filename_or_obj"])
            if self.network is None:
                self._refuse_other_kind(unit, name)
            own = None if unit == PIXEL else voxel_spacing(image, image.ndim - 1)
            seen, message = spacing_for(self.network, own, unit, name, str(image.meta["stated_size"]))
            if message is not None and unit not in self._said:
                self._said.add(unit)
                logger.warning("%s", message)
            if seen is not None and seen != own:
                sample[key] = with_spacing(image, seen)
        return sample

    def _refuse_other_kind(self, unit: str, name: str) -> None:
        self._first = self._first or (unit, name)
        if unit != self._first[0]:
            raise SpocoError(
                f"{name}: states {_IN_WORDS[unit]}, {self._first[1]} states {_IN_WORDS[self._first[0]]}: a network "
                "learns from one kind of length: state the size of all with --spacing, or train apart"
            )
