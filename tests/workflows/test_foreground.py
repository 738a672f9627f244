"""A foreground mask given beside the images decides where objects may be."""

from __future__ import annotations

import numpy as np

from door import run_warm
from spoco_bundle.formats import read_image, write_instances


def test_objects_fill_the_given_foreground_only(sample, trained, tmp_path):
    source = sample / "val" / "field_a_raw.nii.gz"
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "cells_raw.nii.gz").write_bytes(source.read_bytes())
    mask = np.zeros(read_image(source).spatial_shape, dtype=np.int32)
    mask[2:8, 8:30, 8:40] = 1
    write_instances(folder / "cells_fg.nii.gz", mask, like=source)
    options = ["--foreground_ending", "_fg", "--clustering#background", "foreground", "--clustering#min_size", "1"]
    arguments = ["-m", "spoco_bundle.cli", "predict", folder / "cells_raw.nii.gz", "--model", trained, *options]
    result = run_warm([*arguments, "--output", tmp_path / "out"], cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    found = read_image(tmp_path / "out" / "cells_raw_instances.nii.gz", "label").array[0]
    assert found.any() and not found[mask == 0].any()

    (folder / "cells_fg.nii.gz").unlink()
    result = run_warm([*arguments, "--output", tmp_path / "again"], cwd=tmp_path)
    assert result.returncode == 2 and "cells_fg.nii.gz" in result.stderr
