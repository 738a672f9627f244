"""Fine-tuning the shipped weights: the overlay, and the script that measures what it gives."""

from __future__ import annotations

import importlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spoco_bundle.app.config import shipped_weights
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.synthetic import make_synthetic_sample
from spoco_bundle.formats import read_image
from support import training


@pytest.fixture(scope="module")
def fine_tune():
    return importlib.import_module("fine_tune")


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """A folder with one volume in train/ and nothing else."""
    made = tmp_path_factory.mktemp("made")
    make_synthetic_sample(made, seed=0, train_volumes=1, train_shape=(10, 40, 40), val_shape=(10, 40, 48))
    folder = tmp_path_factory.mktemp("volume")
    shutil.copytree(made / "train", folder / "train")
    return folder


@pytest.mark.slow
def test_overlay_goes_on_from_the_shipped_weights_with_one_volume_and_no_val(
    volume, bundle_root, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # the weights are found from anywhere
    shape = ("channels", "strides", "kernel_sizes", "convolutions", "embedding_channels")
    network = {key: json.loads((bundle_root / "models" / "model.json").read_text())[key] for key in shape}
    small = {"iterations_per_epoch": 2, "max_epochs": 1, "learning_rate": 1e-9, "precision": "float32"}
    overlays = bundle_root / "models" / "model.json", bundle_root / "configs" / "fine_tune.json"
    training(bundle_root, volume, tmp_path / "tuned", *overlays, **network, **small).run()
    shipped = torch.load(shipped_weights(3) / "model.pt", weights_only=True)
    tuned = torch.load(tmp_path / "tuned" / "model.pt", weights_only=True)
    convolutions = [name for name, value in shipped.items() if value.ndim == 5]
    assert convolutions and all(torch.allclose(tuned[name], shipped[name], atol=1e-5) for name in convolutions)
    assert not torch.equal(tuned["training_spacing"], shipped["training_spacing"])


def test_chosen_objects_are_whole_ones_and_the_seed_decides(fine_tune):
    truth = np.zeros((4, 20, 20), np.int32)
    for number in range(1, 9):
        truth[:, 2 * number, : 1 if number == 8 else 16] = number
    draws = [tuple(sorted(fine_tune.choose_objects(truth, 3, seed))) for seed in range(20)]
    assert draws[0] == tuple(sorted(fine_tune.choose_objects(truth, 3, 0)))
    assert len(set(draws)) > 5 and all(len(set(draw)) == 3 and 8 not in draw for draw in draws)
    for count in (0, 8):
        with pytest.raises(SpocoError, match="--objects"):
            fine_tune.choose_objects(truth, count, 0)


def test_objects_trained_on_and_what_lies_on_them_leave_the_score(fine_tune):
    truth = np.zeros((1, 10, 30), np.int32)
    truth[0, :, 0:8], truth[0, :, 10:18], truth[0, :, 20:28] = 1, 2, 3
    prediction = np.zeros_like(truth)
    prediction[0, :, 0:9] = 1  # on object 1, a little too large
    prediction[0, :, 10:18] = 2  # right
    prediction[0, :6, 20:22] = 3  # far too small
    scores = fine_tune.scores_of_others(truth, prediction, np.array([1]))
    assert (scores["tp_50"], scores["fp_50"], scores["fn_50"]) == (1, 1, 1)
    scores = fine_tune.scores_of_others(truth, prediction, np.array([3]))
    assert (scores["tp_50"], scores["fp_50"], scores["fn_50"]) == (2, 0, 0)


def test_table_shows_each_seed_and_the_mean(fine_tune):
    def scores(ap_50):
        return {"ap_50": ap_50, "sbd": 0.6}

    ways = ("shipped", "fine-tuned", "from nothing")
    rows = {seed: {way: scores(0.1 * number + 0.2 * seed) for number, way in enumerate(ways)} for seed in (0, 1)}
    lines = fine_tune.table(rows).splitlines()
    assert lines[0] == "| seed | shipped | fine-tuned | from nothing |"
    assert lines[2:5] == [
        "| 0 | 0.00 / 0.60 | 0.10 / 0.60 | 0.20 / 0.60 |",
        "| 1 | 0.20 / 0.60 | 0.30 / 0.60 | 0.40 / 0.60 |",
        "| mean | 0.10 / 0.60 | 0.20 / 0.60 | 0.30 / 0.60 |",
    ]


@pytest.mark.slow
def test_script_trains_on_the_chosen_objects_only_and_scores(fine_tune, volume, tmp_path, monkeypatch, bundle_root):
    monkeypatch.setenv("PYTHONPATH", str(bundle_root))
    small = ["crop_size=[8,24,24]", "iterations_per_epoch=2", "max_epochs=1"]
    given = {"objects": 2, "seeds": [1], "spacing": None, "settings": small}
    rows = fine_tune.compare(SimpleNamespace(folder=volume, output=tmp_path, **given))
    assert rows[1].keys() == {"shipped", "fine-tuned", "from nothing"}
    assert all(0 <= scores["ap_50"] <= 1 for scores in rows[1].values())

    label = next((tmp_path / "seed1" / "data" / "train").glob("*_label.*"))
    truth = read_image(volume / "train" / label.name, "label").array[0]
    kept = read_image(label, "label").array[0]
    assert np.array_equal(kept, np.where(np.isin(truth, fine_tune.choose_objects(truth, 2, 1)), truth, 0))
