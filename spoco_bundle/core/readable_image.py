"""An image in memory or on disk, as far as it takes to decide how a network sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from spoco_bundle.core.boxes import Region


@dataclass(frozen=True)
class ReadableImage:
    """What a file says of the size of an image, and the image's voxels, read where they are asked for.

    Attributes:
        name: the file, for messages.
        shape: voxels along z, y, x or y, x.
        spacing: along the same axes; None where it is unknown.
        unit: of the spacing: "micrometer", "pixel", or "unknown" for numbers whose unit the file leaves out.
        stated_size: the voxel size in the words of the file, empty where it states none.
        read: gives a region as (C, *region) float32, normalised; None where only the header is known.
        sample: gives voxels spread over the image, (C, n) float32, normalised, and their flat indices (n,).
        mask: gives a region of the foreground mask, (1, *region); None without one.
    """

    name: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    unit: str
    stated_size: str
    read: Callable[[Region], Tensor] | None = None
    sample: Callable[[], tuple[Tensor, np.ndarray]] | None = None
    mask: Callable[[Region], Tensor] | None = None
