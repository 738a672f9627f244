"""Which settings `spoco train` takes for the background, told or untold."""

from __future__ import annotations

import json
import logging
import sys

import numpy as np
import pytest
import tifffile

from spoco_bundle import cli
from spoco_bundle.app import tissue_choice, training
from spoco_bundle.app.config import find_config, read_configs
from spoco_bundle.app.model_config import write_model_config
from spoco_bundle.app.tissue_choice import measure_surroundings, tissue_overlays
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.synthetic import make_synthetic_sample
from support import dense_tissue

DENSE, FLAT = find_config("dense_tissue"), find_config("2d")

#: real data, and what they need; the first two are tissue
REAL = {
    "fib25_neuron": ((), {}, True),
    "ovule_plantseg": ((), {"spacing": [0.235, 0.15, 0.15]}, True),
    "bbbc050": ((), {"spacing": [1.75, 0.8, 0.8]}, False),
    "vnc_mito": ((), {"spacing": [0.0475, 0.0046, 0.0046]}, False),
    "gonuclear_mini": ((), {"spacing": [0.284, 0.127, 0.127]}, False),
    "dsb2018": (("2d",), {}, False),
    "cvppp_a1": (("2d",), {"in_channels": 3}, False),
}


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    """Two images of a tissue of which a third of the cells are annotated."""
    folder = tmp_path_factory.mktemp("tissue")
    for seed in (0, 1):
        random = np.random.default_rng(seed)
        image, label = dense_tissue(random, (128, 128), 40)
        label[~np.isin(label, random.permutation(40)[:13] + 1)] = 0
        (folder / "train").mkdir(exist_ok=True)
        tifffile.imwrite(folder / "train" / f"t{seed}_raw.tif", (image.clip(0, 2) * 100).astype(np.uint8))
        tifffile.imwrite(folder / "train" / f"t{seed}_label.tif", label.astype(np.uint16))
    return {"dataset_dir": str(folder)}


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory):
    """Three volumes of crowded nuclei."""
    folder = tmp_path_factory.mktemp("nuclei")
    make_synthetic_sample(folder, train_volumes=3, train_shape=(12, 48, 48), val_shape=(12, 48, 48))
    return {"dataset_dir": str(folder)}


@pytest.fixture
def unmeasured(monkeypatch):
    """Fails where something is measured."""

    def refuse(parser):
        raise AssertionError("measured")

    monkeypatch.setattr(tissue_choice, "measure_surroundings", refuse)


@pytest.fixture
def measured(monkeypatch):
    """Lets the measurement say what a test wants."""
    return lambda auc: monkeypatch.setattr(tissue_choice, "measure_surroundings", lambda parser: auc)


