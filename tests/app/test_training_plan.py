from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tifffile
import torch

from spoco_bundle.app import run_summary
from spoco_bundle.app.config import find_config
from spoco_bundle.app.run_record import RUN_RECORD
from spoco_bundle.app.training import train
from spoco_bundle.app.training_plan import PLAN, plan_folder, training_files
from spoco_bundle.core.atomic_files import write_json
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.synthetic import make_synthetic_sample
from spoco_bundle.handlers.checkpoint import EARLIER, FORMAT, LAST
from spoco_bundle.networks import EmbeddingUNet


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images in colour, of discs 60 pixels wide."""
    made = tmp_path_factory.mktemp("plan")
    y, x = np.mgrid[:400, :400]
    label = np.zeros((400, 400), np.uint16)
    for number, (row, column) in enumerate(np.ndindex(4, 4), 1):
        label[np.hypot(y - 50 - 100 * row, x - 50 - 100 * column) < 30] = number
    image = np.random.default_rng(0).integers(0, 60, (400, 400, 3)) + 150 * (label > 0)[..., None]
    for split in ("train", "val"):
        (made / split).mkdir()
        tifffile.imwrite(made / split / "a_raw.tif", image.astype(np.uint8), photometric="rgb")
        tifffile.imwrite(made / split / "a_label.tif", label)
    return made


def test_the_files_and_the_objects_decide(folder):
    lines, ids = plan_folder(folder)
    assert ids["spatial_dims"] == 2 and ids["in_channels"] == 3 and not ids["dense"]
    # discs of about 60 pixels become about 30 voxels
    assert ids["target_spacing"] == pytest.approx([2, 2], rel=0.1)
    assert ids["object_diameter"] == pytest.approx(60, rel=0.05)
    assert lines[0].startswith("1 annotated 2D image of about 400 x 400 voxels, 3 channels")
    assert any(line.startswith("working resolution 1.9") for line in lines)
    assert ids["embedding_channels"] == 8 and ids["coordinate_channels"] == 2


def test_what_is_held_out_is_said(folder):
    said = "25% of the annotated objects are held out to validate on, at least one of each image"
    assert said in plan_folder(folder, validation_split="train")[0] and said not in plan_folder(folder)[0]


def test_a_share_to_hold_out_beside_a_part_that_validates_is_refused(folder):
    with pytest.raises(SpocoError, match="holdout_fraction: nothing is held out where val/ validates"):
        plan_folder(folder, holdout_fraction=0.25)


def test_of_images_with_one_object_each_some_train_and_others_validate(tmp_path):
    (tmp_path / "train").mkdir()
    for number in range(8):
        label = np.zeros((64, 64), np.uint8)
        label[10 + number : 30, 20:40] = 1
        tifffile.imwrite(tmp_path / "train" / f"{number}_raw.tif", 100 * label)
        tifffile.imwrite(tmp_path / "train" / f"{number}_label.tif", label)
    lines = plan_folder(tmp_path)[0]
    assert "25% of the annotated objects are held out to validate on, of all images together: 2 of 8" in lines
    assert lines[0].startswith("6 annotated 2D images"), "those of which nothing trains are left out"
    for file in sorted((tmp_path / "train").glob("[1-7]_*")):
        file.unlink()
    assert "nothing is held out to validate on, since there is a single annotated object" in plan_folder(tmp_path)[0]


def test_what_is_given_wins_and_the_rest_follows(folder):
    _, ids = plan_folder(folder, target_spacing=[0.5, 0.5], batch_size=1)
    assert ids["target_spacing"] == [0.5, 0.5] and ids["batch_size"] == 1
    assert ids["crop_size"][0] > plan_folder(folder)[1]["crop_size"][0]
    assert plan_folder(folder, tissue="dense")[1]["coordinate_channels"] == 0
    lines, _ = plan_folder(folder, target_spacing=[1, 1], crop_size=[64, 64])
    assert any("crops of 64 x 64 voxels at a time: each has room for 1.1 typical" in line for line in lines)
    with pytest.raises(SpocoError, match="in_channels is 1, the images have 3 channels"):
        plan_folder(folder, in_channels=1)


def test_outlines_in_volumes_go_by_whether_all_else_is_known_to_be_background(tmp_path):
    make_synthetic_sample(tmp_path, seed=0, train_volumes=1, train_shape=(10, 40, 40), val_shape=(10, 40, 48))
    ids = plan_folder(tmp_path)[1]
    assert ids["objectness_unlabeled_relative"] and ids["objectness_shell"] == 0
    for said in ({"background_label": 0}, {"supervision": "dense"}):
        ids = plan_folder(tmp_path, **said)[1]
        assert not ids["objectness_unlabeled_relative"] and ids["objectness_shell"] == 1


def test_a_plan_is_an_overlay_that_comes_to_itself(folder, tmp_path):
    _, ids = plan_folder(folder)
    file = write_json(tmp_path / "mine.json", ids | {"crop_size": [64, 64]})
    assert plan_folder(folder, config=str(file))[1] == ids | {"crop_size": [64, 64]}


def test_a_training_that_goes_on_keeps_its_plan_and_one_from_weights_their_network(folder, tmp_path):
    base = find_config("train")
    ids = {"dataset_dir": str(folder)}
    assert training_files("", ids) == [base]
    write_json(tmp_path / PLAN, {"batch_size": 3})
    assert training_files("", ids, tmp_path) == [base, tmp_path / PLAN]
    (tmp_path / PLAN).unlink()
    assert training_files("", ids, tmp_path) == [base]
    beside = tmp_path / "model.json"
    beside.write_text(json.dumps({"channels": [4, 8]}))
    assert training_files("", ids, tmp_path) == [base, beside]
    images_say = find_config("pretrained")
    assert json.loads(images_say.read_text()).items() <= json.loads(base.read_text()).items(), "as from nothing"
    assert training_files("", ids | {"pretrained": str(tmp_path / "model.pt")}) == [base, beside, images_say]
    shipped = training_files("fine_tune", ids)
    assert shipped[1].parts[-2:] == ("2d", "model.json") and shipped[2:] == [images_say, find_config("fine_tune")]


def test_a_plan_or_a_model_of_somebody_else_runs_no_code(folder, tmp_path):
    ids = {"dataset_dir": str(folder)}
    write_json(tmp_path / PLAN, {"batch_size": "$print()"})
    with pytest.raises(SpocoError, match=r"plan.json: batch_size would run '\$print\(\)'"):
        training_files("", ids, tmp_path)
    write_json(tmp_path / "model.json", {"channels": "$print()"})
    with pytest.raises(SpocoError, match="model.json: channels would run"):
        training_files("", ids | {"pretrained": str(tmp_path / "model.pt")})


def test_a_training_from_weights_that_goes_on_keeps_their_settings(folder, tmp_path):
    beside = write_json(tmp_path / "theirs" / "model.json", {"object_diameter": 9.0, "invert": True})
    ids = {"dataset_dir": str(folder), "pretrained": str(beside.with_name("model.pt"))}
    write_json(tmp_path / PLAN, {"batch_size": 3})
    assert training_files("", ids, tmp_path) == [find_config("train"), beside, tmp_path / PLAN]


def test_a_training_that_is_refused_leaves_what_lies_in_its_folder(folder, tmp_path):
    for name in (PLAN, RUN_RECORD):
        (tmp_path / name).write_text('{"ids": "of another training"}')
    with pytest.raises(SpocoError, match="crop_size"):
        train(folder, tmp_path, crop_size=[30_000, 30_000], max_epochs=1)
    for name in (PLAN, RUN_RECORD):
        assert (tmp_path / name).read_text() == '{"ids": "of another training"}'


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "go_on.pt: no such checkpoint"),
        ({"weight": torch.zeros(2)}, "go_on.pt: not a training checkpoint"),
        ({"format": FORMAT, "network": {"weight": torch.zeros(2)}}, "go_on.pt: the state of 'network' does not fit"),
    ],
)
def test_a_training_that_cannot_go_on_writes_nothing(folder, tmp_path, content, problem):
    if content is not None:
        torch.save(content, tmp_path / "go_on.pt")
    with pytest.raises(SpocoError, match=problem):
        train(folder, tmp_path / "out", resume=tmp_path / "go_on.pt", max_epochs=1)
    assert not (tmp_path / "out").exists()


def test_the_plan_of_a_training_never_lies_beside_the_checkpoint_of_another(folder, tmp_path, monkeypatch):
    (tmp_path / LAST).write_bytes(b"of another training")

    def stop(*arguments, **options):
        raise SpocoError("stopped before the first iteration")

    monkeypatch.setattr(run_summary, "log_summary", stop)
    with pytest.raises(SpocoError, match="stopped before"):
        train(folder, tmp_path, max_epochs=1)
    assert (tmp_path / PLAN).is_file() and not (tmp_path / LAST).exists()
    assert (tmp_path / EARLIER).read_bytes() == b"of another training"


#: a network so small that it is made at once
TINY_FLAT = {"channels": [4, 8], "strides": [2], "kernel_sizes": [3, 3], "convolutions": 1, "max_epochs": 1}


@pytest.mark.parametrize("wrong", ["iterations", "epochs", "validation", "metric"])
def test_what_is_refused_by_checkpoint_data_or_options_is_refused_before_anything_is_written(folder, tmp_path, wrong):
    network = {name: value for name, value in TINY_FLAT.items() if name != "iterations_per_epoch"}
    resume, given, problem = False, {}, ""
    if wrong in ("iterations", "epochs"):
        made = EmbeddingUNet(2, 3, 9, (4, 8), (2,), (3, 3), 1, norm="batch")
        position = {"iteration": 40, "epoch": 8, "epoch_length": 5, "max_epochs": 8}
        torch.save({"format": FORMAT, "network": made.state_dict(), "engine": position}, tmp_path / "go_on.pt")
        resume = tmp_path / "go_on.pt"
        given = {"iterations_per_epoch": 6 if wrong == "iterations" else 5, "max_epochs": 1}
        problem = "5 iterations per epoch, this run has 6" if wrong == "iterations" else "max_epochs is 1"
    elif wrong == "metric":
        given, problem = {"key_metric": "beauty"}, "metric 'beauty'"
    else:
        folder = shutil.copytree(folder, tmp_path / "data")
        tifffile.imwrite(folder / "val" / "a_label.tif", np.zeros((400, 400), np.uint16))
        problem = "a_label.tif"
    with pytest.raises(SpocoError, match=problem):
        train(folder, tmp_path / "out", resume=resume, **{**network, **given})
    assert not (tmp_path / "out").exists()
