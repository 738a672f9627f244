"""What scripts/failure_pictures.py draws."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def script():
    return importlib.import_module("failure_pictures")


@pytest.fixture
def labels():
    truth, found = np.zeros((2, 6, 32, 32), dtype=np.int32)
    truth[1:3, 2:8, 2:8], found[1:3, 2:8, 2:9] = 5, 7  # right
    truth[4, 12:18, 12:18] = 6  # missed
    found[4, 20:26, 20:26] = 9  # found wrongly, in the same plane
    found[0, 20:26, 2:8] = 11  # found wrongly elsewhere
    return truth, found


def test_every_error_is_listed_with_what_it_looks_like(script, labels):
    truth, found = labels
    truth[5, 12:14, 2:6], found[5, 12:14, 4:8] = 8, 12  # half of one is half of the other
    rows = script.list_errors("a", np.where(truth == 6, 10.0, 0.0)[None], truth, found)
    assert rows == [
        "| a | missed | 36 | 1x6x6 | 1.00 | 0.00 |",
        "| a | missed | 8 | 1x2x4 | 0.00 | 0.33 |",
        "| a | found wrongly | 36 | 1x6x6 | 0.00 | 0.00 |",
        "| a | found wrongly | 36 | 1x6x6 | 0.00 | 0.00 |",
        "| a | found wrongly | 8 | 1x2x4 | 0.00 | 0.33 |",
    ]


def test_objects_are_sorted_into_right_missed_and_wrong(script, labels):
    case = script.compare("a", np.zeros((1, 6, 32, 32)), *labels)
    assert [set(np.unique(part)) for part in (case.right, case.missed, case.wrong)] == [{0, 7}, {0, 6}, {0, 9, 11}]
    assert case.errors == 3
    plane = case.plane()
    assert plane.name == "a, plane 4" and plane.missed.shape == (32, 32) and plane.picture.shape == (32, 32, 3)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_picture_is_small_and_shows_all_three_colours(dims, script, labels, tmp_path):
    truth, found = labels if dims == 3 else (part.max(0) for part in labels)
    image = np.random.default_rng(0).random((1, *truth.shape))
    script.draw([script.compare("a", image, truth, found)], tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").stat().st_size < 200_000
    pixels = np.asarray(Image.open(tmp_path / "new" / "a.png").convert("RGB")).reshape(-1, 3) / 255
    shown = [script.MISSED, script.WRONG] if dims == 3 else [script.RIGHT, script.MISSED, script.WRONG]
    for colour in shown:
        assert (np.abs(pixels - colour).max(1) < 0.05).sum() > 100
