"""A label and its ledger: written together, told apart again, and safe whenever the process is killed."""

from contextlib import suppress

import numpy as np
import pytest
import tifffile

from spoco_bundle.annotation import kept
from spoco_bundle.annotation.kept import told_apart, write_kept
from spoco_bundle.annotation.ledger import Entry, ledger_path, read_ledger
from spoco_bundle.formats import read_image


@pytest.fixture
def image(tmp_path):
    tifffile.imwrite(tmp_path / "a_raw.tif", np.arange(140, dtype=np.uint8).reshape(5, 4, 7))
    return tmp_path / "a_raw.tif"


@pytest.fixture
def label(image):
    """A label with an object that is checked and one that is not."""
    labels = np.zeros((5, 4, 7), np.int32)
    labels[0], labels[2] = 4, 6
    entries = {4: Entry("slices"), 6: Entry("whole", checked=False)}
    path = image.with_name("a_label.tif")
    assert write_kept(path, labels, entries, image) == [path, image.with_name("a_annotation.csv")]
    return path


def checked_on_disk(label):
    checked, _ = told_apart(read_image(label, "label").array[0], read_ledger(ledger_path(label)))
    return set(np.unique(checked)) - {0}


def test_both_come_back(label):
    labels, entries = read_image(label, "label").array[0], read_ledger(ledger_path(label))
    checked, unchecked = told_apart(labels, entries)
    assert (checked[0] == 4).all() and not checked[1:].any()
    assert (unchecked[2] == 6).all() and np.count_nonzero(unchecked) == 28
    checked, unchecked = told_apart(labels, {})
    assert (checked == labels).all() and not unchecked.any(), "without a ledger all is checked"


@pytest.mark.parametrize("step", ["write_ledger", "write_instances"])
@pytest.mark.parametrize("call", [1, 2])
def test_killed_at_any_step_no_unchecked_object_counts(label, image, monkeypatch, step, call):
    calls, write = [], getattr(kept, step)

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(kept, step, killed)
    # 6 is deleted, 9 new and not checked
    labels = np.where(read_image(label, "label").array[0] == 4, 4, 0)
    labels[1] = 9
    with suppress(KeyboardInterrupt):
        write_kept(label, labels, {4: Entry("slices"), 9: Entry("whole", checked=False)}, image)
    assert checked_on_disk(label) == {4}


def test_nothing_is_left_in_the_ledger_of_what_is_gone(label, image):
    write_kept(label, np.zeros((5, 4, 7), np.int32), {}, image)
    assert read_ledger(ledger_path(label)) == {}
