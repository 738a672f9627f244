from __future__ import annotations

import numpy as np
import pytest

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.metrics import instance_scores
from spoco_bundle.report.classical import otsu_watershed


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.0, 1.0)])
def test_two_touching_balls_are_cut_in_two(spacing):
    shape = [int(n / s) for n, s in zip((24, 30, 44)[-len(spacing) :], spacing)]
    place = np.meshgrid(*((np.arange(n) + 0.5) * s for n, s in zip(shape, spacing)), indexing="ij")
    middle = [n * s / 2 for n, s in zip(shape, spacing)]
    distance = [
        np.sqrt(sum((p - c) ** 2 for p, c in zip(place, [*middle[:-1], middle[-1] + side]))) for side in (-7.5, 7.5)
    ]
    truth = np.where(np.minimum(*distance) < 9, np.argmin(distance, axis=0) + 1, 0)
    found = otsu_watershed(100.0 * (truth > 0) + 7, spacing)
    assert found.dtype == np.int32 and instance_scores(truth, found)["ap_50"] == 1


def test_images_without_contrast_or_with_another_spacing_are_refused():
    with pytest.raises(SpocoError, match="value 3.0 everywhere"):
        otsu_watershed(np.full((5, 6), 3))
    with pytest.raises(SpocoError, match="spacing"):
        otsu_watershed(np.eye(5), (1.0, 1.0, 1.0))
