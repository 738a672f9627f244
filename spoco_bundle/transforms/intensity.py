"""Percentile normalisation of intensities."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from spoco_bundle.core.errors import SpocoError

SAMPLED_VOXELS = 2**22


class NormalizePercentiled(MapTransform):
    """Maps two percentiles of each channel to 0 and 1, without clipping; the result is float32.

    The result does not change when an image is replaced by a x image + b with a > 0. MONAI's
    ``ScaleIntensityRangePercentilesd`` has this property only while the two percentiles differ: with few bright objects
    in a flat background they coincide, and it then subtracts without scaling. Here the range widens to the minimum and
    maximum in that case, and a constant channel becomes 0.

    Args:
        keys: images (C, *spatial), finite values of any real dtype.
        lower: percentile that becomes 0, in [0, 100).
        upper: percentile that becomes 1, in (lower, 100].
        invert: whether the lower percentile becomes 1 and the upper one 0 instead, for a network that knows objects
            brighter than their surroundings and images in which they are darker.
        allow_missing_keys: whether a sample without the key passes through.

    Raises:
        SpocoError: if the percentiles are out of order or range.
    """

    def __init__(
        self,
        keys: KeysCollection,
        lower: float = 1.0,
        upper: float = 99.8,
        invert: bool = False,
        allow_missing_keys: bool = False,
    ):
        super().__init__(keys, allow_missing_keys)
        if not 0 <= lower < upper <= 100:
            raise SpocoError(f"lower, upper: need 0 <= lower < upper <= 100, got {lower} and {upper}")
        self.lower = lower
        self.upper = upper
        self.invert = invert

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Returns a copy of the sample with normalised images."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = self.apply(sample[key], self.fit(sample[key]))
        return sample

    def fit(self, image: torch.Tensor | np.ndarray) -> torch.Tensor:
        """What becomes 0 and 1 in each channel of an image, or of a sample of a large volume; (C, 2) float64."""
        ranges = intensity_range(image, self.lower, self.upper)
        return ranges.flip(1) if self.invert else ranges

    def apply(self, image: torch.Tensor, ranges: torch.Tensor) -> torch.Tensor:
        """Maps the ranges to 0 and 1; see ``normalize``."""
        return normalize(image, ranges)


def intensity_range(image: torch.Tensor | np.ndarray, lower: float = 1.0, upper: float = 99.8) -> torch.Tensor:
    """Percentiles of each channel, exact up to 4 million voxels and from as many random ones beyond (fixed seed).

    Args:
        image: (C, *spatial).
        lower: percentile in [0, 100).
        upper: percentile in (lower, 100].

    Returns:
        (C, 2) float64, the second column never below the first; both equal for a constant channel.
    """
    ranges = []
    for channel in np.asarray(image).reshape(len(image), -1):
        places = sampled_places(channel.size)
        sampled = channel if places is None else channel[places]
        low, high = np.percentile(sampled.astype(np.float64), [lower, upper])
        if low == high:
            low, high = float(channel.min()), float(channel.max())
        ranges.append([low, high])
    return torch.tensor(ranges, dtype=torch.float64)


def sampled_places(voxels: int) -> np.ndarray | None:
    """Flat indices of the voxels that percentiles of so many are computed from; None for all of them."""
    if voxels <= SAMPLED_VOXELS:
        return None
    return np.random.default_rng(0).integers(voxels, size=SAMPLED_VOXELS)


def normalize(image: torch.Tensor, ranges: torch.Tensor) -> torch.Tensor:
    """Maps the range of each channel to [0, 1], linearly and without clipping; a range of no width maps to 0.

    Args:
        image: (C, *spatial).
        ranges: (C, 2), what becomes 0 and what becomes 1, as from ``intensity_range`` of this image or of the whole
            volume that it is a part of; the first is the larger one where the result is inverted.

    Returns:
        (C, *spatial) float32 with the metadata of the image.
    """
    shape = (-1,) + (1,) * (image.ndim - 1)
    low, high = (bound.reshape(shape).float().to(image.device) for bound in ranges.unbind(1))
    return (image.float() - low) / torch.where(high != low, high - low, torch.inf)
