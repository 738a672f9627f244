"""Trainings that start from weights: worse ones leave them alone, better ones take their place, one line says so."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch

from door import run_warm

#: the shipped weights, which find some of the artificial nuclei, trained on for seconds
SHORT = {"crop_size": [8, 32, 32], "iterations_per_epoch": 30, "max_epochs": 2, "val_interval": 1}
#: a learning rate that spoils any weights
RUINOUS = {"learning_rate": 0.1, "iterations_per_epoch": 4, "max_epochs": 1}

#: fewer annotated objects than the weights learnt from, of another typical size
FEWER = {"keep_fraction": 0.3, "keep_seed": 1}

KEPT = re.compile(r"^kept the old weights: none was better \(they score (.+), the best new ones (.+)\)$", re.M)
REPLACED = re.compile(r"^replaced the old weights: those in use from now on score (.+), the old ones (.+)$", re.M)


def tuned(folder, output, *more, **settings):
    """What a fine-tuning prints."""
    settings = {key: value for key, value in {**SHORT, **settings}.items() if value is not None}
    given = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    arguments = ["train", folder, "--config", "fine_tune", "--output", output, *given, *more]
    result = run_warm(["-m", "spoco_bundle.cli", *arguments], cwd=output.parent)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def better(sample, tmp_path_factory):
    """Folder of weights that a training improved, and what it printed."""
    folder = tmp_path_factory.mktemp("better") / "model"
    return folder, tuned(sample, folder)


@pytest.fixture
def model(better, tmp_path):
    """A copy of these weights that a test may change."""
    return shutil.copytree(better[0], tmp_path / "model")


def scores(pattern, said):
    (found,) = pattern.findall(said)
    return [float(score) for score in found]


def weights(folder, name="model.pt"):
    return torch.load(folder / name, weights_only=True)


def decided(folder, name="model.json"):
    return json.loads((folder / name).read_text())


def test_better_weights_replace_the_old_ones_and_one_line_says_both_scores(better, bundle_root):
    folder, said = better
    new, old = scores(REPLACED, said)
    assert new > old and not KEPT.search(said)
    shipped = torch.load(bundle_root / "models" / "model.pt", weights_only=True)
    assert not all(torch.equal(value, shipped[name]) for name, value in weights(folder).items())
    assert decided(folder)["object_diameter"] == decided(folder, "plan.json")["object_diameter"]


def test_a_training_that_gets_worse_leaves_the_weights_byte_for_byte(sample, model):
    before = {name: (model / name).read_bytes() for name in ("model.pt", "model_student.pt", "model.json")}
    both = ["--pretrained", model / "model.pt", "--pretrained_student", model / "model_student.pt"]
    old, new = scores(KEPT, tuned(sample, model, *both, **FEWER, **RUINOUS))
    assert old > new
    assert {name: (model / name).read_bytes() for name in before} == before


def test_in_another_folder_the_kept_model_is_the_old_one_with_the_sizes_that_it_knows(sample, model, tmp_path):
    other = tmp_path / "other"
    said = tuned(sample, other, "--pretrained", model / "model.pt", **FEWER, **RUINOUS)
    assert KEPT.search(said)
    for file in ("model.pt", "model_student.pt"):
        old, new = weights(model, file), weights(other, file)
        assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
    assert decided(other) == decided(model)
    assert decided(other)["object_diameter"] != decided(other, "plan.json")["object_diameter"]
    tuned(sample, other, "--pretrained", model / "model.pt", "--target_spacing", "[2,1,1]", **FEWER, **RUINOUS)
    assert decided(other) == decided(model) | {"target_spacing": [2, 1, 1]}


def test_weights_of_another_network_leave_the_model_in_the_folder_alone(sample, model, tmp_path):
    before = {name: (model / name).read_bytes() for name in ("model.pt", "model_student.pt", "model.json", "plan.json")}
    torch.save({"weight": torch.ones(2)}, tmp_path / "odd.pt")
    result = run_warm(
        ["-m", "spoco_bundle.cli", "train", sample, "--output", model, "--pretrained", tmp_path / "odd.pt"],
        cwd=tmp_path,
    )
    assert result.returncode and "made for another network" in result.stdout + result.stderr
    assert {name: (model / name).read_bytes() for name in before} == before


@pytest.mark.slow
def test_a_training_of_minutes_keeps_them_too(sample, model):
    before = (model / "model.pt").read_bytes()
    by_the_clock = RUINOUS | {"minutes": 0.02, "max_epochs": 9, "val_interval": None}
    said = tuned(sample, model, "--pretrained", model / "model.pt", **by_the_clock)
    assert KEPT.search(said) and (model / "model.pt").read_bytes() == before


def test_without_val_objects_are_held_out_which_is_said_before_the_training(sample, model, tmp_path):
    shutil.copytree(sample / "train", tmp_path / "data" / "train")
    before = (model / "model.pt").read_bytes()
    said = tuned(tmp_path / "data", model, "--pretrained", model / "model.pt", **RUINOUS)
    held_out = said.index("25% of the annotated objects are held out")
    assert held_out < said.index("the weights before this training score") < said.index("iterations: ")
    assert KEPT.search(said) and (model / "model.pt").read_bytes() == before


def test_told_to_replace_them_it_does(sample, model):
    before = weights(model)
    said = tuned(sample, model, "--pretrained", model / "model.pt", "--replace_if_better", "False", **RUINOUS)
    assert "old weights" not in said and "before this training" not in said
    assert not all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_a_resumed_training_compares_with_the_weights_that_the_first_part_started_from(sample, better, tmp_path):
    """The better weights of the first part are kept, though those that it started from are worse."""
    folder, said = better
    model = shutil.copytree(folder, tmp_path / "model")
    best, old = scores(REPLACED, said)
    before = (model / "model.pt").read_bytes()
    said = tuned(sample, model, "--resume", learning_rate=RUINOUS["learning_rate"], max_epochs=3)
    assert "before this training" not in said
    assert scores(REPLACED, said) == [best, old] and (model / "model.pt").read_bytes() == before


def test_the_coordinate_scale_follows_the_objects_drawn_where_voxels_are_of_another_size(sample, model, tmp_path):
    """Not the objects of the weights, which are far larger."""
    options = ["--pretrained", model / "model.pt", "--spacing", "[0.5,0.2,0.2]"]
    said = tuned(sample, tmp_path / "small", *options, **RUINOUS)
    (scale,) = re.findall(r"coordinate scale ([\d.]+), spacing 0.5 x 0.2 x 0.2 um", said)
    diameter = json.loads((tmp_path / "small" / "profile.json").read_text())["diameters"][1] * 0.02 ** (1 / 3)
    assert float(scale) == pytest.approx(diameter / 4, rel=0.01)
