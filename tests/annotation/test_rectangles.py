import numpy as np
import pytest

from spoco_bundle.annotation.complete import read_complete
from spoco_bundle.annotation.rectangles import keep_rectangles, read_rectangles, rectangles_around
from spoco_bundle.core.errors import SpocoError


@pytest.mark.parametrize("shape", [(4, 6, 7), (6, 7)])
def test_rectangles_around_marks_are_kept_and_read_as_what_they_hold(tmp_path, shape):
    marked, wanted, label = np.zeros(shape, bool), np.zeros(shape, bool), tmp_path / "a_label.tif"
    plane, whole = (marked[2], wanted[2]) if len(shape) == 3 else (marked, wanted)
    plane[1, 5] = plane[4, 2] = True
    whole[1:5, 2:6] = True
    rectangles = rectangles_around(marked)
    (file,) = keep_rectangles(label, rectangles)
    np.testing.assert_array_equal(read_complete(file, shape), wanted)
    np.testing.assert_array_equal(read_rectangles(label, len(shape)), rectangles)
    assert keep_rectangles(label, []) == [] and not file.exists()
    assert rectangles_around(np.zeros(shape, bool)) == []


def test_a_table_of_boxes_stays_and_is_no_place_for_rectangles(tmp_path):
    label, table = tmp_path / "a_label.tif", tmp_path / "a_complete.csv"
    table.write_text("y_start,x_start,y_stop,x_stop\n0,0,3,3\n")
    with pytest.raises(SpocoError, match="says already where every object is drawn"):
        keep_rectangles(label, rectangles_around(np.ones((2, 2), bool)))
    assert keep_rectangles(label, []) == [table] and read_rectangles(label, 2) == []
