from __future__ import annotations

from spoco_bundle.core.boxes import region_shape, within


def test_slices_within_a_region():
    assert within((slice(5, 9),), (slice(3, 20),)) == (slice(2, 6),)
    assert region_shape((slice(5, 9), slice(0, 2))) == (4, 2)
