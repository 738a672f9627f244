"""Foreground masks that are given beside the images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import Transform

from spoco_bundle.dataset.foreground_path import foreground_path


class FindForegroundd(Transform):
    """Adds the path of the foreground mask that lies beside an image: ``NAME_raw.EXT`` has ``NAME_fg.EXT``.

    JPEG images have PNG masks. Comes before ``LoadVolumed``, which reads the entry "foreground" like a label: every
    voxel above 0 belongs to an object.

    Args:
        foreground_ending: how the mask's name ends before the suffix.
        image_ending: how the image's name ends there; an image that ends otherwise keeps its whole name.

    Raises:
        SpocoError: when called, if there is no such file.
    """

    def __init__(self, foreground_ending: str = "_fg", image_ending: str = "_raw"):
        self.foreground_ending = foreground_ending
        self.image_ending = image_ending

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a copy of the sample with the path added."""
        return {**data, "foreground": str(foreground_path(data["image"], self.foreground_ending, self.image_ending))}
