from __future__ import annotations

import sys

import pytest

from spoco_bundle.core import progress
from spoco_bundle.core.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name == progress.__name__]


def test_log_hears_every_tenth_or_half_minute(clock, caplog):
    caplog.set_level("INFO")
    with Progress("images", 100) as shown:
        for _ in range(100):
            clock[0] += 1
            shown.update()
    assert len(lines(caplog)) == 10
    assert lines(caplog)[2] == "images: 30 of 100, 30 seconds gone, about 1.2 minutes left"
    caplog.clear()
    with Progress("images", 1000) as shown:
        for _ in range(100):
            clock[0] += 10
            shown.update()
    assert len(lines(caplog)) == 33


def test_estimate_leaves_out_what_was_done_before(clock, caplog):
    caplog.set_level("INFO")
    with Progress("blocks", 10, done=6) as shown:
        clock[0] += 60
        shown.update()
    assert lines(caplog) == ["blocks: 7 of 10, 1.0 minutes gone, about 3.0 minutes left"]


def test_inner_work_is_said_only_as_time_passes(clock, caplog):
    caplog.set_level("INFO")
    with Progress("windows", 4, inner=True) as shown:
        for _ in range(4):
            clock[0] += 20
            shown.update()
    assert [line.split(",")[0] for line in lines(caplog)] == ["windows: 2 of 4", "windows: 4 of 4"]


def test_facts_are_said(clock, caplog):
    caplog.set_level("INFO")
    with Progress("settings", 4) as shown:
        shown.update(3, score=0.5)
    assert lines(caplog)[-1].startswith("settings: 3 of 4, score 0.5, ")


def test_quiet_says_nothing(clock, caplog, capsys):
    caplog.set_level("INFO")
    with Progress("windows", 2, quiet=True) as shown:
        clock[0] += 100
        shown.update(2)
    assert lines(caplog) == [] and capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_and_the_log_nothing(monkeypatch, caplog, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with caplog.at_level("INFO"), Progress("images", 4) as shown:
        shown.update(4, loss=0.5)
    assert lines(caplog) == []
    assert "images: 100%" in capsys.readouterr().err
