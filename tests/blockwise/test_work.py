from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from spoco_bundle.blockwise.work import WorkFolder
from spoco_bundle.core.atomic_files import disk_errors
from spoco_bundle.core.errors import SpocoError


def test_records_are_there_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    work = WorkFolder(tmp_path / "run")
    work.open({"block_size": (8, 8)})
    work.save("label", 1234, values=np.arange(3))
    assert work.finished("label") == {1234} and work.finished("link") == set()
    with work.load("label", 1234) as record:
        assert record["values"].tolist() == [0, 1, 2]

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        work.save("label", 5, values=np.arange(3))
    monkeypatch.undo()
    assert work.finished("label") == {1234}
    work.forget("label")
    assert work.finished("label") == set()


def test_a_run_of_other_settings_is_refused_by_name(tmp_path):
    work = WorkFolder(tmp_path / "run")
    work.open({"block_size": (8, 8), "weights": "a", "overlap": [1]})
    work.open({"block_size": (8, 8), "weights": "a", "overlap": [1]})
    with pytest.raises(SpocoError, match="another block_size, weights: .*delete the folder"):
        work.open({"block_size": (8, 4), "weights": "b", "overlap": [1]})
    work.remove()
    assert not work.path.exists()
    work.open({"block_size": (8, 4)})


@pytest.mark.parametrize(
    "code, words", [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "full"), (errno.EROFS, "cannot be written")]
)
def test_a_full_disk_and_a_read_only_target_are_named(tmp_path, code, words):
    with pytest.raises(SpocoError, match=words), disk_errors(tmp_path):
        raise OSError(code, os.strerror(code))
    with pytest.raises(OSError) as kept, disk_errors(tmp_path):
        raise OSError(errno.EIO, "a defect of the disk")
    assert not isinstance(kept.value, SpocoError)
