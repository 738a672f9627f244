"""Percentile normalisation of intensities, and a floor for images in which there is hardly any contrast."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.sampling import SAMPLED_VOXELS, sampled_places

#: Gaussian noise alone spans 5 standard deviations between its percentiles 1 and 99.8, the least of the 469 channels of
#: 13 real data sets 8.5 (see ``noise_level``)
LEAST_CONTRAST = 7.0
#: by how much the range of an image of less contrast is widened, so that its noise cannot look like objects
WIDENING = 4.0

logger = logging.getLogger(__name__)


class NormalizePercentiled(MapTransform):
    """Maps two percentiles of each channel to 0 and 1, without clipping; the result is float32.

    The result does not change when an image is replaced by a x image + b with a > 0. MONAI's
    ``ScaleIntensityRangePercentilesd`` has this property only while the two percentiles differ: with few bright objects
    in a flat background they coincide, and it then subtracts without scaling. Here the range widens to the minimum and
    maximum in that case, and a constant channel becomes 0.

    An image that holds noise only would be stretched until the noise looks like objects. So where the range is less
    than 7 times the noise level, it is taken 4 times as wide, and one line says that there is hardly any contrast.

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
            name = str(getattr(sample[key], "meta", {}).get("filename_or_obj", key))
            sample[key] = self.apply(sample[key], self.fit(sample[key], name))
        return sample

    def fit(
        self, image: torch.Tensor | np.ndarray, name: str = "the image", part: torch.Tensor | np.ndarray | None = None
    ) -> torch.Tensor:
        """What becomes 0 and 1 in each channel of an image.

        Args:
            image: (C, *spatial), or (C, n) voxels of a large volume.
            name: for the message.
            part: a connected part of the volume, for its noise, where ``image`` is a sample.

        Returns:
            (C, 2) float64.
        """
        ranges = intensity_range(image, self.lower, self.upper)
        seen = np.asarray(image if part is None else part)
        noise = noise_level(seen[(slice(None), *self.noise_region(seen.shape[1:]))])
        low = [c for c, (span, level) in enumerate(zip(np.ptp(ranges, 1), noise)) if 0 < span < LEAST_CONTRAST * level]
        for channel in low:
            ranges[channel, 1] += (WIDENING - 1) * (ranges[channel, 1] - ranges[channel, 0])
        if low:
            where = "" if len(ranges) == 1 else f" in channel {', '.join(map(str, low))}"
            logger.warning(
                "%s: hardly any contrast%s, little more than noise: few objects or none will be found", name, where
            )
        return ranges.flip(1) if self.invert else ranges

    @staticmethod
    def noise_region(shape: Sequence[int]) -> tuple[slice, ...]:
        """The part of a volume from which its noise is estimated: its middle, of at most about 4 million voxels."""
        side = int(SAMPLED_VOXELS ** (1 / max(1, len(shape))))
        return tuple(slice((size - min(size, side)) // 2, (size + min(size, side)) // 2) for size in shape)

    @staticmethod
    def apply(image: torch.Tensor, ranges: torch.Tensor) -> torch.Tensor:
        """Maps the range of each channel to [0, 1], linearly and without clipping; a range of no width maps to 0.

        Args:
            image: (C, *spatial).
            ranges: (C, 2), from ``fit`` of this image or of the whole volume that it is a part of.

        Returns:
            (C, *spatial) float32 with the metadata of the image.
        """
        shape = (-1,) + (1,) * (image.ndim - 1)
        low, high = (bound.reshape(shape).float().to(image.device) for bound in ranges.unbind(1))
        return (image.float() - low) / torch.where(high != low, high - low, torch.inf)


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


def noise_level(image: np.ndarray) -> np.ndarray:
    """Standard deviation of the noise of each channel.

    From the median of absolute differences of voxels two apart, which outlines of objects are too rare to shift:
    1.4826 median |d - median d| / sqrt(2), the smaller of the last two axes. Two apart, since optics and compression
    make neighbours alike.

    Args:
        image: (C, *spatial).

    Returns:
        (C,) float64; 0 where most voxels are equal.
    """
    levels = []
    for channel in np.asarray(image, dtype=np.float64):
        found = []
        for axis in range(max(0, channel.ndim - 2), channel.ndim):
            if channel.shape[axis] > 2:
                lines = np.moveaxis(channel, axis, -1)
                steps = lines[..., 2:] - lines[..., :-2]
                found.append(1.4826 * np.median(np.abs(steps - np.median(steps))) / np.sqrt(2))
        levels.append(min(found, default=0.0))
    return np.array(levels)
