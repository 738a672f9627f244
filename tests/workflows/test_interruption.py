"""Trainings that are killed: what they leave, and that a resumed one ends as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from door import run_warm, start
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.handlers.checkpoint import load_checkpoint

# dropout and two epochs: draws of layers, the order of crops and the schedule all have to go on where they stopped
SETTINGS = {"precision": "float32", "dropout": 0.1, "iterations_per_epoch": 12, "max_epochs": 2, "val_interval": 100}


class Training:
    """``spoco train`` in processes, with one folder for the model."""

    def __init__(self, sample: Path, overlay: Path, folder: Path):
        self.folder = folder
        self.arguments = ["-m", "spoco_bundle.cli", "train", str(sample), "--output", str(folder)]
        self.arguments += ["--config", str(overlay)]
        for name, value in SETTINGS.items():
            self.arguments += [f"--{name}", str(value)]

    def run(self, *more: str) -> subprocess.CompletedProcess:
        """Runs until the process ends by itself."""
        return run_warm([*self.arguments, *more], cwd=self.folder.parent)

    def interrupt(self, number: signal.Signals, iteration: int, delay: float = 0.0, *more: str) -> tuple[int, int]:
        """Sends a signal once a checkpoint of an iteration lies there; returns the exit code and that iteration."""
        log = self.folder.with_name("interrupted.txt")
        process = start([*self.arguments, *more], self.folder.parent, (log, log))
        deadline = time.monotonic() + 200
        while self.saved() < iteration:
            if not process.is_alive() or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"the training did not reach iteration {iteration}: {log.read_text()[-2000:]}")
            time.sleep(0.002)
        time.sleep(delay)
        reached = self.saved()
        os.kill(process.pid, number)
        process.join(60)
        return process.exitcode, reached

    def saved(self) -> int:
        """Iteration of the newest checkpoint, 0 for none."""
        for name in ("last.pt", "last_previous.pt"):
            try:
                return self.content(name)["engine"]["iteration"]
            except SpocoError:  # not there yet, or no longer under this name
                continue
        return 0

    def content(self, name: str = "last.pt") -> dict:
        """What a checkpoint holds."""
        return load_checkpoint(self.folder / name)


@pytest.fixture
def training(sample, tiny_overlay, tmp_path) -> Training:
    """A training with a folder of its own."""
    return Training(sample, tiny_overlay, tmp_path / "model")


@pytest.fixture(scope="module")
def uninterrupted(sample, tiny_overlay, tmp_path_factory) -> dict:
    """The last checkpoint of a training that ran through."""
    training = Training(sample, tiny_overlay, tmp_path_factory.mktemp("uninterrupted") / "model")
    result = training.run()
    assert result.returncode == 0, result.stdout + result.stderr
    return training.content()


def assert_equal(one: Any, other: Any, name: str) -> None:
    """The same nested state, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), name
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), name
        for key in one:
            assert_equal(one[key], other[key], f"{name}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), name
        for number, pair in enumerate(zip(one, other)):
            assert_equal(*pair, f"{name}.{number}")
    else:
        assert one == other, name


def assert_same_end(training: Training, uninterrupted: dict) -> None:
    content = training.content()
    for name in ("engine", "network", "teacher", "optimizer", "lr_scheduler"):
        assert_equal(content[name], uninterrupted[name], name)


def resume(training: Training, *more: str) -> None:
    result = training.run("--resume", *more)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_sigterm_saves_and_the_resumed_training_ends_bit_for_bit_as_one_never_interrupted(training, uninterrupted):
    code, reached = training.interrupt(signal.SIGTERM, 5)
    assert code == 143
    assert reached <= training.saved() < 24
    resume(training)
    assert_same_end(training, uninterrupted)


@pytest.mark.slow
def test_sigterm_saves_between_checkpoints(training, uninterrupted):
    code, reached = training.interrupt(signal.SIGTERM, 5, 0.02, "--checkpoint_interval", "5")
    assert code == 143
    assert training.saved() > reached
    resume(training)
    assert_same_end(training, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("seed", range(2))
def test_sigkill_at_a_random_moment_loses_at_most_one_interval(seed, interval, training, uninterrupted):
    rng = np.random.default_rng((seed, interval))
    more = ["--checkpoint_interval", str(interval)]
    iteration, delay = int(rng.integers(1, 18)), float(rng.uniform(0, 0.1))
    code, reached = training.interrupt(signal.SIGKILL, iteration, delay, *more)
    assert code == -signal.SIGKILL
    saved = training.saved()
    assert reached <= saved < 24
    assert saved % interval == 0 or saved == 12, "a checkpoint beside the interval and the end of the epoch"
    resume(training, *more)
    assert_same_end(training, uninterrupted)


@pytest.mark.slow
def test_several_interruptions_in_one_training(training, uninterrupted):
    training.interrupt(signal.SIGKILL, 3, 0.01)
    training.interrupt(signal.SIGTERM, 8, 0.01, "--resume")
    training.interrupt(signal.SIGKILL, 15, 0.01, "--resume")
    resume(training)
    assert_same_end(training, uninterrupted)


@pytest.mark.slow
def test_truncated_checkpoint_is_refused_and_the_previous_one_goes_on(training, uninterrupted):
    training.interrupt(signal.SIGTERM, 5)
    last = training.folder / "last.pt"
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // 2])
    before = {path.name: path.read_bytes() for path in training.folder.glob("*.pt")}

    result = training.run("--resume")
    assert result.returncode == 2, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("spoco: ")]
    assert len(lines) == 1 and "Traceback" not in result.stdout + result.stderr
    assert str(last) in lines[0] and "previous" in lines[0]
    assert {path.name: path.read_bytes() for path in training.folder.glob("*.pt")} == before

    resume(training, "previous")
    assert_same_end(training, uninterrupted)


@pytest.mark.slow
def test_resume_takes_a_file_and_refuses_one_that_is_not_there(training, uninterrupted, tmp_path):
    training.interrupt(signal.SIGTERM, 5)
    moved = tmp_path / "kept.pt"
    shutil.move(training.folder / "last.pt", moved)
    result = training.run("--resume", str(tmp_path / "nowhere.pt"))
    assert result.returncode == 2 and "nowhere.pt: no such checkpoint" in result.stderr
    resume(training, str(moved))
    assert_same_end(training, uninterrupted)
