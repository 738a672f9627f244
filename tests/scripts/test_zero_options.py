from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import tifffile
import zero_options

from spoco_bundle.core.errors import SpocoError


def write_row(folder, data, ap_50, setting="", epochs=None, seed=0):
    row = {
        **{"data": data, "fraction": 0.25, "minutes": 30, "threads": 2, "seed": seed, "processor": "a processor"},
        **{"epochs": epochs, "setting": setting, "otsu": {"ap_50": 0.5}, "profile": {"diameters": [5, 14.6, 20]}},
        "scores": {"teacher": {"ap_50": ap_50, "sbd": 0.8}},
        "plan": {"target_spacing": [1.5, 3], "channels": [1, 2, 3], "batch_size": 2, "crop_size": [64, 80]},
    }
    (folder / f"{data}-{setting}{seed or ''}.json").write_text(json.dumps(row))


def test_a_row_shows_scores_and_plan(tmp_path):
    write_row(tmp_path, "cells", 0.71)
    write_row(tmp_path, "cells", 0.3, "tissue=dense", 6)
    lines = zero_options.table(tmp_path).splitlines()
    assert lines[2] == "| cells | 25% | 30, 2 | 0.71 | 0.80 | 0.50 | 15 | 1.5 x 3 | 3 | 2 of 64 x 80 |"
    assert lines[-1] == "a processor, seed 0." and len(lines) == 5
    row = json.loads((tmp_path / "cells-.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps(row | {"data": "nuclei", "processor": "another", "seed": 1}))
    (tmp_path / "third.json").write_text(json.dumps(row | {"data": "worms", "processor": "another"}))
    assert zero_options.table(tmp_path).splitlines()[-1] == "another (2 of 3), a processor (1 of 3), seeds 0, 1."


def test_settings_are_compared_where_all_are_there(tmp_path):
    for data, settings in (("cells", ("tissue=gaps", "tissue=dense")), ("nuclei", ("tissue=gaps",))):
        for number, setting in enumerate(settings):
            write_row(tmp_path, data, 0.7 + number / 10, setting, 6)
    lines = zero_options.comparison(tmp_path, ["tissue=gaps", "tissue=dense"], "6epochs-2threads").splitlines()
    assert lines[0] == "| setting | cells, 25% |"
    assert lines[2:4] == ["| `tissue=gaps` | 0.70 / 0.80 |", "| `tissue=dense` | 0.80 / 0.80 |"]
    assert lines[4:] == ["", "a processor, seed 0."]
    write_row(tmp_path, "nuclei", 0.1, "tissue=gaps", 6, seed=2)  # of no case that is shown
    write_row(tmp_path, "cells", 0.5, "tissue=gaps", 6, seed=1)
    lines = zero_options.comparison(tmp_path, ["tissue=gaps", "tissue=dense"], "6epochs-2threads").splitlines()
    assert lines[2:4] == ["| `tissue=gaps` | 0.60 / 0.80 |", "| `tissue=dense` | 0.80 / 0.80 |"]
    assert lines[-1] == "a processor, seeds 0, 1."


def test_what_has_a_row_is_not_done_again_and_what_fails_is_named(tmp_path, monkeypatch, capsys):
    asked = []

    def spoco(command, *arguments, log, threads):
        asked.append(command)
        raise SpocoError(f"spoco {command} ended with 2; see {log}")

    monkeypatch.setattr(sys.modules["measuring"], "run_spoco", spoco)
    monkeypatch.setattr(zero_options, "CASES", (("cells", 0.25), ("others", 1.0)))
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "cells-25-seed0-30min-2threads.json").write_text("{}")
    arguments = ["zero_options.py", str(tmp_path), "--rows", str(rows), "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(zero_options, "table", lambda rows: "")
    with pytest.raises(SystemExit):
        zero_options.main()
    assert asked == ["train"] and "spoco train ended with 2" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*arguments, "--only", "cells", "--threads", "1"])
    with pytest.raises(SystemExit):
        zero_options.main()
    assert asked == ["train", "train"]  # a row of two threads says nothing of one


@pytest.fixture
def in_place_of_stardist(tmp_path):
    """An interpreter that finds all of val/ and writes down what it was asked."""
    file = tmp_path / "python"
    file.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, shutil, sys\n"
        "script, data, val, _, found, *rest = sys.argv[1:]\n"
        "found = pathlib.Path(found)\n"
        "found.mkdir()\n"
        "for label in pathlib.Path(val).glob('*_label.tif'):\n"
        "    shutil.copy(label, found / label.name.replace('_label', '_instances'))\n"
        "(found / 'asked.json').write_text(json.dumps(rest))\n"
        "training = {'minutes': 30.2, 'iterations': 50, 'tuned': True, 'program': 'StarDist 1'}\n"
        "(found / 'training.json').write_text(json.dumps(training))\n"
    )
    file.chmod(0o755)
    return file