def test_tissue_is_noticed_and_nuclei_are_left_alone(tissue, nuclei, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        assert tissue_overlays([FLAT], tissue, "auto", tmp_path) == [FLAT, DENSE]
        assert tissue_overlays([], nuclei, "auto", tmp_path) == []
    alike, differ = caplog.messages
    assert "alike" in alike and "dense tissue, --tissue gaps if not" in alike
    assert "differ" in differ and "--tissue dense if not" in differ


def test_too_few_objects_choose_nothing_and_the_line_says_so(tissue, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        assert tissue_overlays([FLAT], {**tissue, "keep_fraction": 0.1}, "auto", tmp_path) == [FLAT]
    assert "too few annotated objects" in caplog.text


def test_the_configs_own_transforms_prepare_what_is_compared(nuclei):
    def auc(**overrides):
        return measure_surroundings(read_configs([find_config("train")], {**nuclei, **overrides}))

    found = auc()
    assert found > 0.8 and auc() == found
    assert auc(invert=True) == pytest.approx(found, abs=0.03)  # told apart the other way round
    assert auc(keep_fraction=0.05) is None
    assert auc(target_spacing=[4.0, 3.0, 3.0]) != found
    assert auc(ignore_label=0) is None


def test_a_bad_image_is_named(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a_raw.tif").write_bytes(b"no image")
    (tmp_path / "train" / "a_label.tif").write_bytes(b"no image")
    with pytest.raises(SpocoError, match="a_raw.tif"):
        tissue_overlays([], {"dataset_dir": str(tmp_path)}, "auto", tmp_path)
    with pytest.raises(SpocoError, match="nowhere"):
        tissue_overlays([], {"dataset_dir": "nowhere"}, "auto", tmp_path)


def test_few_volumes_are_read_spread_over_the_list(nuclei, monkeypatch):
    read = []

    def note(volumes, special, **_):
        read.extend(volumes.data)
        return len(volumes)

    monkeypatch.setattr(tissue_choice, "surroundings_auc", note)
    parser = read_configs([find_config("train")], nuclei)
    assert measure_surroundings(parser, max_volumes=2) == 2
    assert [item["image"][-14:-11] for item in read] == ["_00", "_02"]


def test_it_is_said_once_that_the_spacing_is_unknown(tissue, tmp_path, caplog):
    tissue_overlays([FLAT], tissue, "auto", tmp_path)
    assert "spacing" not in caplog.text  # left to the training


@pytest.mark.parametrize("auc", [0.5, 0.9, None])
def test_what_the_user_says_wins(auc, measured, unmeasured, tissue, tmp_path):
    assert tissue_overlays([FLAT], tissue, "dense", tmp_path) == [FLAT, DENSE]
    assert tissue_overlays([FLAT], tissue, "Gaps", tmp_path) == [FLAT]
    assert tissue_overlays([FLAT, DENSE], tissue, "dense", tmp_path) == [FLAT, DENSE]
    with pytest.raises(SpocoError, match="--tissue holes: give auto, dense or gaps"):
        tissue_overlays([FLAT], tissue, "holes", tmp_path)


@pytest.mark.parametrize(
    ("overlays", "overrides"),
    [
        (["dense_tissue"], {}),
        (["nonspatial"], {}),
        (["fine_tune"], {}),
        (["label"], {}),
        (["paper"], {}),
        (["2d"], {"objectness": False}),
        ([], {"objectness_target": "distance"}),
        ([], {"objectness_unlabeled_weight": 1.0}),
        ([], {"coordinate_channels": 0}),
        ([], {"coordinate_scale": 3.0}),
        ([], {"supervision": "dense"}),
        ([], {"background_label": 7}),
        ([], {"pretrained": "model.pt"}),
        ([], {"clustering#method": "mean_shift"}),
        ([], {"clustering::method": "mean_shift"}),
    ],
)
def test_nothing_is_measured_where_the_settings_decide(overlays, overrides, unmeasured, nuclei, tmp_path):
    files = [find_config(name) for name in overlays]
    assert tissue_overlays(files, {**nuclei, **overrides}, "auto", tmp_path) == files


def test_settings_that_decide_nothing_are_no_hindrance(measured, nuclei, tmp_path):
    measured(0.5)
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"embedding_channels": 6, "clustering#min_size": 20, "background_label": None}))
    overrides = {**nuclei, "loss#consistency_weight": 0.5, "network_def#dropout": 0.1}
    # behind the shipped ones, so that it holds against them, and not against the user's own
    assert tissue_overlays([FLAT, own], overrides, "auto", tmp_path) == [FLAT, DENSE, own]
    assert tissue_overlays([own], overrides, "auto", tmp_path) == [DENSE, own]
    assert tissue_overlays([own, FLAT], overrides, "auto", tmp_path) == [own, FLAT, DENSE]


def test_the_overlay_holds_in_volumes_and_images(tissue, nuclei):
    for files, data, channels in (([DENSE], nuclei, 3), ([FLAT, DENSE], tissue, 2)):
        parser = read_configs([find_config("train"), *files], data)
        assert parser.get_parsed_content("spatial_dims") == channels
        assert parser.get_parsed_content("objectness_unlabeled_weight") == 0.0


