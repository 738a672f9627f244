"""Boxes in a volume."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def largest_box(shape: Sequence[int], voxels: float) -> np.ndarray:
    """Sides (D,) of the box of at most so many voxels in a volume: a cube as far as the volume's shape allows."""
    side = np.array(shape, dtype=float)
    for axis in np.argsort(shape):  # what a short axis does not use goes to the longer ones
        left = voxels / math.prod(side[other] for other in range(len(side)) if shape[other] < shape[axis])
        free = sum(1 for other in range(len(side)) if shape[other] >= shape[axis])
        side[axis] = min(shape[axis], left ** (1 / free))
    return np.maximum(1, side).astype(int)
