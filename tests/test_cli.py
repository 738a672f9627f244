"""What the console script refuses, before anything heavy is loaded, and how it takes names."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from door import run_warm
from spoco_bundle import cli
from spoco_bundle.app import early_checks
from spoco_bundle.app.arguments import spelled_out
from spoco_bundle.app.config import find_config
from spoco_bundle.core.errors import SpocoError
from support import run_python

#: each takes a second or more to load, or is loaded by what does
HEAVY = (
    "torch",
    "monai",
    "ignite",
    "scipy.ndimage",
    "scipy.stats",
    "sklearn",
    "matplotlib",
    "skimage",
    "dask",
    "itk",
    "zarr",
    "IPython",
)

#: what a prediction does without, whether it is installed or not
NOT_FOR_A_PREDICTION = (
    *("dask", "distributed", "fast_hdbscan", "huggingface_hub", "IPython", "itk", "matplotlib", "mlflow", "mwatershed"),
    *("numba", "onnx", "pandas", "requests", "scipy.optimize", "scipy.signal", "scipy.stats", "skimage", "sklearn"),
    *("sympy", "tensorboard", "torch.distributed.optim", "torchvision", "transformers", "xarray", "zarr"),
)

REFUSED = {
    "help": (["--help"], 0, "train"),
    "help of a command": (["predict", "--help"], 0, "OME-Zarr"),
    "no command": ([], 0, "train"),
    "unknown command": (["segment", "a.tif"], 2, "segment"),
    "missing argument": (["train"], 2, "dataset_dir"),
    "missing image": (["predict", "no.tif"], 2, "no.tif: no file, folder or match of this name"),
    "one of several images missing": (["predict", "here.tif", "no.tif"], 2, "no.tif: no file"),
    "no image": (["predict", "--output", "out"], 2, "no image: name"),
    "missing folder": (["train", "nowhere"], 2, "nowhere: no such folder"),
    "empty folder for validation": (["train", "empty"], 2, "empty/val: has no image named"),
    "missing folder to evaluate": (["evaluate", "nowhere"], 2, "nowhere: no such folder"),
    "missing model": (["predict", "here.tif", "--model", "nowhere"], 2, "nowhere: holds no model.pt"),
    "unknown id": (["train", "data", "--max_epoch", "3"], 2, "did you mean --max_epochs?"),
    "unknown id of prediction": (["predict", "here.tif", "--window_sise", "3"], 2, "did you mean --window_size?"),
    "value out of range": (["tune", "data", "--objectness_threshold", "2"], 2, "between 0 and 1"),
    "unknown config": (["evaluate", "data", "--config", "3d"], 2, "config 3d: no such file"),
    "folder without images to tune on": (["tune", "data"], 2, "data: has no val/"),
    "a place that an option names": (["train", "data", "--ckpt_dir", "m"], 2, "--ckpt_dir: give --output"),
    "an image twice": (["predict", "here.tif", "--dataset_dir", "a"], 2, "--dataset_dir: give the image alone"),
    "a switch before a name": (["predict", "--resume", "here.tif", "no.tif"], 2, "--resume here.tif: is True or False"),
    "a number that is none": (["report", "data", "--max_images", "all"], 2, "--max_images all: give a whole number"),
    "a named result that is resumed": (["predict", "here.tif", "--output", "a.zarr", "--resume"], 2, "leave it out"),
    "settings in no JSON file": (["tune", "data", "--output", "tuned"], 2, "name a file that ends with .json"),
    "a plan in no JSON file": (
        ["plan", "data", "--output", "plan"],
        2,
        "--output plan: name a file that ends with .json",
    ),
    "a command by another name": (["predcit", "here.tif"], 2, "predcit: no such command; did you mean predict?"),
    "an option without its value": (["predict", "here.tif", "--output"], 2, "--output: names nothing"),
    "an option twice": (["train", "data", "--config", "2d", "--config", "demo"], 2, "--config: is given twice"),
    "the same option twice": (
        ["train", "data", "--batch-size=2", "--batch_size", "3"],
        2,
        "batch_size: is given twice",
    ),
    "a misspelt option": (["predict", "here.tif", "--modle", "m"], 2, "did you mean --model?"),
    "a file for a folder": (["predict", "here.tif", "--output", "here_seg.tif"], 2, "here_seg.tif: names a folder"),
    "a model for its folder": (["train", "data", "--output", "m/model.pt"], 2, "model.pt: names a folder"),
    "a place below a file": (["evaluate", "data", "--output", "here/out"], 2, "here is no folder that can be"),
    "a time of an image without one": (["predict", "flat.tif", "--time", "0"], 2, "time is 0, but the image has no"),
    "a channel that a stack lacks": (["predict", "stack.tif", "--channel", "3"], 2, "has channels 0 to 0"),
    "a misspelt option of a report": (["report", "data", "--embedings", "False"], 2, "--embedings: no such option"),
    "an ending that a config cannot hold": (["train", "data", "--image_ending", "_c#1"], 2, "'_c#1' does not fit"),
    "settings over the datalist": (["plan", "list.json", "--output", "./list.json"], 2, "overwrite the datalist"),
    "two folders": (["train", "data", "model"], 2, "model: spoco train takes one name, data here"),
}

RUN_ALL = """
import contextlib, io, json, sys
from spoco_bundle.cli import main

