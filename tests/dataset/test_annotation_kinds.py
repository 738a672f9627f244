import pytest

from spoco_bundle.annotation.ledger import Entry, write_ledger
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import is_partial

PLAIN = {"image": "a_raw.tif", "label": "a_label.tif"}


def with_ledger(folder, *entries):
    path = write_ledger(folder / "a_annotation.csv", dict(enumerate(entries, start=1)))
    return PLAIN | {"annotation": str(path)}


def test_whole_objects_are_not_partial(tmp_path):
    assert not is_partial([PLAIN, with_ledger(tmp_path)], "whole")
    assert not is_partial([with_ledger(tmp_path, Entry("whole"), Entry("whole", checked=False))], "whole")
    assert not is_partial([PLAIN | {"complete": "a_complete.tif"}], "whole")


@pytest.mark.parametrize("annotation", ["slices", "strokes", "points"])
def test_another_default_is_partial(annotation):
    assert is_partial([PLAIN], annotation)


@pytest.mark.parametrize("kind", ["slices", "strokes", "points"])
def test_one_object_in_a_ledger_is_partial(tmp_path, kind):
    assert is_partial([PLAIN, with_ledger(tmp_path, Entry("whole"), Entry(kind))], "whole")
    assert not is_partial([PLAIN, with_ledger(tmp_path, Entry("whole"), Entry(kind, checked=False))], "whole")


def test_points_are_partial():
    assert is_partial([PLAIN, {"image": "b_raw.tif", "points": "b_points.csv"}], "whole")


def test_a_damaged_ledger_is_named(tmp_path):
    (tmp_path / "a_annotation.csv").write_text("id,kind,state\n1,half,checked\n")
    with pytest.raises(SpocoError, match=r"a_annotation\.csv: row 2: kind is 'half'"):
        is_partial([PLAIN | {"annotation": str(tmp_path / "a_annotation.csv")}], "whole")
