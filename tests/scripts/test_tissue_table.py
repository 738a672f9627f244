from __future__ import annotations

import sys

import numpy as np
import tifffile
import tissue_table

from support import dense_tissue


def test_a_row_for_each_folder(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "leaf" / "train"
    folder.mkdir(parents=True)
    image, label = dense_tissue(np.random.default_rng(0), (128, 128), 40)
    tifffile.imwrite(folder / "a_raw.tif", np.stack([image] * 3, -1).astype(np.float32), photometric="rgb")
    tifffile.imwrite(folder / "a_label.tif", label.astype(np.uint16))
    options = ["--fractions", "0.5", "0.05", "--seeds", "0", "1"]
    monkeypatch.setattr(sys, "argv", ["tissue_table.py", f"{tmp_path / 'leaf'}:axes=YXS", *options])
    tissue_table.main()
    head, _, row, _, measured_on = capsys.readouterr().out.splitlines()
    assert measured_on.endswith(" thread(s), seeds 0, 1")
    assert head == "| data | fill | area under the curve | seconds |"
    name, fill, area, seconds = (cell.strip() for cell in row.strip("|").split("|"))
    assert name == "leaf" and area == "" and float(seconds) >= 0
    low, high = map(float, fill.split(" to "))
    assert 0.22 < low <= high <= 1
    assert tissue_table.span([0.6, 0.5]) == "0.50 to 0.60"
