"""Size of annotated objects, from which the coordinate scale is estimated."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def equivalent_radii(labels: np.ndarray, spacing: Sequence[float], min_voxels: int = 8) -> np.ndarray:
    """Radii of the balls (3D) or discs (2D) that have the objects' volumes: r = (3V / 4 pi)^(1/3) or (A / pi)^(1/2).

    Args:
        labels: (*spatial) ints; ids below 1 are no objects.
        spacing: voxel size per axis, in physical units.
        min_voxels: smaller objects are fragments and do not count.

    Returns:
        (objects,) radii in the unit of spacing.
    """
    _, voxels = np.unique(labels[labels > 0], return_counts=True)
    volumes = voxels[voxels >= min_voxels] * math.prod(spacing)
    return ball_radius(volumes, labels.ndim)


def ball_radius(volume: np.ndarray | float, dims: int) -> np.ndarray | float:
    """Radius of the ball (3D) or disc (2D) of a volume or area, or of each of several."""
    return np.cbrt(volume * 3 / (4 * math.pi)) if dims == 3 else np.sqrt(volume / math.pi)
