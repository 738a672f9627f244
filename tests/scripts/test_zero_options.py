from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import tifffile
import zero_options

from spoco_bundle.core.errors import SpocoError


def write_row(folder, data, ap_50, setting="", epochs=None):
    row = {
        **{"data": data, "fraction": 0.25, "minutes": 30, "threads": 2, "seed": 0, "processor": "a processor"},
        **{"epochs": epochs, "setting": setting, "otsu": {"ap_50": 0.5}, "profile": {"diameters": [5, 14.6, 20]}},
        "scores": {"teacher": {"ap_50": ap_50, "sbd": 0.8}},
        "plan": {"target_spacing": [1.5, 3], "channels": [1, 2, 3], "batch_size": 2, "crop_size": [64, 80]},
    }
    (folder / f"{data}-{setting}.json").write_text(json.dumps(row))


def test_a_row_shows_scores_and_plan(tmp_path):
    write_row(tmp_path, "cells", 0.71)
    write_row(tmp_path, "cells", 0.3, "tissue=dense", 6)
    lines = zero_options.table(tmp_path).splitlines()
    assert lines[2] == "| cells | 25% | 30, 2 | 0.71 | 0.80 | 0.50 | 15 | 1.5 x 3 | 3 | 2 of 64 x 80 |"
    assert lines[-1] == "a processor, seed 0." and len(lines) == 5


def test_settings_are_compared_where_all_are_there(tmp_path):
    for data, settings in (("cells", ("tissue=gaps", "tissue=dense")), ("nuclei", ("tissue=gaps",))):
        for number, setting in enumerate(settings):
            write_row(tmp_path, data, 0.7 + number / 10, setting, 6)
    lines = zero_options.comparison(tmp_path, ["tissue=gaps", "tissue=dense"], 6).splitlines()
    assert lines[0] == "| `val` of | annotated | `--tissue=gaps` | `--tissue=dense` |"
    assert lines[2:] == ["| cells | 25% | 0.70 / 0.80 | 0.80 / 0.80 |"]


def test_what_has_a_row_is_not_done_again_and_what_fails_is_named(tmp_path, monkeypatch, capsys):
    asked = []

    def spoco(command, *arguments, log, threads):
        asked.append(command)
        raise SpocoError(f"spoco {command} ended with 2; see {log}")

    monkeypatch.setattr(sys.modules["measuring"], "run_spoco", spoco)
    monkeypatch.setattr(zero_options, "CASES", (("cells", 0.25), ("others", 1.0)))
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "cells-25-seed0-30min.json").write_text("{}")
    arguments = ["zero_options.py", str(tmp_path), "--rows", str(rows), "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(zero_options, "table", lambda rows: "")
    with pytest.raises(SystemExit):
        zero_options.main()
    assert asked == ["train"] and "spoco train ended with 2" in capsys.readouterr().err


def test_data_sets_are_chosen_by_name_or_with_any_share():
    assert zero_options.cases(None) == list(zero_options.CASES)
    assert zero_options.cases(["vnc_mito", "bbbc050:0.05", "others"]) == [
        *(("vnc_mito", 0.25), ("vnc_mito", 1.0)),
        *(("bbbc050", 0.05), ("others", 1.0)),
    ]


def test_otsu_takes_the_mean_of_several_channels(tmp_path):
    (tmp_path / "val").mkdir()
    label = np.zeros((64, 64), np.uint8)
    label[10:30, 10:30], label[40:55, 35:60] = 1, 2
    image = np.stack([20 + 100 * (label > 0), 30 + 50 * (label > 0)]).astype(np.uint8)
    tifffile.imwrite(tmp_path / "val" / "a_raw.tif", image, imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "val" / "a_label.tif", label)
    assert zero_options.otsu_scores(tmp_path)["ap_50"] == 1