@pytest.mark.parametrize("began", [[], ["dense_tissue"]])
@pytest.mark.parametrize("resume", ["last", "previous", True, "{folder}/last.pt"])
def test_a_training_that_goes_on_takes_what_it_began_with(began, resume, unmeasured, nuclei, tmp_path, monkeypatch):
    files = [find_config(name) for name in began]
    first, elsewhere = tmp_path / "first", tmp_path / "elsewhere"
    for folder in (first, elsewhere):
        folder.mkdir()
    (first / "last.pt").touch()
    write_model_config([find_config("train"), *files], nuclei, first)
    # the config of something else lies in the working folder
    write_model_config([find_config("train"), DENSE][: 1 + (not files)], nuclei, elsewhere)
    monkeypatch.chdir(elsewhere)
    overrides = {**nuclei, "resume": resume.format(folder=first) if isinstance(resume, str) else resume}
    folder = elsewhere if isinstance(resume, str) and "/" in resume else first
    assert tissue_overlays([], overrides, "auto", folder) == files
    assert tissue_overlays(files, overrides, "auto", folder) == files
    assert tissue_overlays([], overrides, "gaps", folder) == []


def test_without_a_config_beside_the_model_a_training_goes_on_as_before(unmeasured, nuclei, tmp_path):
    assert tissue_overlays([], {**nuclei, "resume": "last"}, "auto", tmp_path) == []
    for broken in ("{", "[]"):
        (tmp_path / "model.json").write_text(broken)
        with pytest.raises(SpocoError, match="model.json.*--tissue dense"):
            tissue_overlays([], {**nuclei, "resume": "last"}, "auto", tmp_path)


def test_a_config_of_another_shape_is_left_alone(nuclei):
    parser = read_configs([find_config("train")], nuclei)
    parser["train"] = {"dataset": {"_target_": "Dataset"}}
    assert measure_surroundings(parser) is None


def trained(monkeypatch, *arguments):
    """The config files that `spoco train` would run, and its exit code."""
    ran = []
    # the folder holds no validation images, which the door asks for first
    monkeypatch.setattr(cli, "_check_early", lambda *_: None)
    monkeypatch.setattr(
        training, "run_configs", lambda files, overrides, kind: ran.append([file.stem for file in files])
    )
    monkeypatch.setattr(sys, "argv", ["spoco", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as ended:
        return ran, ended.code
    return ran, 0


def test_the_door_passes_it_on_and_a_resumed_training_keeps_it(tissue, tmp_path, monkeypatch):
    call = ("train", tissue["dataset_dir"], "--config", "2d", "--output", tmp_path / "model")
    dense, plain = ["train", "2d", "dense_tissue"], ["train", "2d"]
    assert trained(monkeypatch, *call) == ([dense], 0)
    record = json.loads((tmp_path / "model" / "run.json").read_text())
    assert record["ids"]["objectness_target"] == "interior" and "tissue" not in record["overrides"]
    assert json.loads((tmp_path / "model" / "model.json").read_text())["extent_threshold"] == 0.0
    monkeypatch.setattr(tissue_choice, "measure_surroundings", None)
    assert trained(monkeypatch, *call, "--resume") == ([dense], 0)
    assert trained(monkeypatch, *call, "--resume", "--tissue", "gaps") == ([plain], 0)


def test_a_bad_value_ends_in_one_line_before_anything_is_written(tissue, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert trained(monkeypatch, "train", tissue["dataset_dir"], "--tissue", "7") == ([], 2)
    assert capsys.readouterr().err.splitlines() == ["spoco: --tissue 7: give auto, dense or gaps"]
    assert not list(tmp_path.iterdir())


def test_the_demo_measures_nothing(unmeasured, tmp_path, monkeypatch):
    monkeypatch.setattr(cli.Spoco, "predict", lambda self, *args, **more: sys.exit(0))
    monkeypatch.setattr("spoco_bundle.dataset.synthetic.make_synthetic_sample", lambda folder, seed: None)
    assert trained(monkeypatch, "demo", "--output", tmp_path / "demo") == ([["train", "demo"]], 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_data_come_out_on_the_right_side(name, shared_dir, tmp_path):
    configs, settings, dense = REAL[name]
    files = [find_config(config) for config in configs]
    for seed in (0, 1):
        overrides = {"dataset_dir": str(shared_dir / "data" / name), "keep_fraction": 0.25, "keep_seed": seed}
        chosen = tissue_overlays(files, overrides | settings, "auto", tmp_path)
        assert (DENSE in chosen) == dense
