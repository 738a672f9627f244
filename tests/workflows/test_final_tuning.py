"""A training ends by choosing its clustering, as `spoco tune` would, and keeps what it was given."""

from __future__ import annotations

import json
import math
import re
import shutil

import pytest

from door import run_warm
from spoco_bundle.app.config import find_config, json_content, read_configs
from spoco_bundle.app.final_tuning import TUNED, tuned_ids
from spoco_bundle.app.training_plan import plan_folder


@pytest.fixture(scope="module")
def badly_set(bundle_root, tmp_path_factory):
    """The shipped weights for volumes, with a threshold at which nothing is found."""
    folder = tmp_path_factory.mktemp("badly_set")
    shutil.copy(bundle_root / "models" / "model.pt", folder)
    model = json_content(bundle_root / "models" / "model.json")
    (folder / "model.json").write_text(json.dumps(model | {"objectness_threshold": 0.999}))
    return folder / "model.pt"


@pytest.fixture(scope="module")
def train(sample, badly_set, tmp_path_factory, bundle_root):
    """Trains for a moment from the shipped weights, and returns the folder and what was printed."""
    few = {"max_epochs": 1, "iterations_per_epoch": 1, "batch_size": 1, "crop_size": "[8,24,24]", "learning_rate": 1e-9}

    def run(**options):
        folder = tmp_path_factory.mktemp("model")
        given = {"output": folder, "pretrained": badly_set, **few, "tune_minutes": 5, "tuned#min_objects": 1} | options
        command = ["train", sample, *(text for name, value in given.items() for text in (f"--{name}", value))]
        result = run_warm(["-m", "spoco_bundle.cli", *command], cwd=bundle_root)
        assert result.returncode == 0, result.stdout + result.stderr
        return folder, result.stdout + result.stderr

    return run


def chosen(folder, name="model.json"):
    return {key: value for key, value in json.loads((folder / name).read_text()).items() if key in TUNED}


@pytest.mark.slow
def test_a_training_ends_with_what_tune_chooses(train, sample, bundle_root):
    folder, said = train()
    assert re.search(r"clustering tuned on the validation: objectness_threshold \S+ instead of 0.999 \(", said)
    planned, said = train(tune_minutes=0)
    assert "clustering tuned" not in said
    assert chosen(folder) != chosen(planned)
    result = run_warm(["-m", "spoco_bundle.cli", "tune", sample, "--model", planned], cwd=bundle_root)
    assert result.returncode == 0, result.stdout + result.stderr
    assert chosen(planned, "tuned.json") == chosen(folder)
    assert {**json_content(folder / "model.json"), **chosen(planned)} == json_content(planned / "model.json")


def test_what_is_given_stays(train):
    given = {"objectness_threshold": 0.99, "merge_distance": 1.25, "min_fraction": 0.3}
    folder, said = train(**given)
    assert chosen(folder) == given and "clustering tuned" not in said


def test_a_plan_holds_what_is_given_and_not_what_is_chosen_last(sample):
    lines, ids = plan_folder(sample, min_fraction=0.3)
    assert ids["min_fraction"] == 0.3 and not {"objectness_threshold", "merge_distance"} & set(ids)
    assert lines[-1].startswith("objectness_threshold 0.6, merge_distance 1.5, unless")
    lines, ids = plan_folder(sample, tune_minutes=0)
    assert "objectness_threshold" in ids and "unless" not in lines[-1]


def test_few_objects_leave_everything_as_planned(train):
    _, said = train(**{"tuned#min_objects": 1000})
    assert "clustering tuned on the validation: all stays as planned" in said


def test_of_images_that_are_too_large_a_part_validates_and_chooses(train):
    folder, said = train(validation_voxels=10_000)
    parts = re.findall(r"(\S+): only a part of (.+) voxels is scored, with \d+ of \d+ annotated objects", said)
    assert parts and parts[: len(parts) // 2] == parts[len(parts) // 2 :], "once to validate, once to choose"
    assert all(math.prod(map(int, sides.split(" x "))) <= 10_000 for _, sides in parts)
    assert chosen(folder)["objectness_threshold"] < 0.999


@pytest.mark.parametrize(
    ("given", "free"),
    [
        ({}, list(TUNED)),
        ({"min_fraction": 0.1}, ["objectness_threshold", "merge_distance"]),
        ({"objectness": False}, ["min_fraction", "merge_distance"]),
        ({"clustering#method": "hdbscan"}, ["objectness_threshold", "min_fraction"]),
        ({"clustering#min_size": 30}, ["objectness_threshold", "merge_distance"]),
    ],
)
def test_only_what_the_clustering_takes_and_nobody_gave_is_chosen(given, free):
    assert tuned_ids(read_configs([find_config("train")], given).get()) == free


def test_what_a_model_brings_that_a_training_starts_from_is_chosen_anew():
    config = read_configs([find_config("train")], {"min_fraction": 0.2, "objectness_threshold": 0.7}).get()
    assert tuned_ids(config, {"objectness_threshold": 0.7, "min_fraction": 0.1}) == [
        "objectness_threshold",
        "merge_distance",
    ]
