from __future__ import annotations

import json
import sys

import few_objects
import numpy as np
import pytest
import tifffile


@pytest.fixture
def cells(tmp_path):
    """Five images of 16 cells of 12 x 12 pixels, one of which is a speck, and four of which touch the left edge."""
    folder = tmp_path / "cells" / "train"
    folder.mkdir(parents=True)
    label = np.zeros((64, 67), np.uint8)
    for number in range(16):
        row, column = divmod(number, 4)
        label[1 + 16 * row :, 16 * column :][:12, :12] = number + 1
    label[label == 6] = 0
    label[20, 20] = 6
    for name in "abcde":
        tifffile.imwrite(folder / f"{name}_raw.tif", 10 + 100 * (label > 0).astype(np.uint8))
        tifffile.imwrite(folder / f"{name}_label.tif", label)
    return folder.parent


def kept_in(folder):
    return {file.name[0]: set(np.unique(tifffile.imread(file))) - {0} for file in folder.glob("train/*_label.tif")}


def test_objects_are_drawn_in_few_images_and_whole(cells, tmp_path):
    for seed in range(5):
        few_objects.write_few(cells, tmp_path / f"few{seed}", objects=7, images=2, seed=seed)
        kept = kept_in(tmp_path / f"few{seed}")
        assert sorted(map(len, kept.values())) == [3, 4]
        assert not set().union(*kept.values()) & {1, 5, 9, 13, 6}  # at the edge, a speck
        assert {file.name[0] for file in tmp_path.glob(f"few{seed}/train/*_raw.tif")} == set(kept)
    assert len({tuple(sorted(kept_in(tmp_path / f"few{seed}"))) for seed in range(5)}) > 1
    few_objects.write_few(cells, tmp_path / "again", objects=7, images=2, seed=0)
    assert kept_in(tmp_path / "again") == kept_in(tmp_path / "few0")


def test_more_objects_than_an_image_has_are_refused_and_nothing_is_left(cells, tmp_path, monkeypatch, capsys):
    rows = tmp_path / "rows"
    arguments = [str(tmp_path), "--only", "cells", "--objects", "24", "--rows", str(rows), "--work", str(rows / "work")]
    monkeypatch.setattr(sys, "argv", ["few_objects.py", *arguments])
    for _ in range(2):
        with pytest.raises(SystemExit, match="1"):
            few_objects.main()
        assert "too few images have 12 whole objects; give fewer --objects" in capsys.readouterr().err
        assert not [
            path for path in rows.rglob("*") if path.name not in ("work", "cells-24objects-seed0-5min-2threads")
        ]


def test_a_row_is_the_mean_over_choices_of_objects_beside_other_programs(tmp_path, monkeypatch, capsys):
    for seed, setting, ap50 in ((0, "", 0.6), (1, "", 0.7), (0, "stardist", 0.25), (0, "a=1", 0.5)):
        row = {
            **{"data": "dsb2018", "objects": 10, "images": 2, "minutes": 5.0, "threads": 1, "setting": setting},
            **{"scores": {"teacher": {"ap_50": ap50, "sbd": ap50 + 0.1}}, "processor": "a processor"},
            "seed": seed,
        }
        (tmp_path / f"{seed}{setting}.json").write_text(json.dumps(row))
    monkeypatch.setattr(sys, "argv", ["few_objects.py", str(tmp_path), "--rows", str(tmp_path), "--table-only"])
    few_objects.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("| AP50 | SBD | `a=1` | StarDist | choices |")
    assert lines[2] == "| dsb2018 | 10, 2 | 5, 1 | 0.65 | 0.75 | 0.50 | 0.25 | 2 |"
    assert lines[-1] == "a processor, seeds 0, 1."
