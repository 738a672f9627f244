"""The page of a run, through the console script."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import zarr

from door import run_warm
from spoco_bundle.app import run_report
from spoco_bundle.app.config import find_config
from spoco_bundle.app.model_config import MODEL_CONFIG
from spoco_bundle.cli import main
from spoco_bundle.core.errors import SpocoError

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


def test_a_truth_goes_by_its_whole_name(tmp_path):
    image = tmp_path / "cell [1]_raw.tif"
    for name in ("cell [1]_label.csv", "cell [1]_label.tif", "cell [1]_label.2.tif", "cell 1_label.tif", image.name):
        (tmp_path / name).touch()
    assert run_report._truth_of(image, tmp_path, "_raw") == tmp_path / "cell [1]_label.tif"
    (tmp_path / "cell [1]_label.tif").unlink()
    with pytest.raises(SpocoError, match="holds no .*_label"):
        run_report._truth_of(image, tmp_path, "_raw")


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


def test_report_of_a_run_by_monai_itself(sample, trained, tmp_path):
    options = {"bundle_root": tmp_path, "ckpt_dir": trained, "output_dir": tmp_path / "out", "device": "cpu"}
    files = f"['{find_config('inference')}','{trained / MODEL_CONFIG}']"
    command = ["-m", "monai.bundle", "run", "--config_file", files, "--dataset_dir", sample / "val"]
    result = run_warm([*command, *(part for key, value in options.items() for part in (f"--{key}", value))], tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    page = run_report.write_report(tmp_path / "out", embeddings=False)
    assert page == run_report.write_report(tmp_path / "out", tmp_path / "out", embeddings=False)
    assert page == tmp_path / "out" / "report.html" and page.read_text().count("<section data-panel") == 2


@pytest.mark.parametrize("output", ["out", "out/one.ome.zarr"])
def test_report_of_a_zarr_result(trained, tmp_path, output):
    voxels = np.random.default_rng(0).integers(0, 255, (8, 40, 40), dtype=np.uint8)
    zarr.save_array(str(tmp_path / "a.zarr"), voxels)
    options = ["--model", trained, "--output", output, "--spacing", "[2,1,1]", "--axes", "zyx"]
    result = run_warm(["-m", "spoco_bundle.cli", "predict", "a.zarr", *options], cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    page = run_report.write_report(tmp_path / output)
    assert "<section data-panel" in page.read_text()
    assert (tmp_path / "out" / "run.json").is_file() == (output == "out"), "one run beside another one's result"


def test_folder_that_does_not_exist_is_said_to(tmp_path):
    with pytest.raises(SpocoError, match="missing: no such folder"):
        run_report.write_report(tmp_path / "missing")


def test_folder_without_a_run_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["spoco", "report", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "run.json" in capsys.readouterr().err
