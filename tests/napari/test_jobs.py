"""Commands in processes: what is read from their lines, and how they end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import psutil
import pytest

from spoco_bundle.core import progress
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.napari import jobs
from spoco_bundle.napari.jobs import CancelledError, CommandRun, JobProgress, read_progress


@pytest.mark.parametrize("gone", [0, 1, 2, 20, 60, 90])
@pytest.mark.parametrize("done", [10, 20, 40])
def test_progress_is_read_as_the_commands_write_it(monkeypatch, gone, done):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = progress.Progress("iterations", 40, quiet=True)
    now[0] = float(gone)
    shown.update(done)
    line = shown.line(epoch="1 of 4", loss="0.250")
    left = pytest.approx(gone * (40 - done) / done)
    assert read_progress(line) == JobProgress(f"iterations: {done} of 40, epoch 1 of 4, loss 0.250", done / 40, left)


def test_lines_without_a_share_are_read_as_they_are():
    assert read_progress("blocks: 1 of 4, 2 seconds gone, about 6 seconds left").seconds_left == 6
    assert read_progress("weights from model.pt") == JobProgress("weights from model.pt")
    assert read_progress("windows: 3, 6 seconds gone").fraction is None


def test_what_the_user_can_mend_comes_as_one_line(tmp_path):
    with pytest.raises(SpocoError) as error:
        list(CommandRun().run(["predict", str(tmp_path / "nowhere.tif")]))
    assert str(error.value).startswith(str(tmp_path / "nowhere.tif")) and "\n" not in str(error.value)


def test_cancelled_before_it_begins():
    # the test process may have other children, which are not this job's: the tracker of shared memory is one
    before = psutil.Process().children()
    job = CommandRun()
    job.cancel()
    with pytest.raises(CancelledError):
        next(job.run(["--help"]))
    assert set(psutil.Process().children()) <= set(before)


def test_cancel_ends_a_process_that_will_not_end_with_its_children(monkeypatch):
    script = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "print(child.pid, flush=True); time.sleep(600)"
    )
    monkeypatch.setattr(jobs, "COMMAND", ["-c", script])
    monkeypatch.setattr(jobs, "GRACE", 0.2)
    job = CommandRun()
    steps = job.run([])
    grandchild = psutil.Process(int(next(steps).text))
    before = threading.active_count()
    job.cancel()
    with pytest.raises(CancelledError):
        next(steps)
    job.close()
    # it is gone, or dead and waiting for a system process to notice
    end = time.monotonic() + 60
    while grandchild.is_running() and grandchild.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_command_ends_when_the_process_that_started_it_is_killed():
    command = (
        "import os, threading, time; from spoco_bundle.napari.command import _end_with_parent; "
        "threading.Thread(target=_end_with_parent).start(); print(os.getpid(), flush=True); time.sleep(600)"
    )
    script = (
        "import sys; from spoco_bundle.napari import jobs; jobs.COMMAND = ['-c', sys.argv[1]]\n"
        "for progress in jobs.CommandRun().run([]): print(progress.text, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", script, command], stdout=subprocess.PIPE, text=True) as viewer:
        started = psutil.Process(int(viewer.stdout.readline()))
        viewer.kill()
    started.wait(60)


def test_a_process_that_the_system_kills(monkeypatch):
    monkeypatch.setattr(jobs, "COMMAND", ["-c", "import os; os.kill(os.getpid(), 9)"])
    with pytest.raises(SpocoError, match="memory"):
        list(CommandRun().run([]))


def test_an_error_that_nobody_can_mend_shows_its_last_lines(monkeypatch):
    monkeypatch.setattr(jobs, "COMMAND", ["-c", "raise KeyError('unexpected')"])
    with pytest.raises(RuntimeError, match="KeyError: 'unexpected'"):
        list(CommandRun().run([]))
