from __future__ import annotations

import numpy as np
import pytest

from spoco_bundle.dataset.object_size import ball_radius


@pytest.mark.parametrize(("spacing", "radius"), [((1.0, 1.0, 1.0), 8.0), ((2.0, 0.5, 0.5), 6.0), ((0.5, 0.5), 5.0)])
def test_balls_and_discs_have_their_radius(spacing, radius):
    shape = [int(2 * radius / step) + 5 for step in spacing]
    axes = np.meshgrid(*((np.arange(n) - n // 2) * s for n, s in zip(shape, spacing)), indexing="ij")
    ball = sum(axis**2 for axis in axes) <= radius**2
    assert ball_radius(ball.sum() * np.prod(spacing), len(spacing)) == pytest.approx(radius, rel=0.05)