ended = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["spoco", *arguments]
    said, code = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    ended.append([code, said.getvalue()])
print(json.dumps([ended, [name for name, module in sys.modules.items() if module is not None]]))
"""


def test_help_wrong_options_and_missing_files_are_answered_before_anything_heavy_is_loaded(tmp_path):
    for name in ("here.tif", "here"):
        (tmp_path / name).touch()
    tifffile.imwrite(tmp_path / "flat.tif", np.eye(20, dtype=np.uint8))
    tifffile.imwrite(tmp_path / "stack.tif", np.ones((5, 20, 20), np.uint8), metadata={"axes": "ZYX"})
    (tmp_path / "empty" / "val").mkdir(parents=True)
    for folder in (tmp_path / "data" / "train", tmp_path / "empty" / "train"):
        folder.mkdir(parents=True)
        for name in ("a_raw.tif", "a_label.tif"):
            (folder / name).touch()
    commands = json.dumps([arguments for arguments, _, _ in REFUSED.values()])
    result = run_python(["-c", RUN_ALL, commands], cwd=tmp_path, PAGER="cat")
    assert result.returncode == 0, result.stderr
    ended, modules = json.loads(result.stdout)
    for name, (_, code, words), (found, said) in zip(REFUSED, REFUSED.values(), ended):
        assert found == code and words in said, f"{name}: {found}\n{said}"
    assert set(HEAVY) & set(modules) == set()
    assert len(modules) < 1000


@pytest.mark.slow
def test_a_prediction_loads_what_it_needs_and_finds_what_it_finds_with_everything_loaded(tmp_path):
    image = np.random.default_rng(0).normal(100, 20, (8, 64, 64))
    image[2:6, 10:30, 10:30] += 300
    tifffile.imwrite(tmp_path / "a.tif", image.clip(0).astype(np.uint16), metadata={"axes": "ZYX"})
    arguments = ["predict", "a.tif", "--device", "cpu", "--output"]
    cold = run_python(["-c", RUN_ALL, json.dumps([[*arguments, "cold"]])], cwd=tmp_path)
    assert cold.returncode == 0, cold.stderr
    [[code, said]], modules = json.loads(cold.stdout)
    assert code == 0, said
    assert set(NOT_FOR_A_PREDICTION) & set(modules) == set()
    assert len(modules) < 2600
    warm = run_warm(["-m", "spoco_bundle.cli", *arguments, "warm"], cwd=tmp_path)
    assert warm.returncode == 0, warm.stderr
    for name in ("a_instances.tif", "a_objects.csv"):
        assert (tmp_path / "cold" / name).read_bytes() == (tmp_path / "warm" / name).read_bytes()
    assert (tifffile.imread(tmp_path / "cold" / "a_instances.tif") > 0).sum() > 1000


def test_no_training_asks_for_validation_images(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("a_raw.tif", "a_label.tif"):
        (tmp_path / "train" / name).touch()
    splits = ("train#dataset#data#split", "validate#dataset#data#split")
    given = {"dataset_dir": str(tmp_path)}
    for files in (["train"], ["train", "fine_tune"]):
        files = [find_config(name) for name in files]
        assert len(early_checks.check_early(files, given, splits)) == 1
        with pytest.raises(SpocoError, match="has no val/"):
            early_checks.check_early(files, given | {"validate#dataset#data#split": "val"}, splits)
    (tmp_path / "val").mkdir()
    with pytest.raises(SpocoError, match="val: has no image"):
        early_checks.check_early(files, given, splits)


@pytest.mark.parametrize("place", ["validate#dataset", "validate#dataset#data"])
@pytest.mark.parametrize("value", ["@train#dataset", {"_target_": "CacheDataset"}])
def test_a_data_set_of_ones_own_is_left_to_the_run(place, value, tmp_path):
    """Where a config replaces the data set there is no split to look at, and nothing to refuse early."""
    overlay = tmp_path / "own.json"
    overlay.write_text(json.dumps({place: value}))
    given = {"dataset_dir": str(tmp_path)}
    early_checks.check_early([find_config("train"), overlay], given, ("validate#dataset#data#split",))


def test_the_version_is_that_of_the_package(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["spoco", "--version"])
    cli.main()
    assert capsys.readouterr().out == f"spoco {cli.__version__}\n"


def test_the_package_itself_loads_nothing(tmp_path):
    result = run_python(["-c", "import sys, spoco_bundle; print(len(sys.modules), 'numpy' in sys.modules)"], tmp_path)
    count, numpy = result.stdout.split()
    assert int(count) < 200 and numpy == "False"


@pytest.mark.parametrize(
    "arguments, spelled",
    [
        (["predict", "001", "1e5", "a,b"], ["predict", "'001'", "'1e5'", "'a,b'"]),
        (["predict", "a.tif", "--seed", "-1", "b.tif"], ["predict", "'a.tif'", "--seed", "-1", "'b.tif'"]),
        (["predict", "--output=out", "a.tif"], ["predict", "--output=out", "'a.tif'"]),
        (["train", "data", "--resume"], ["train", "data", "--resume"]),
        (
            ["predict", "true", "--invert", "false", "--seed=null"],
            ["predict", "'true'", "--invert", "False", "--seed=None"],
        ),
        (["train", "data", "--output", "-h"], ["train", "--", "--help"]),
        (["predict", "a.tif", "-o", "out"], ["predict", "'a.tif'", "--output", "out"]),
        (["predict", "a.tif", "-m=3"], ["predict", "'a.tif'", "--m=3"]),  # model and max_memory begin with it
        (["train", "data", "--label_ending", "-seg"], ["train", "data", "--label_ending=-seg"]),
        (["learning-curve", "--help"], ["learning_curve", "--", "--help"]),
        (["learning-curve", "data", "--seed", "-1"], ["learning_curve", "data", "--seed", "-1"]),
        ([], ["--", "--help"]),
    ],
)
def test_names_are_taken_letter_by_letter(arguments, spelled):
    assert spelled_out(arguments, cli.Spoco) == spelled


@pytest.mark.parametrize("command", ["demo", "train", "evaluate", "tune", "learning-curve", "report", "label"])
def test_a_second_name_is_refused_where_one_is_taken(command):
    with pytest.raises(SpocoError, match="b: .* takes one name, a here.*--output"):
        spelled_out([command, "a", "--output", "m", "b"], cli.Spoco)


@pytest.mark.parametrize("images, source", [(["a.tif"], "a.tif"), (["a.tif", "1e5"], ["a.tif", "1e5"])])
def test_prediction_takes_several_images(images, source, monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "check_early", lambda files, overrides, splits: asked.append(overrides["dataset_dir"]))
    monkeypatch.setattr(cli, "readable_dimensions", lambda *_: 3)
    monkeypatch.setattr("spoco_bundle.app.prediction_plan.plan_predictions", lambda *_: [])
    monkeypatch.setattr("spoco_bundle.app.run_record.write_run_record", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["spoco", "predict", *images])
    cli.main()
    assert asked == [source]
