from __future__ import annotations

import json
import sys

import annotation_kinds
import check_learning_curve
import few_objects
import measuring
import paper_leaves
import pytest
import torch
import zero_options

from spoco_bundle.core.errors import SpocoError


@pytest.mark.parametrize("script", [annotation_kinds, check_learning_curve, few_objects, zero_options])
def test_rows_of_another_table_are_refused_in_one_line(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.json").write_text(json.dumps({"data": "cells"}))
    monkeypatch.setattr(sys, "argv", [script.__file__, "DATA", "--rows", str(tmp_path), "--table-only"])
    with pytest.raises(SystemExit, match="1"):
        script.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / 'a.json'}: has no ")
    assert line.endswith("so it is a row of another table: name its folder in --rows")


@pytest.mark.parametrize("script", [annotation_kinds, check_learning_curve, few_objects, zero_options])
def test_a_page_that_is_not_there_is_refused_before_anything_is_trained(script, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "train_once", None)
    words = ["DATA", "--rows", str(tmp_path), "--work", str(tmp_path), "--page", str(tmp_path / "none.md")]
    monkeypatch.setattr(sys, "argv", [script.__file__, *words])
    with pytest.raises(SystemExit, match="none.md: no such page"):
        script.main()


def test_a_training_is_not_done_twice_and_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    asked = []

    def spoco(command, *arguments, log, threads):
        asked.append(arguments)
        (tmp_path / "work" / "model").mkdir(exist_ok=True)
        (tmp_path / "work" / "model" / "last.pt").touch()
        if len(asked) == 1:
            raise SpocoError("cut off")

    monkeypatch.setattr(measuring, "run_spoco", spoco)
    with pytest.raises(SpocoError, match="cut off"):
        measuring.train_once(tmp_path, tmp_path / "work", ["--minutes", "1"], 3, 1)
    for _ in range(2):
        model = measuring.train_once(tmp_path, tmp_path / "work", ["--minutes", "1"], 3, 1)
    first = (str(tmp_path), "--output", str(model), "--seed", "3", "--minutes", "1")
    assert asked == [first, (*first, "--resume")]


def test_kinds_of_annotation_are_those_of_one_length(tmp_path, monkeypatch, capsys):
    for seed, (iterations, ap50) in enumerate([(600, 0.5), (600, 0.7), (1200, 0.1)]):
        row = {
            **{"data": "dsb2018", "case": "whole", "settings": [], "objects": 488, "drawn": 488, "seed": seed},
            **{"iterations": iterations, "threads": 1, "processor": "a processor"},
            "scores": {"teacher": {"ap_50": ap50, "sbd": 0.8}},
        }
        (tmp_path / f"{seed}.json").write_text(json.dumps(row))
    monkeypatch.setattr(sys, "argv", ["annotation_kinds.py", "DATA", "--rows", str(tmp_path), "--table-only"])
    annotation_kinds.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [
        *("| dsb2018 | whole | 488 | 488 | 0.60 | 0.80 | 2 |", ""),
        "600 iterations, 1 thread(s), a processor, seeds 0, 1.",
    ]


def test_a_forecast_stands_beside_what_was_measured(tmp_path):
    row = {
        **{"data": "cells", "minutes": 2, "threads": 1, "processor": "a processor"},
        **{"trainings": [{"objects": 5, "score": 0.5}], "forecast": {"score": 0.6, "low": 0.5, "high": 0.7}},
        "measured": [{"seed": 0, "objects": 10, "score": 0.65}, {"seed": 1, "objects": 10, "score": 0.75}],
    }
    (tmp_path / "cells.json").write_text(json.dumps(row))
    assert check_learning_curve.table(tmp_path).splitlines()[2:] == [
        *("| cells | 2 | 5: 0.50 | 0.600 (0.500 to 0.700) | 10: 0.650, 0.750 | 1 of 2 |", ""),
        "1 thread(s), a processor, seeds 0, 1.",
    ]


def test_leaves_that_cannot_be_trained_on_are_refused_in_one_line(tmp_path, monkeypatch, capsys):
    def spoco(*_, **__):
        raise SpocoError("spoco train ended with 2; see log.txt")

    monkeypatch.setattr(measuring, "run_spoco", spoco)
    arguments = [str(tmp_path / "leaves"), "--rows", str(tmp_path), "--work", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["paper_leaves.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        paper_leaves.main()
    assert "error: spoco train ended with 2; see log.txt" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_peak_of_memory_is_that_of_the_block(tmp_path):
    with measuring.PeakMemory(torch.device("cpu")) as memory:
        torch.ones(2**24)
    assert memory.peak == pytest.approx(2**26, rel=0.2)
