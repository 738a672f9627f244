"""Size of objects: the ball or disc that is as large."""

from __future__ import annotations

import math

import numpy as np


def ball_radius(volume: np.ndarray | float, dims: int) -> np.ndarray | float:
    """Radius of the ball (3D) or disc (2D) of a volume or area, or of each of several.

    r = (3V / 4 pi)^(1/3) or (A / pi)^(1/2).
    """
    return np.cbrt(volume * 3 / (4 * math.pi)) if dims == 3 else np.sqrt(volume / math.pi)


def ball_volume(radius: np.ndarray | float, dims: int) -> np.ndarray | float:
    """Volume of the ball (3D), or area of the disc (2D), of a radius, or of each of several."""
    return (4 / 3 if dims == 3 else 1) * math.pi * radius**dims
