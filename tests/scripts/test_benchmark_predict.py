from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import benchmark_predict
import numpy as np
import pytest
import tifffile
from benchmark_predict import mosaic, run, tables

from door import run_warm
from spoco_bundle.core.errors import SpocoError


def test_a_mosaic_has_no_seam():
    """Values that rise from edge to edge meet their own mirror image: neighbours differ by one at most."""
    image = np.stack(np.meshgrid(*(np.arange(n) for n in (4, 5, 6)), indexing="ij")).sum(0)
    made = mosaic([image], (9, 12, 20))
    assert made.shape == (9, 12, 20) and (made[:4, :5, :6] == image).all()
    assert all(np.abs(np.diff(made, axis=axis)).max() == 1 for axis in range(3))


def test_images_of_several_sizes_are_used_in_turn():
    made = mosaic([np.zeros((2, 4, 4)), np.ones((3, 5, 4))], (2, 4, 8))
    assert (made[..., :4] == 0).all() and (made[..., 4:] == 1).all()


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(SpocoError, match="holds no NAME_raw.tif"):
        benchmark_predict.make_images(tmp_path, tmp_path, tmp_path)


def test_a_process_is_timed_with_its_memory_and_its_failure_told():
    seconds, peak = run([sys.executable, "-c", "a = bytearray(2**28); import time; time.sleep(0.5)"], threads=1)
    assert seconds > 0.5 and peak > 0.25
    with pytest.raises(SpocoError, match="exit code 3"):
        run([sys.executable, "-c", "import sys; sys.exit(3)"], threads=1)
    assert run([sys.executable, "-c", "import time; time.sleep(60)"], threads=1, limit=0.5)[0] == float("inf")


def test_throughput_leaves_out_what_a_tiny_image_takes():
    found = {("volume", "SPOCO"): [(12.0, 1.0)], ("tiny volume", "SPOCO"): [(2.0, 0.5)]}
    taken = {**dict.fromkeys(benchmark_predict.STAGES, 2.0), "all else": 2.0}
    text = tables(found, {"volume": taken, "images": taken}, {"volume": 10**7}, SimpleNamespace(threads=2, repeats=1))
    assert "| one volume of 128x512x512 | SPOCO | 12.0 | 10.0 | 1.00 | 1.00 |" in text
    assert "| network | 2.0 s, 20% | 2.0 s, 20% |" in text


@pytest.mark.slow
def test_the_clocks_stand_where_the_time_goes(tmp_path):
    """Every stage of a prediction of one image takes some of it."""
    image = np.random.default_rng(0).normal(100, 20, (64, 64)).clip(0)
    image[10:30, 10:30] += 300
    tifffile.imwrite(tmp_path / "a.tif", image.astype(np.uint16))
    code = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from benchmark_predict import "
    code += "time_stages; time_stages(sys.argv[3:], Path(sys.argv[2]))"
    scripts = benchmark_predict.__file__.rsplit("/", 1)[0]
    given = [scripts, tmp_path / "stages.json", "predict", tmp_path / "a.tif", "--output", tmp_path / "out"]
    done = run_warm(["-c", code, *given, "--device", "cpu"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    taken = json.loads((tmp_path / "stages.json").read_text())
    assert list(taken) == [*benchmark_predict.STAGES, "all else"]
    assert all(seconds > 0 for seconds in taken.values())
