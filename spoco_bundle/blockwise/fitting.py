"""What all blocks of an image share, found once from a sample of the whole."""

from __future__ import annotations

from typing import Any

import torch
from skimage.filters import threshold_otsu

from spoco_bundle.blockwise.sampling import sample_voxels
from spoco_bundle.blockwise.working import WorkingImage, read_mask, readable_image
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.lazy import LazyVolume


def fit_image(
    source: LazyVolume,
    name: str,
    stated_size: str,
    mask: LazyVolume | None,
    normalize: Any,
    working: Any,
    most_read: int,
    bright: bool,
) -> dict[str, Any]:
    """Fits the range of intensities, the resolution at which the network works, and Otsu's threshold.

    Args:
        source: the image.
        name: its file, for messages.
        stated_size: see ``readable_image``.
        mask: the foreground mask beside it, None without.
        normalize: a ``NormalizePercentiled``.
        working: a ``WorkingSpacingd``, which decides the resolution and says so.
        most_read: see ``sample_voxels``.
        bright: whether to find the threshold.

    Returns:
        As JSON values: ``ranges`` (C, 2) of the intensities; ``spacing`` and ``shape`` with which the network sees the
        image, see ``Seen``; ``bright``, Otsu's threshold of the normalised image at that resolution, or None.

    Raises:
        SpocoError: if all voxels are equal, or for what ``WorkingSpacingd`` refuses.
    """
    values, places = sample_voxels(source, most_read)
    sample = torch.from_numpy(values)
    if sample.numel() and bool((sample == sample.flatten()[0]).all()):
        raise SpocoError(f"{name}: every voxel seen is {float(sample.flatten()[0]):g}: check the file")
    ranges = normalize.fit(sample, name, source.read(normalize.noise_region(source.shape)))
    image = WorkingImage(source, normalize, ranges, source.shape)
    seen = working.decide(
        readable_image(
            source,
            name,
            stated_size,
            read=image.read,
            sample=lambda: (normalize.apply(sample, ranges), places),
            mask=None if mask is None else lambda region: read_mask(mask, mask.shape, region),
        )
    )
    image.shape = seen.shape
    threshold = float(threshold_otsu(sample_voxels(image, most_read)[0].mean(0))) if bright else None
    return {"ranges": ranges.tolist(), "spacing": seen.spacing, "shape": seen.shape, "bright": threshold}
