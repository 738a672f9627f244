"""The page of a run, through the console script."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from door import run_warm
from spoco_bundle.app import run_report
from spoco_bundle.cli import main

PICTURE = b"the picture of an evaluation"


@pytest.fixture(scope="module")
def predicted(sample, trained, tmp_path_factory):
    """Folder of a prediction by the student, with a picture that an evaluation left there."""
    folder = tmp_path_factory.mktemp("predicted")
    options = ["--model", trained, "--output", "out", "--weights", "student"]
    result = run_warm(["-m", "spoco_bundle.cli", "predict", sample / "val", *options], cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    (folder / "out" / "field_a_raw_overview.png").write_bytes(PICTURE)
    return folder / "out"


def test_report_of_a_prediction_shows_images_objects_scores_and_training(sample, predicted):
    result = run_warm(["-m", "spoco_bundle.cli", "report", predicted, "--truth", sample / "val"], cwd=predicted)
    assert result.returncode == 0, result.stdout + result.stderr
    page = (predicted / "report.html").read_text()
    assert len(re.findall(r"<section data-panel", page)) == 2
    assert "AP at IoU 0.5" in page and "val_instances" in page and "embedding" in page
    assert {path.name for path in predicted.glob("*_report.png")} == {
        "field_a_raw_report.png",
        "field_b_raw_report.png",
    }
    assert (predicted / "field_a_raw_overview.png").read_bytes() == PICTURE


@pytest.mark.parametrize(("weights", "file"), [("student", "model_student.pt"), ("teacher", "model.pt")])
def test_embedding_is_that_of_the_network_that_predicted(predicted, trained, tmp_path, monkeypatch, weights, file):
    folder = tmp_path / "out"
    shutil.copytree(predicted, folder)
    record = json.loads((folder / "run.json").read_text())
    record["overrides"]["weights"] = weights
    (folder / "run.json").write_text(json.dumps(record))
    loaded = []
    load = run_report.load_weights
    monkeypatch.setattr(run_report, "load_weights", lambda network, path: loaded.append(path) or load(network, path))
    run_report.write_report(folder, folder / "report.html", max_images=1)
    assert loaded == [str(trained / file)]


def test_folder_without_a_run_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["spoco", "report", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "run.json" in capsys.readouterr().err
