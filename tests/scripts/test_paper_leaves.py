from __future__ import annotations

import json

import numpy as np
import paper_leaves
import tifffile


def test_the_foreground_is_where_leaves_are(tmp_path):
    label = np.zeros((8, 9), np.uint8)
    label[2:4, 3:6], label[5, 1] = 3, 200
    for split in ("train", "val"):
        (tmp_path / "leaves" / split).mkdir(parents=True)
        tifffile.imwrite(tmp_path / "leaves" / split / "a_label.tif", label)
        tifffile.imwrite(tmp_path / "leaves" / split / "a_raw.tif", label + 1)
    made = paper_leaves.with_foreground(tmp_path / "leaves", tmp_path / "copy")
    assert sorted(file.relative_to(made).as_posix() for file in made.glob("*/*")) == [
        f"{split}/a_{name}.tif" for split in ("train", "val") for name in ("fg", "label", "raw")
    ]
    np.testing.assert_array_equal(tifffile.imread(made / "val" / "a_fg.tif"), label > 0)


def test_a_row_shows_what_it_holds(tmp_path):
    scores = {"ap_50": 0.512, "sbd": 0.6, "dic_abs": 2.14, "merges": 3.0, "splits": 1.0}
    row = {
        **{"data": "leaves", "fraction": 0.1, "minutes": 95, "threads": 1, "seed": 0, "processor": "a processor"},
        **{"scores": {"teacher": scores}, "clusterings": {"HDBSCAN": {**scores, "ap_50": 0.6}}},
    }
    (tmp_path / "a.json").write_text(json.dumps(row))
    assert paper_leaves.table(tmp_path).splitlines()[2:] == [
        f"| leaves | 10% | 95, 1 | {paper_leaves.OVERLAY} | 0.51 | 0.60 | 2.1 | 3 | 1 |",
        "| leaves | 10% | 95, 1 | HDBSCAN | 0.60 | 0.60 | 2.1 | 3 | 1 |",
        *("", "a processor, seed 0."),
    ]
