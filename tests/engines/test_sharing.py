"""Images of one run shared by several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from monai.data import DataLoader, MetaTensor

from spoco_bundle.core.errors import SpocoError, user_error
from spoco_bundle.dataset import BatchDataset
from spoco_bundle.engines import BatchEvaluator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")


def shared_run(folder, names, processes, on_image=lambda name, helper: None):
    """Runs over images, each of which leaves a file with the number of its process; returns what the run raised."""
    parent = os.getpid()

    def load(item):
        name = item["image"]
        time.sleep(0.05)  # long enough for the others to be ready
        on_image(name, os.getpid() != parent)
        with (folder / name).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return {"image": MetaTensor(torch.ones(1, 1, 1), meta={"filename_or_obj": name})}

    loader = DataLoader(BatchDataset([{"image": name} for name in names], load), batch_size=1)
    evaluator = BatchEvaluator(
        processes=processes, device=torch.device("cpu"), val_data_loader=loader, network=torch.nn.Identity()
    )
    try:
        evaluator.run()
    except Exception as error:
        return error
    finally:
        assert not psutil.Process().children(), "no process is left behind"
    return None


def test_every_image_is_done_once_and_by_several_processes(tmp_path, caplog):
    caplog.set_level("INFO", "spoco_bundle")
    names = [f"{number:02}" for number in range(24)]
    threads = torch.get_num_threads()
    assert shared_run(tmp_path, names, 3) is None
    lines = {path.name: path.read_text().split() for path in tmp_path.iterdir()}
    assert sorted(lines) == names and all(len(line) == 1 for line in lines.values())
    assert len({line[0] for line in lines.values()}) == 3
    assert caplog.text.count("images: 24 of 24") == 1
    assert lines["00"] == [str(os.getpid())] and torch.get_num_threads() == threads


def test_bad_images_are_named_in_their_order_whoever_met_them(tmp_path, capsys):
    def refuse(name, helper):
        if int(name) % 3 == 0:
            raise RuntimeError("applying transform") from SpocoError(f"{name}: is bad: mend it")

    error = user_error(shared_run(tmp_path, [f"{number:02}" for number in range(12)], 3, refuse))
    assert "4 of 12 images could not be processed, the other 8 are done" in str(error)
    assert "00, 03, 06, 09" in str(error)
    assert capsys.readouterr().err.count("is bad: mend it") == 4


def test_a_defect_in_a_helper_ends_the_run(tmp_path):
    def fail(name, helper):
        if helper:
            raise KeyError("a defect")

    error = shared_run(tmp_path, [str(number) for number in range(9)], 2, fail)
    assert user_error(error) is None and "KeyError: 'a defect'" in str(error)


def test_an_interrupted_helper_ends_within_the_run(tmp_path):
    def interrupt(name, helper):
        if helper:
            raise KeyboardInterrupt

    assert "KeyboardInterrupt" in str(shared_run(tmp_path, [str(number) for number in range(9)], 2, interrupt))


def test_a_helper_that_the_system_ends_is_told_with_its_remedy(tmp_path):
    def die(name, helper):
        if helper:
            os.kill(os.getpid(), signal.SIGKILL)

    error = shared_run(tmp_path, [str(number) for number in range(9)], 2, die)
    assert isinstance(error, SpocoError) and "--processes 1" in str(error)


def test_a_failure_here_ends_the_helpers(tmp_path):
    def fail(name, helper):
        if name == "5" and not helper:
            raise KeyError("here")
        time.sleep(0.2 if helper else 0)

    error = shared_run(tmp_path, [str(number) for number in range(40)], 2, fail)
    assert "here" in repr(error.__cause__)


def test_two_images_are_not_worth_a_helper(tmp_path):
    assert shared_run(tmp_path, ["a", "b"], 4) is None
    assert {path.read_text() for path in tmp_path.iterdir()} == {f"{os.getpid()}\n"}


@pytest.mark.parametrize("processes", [0, -1])
def test_no_process_at_all_is_refused(processes):
    with pytest.raises(SpocoError, match="processes is"):
        BatchEvaluator(
            processes=processes, device=torch.device("cpu"), val_data_loader=[0], network=torch.nn.Identity()
        )


@pytest.mark.slow
def test_helpers_end_where_the_command_was_killed(tmp_path):
    script = f"""
import sys, time
sys.path.insert(0, {os.path.dirname(__file__)!r})
from pathlib import Path
from test_sharing import shared_run
shared_run(Path({str(tmp_path)!r}), [str(number) for number in range(1000)], 3)
"""
    running = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 120
        while len(helpers := psutil.Process(running.pid).children()) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(helpers) == 2
    finally:
        running.kill()
        running.wait()
    _, alive = psutil.wait_procs(helpers, timeout=20)
    assert not alive