def test_stardist_stands_beside_a_case_on_the_same_objects(tmp_path, in_place_of_stardist, monkeypatch, capsys):
    for split in ("train", "val"):
        (tmp_path / "cells" / split).mkdir(parents=True)
        label = np.zeros((64, 64), np.uint8)
        for number in range(16):
            label[16 * (number // 4) :, 16 * (number % 4) :][:12, :12] = number + 1
        tifffile.imwrite(tmp_path / "cells" / split / "a_raw.tif", 10 + 100 * (label > 0).astype(np.uint8))
        tifffile.imwrite(tmp_path / "cells" / split / "a_label.tif", label)
    rows, work = tmp_path / "rows", tmp_path / "work"
    rows.mkdir()
    write_row(rows, "cells", 0.71)
    row = json.loads((rows / "cells-.json").read_text())
    row["profile"]["spacing"] = [1, 1]
    (rows / "cells-.json").rename(rows / "cells-25-seed0-30min-2threads.json").write_text(json.dumps(row))
    arguments = [str(tmp_path), "--rows", str(rows), "--work", str(work), "--peers", f"stardist={in_place_of_stardist}"]
    write_row(rows, "cells", 0.81)
    complete = json.loads((rows / "cells-.json").read_text()) | {"fraction": 1.0}
    (rows / "cells-.json").write_text(json.dumps(complete))
    for _ in range(2):  # what has a row is not done again
        monkeypatch.setattr(sys, "argv", ["zero_options.py", *arguments, "--only", "cells:0.25"])
        zero_options.main()
    assert "| cells | 25% | 30, 2 | 0.71 | 0.80 | 1.00 | 0.50 |" in capsys.readouterr().out
    curve = ["--table-only", "--curve", str(tmp_path / "curve.png")]
    monkeypatch.setattr(sys, "argv", ["zero_options.py", *arguments, *curve])
    zero_options.main()
    assert (tmp_path / "curve.png").stat().st_size > 1000
    shown = capsys.readouterr().out
    assert "| `val` of | | 25% | 100% |" in shown and "| cells | StarDist | 1.00 / 1.00 |  |" in shown
    assert "| cells | this bundle | 0.71 / 0.80 |" in shown
    assert shown.index("| cells | this bundle") < shown.index("| cells | StarDist")  # one colour in every panel
    case = work / "cells-25-seed0-30min-2threads-stardist"
    asked = json.loads((case / "found" / "asked.json").read_text())
    assert asked == ["--minutes", "30", "--threads", "2", "--seed", "0", "--sparse", "--downsample", "2", "3"]
    assert len(np.unique(tifffile.imread(case / "data" / "train" / "a_label.tif"))) == 1 + 4


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        (["--peers", "nnunet"], "there is no 'nnunet'; choose among stardist, embedseg, cellpose, unet"),
        (["--peers", "stardist"], "give its Python"),
        (["--peers", "unet", "--epochs", "2"], "leave --epochs out"),
        (["--only", "cells:x"], "--only NAME:x: give a share"),
        (["--only", "cells:0"], "--only NAME:0: give a share"),
        (["--fractions", "0.5", "2"], "--fractions 2.0: give a share"),
    ],
)
def test_wrong_options_are_refused(tmp_path, asked, refused, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["zero_options.py", str(tmp_path), "--rows", str(tmp_path), *asked])
    with pytest.raises(SystemExit):
        zero_options.main()
    assert refused in capsys.readouterr().err


def test_a_curve_needs_two_shares(tmp_path):
    write_row(tmp_path, "cells", 0.71)
    with pytest.raises(SpocoError, match="no data set has rows of 30min-2threads with two shares"):
        zero_options.curves(tmp_path, "30min-2threads", {"": "this bundle"})


def test_data_sets_are_chosen_by_name_or_with_any_share():
    assert zero_options.cases(None) == list(zero_options.CASES)
    assert zero_options.cases(["vnc_mito", "bbbc050:0.05", "others"]) == [
        *(("vnc_mito", 0.25), ("vnc_mito", 1.0)),
        *(("bbbc050", 0.05), ("others", 1.0)),
    ]
    assert zero_options.cases(["a", "b"], [0.1, 1.0]) == [("a", 0.1), ("a", 1.0), ("b", 0.1), ("b", 1.0)]
    assert zero_options.cases(["a:0.05", "b"], [0.1]) == [("a", 0.05), ("b", 0.1)]


def test_otsu_takes_the_mean_of_several_channels(tmp_path):
    (tmp_path / "val").mkdir()
    label = np.zeros((64, 64), np.uint8)
    label[10:30, 10:30], label[40:55, 35:60] = 1, 2
    image = np.stack([20 + 100 * (label > 0), 30 + 50 * (label > 0)]).astype(np.uint8)
    tifffile.imwrite(tmp_path / "val" / "a_raw.tif", image, imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "val" / "a_label.tif", label)
    assert zero_options.otsu_scores(tmp_path)["ap_50"] == 1
