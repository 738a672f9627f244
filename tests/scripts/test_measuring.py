from __future__ import annotations

import json
import sys

import annotation_kinds
import check_learning_curve
import few_objects
import measuring
import numpy as np
import paper_leaves
import pytest
import tifffile
import torch
import zero_options
from one_line import one_line_errors

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist


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


@pytest.mark.parametrize("script", [annotation_kinds, check_learning_curve, few_objects, zero_options])
def test_without_rows_the_table_of_a_page_stays(script, tmp_path, monkeypatch, capsys):
    page, mark = tmp_path / "page.md", script.__name__.removeprefix("check_")
    page.write_text(f"<!-- {mark} -->\n\n| what was measured |\n\n<!-- end -->\n")
    before = page.read_text()
    words = ["DATA", "--rows", str(tmp_path), "--page", str(page), "--table-only"]
    monkeypatch.setattr(sys, "argv", [script.__file__, *words])
    with pytest.raises(SystemExit, match="1"):
        script.main()
    assert f"{tmp_path}: holds no row" in capsys.readouterr().err and page.read_text() == before
    with pytest.raises(SpocoError, match="no row is of what was asked for"):
        measuring.table_of([["data"]], [])


def test_a_row_that_is_no_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(SpocoError, match="a.json: not a JSON"):
        measuring.read_rows(tmp_path, "data")


def test_unknown_cases_are_refused(monkeypatch, capsys):
    for option in ("--cases", "--only"):
        monkeypatch.setattr(sys, "argv", ["annotation_kinds.py", "DATA", "--table-only", option, "slice"])
        with pytest.raises(SystemExit, match="2"):
            annotation_kinds.main()
        assert "invalid choice: 'slice'" in capsys.readouterr().err


def test_a_pair_of_one_name_in_two_folders_becomes_two_files_with_all_its_ids(tmp_path):
    ids = np.zeros((8, 8), np.int32)
    ids[2:5, 2:5] = 70000
    for folder in ("images", "labels"):
        (tmp_path / "train" / folder).mkdir(parents=True)
        tifffile.imwrite(tmp_path / "train" / folder / "a.tif", np.uint8(ids > 0))
    (pair,) = build_datalist(tmp_path, "train")
    for _ in range(2):  # what was cut off is done again
        measuring.write_pair(tmp_path / "made" / "train", measuring.Path(pair["image"]), ids)
    (made,) = build_datalist(tmp_path / "made", "train")
    assert made["image"].endswith("a_raw.tif") and np.array_equal(tifffile.imread(made["label"]), ids)


def test_values_of_ids_are_json_or_texts():
    given = ["spacing=[1,2]", "axes=YXS", "tissue=null", "norm=nearest", 'clustering#background="otsu"', "weight=-1"]
    assert list(measuring.ids_of(given).values()) == [[1, 2], "YXS", None, "nearest", "otsu", -1]
    with pytest.raises(SpocoError, match="spacing: gives no value"):
        measuring.ids_of(["spacing"])


def test_what_the_user_can_mend_ends_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["a/script.py"])
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        raise RuntimeError("in between") from SpocoError("file: value: remedy")
    assert capsys.readouterr().err == "script.py: error: file: value: remedy\n"
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError("a fault of the script's own")


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
