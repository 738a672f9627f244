"""Kills, full disks, spent memory, dead workers and vanished files: what is left is whole, and the next run goes on."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from datetime import date

import numpy as np
import psutil
import pytest
import tifffile
import torch

from door import Door
from spoco_bundle.formats import read_image
from spoco_bundle.handlers.checkpoint import load_checkpoint
from support import enlarge, small_disk

#: another one every day, the same all day
SEED = date.today().toordinal()

SETTINGS = {"dropout": 0.1, "iterations_per_epoch": 6, "max_epochs": 4, "val_interval": 1}


KILLS = pytest.mark.parametrize(
    "wanted", [pytest.param(9, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.endurance)]
)


@pytest.fixture
def door(tmp_path):
    (tmp_path / "door").mkdir()
    door = Door(tmp_path / "door")
    assert door.run("predict", tmp_path / "no.tif") == 2  # the fork server is warm from here on
    return door


@pytest.fixture
def train(sample, tiny_overlay):
    """Arguments of a training into a folder."""
    settings = [part for name, value in SETTINGS.items() for part in (f"--{name}", str(value))]
    return lambda folder, *more: ["train", sample, "--output", folder, "--config", tiny_overlay, *settings, *more]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for name in "abcd":
        tifffile.imwrite(folder / f"{name}.tif", random.integers(0, 999, (10, 40, 40)).astype(np.uint16))
    return folder


@pytest.fixture
def predict(images, trained):
    return lambda folder, *more: ["predict", images, "--model", trained, "--output", folder, "--device", "cpu", *more]


def resumed(folder):
    return ["--resume"] if (folder / "last.pt").is_file() or (folder / "last_previous.pt").is_file() else []


def saved(folder) -> int:
    """Iteration of the newest checkpoint; every file under its final name must be whole."""
    newest = 0
    for name in ("last.pt", "last_previous.pt"):
        if (folder / name).is_file():
            newest = max(newest, load_checkpoint(folder / name)["engine"]["iteration"])
    for name in ("model.pt", "model_student.pt"):
        if (folder / name).is_file():
            assert all(
                isinstance(value, torch.Tensor) for value in torch.load(folder / name, weights_only=True).values()
            )
    return newest


def assert_same_weights(one, other):
    for name in ("last.pt", "model.pt", "model_student.pt"):
        contents = [torch.load(folder / name, weights_only=True) for folder in (one, other)]
        for part in ("network", "teacher") if name == "last.pt" else (None,):
            states = [content[part] if part else content for content in contents]
            assert states[0].keys() == states[1].keys()
            for key in states[0]:
                assert torch.equal(states[0][key], states[1][key]), (name, key)


def results(folder) -> dict:
    """All results under their final names, read in full."""
    found = {}
    for path in sorted(folder.glob("[!.]*_instances.*")):
        found[path.name] = read_image(path, "label").array.tolist()
    for path in sorted(folder.glob("[!.]*_objects.csv")):
        found[path.name] = path.read_text()
    return found


@pytest.mark.timeout(900)
@KILLS
def test_a_training_killed_at_random_moments_loses_nothing(wanted, door, train, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "model"
    began = time.monotonic()
    assert door.run(*train(whole)) == 0, door.said()
    lasts = time.monotonic() - began
    print(f"seed {SEED}")
    random = np.random.default_rng(SEED)
    kills, before = 0, 0
    while kills < wanted:
        # every other time in the midst of writing
        watched = folder if kills % 2 else None
        killed = door.kill(random.uniform(0.1, 0.7) * lasts, *train(folder), *resumed(folder), watched=watched)
        kills += killed
        reached = saved(folder)
        assert reached >= before
        before = reached
        if not killed:
            assert_same_weights(folder, whole)
            shutil.rmtree(folder)
            before = 0
    assert door.run(*train(folder), *resumed(folder)) == 0, door.said()
    assert_same_weights(folder, whole)


@pytest.mark.timeout(900)
@KILLS
def test_a_prediction_killed_at_random_moments_leaves_whole_results_and_goes_on(wanted, door, predict, tmp_path):
    began = time.monotonic()
    assert door.run(*predict(tmp_path / "whole")) == 0, door.said()
    lasts = time.monotonic() - began
    expected = results(tmp_path / "whole")
    assert len(expected) == 8
    print(f"seed {SEED}")
    random = np.random.default_rng(SEED + 1)
    folder, kills = tmp_path / "out", 0
    while kills < wanted:
        watched = folder if kills % 2 else None
        kills += door.kill(random.uniform(0.3, 0.95) * lasts, *predict(folder), "--resume", watched=watched)
        found = results(folder)
        assert all(expected[name] == content for name, content in found.items())
        finished = {name for name in found if name.endswith(".csv")}
        assert all(name.replace("_objects.csv", "_instances.tif") in found for name in finished)
        if len(finished) == 4:
            shutil.rmtree(folder)
    assert door.run(*predict(folder), "--resume") == 0, door.said()
    assert results(folder) == expected
    assert not [path for path in folder.iterdir() if path.name.startswith(".")], "partial files stay"


@pytest.mark.slow
def test_a_prediction_goes_on_with_what_is_not_finished(door, predict, tmp_path):
    folder = tmp_path / "out"
    assert door.run(*predict(folder)) == 0, door.said()
    expected = results(folder)
    (folder / "b_objects.csv").unlink()
    (folder / "c_instances.tif").write_bytes(b"kept as it is")
    kept = (folder / "a_instances.tif").stat().st_mtime_ns
    assert door.run(*predict(folder), "--resume") == 0, door.said()
    assert (folder / "a_instances.tif").stat().st_mtime_ns == kept
    assert (folder / "c_instances.tif").read_bytes() == b"kept as it is"
    assert door.run(*predict(folder)) == 0
    assert results(folder) == expected


@pytest.mark.slow
def test_a_full_disk_ends_a_training_with_its_checkpoint_kept(door, train, tmp_path):
    whole = tmp_path / "whole"
    assert door.run(*train(whole)) == 0, door.said()
    used = sum(path.stat().st_size for path in whole.iterdir())
    with small_disk(tmp_path / "disk", int(used * 0.8)) as disk:
        folder = disk / "model"
        assert door.run(*train(folder)) == 2, door.said()
        assert "spoco: " in door.last_line() and str(folder) in door.last_line()
        assert "free space or choose another folder" in door.last_line()
        assert 0 < saved(folder) < 24
        assert "go on with --resume last" in door.said()
        assert door.run(*train(folder), "--resume") == 2, door.said()
        enlarge(disk)
        assert door.run(*train(folder), "--resume") == 0, door.said()
        assert_same_weights(folder, whole)


@pytest.mark.slow
def test_a_full_disk_ends_a_prediction_without_partial_results(door, predict, images, tmp_path):
    assert door.run(*predict(tmp_path / "whole")) == 0, door.said()
    expected = results(tmp_path / "whole")
    used = sum(path.stat().st_size for path in (tmp_path / "whole").iterdir())
    with small_disk(tmp_path / "disk", max(8192, used // 2)) as disk:
        assert door.run(*predict(disk / "out")) == 2, door.said()
        assert "could not be processed" in door.last_line() and "the disk is full" in door.said()
        assert "free space or choose another folder" in door.said()
        found = results(disk / "out")
        assert len(found) < len(expected)
        assert all(expected[name] == content for name, content in found.items())
        assert not [path for path in (disk / "out").iterdir() if path.name.startswith(".")]
        enlarge(disk)
        assert door.run(*predict(disk / "out"), "--resume") == 0, door.said()
        assert results(disk / "out") == expected


@pytest.mark.slow
def test_spent_memory_is_said_and_nothing_partial_stays(door, trained, tmp_path):
    image = tmp_path / "large.tif"
    tifffile.imwrite(image, np.random.default_rng(0).integers(0, 9, (64, 256, 256)).astype(np.uint8))
    options = ["--model", trained, "--output", tmp_path / "out", "--device", "cpu", "--window_size", "[64,256,256]"]
    assert door.run("predict", image, *options, address_space=150 * 2**20) == 2, door.said()
    assert "memory" in door.last_line() and "window_size" in door.last_line() and "large.tif" in door.last_line()
    assert not results(tmp_path / "out")


def loader_workers(process):
    """Children of the server that a command of these tests starts its workers with."""
    return [worker.pid for server in psutil.Process(process).children() for worker in server.children()]


@pytest.mark.slow
def test_a_dead_loader_worker_is_said_and_the_training_goes_on(door, train, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "model"
    assert door.run(*train(whole)) == 0, door.said()
    process = door.start(*train(folder), "--num_workers", 1)
    deadline = time.monotonic() + 100
    while process.is_alive():  # a worker that has handed over its last crop is not missed: the next one is
        assert time.monotonic() < deadline
        with suppress(ProcessLookupError, psutil.NoSuchProcess):  # it ended by itself
            if saved(folder) >= 2 and (workers := loader_workers(process.pid)):
                os.kill(workers[0], signal.SIGKILL)
        time.sleep(0.01)
    process.join(100)
    assert process.exitcode == 2, door.said()
    assert "num_workers" in door.last_line() and "--resume" in door.last_line()
    assert 2 <= saved(folder) < 24
    assert door.run(*train(folder), "--resume") == 0, door.said()
    assert_same_weights(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_volume_that_vanishes_during_training_is_named_and_the_training_goes_on(
    workers, door, sample, train, tmp_path
):
    data, whole, folder = tmp_path / "data", tmp_path / "whole", tmp_path / "model"
    shutil.copytree(sample, data)

    def command(target):
        return ["train", data, *train(target)[2:], "--cache_rate", 0, "--num_workers", workers]

    assert door.run(*command(whole)) == 0, door.said()
    volume = next(iter(sorted((data / "train").glob("*_raw.*"))))
    process = door.start(*command(folder))
    deadline = time.monotonic() + 100
    while process.is_alive() and saved(folder) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    volume.rename(tmp_path / "away")
    process.join(100)
    assert process.exitcode == 2, door.said()
    assert volume.name in door.last_line() and "no such file: check the path" in door.last_line()
    assert "go on with --resume last" in door.said()
    assert 2 <= saved(folder) < 24
    (tmp_path / "away").rename(volume)
    assert door.run(*command(folder), "--resume") == 0, door.said()
    assert_same_weights(folder, whole)


@pytest.mark.slow
def test_a_volume_that_vanishes_during_prediction_is_named_and_the_others_are_done(door, images, trained, tmp_path):
    folder, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(images, folder)
    process = door.start("predict", folder, "--model", trained, "--output", out, "--device", "cpu")
    deadline = time.monotonic() + 100
    while process.is_alive() and not (out / "a_instances.tif").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    (folder / "d.tif").unlink()
    process.join(100)
    assert process.exitcode == 2, door.said()
    assert "d.tif: no such file" in door.last_line()
    assert sorted(results(out)) == [f"{name}_{end}" for name in "abc" for end in ("instances.tif", "objects.csv")]
    shutil.copy(images / "d.tif", folder)
    assert door.run("predict", folder, "--model", trained, "--output", out, "--resume") == 0, door.said()
    assert len(results(out)) == 8
