from __future__ import annotations

import sys

import numpy as np
import pytest
import tifffile
import two_magnifications

from spoco_bundle.dataset import build_datalist


def test_half_of_train_is_half_as_large_and_val_stands_at_both_sizes(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for split, names in (("train", "abc"), ("val", "d")):
        (tmp_path / "cells" / split).mkdir(parents=True)
        for name in names:
            label = np.kron(np.arange(1, 7, dtype=np.uint16).reshape(2, 3), np.ones((8, 8), np.uint16))
            image = random.integers(0, 255, (*label.shape, 3), dtype=np.uint8)
            tifffile.imwrite(tmp_path / "cells" / split / f"{name}_raw.tif", image, photometric="rgb")
            tifffile.imwrite(tmp_path / "cells" / split / f"{name}_label.tif", label)
    monkeypatch.setattr(sys, "argv", ["two_magnifications.py", str(tmp_path / "cells"), str(tmp_path / "mixed")])
    two_magnifications.main()
    shapes = {
        split: [tifffile.imread(pair["image"]).shape for pair in build_datalist(tmp_path / "mixed", split)]
        for split in ("train", "val")
    }
    large, small = (16, 24, 3), (8, 12, 3)
    assert sorted(shapes["train"]) == [small, large, large] and sorted(shapes["val"]) == [small, large]
    halved = tifffile.imread(tmp_path / "mixed" / "val" / "d_x0.5_label.tif")
    assert np.array_equal(halved, np.kron(np.arange(1, 7).reshape(2, 3), np.ones((4, 4))))
    before = sorted((tmp_path / "cells").rglob("*"))
    monkeypatch.setattr(sys, "argv", ["two_magnifications.py", *[str(tmp_path / "cells")] * 2])
    with pytest.raises(SystemExit, match="2"):
        two_magnifications.main()
    assert sorted((tmp_path / "cells").rglob("*")) == before  # a folder that is there is not replaced


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.arange(384, dtype=np.uint16).reshape(16, 24), "1 channels of uint16"),
        (np.arange(240, dtype=np.uint8).reshape(2, 10, 12), "2 channels of uint8"),
    ],
)
def test_what_would_be_cut_off_is_refused(image, said, tmp_path, monkeypatch, capsys):
    for split in ("train", "val"):
        (tmp_path / "cells" / split).mkdir(parents=True)
        axes = {"axes": "CYX"[-image.ndim :]}
        tifffile.imwrite(tmp_path / "cells" / split / "a_raw.tif", image, imagej=True, metadata=axes)
        tifffile.imwrite(tmp_path / "cells" / split / "a_label.tif", np.ones(image.shape[-2:], np.uint8))
    monkeypatch.setattr(sys, "argv", ["two_magnifications.py", str(tmp_path / "cells"), str(tmp_path / "mixed")])
    with pytest.raises(SystemExit, match="2"):
        two_magnifications.main()
    assert f"a_raw.tif: has {said}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]
