"""Trainings on objects that are annotated in slices, by strokes and points, and in finished corners."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tifffile

from door import run_warm
from spoco_bundle.annotation.ledger import Entry, ledger_path, write_ledger
from spoco_bundle.annotation.points import points_path, write_points
from spoco_bundle.formats import read_image, write_instances


@pytest.fixture
def folder(sample, tmp_path):
    """A copy of the sample with the whole labels of val/ alone."""
    shutil.copytree(sample, tmp_path / "data")
    return tmp_path / "data"


def pairs(folder, dims=3):
    """Image, label file and ids of every training volume."""
    for image in sorted((folder / "train").glob("*_raw.*")):
        label = image.with_name(image.name.replace("_raw", "_label"))
        yield image, label, read_image(label, "label", dims).array[0].astype(np.int32)


def train(folder, tiny_overlay, *options):
    command = ["-m", "spoco_bundle.cli", "train", folder, "--output", folder / "model", "--config", tiny_overlay]
    return run_warm([*command, *options], cwd=folder)


def only_every_third_slice(folder):
    for image, label, ids in pairs(folder):
        ids[np.arange(len(ids)) % 3 != 1] = 0
        write_instances(label, ids, image)


@pytest.mark.slow
def test_outlines_in_slices_are_noticed_and_teach_when_they_are_called_so(folder, tiny_overlay):
    only_every_third_slice(folder)
    refused = train(folder, tiny_overlay)
    assert refused.returncode == 2 and "--annotation slices" in refused.stderr and "_label" in refused.stderr
    for label in sorted((folder / "val").glob("*_label.*")):
        write_ledger(ledger_path(label), {number: Entry("whole") for number in range(1, 200)})
    done = train(folder, tiny_overlay, "--annotation", "slices")
    assert done.returncode == 0, done.stdout + done.stderr
    profile = json.loads((folder / "model" / "profile.json").read_text())
    assert set(profile["kinds"]) == {"slices"} and "in slices" in done.stdout + done.stderr


def test_kinds_mix_in_one_volume_and_what_is_unchecked_teaches_nothing(folder, tiny_overlay):
    for image, label, ids in pairs(folder):
        first, second, third, *_ = np.unique(ids[ids > 0]).tolist()
        whole, sliced, unchecked = ids == first, ids == second, ids == third
        middle = int(np.median(np.nonzero(sliced)[0]))
        drawn = np.where(whole, first, 0)
        drawn[middle][sliced[middle]] = second
        drawn[unchecked] = third
        point = np.argwhere((ids > 0) & (drawn == 0))[:1]
        write_instances(label, drawn.astype(np.int32), image)
        write_ledger(ledger_path(label), {second: Entry("slices"), third: Entry("whole", checked=False)})
        write_points(points_path(label), point)
    done = train(folder, tiny_overlay)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = json.loads((folder / "model" / "profile.json").read_text())["kinds"]
    assert kinds == {"whole": 2, "slices": 2, "points": 2}


def test_strokes_and_a_finished_corner_in_flat_images(sample_2d, tiny_overlay, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(sample_2d, folder)
    for _, label, ids in pairs(folder, 2):
        ids[:, ::3] = 0
        tifffile.imwrite(label, ids.astype(np.uint16))
        table = label.with_name(label.name.replace("_label.tif", "_complete.csv"))
        table.write_text("y_start,x_start,y_stop,x_stop\n0,0,12,12\n")
    flat = ["--kernel_sizes", "[3,3]", "--strides", "[[2,2]]", "--crop_size", "[24,24]"]
    done = train(folder, tiny_overlay, "--annotation", "strokes", *flat)
    assert done.returncode == 0, done.stdout + done.stderr
    refused = train(folder, tiny_overlay, "--annotation", "slices", *flat)
    assert refused.returncode == 2 and "flat image" in refused.stderr


def test_points_alone_need_a_diameter(folder, tiny_overlay):
    for _, label, ids in pairs(folder):
        centres = [np.argwhere(ids == number).mean(0).round() for number in np.unique(ids[ids > 0])]
        write_points(points_path(label), np.array(centres, dtype=np.int64))
        label.unlink()
    refused = train(folder, tiny_overlay)
    assert refused.returncode == 2 and "--diameter" in refused.stderr
    done = train(folder, tiny_overlay, "--diameter", "10")
    assert done.returncode == 0, done.stdout + done.stderr
