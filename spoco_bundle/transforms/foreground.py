"""Foreground masks that are given beside the images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.transforms import Transform

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.datalist import image_name
from spoco_bundle.formats.itk_io import JPEG_SUFFIXES
from spoco_bundle.formats.names import file_suffix


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
        source = Path(data["image"])
        name = image_name(source).removesuffix(self.image_ending)
        suffix = file_suffix(source)
        # a mask is read as ids are, which JPEG blurs
        suffix = ".png" if suffix.lower() in JPEG_SUFFIXES else suffix
        mask = source.with_name(f"{name}{self.foreground_ending}{suffix}")
        if not mask.exists():
            raise SpocoError(
                f"{source}: has no foreground mask {mask.name} beside it: add it, or unset foreground_ending"
            )
        return {**data, "foreground": str(mask)}
