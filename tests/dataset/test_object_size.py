from __future__ import annotations

import math

import numpy as np
import pytest

from spoco_bundle.dataset.object_size import equivalent_radii


@pytest.mark.parametrize(("spacing", "radius"), [((1.0, 1.0, 1.0), 8.0), ((2.0, 0.5, 0.5), 6.0), ((0.5, 0.5), 5.0)])
def test_balls_and_discs_have_their_radius(spacing, radius):
    shape = [int(2 * radius / step) + 5 for step in spacing]
    axes = np.meshgrid(*((np.arange(n) - n // 2) * s for n, s in zip(shape, spacing)), indexing="ij")
    ball = sum(axis**2 for axis in axes) <= radius**2
    assert equivalent_radii(ball * 700, spacing) == pytest.approx([radius], rel=0.05)


def test_fragments_and_negative_ids_do_not_count():
    labels = np.zeros((4, 10), np.int32)
    labels[0, :7], labels[1, :8], labels[2], labels[3] = 3, 900, 4, -1
    assert equivalent_radii(labels, (1, 1)) == pytest.approx([math.sqrt(10 / math.pi), math.sqrt(8 / math.pi)])
    assert len(equivalent_radii(labels, (1, 1), min_voxels=1)) == 3
    assert equivalent_radii(np.zeros((3, 3, 3), int), (1, 1, 1)).shape == (0,)
