import numpy as np
import pytest

from spoco_bundle.report.slices import slices_through


def test_all_slices_where_there_is_room():
    assert slices_through(np.array([3.0]), size=6, count=9, first=2) == list(range(6))


def test_few_objects_have_their_middle_shown():
    shown = slices_through(np.array([400.0, 17.2, 63.0]), size=500, count=10, first=63)
    assert {17, 63, 400} <= set(shown) and len(shown) <= 10 and shown == sorted(shown)


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_many_objects_share_the_room_by_where_they_are(count):
    centres = np.concatenate([[250.0], np.random.default_rng(0).integers(0, 100, 900)])
    shown = slices_through(centres, size=500, count=count, first=5)
    assert len(shown) <= count and 5 in shown
    assert count < 7 or (250 in shown and np.mean(np.less(shown, 100)) > 0.8)


def test_nothing_found_spreads_slices_evenly():
    shown = slices_through(np.zeros(0), size=100, count=5, first=50)
    assert 50 in shown and shown[0] == 0 and shown[-1] == 99
