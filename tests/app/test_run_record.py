from __future__ import annotations

import json
import os

import pytest

from spoco_bundle.app import run_record
from spoco_bundle.app.config import find_config, read_configs
from spoco_bundle.app.model_config import MODEL_CONFIG
from spoco_bundle.app.run_record import RUN_RECORD, forget_outdated, read_run_record, write_run_record
from spoco_bundle.core.errors import SpocoError


@pytest.fixture
def predicted(tmp_path):
    """Runs the record of a prediction in a model's folder and says which of the images a and b are left to do."""
    (tmp_path / "model.pt").write_bytes(b"weights")

    def run(*made, **settings):
        files = [find_config("inference")]
        write_run_record("predict", files, {"ckpt_dir": str(tmp_path), **settings}, tmp_path)
        forget_outdated(["a_raw.tif", "b_raw.tif"], tmp_path)
        left = [name for name in "ab" if not (tmp_path / f"{name}_raw_objects.csv").is_file()]
        for name in made:
            (tmp_path / f"{name}_raw_objects.csv").write_text("")
        return left

    return run


def test_results_of_the_same_settings_are_done(predicted):
    assert predicted("a") == ["a", "b"]
    assert predicted("b") == ["b"]
    assert predicted(device="cpu", skip_finished=True, processes=4) == []


def test_results_of_other_settings_or_weights_are_made_anew(predicted, tmp_path, caplog):
    caplog.set_level("INFO")
    predicted("a", "b")
    assert predicted("a", min_fraction=0.2) == ["a", "b"]
    assert "2 results in" in caplog.text and "made with another min_fraction: made anew" in caplog.text
    assert predicted("b", min_fraction=0.2) == ["b"]
    (tmp_path / "model.pt").write_bytes(b"trained further")
    assert predicted(min_fraction=0.2) == ["a", "b"]
    assert "another weights" in caplog.text


def test_results_that_nothing_tells_of_are_made_anew(predicted, tmp_path):
    (tmp_path / "a_raw_objects.csv").write_text("")
    os.utime(tmp_path / "a_raw_objects.csv", (0, 0))
    assert predicted() == ["a", "b"]


def test_a_run_of_monai_may_have_a_list_of_images(tmp_path, monkeypatch):
    places = {"dataset_dir": ["a.tif", "b.tif"], "output_dir": str(tmp_path)}
    monkeypatch.setattr(run_record, "running_parser", lambda: read_configs([find_config("inference")], places))
    run_record.record_running_config("predict")
    assert read_run_record(tmp_path)["overrides"]["dataset_dir"] == [*map(os.path.abspath, ["a.tif", "b.tif"])]


def test_a_record_that_would_run_code_is_refused(tmp_path):
    record = {
        "command": "predict",
        "files": [],
        "overrides": {"output_dir": "$HOME", "min_fraction": "$print()"},
        "ids": {},
    }
    (tmp_path / RUN_RECORD).write_text(json.dumps(record))
    with pytest.raises(SpocoError, match="run.json: min_fraction would run"):
        read_run_record(tmp_path)
    (tmp_path / MODEL_CONFIG).write_text(json.dumps({"norm": "$print()"}))
    record |= {"overrides": {}, "files": [str(tmp_path / MODEL_CONFIG)]}
    (tmp_path / RUN_RECORD).write_text(json.dumps(record))
    with pytest.raises(SpocoError, match="model.json: norm would run"):
        read_run_record(tmp_path)
    (tmp_path / "settings.json").write_text(json.dumps({"image_ending": "$print()"}))
    (tmp_path / RUN_RECORD).write_text(json.dumps(record | {"files": [str(tmp_path / "settings.json")]}))
    with pytest.raises(SpocoError, match="settings.json: image_ending would run"):
        read_run_record(tmp_path)
