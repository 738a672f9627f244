"""The console script, as a biologist calls it."""

from __future__ import annotations

import json
import sys

import pytest
import tifffile

from door import run_warm
from spoco_bundle.cli import main


def spoco(*arguments, cwd):
    return run_warm(["-m", "spoco_bundle.cli", *arguments], cwd=cwd)


def refused(code, stderr, *words):
    """Exit code 2, one line on the error stream, no traceback."""
    assert code == 2, stderr
    lines = [line for line in stderr.splitlines() if line.startswith("spoco: ")]
    assert len(lines) == 1 and "Traceback" not in stderr, stderr
    for word in words:
        assert word in lines[0]


def test_predict_with_a_trained_model_needs_no_overlay(sample, trained, tmp_path):
    result = spoco(
        "predict", sample / "val" / "field_b_raw.ome.tif", "--model", trained, "--output", "out", cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout + result.stderr
    with tifffile.TiffFile(tmp_path / "out" / "field_b_raw_instances.ome.tif") as file:
        assert file.series[0].axes == "ZYX"
        assert file.series[0].shape == (10, 40, 48)
    assert (tmp_path / "out" / "field_b_raw_objects.csv").is_file()


def test_agreement_of_student_and_teacher_gives_confidences_and_consistency_clustering(sample, trained, tmp_path):
    source = sample / "val" / "field_a_raw.nii.gz"
    options = ["--agreement", "True", "--clustering#method", "consistency", "--clustering#background", "none"]
    result = spoco("predict", source, "--model", trained, "--output", "out", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "model_student.pt" in result.stdout
    assert (tmp_path / "out" / "field_a_raw_objects.csv").read_text().startswith("id,voxels,volume")


def test_evaluate_prints_a_table(sample, trained, tmp_path):
    result = spoco(
        "evaluate", sample, "--model", trained, "--output", "out", "--partly_labelled", "False", cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "ap_50" in result.stdout and "all (pooled)" in result.stdout
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["images"] == 2


def test_a_share_of_the_annotated_objects_is_evaluated(sample, trained, tmp_path):
    counts = []
    for options in ([], ["--holdout_fraction", "0.25"]):
        result = spoco("evaluate", sample, "--model", trained, "--output", "out", *options, cwd=tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
        counts.append(json.loads((tmp_path / "out" / "scores.json").read_text())["true_objects"])
    assert 0 < counts[1] < 0.5 * counts[0]


def test_tune_writes_an_overlay_that_predict_takes(sample, trained, tmp_path):
    search = '[{"id": "objectness_threshold", "values": [0.2, 0.5]}, {"id": "min_fraction", "values": [0.02]}]'
    options = ["--split", "train", "--keep_fraction", "0.5", "--search", search, "--output", "out/tuned.json"]
    result = spoco("tune", sample, "--model", trained, *options, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "expected_ap_50" in result.stdout and "seconds gone" in result.stdout
    tuned = json.loads((tmp_path / "out" / "tuned.json").read_text())
    assert set(tuned) == {"objectness_threshold", "min_fraction"}
    # an unmistakable value in the same file shows that predict reads it
    (tmp_path / "out" / "tuned.json").write_text(json.dumps({**tuned, "clustering#min_confidence": 1.0}))
    image = sample / "val" / "field_a_raw.nii.gz"
    result = spoco("predict", image, "--model", trained, "--config", "out/tuned.json", "--output", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "out" / "field_a_raw_objects.csv").read_text().count("\n") == 1


def test_training_leaves_what_prediction_needs(trained):
    names = {path.name for path in trained.iterdir()}
    assert {
        "model.pt",
        "model_student.pt",
        "last.pt",
        "last_previous.pt",
        "model.json",
        "plan.json",
        "profile.json",
    } <= names
    assert json.loads((trained / "model.json").read_text())["channels"] == [4, 8]


def test_rgb_images_train_and_are_segmented_untold(sample_2d, tmp_path):
    small = {"channels": [4, 8], "strides": [2], "kernel_sizes": [3, 3], "convolutions": 1, "crop_size": [24, 24]}
    small |= {"batch_size": 2, "iterations_per_epoch": 2, "max_epochs": 1, "val_interval": 1}
    options = [part for key, value in small.items() for part in (f"--{key}", str(value))]
    result = spoco("train", sample_2d, "--output", "model", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "spacing" in result.stdout  # the files state none, and the run says so
    result = spoco("predict", sample_2d / "val", "--model", "model", "--output", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    found = tifffile.imread(tmp_path / "out" / "field_a_raw_instances.tif")
    assert found.shape == (40, 48) and found.dtype == "uint16"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["train", "{sample}", "--precision", "half"], ["precision", "bfloat16"]),
        (["train", "{sample}", "--tissue", "holes"], ["--tissue", "auto, dense, gaps"]),
        (["train", "{sample}", "--spacing", "[1,2]"], ["spacing"]),
        (["train", "{sample}/train"], ["train"]),
        (["tune", "{sample}", "--split", "validation"], ["validation", "val"]),
        (["tune", "{sample}", "--search", '[{"id": "treshold", "values": [1]}]'], ["treshold", "objectness_threshold"]),
    ],
)
def test_bad_input_ends_with_one_clear_line(arguments, words, sample, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["spoco", *(argument.replace("{sample}", str(sample)) for argument in arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    refused(ended.value.code, capsys.readouterr().err, *words)


def test_weights_of_another_network_are_refused(sample, trained, tmp_path):
    result = spoco("predict", sample / "val", "--model", trained, "--channels", "[4,6]", cwd=tmp_path)
    refused(result.returncode, result.stderr, "model.pt", "another network")
    assert "Traceback" not in result.stdout
    assert not list(tmp_path.rglob("*_instances*"))


def test_help_says_what_each_command_does(tmp_path):
    overview = spoco("--help", cwd=tmp_path)
    for command in ("demo", "train", "predict", "evaluate", "tune"):
        assert f"     {command}\n" in overview.stdout + overview.stderr
    result = spoco("train", "--help", cwd=tmp_path)
    shown = result.stdout + result.stderr
    assert "annotated" in shown and "resume" in shown and "--minutes" in shown
    assert "METADATA" not in shown
