from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from spoco_bundle.app import learning_curve as module
from spoco_bundle.app.learning_curve import LearningCurve, learning_curve
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.metrics.forecast import Forecast

FOUND = Forecast(
    objects=96, score=0.71, low=0.68, high=0.75, level=0.9, present=48, now=0.66, noise=0.05, exponent=0.25
)
ROWS = [
    {"name": str(number), "objects": objects, "score": score, "metric": "ap_50", "halves": [score], "held_out": 17}
    for number, (objects, score) in enumerate([(12, 0.5), (24, 0.6), (48, 0.65), (12, 0.55), (24, 0.58), (48, 0.67)])
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images with eight squares each, and a val/ with one."""
    made = tmp_path_factory.mktemp("data")
    labels = np.zeros((60, 120), np.uint8)
    for number, (y, x) in enumerate(np.ndindex(2, 4), 1):
        labels[30 * y + 5 : 30 * y + 22, 30 * x + 4 : 30 * x + 23] = number
    image = (200 * (labels > 0) + np.random.default_rng(0).integers(0, 40, labels.shape)).astype(np.uint8)
    for place in ("train/a", "train/b", "val/c"):
        (made / place).parent.mkdir(exist_ok=True)
        tifffile.imwrite(made / f"{place}_raw.tif", image)
        tifffile.imwrite(made / f"{place}_label.tif", labels)
    return made


@pytest.fixture
def trainings(monkeypatch):
    """Asked of ``train``, which writes a score that grows with the number of objects, and nothing else."""
    asked = []

    def train(folder, output, config, resume, **ids):
        if len(asked) == trainings_to_do[0]:
            raise KeyboardInterrupt
        asked.append({"output": Path(output).name, "config": config, "resume": resume, **ids})
        Path(output).mkdir(parents=True, exist_ok=True)
        score = 1 - 0.3 * ids["keep_fraction"] ** -0.3 - 0.01 * (ids["seed"] % 2)
        scores = {"metric": "ap_50", "score": score, "halves": [score - 0.02, score + 0.02], "held_out": 8, "images": 1}
        (Path(output) / "held_out_scores.json").write_text(json.dumps(scores))

    trainings_to_do = [None]
    monkeypatch.setattr(module, "train", train)
    return asked, trainings_to_do


def test_every_part_is_drawn_anew_for_an_equal_share_of_the_time(folder, trainings, tmp_path):
    asked, _ = trainings
    found = learning_curve(folder, 12, tmp_path / "curve", "nonspatial", keep_seed=40, seed=7, spacing=[2.0, 1.0])
    assert [one["keep_fraction"] for one in asked] == [0.25, 0.5, 1.0] * 2
    assert [one["keep_seed"] for one in asked] == list(range(40, 46)) and [one["seed"] for one in asked][::5] == [7, 12]
    for one in asked:
        assert one["minutes"] == 2 and one["holdout_seed"] == 40 and one["spacing"] == [2.0, 1.0]
        assert one["config"] == "nonspatial,learning_curve" and not one["resume"]
    assert [row["objects"] for row in found.trainings] == [4, 8, 16] * 2
    assert (found.forecast.present, found.forecast.objects) == (16, 32)
    assert found.forecast.exponent == pytest.approx(0.3, abs=0.02)
    content = json.loads((tmp_path / "curve" / "learning_curve.json").read_text())
    assert content["forecast"]["score"] == found.forecast.score and len(content["trainings"]) == 6
    assert (tmp_path / "curve" / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_more_time_makes_more_choices_then_longer_trainings(folder, trainings, tmp_path):
    asked, _ = trainings
    for minutes, count in ((60, 6), (120, 12), (600, 15)):
        asked.clear()
        learning_curve(folder, minutes, tmp_path / str(minutes))
        assert len(asked) == count and asked[0]["minutes"] == minutes / count


def test_what_was_interrupted_goes_on_and_what_is_finished_is_not_done_again(folder, trainings, tmp_path):
    asked, stop_at = trainings
    stop_at[0] = 2
    with pytest.raises(KeyboardInterrupt):
        learning_curve(folder, 12, tmp_path / "curve")
    stop_at[0] = None
    # of the third a checkpoint is there
    (tmp_path / "curve" / "trainings" / "100_percent_0").mkdir()
    (tmp_path / "curve" / "trainings" / "100_percent_0" / "last.pt").touch()
    first = learning_curve(folder, 12, tmp_path / "curve")
    assert [one["output"] for one in asked[:3]] == ["25_percent_0", "50_percent_0", "100_percent_0"]
    assert [one["resume"] for one in asked] == [False, False, True, False, False, False]
    assert learning_curve(folder, 12, tmp_path / "curve") == first and len(asked) == 6


def test_results_of_other_settings_or_labels_are_not_mixed(folder, trainings, tmp_path):
    data = shutil.copytree(folder, tmp_path / "data")
    learning_curve(data, 12, tmp_path / "curve")
    words = "learning_curve.json: holds trainings of other settings or labels.*--output"
    for minutes, more in ((13, {}), (12, {"seed": 1})):
        with pytest.raises(SpocoError, match=words):
            learning_curve(data, minutes, tmp_path / "curve", **more)
    label = tifffile.imread(data / "train" / "a_label.tif")
    label[40:44, 55:58] = 100
    tifffile.imwrite(data / "train" / "a_label.tif", label)
    with pytest.raises(SpocoError, match=words):
        learning_curve(data, 12, tmp_path / "curve")


def test_a_share_of_the_objects_can_stand_for_all(folder, trainings, tmp_path):
    asked, _ = trainings
    found = learning_curve(folder, 12, tmp_path / "curve", keep_fraction=0.5)
    assert [one["keep_fraction"] for one in asked][:3] == [0.125, 0.25, 0.5]
    assert [row["objects"] for row in found.trainings][:3] == [2, 4, 8]


def test_too_few_objects_for_parts_are_refused_before_any_training(folder, trainings, tmp_path):
    with pytest.raises(SpocoError, match="are 2, 2, 2 here.*annotate more in each image"):
        learning_curve(folder, 12, tmp_path / "curve", keep_fraction=0.1)
    assert not trainings[0]


def test_the_table_and_three_sentences():
    lines = LearningCurve(2.5, ROWS, FOUND).lines()
    assert lines == [
        " objects  ap_50",
        "      12  0.500  0.550",
        "      24  0.600  0.580",
        "      48  0.650  0.670",
        "      96  0.710 expected (0.680 to 0.750)",
        "now: training on 48 objects gives ap_50 0.66 on 17 held-out objects, which tell it to about 0.05",
        "twice as many: 96 can be expected to give 0.71, between 0.68 and 0.75 in 9 of 10 trainings of 2.5 minutes",
        "so more labels help: twice as many add about 0.05",
    ]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.67, 0.75, "more labels help: twice as many add about 0.05"),
        (0.60, 0.67, "help little: twice as many add at most 0.01"),
        (0.50, 0.60, "help little: twice as many add at most 0.00"),
        (0.60, 0.75, "cannot be told: twice as many change the score by -0.06 to +0.09"),
    ],
)
def test_the_verdict_goes_by_the_interval(low, high, words):
    assert words in LearningCurve(2.5, ROWS, replace(FOUND, low=low, high=high)).verdict()


def test_what_was_interrupted_in_its_first_training_goes_on_with_the_same_settings_alone(folder, trainings, tmp_path):
    asked, stop_at = trainings
    with pytest.raises(SpocoError, match="did you mean --seed"):
        learning_curve(folder, 12, tmp_path / "curve", sed=1)
    stop_at[0] = 0
    with pytest.raises(KeyboardInterrupt):
        learning_curve(folder, 12, tmp_path / "curve", seed=1)
    stop_at[0] = None
    # nothing was learnt yet
    learning_curve(folder, 13, tmp_path / "unlearnt")
    (tmp_path / "curve" / "trainings" / "25_percent_0").mkdir(parents=True)
    (tmp_path / "curve" / "trainings" / "25_percent_0" / "last.pt").touch()
    with pytest.raises(SpocoError, match="holds trainings of other settings"):
        learning_curve(folder, 12, tmp_path / "curve", seed=2)
    asked.clear()
    learning_curve(folder, 12, tmp_path / "curve", seed=1)
    assert [one["resume"] for one in asked] == [True] + 5 * [False]
