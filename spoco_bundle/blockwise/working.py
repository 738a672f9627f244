"""A large image as its network sees it: normalised, and on the grid of the working resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from spoco_bundle.blockwise.grid import in_words
from spoco_bundle.core.boxes import Region
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.readable_image import ReadableImage
from spoco_bundle.core.resampling import read_linear, read_nearest
from spoco_bundle.formats.geometry import length_unit
from spoco_bundle.formats.lazy import LazyVolume


@dataclass
class WorkingImage:
    """A large image that is normalised with the range of the whole, resampled, and readable by region.

    Attributes:
        source: the image.
        normalize: a ``NormalizePercentiled``.
        ranges: (C, 2) of the whole volume, from ``normalize.fit`` of a sample.
        shape: voxels of the working grid, which covers the same extent.
    """

    source: LazyVolume
    normalize: Any
    ranges: torch.Tensor
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.source.channels

    @property
    def voxels(self) -> int:
        """Number of voxels of the working grid."""
        return math.prod(self.shape)

    def read(self, region: Region) -> torch.Tensor:
        """A region of the working grid, (C, *region) float32, equal to that region of the whole image resampled.

        Raises:
            SpocoError: if the image holds values that are not finite.
        """
        return read_linear(self._stored, self.source.shape, self.shape, region)

    def _stored(self, region: Region) -> torch.Tensor:
        image = torch.from_numpy(np.ascontiguousarray(self.source.read(region), dtype=np.float32))
        if not torch.isfinite(image).all():
            raise SpocoError(f"{self.source.path}: holds NaN or infinite voxels at {in_words(region)}: replace them")
        return self.normalize.apply(image, self.ranges)


def readable_image(volume: LazyVolume, name: str, stated_size: str, **voxels: Any) -> ReadableImage:
    """An image on disk, from which it is decided how a network sees it.

    Args:
        volume: the image.
        name: its file, for messages.
        stated_size: its voxel size in the words of the file, empty where another one replaces it.
        voxels: ``read``, ``sample`` and ``mask`` of ``ReadableImage``; none where only the header is known.
    """
    unit = length_unit(volume.spacing, volume.file_unit)
    return ReadableImage(name, volume.shape, volume.spacing, unit, stated_size, **voxels)


def read_mask(mask: LazyVolume, shape: tuple[int, ...], region: Region) -> torch.Tensor:
    """A region of a grid of that shape, which covers the extent of a mask: (1, *region) bool."""
    return read_nearest(lambda part: torch.from_numpy(mask.read(part) > 0), mask.shape, shape, region)
