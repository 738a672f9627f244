from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from spoco_bundle.core.atomic_files import _HOST, atomic_folder, atomic_write, write_json
from spoco_bundle.core.errors import SpocoError


def test_the_name_is_taken_only_by_what_is_complete(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with pytest.raises(KeyError), atomic_write(target) as partial:
        partial.write_text("half")
        raise KeyError
    assert list(target.parent.iterdir()) == []
    with atomic_write(target) as partial:
        partial.write_text("whole")
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"] and target.read_text() == "whole"


def test_json_stands_there_whole_or_as_before(tmp_path):
    file = write_json(tmp_path / "new" / "a.json", {"size": [1, 2]})
    assert file.read_text() == '{\n    "size": [\n        1,\n        2\n    ]\n}\n'
    with pytest.raises(TypeError):
        write_json(file, {"size": {1, 2}})
    assert json.loads(file.read_text()) == {"size": [1, 2]} and list(file.parent.iterdir()) == [file]


def test_two_threads_write_the_same_file_at_once(tmp_path):
    target, both = tmp_path / "a.txt", threading.Barrier(2, timeout=60)

    def write(text):
        with atomic_write(target) as partial:
            partial.write_text(text)
            both.wait()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ["first", "other"]))
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and target.read_text() in ("first", "other")


def test_what_killed_processes_left_goes_and_what_others_write_stays(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    left = tmp_path / f".{_HOST}-{process.pid}-b.txt"
    others = [tmp_path / f".{_HOST}-{os.getppid()}-c.txt", tmp_path / f".elsewhere-{process.pid}-d.txt"]
    for path in (left, *others):
        path.touch()
    with atomic_write(tmp_path / "a.txt") as partial:
        partial.touch()
    assert not left.exists() and all(path.exists() for path in others)


def test_a_refusal_of_the_system_names_the_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SpocoError, match="a.txt: cannot be written"), atomic_write(tmp_path / "file" / "a.txt"):
        pass


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(SpocoError, match="model: the disk is full: free space"):
        with atomic_folder(target) as partial:
            partial.mkdir()
            (partial / "new").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and (target / "old").read_text() == "old"
    with atomic_folder(target) as partial:
        partial.mkdir()
        (partial / "new").write_text("whole")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "new"]


def test_a_folder_is_whole_whenever_another_one_is_removed(tmp_path, monkeypatch):
    target, seen = tmp_path / "label.zarr", []
    target.mkdir()
    (target / "old").write_text("old")
    remove = shutil.rmtree

    def watched(path, **options):
        assert path != target, "half of it would stay where the process is killed"
        seen.append([file.name for file in target.iterdir()])
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", watched)
    with atomic_folder(target) as partial:
        partial.mkdir()
        (partial / "new").write_text("whole")
    assert {tuple(names) for names in seen} == {("old",), ("new",)}
