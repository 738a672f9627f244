"""Which voxels of a large volume percentiles are computed from: the same in memory and from a file."""

from __future__ import annotations

import numpy as np

SAMPLED_VOXELS = 2**22


def sampled_places(voxels: int) -> np.ndarray | None:
    """Flat indices of the voxels that percentiles of so many are computed from; None for all of them."""
    if voxels <= SAMPLED_VOXELS:
        return None
    return np.random.default_rng(0).integers(voxels, size=SAMPLED_VOXELS)
