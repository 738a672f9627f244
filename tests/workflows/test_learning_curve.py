"""``spoco learning-curve`` from the command line, with real trainings of seconds."""

from __future__ import annotations

import json
import shutil

import pytest

from door import run_warm


@pytest.mark.slow
def test_trainings_without_val_leave_the_files_alone_and_are_done_once(sample, tiny_overlay, tmp_path):
    shutil.copytree(sample / "train", tmp_path / "data" / "train")
    files = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    arguments = ["-m", "spoco_bundle.cli", "learning-curve", "data", "--minutes", "0.3", "--config", tiny_overlay]
    first = run_warm(arguments, cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.count("25% of the annotated objects are held out") == 6
    content = json.loads((tmp_path / "learning_curve" / "learning_curve.json").read_text())
    assert [row["objects"] for row in content["trainings"]] == [2, 3, 5] * 2
    # the same objects of both images for every training
    assert {row["held_out"] for row in content["trainings"]} == {3}
    assert (content["forecast"]["present"], content["forecast"]["objects"]) == (5, 10)
    assert (tmp_path / "learning_curve" / "trainings" / "100_percent_1" / "model.pt").is_file()
    again = run_warm(arguments, cwd=tmp_path)
    assert again.returncode == 0 and "training 1 of 6" not in again.stdout
    assert again.stdout.splitlines()[-9:] == first.stdout.splitlines()[-9:]
    assert files == {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
