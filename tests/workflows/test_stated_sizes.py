"""The same voxels give the same objects, however a file states their size; and noise gives none."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest
import tifffile

from spoco_bundle.app.config import config_folder
from spoco_bundle.cli import Spoco
from spoco_bundle.formats import read_image

pytestmark = pytest.mark.skipif(
    not (config_folder().parent / "models" / "2d" / "model.pt").is_file(), reason="the shipped weights are not here"
)


def discs() -> np.ndarray:
    """16 discs of about 9 pixels radius."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:192, :192]
    image = random.normal(12, 2, (192, 192))
    for number in range(16):
        row, column = 24 + 48 * np.array(divmod(number, 4)) + random.uniform(-5, 5, 2)
        image += 120 / (1 + np.exp(np.hypot(y - row, x - column) - 9))
    return np.clip(image, 0, 255).astype(np.uint8)


def predict(path, output, **options) -> tuple[np.ndarray, list[dict[str, str]]]:
    dims = options.pop("dims", 2)
    Spoco().predict(str(path), output=str(output), **options)
    name = path.name.removesuffix(".ome.tif").removesuffix(".tif")
    with (output / f"{name}_objects.csv").open() as file:
        rows = list(csv.DictReader(file))
    return read_image(output / path.name.replace(name, f"{name}_instances", 1), "label", dims).array[0], rows


def test_a_model_that_learnt_pixels_finds_them_in_any_file(tmp_path, caplog):
    tifffile.imwrite(tmp_path / "plain.tif", discs(), photometric="minisblack")
    sizes = {f"PhysicalSize{a}{end}": value for a in "YX" for end, value in (("", 325.0), ("Unit", "nm"))}
    stated = {"ome": True, "photometric": "minisblack", "metadata": {"axes": "YX", **sizes}}
    tifffile.imwrite(tmp_path / "stated.ome.tif", discs(), **stated)
    labels, rows = predict(tmp_path / "plain.tif", tmp_path / "out")
    assert len(rows) == labels.max() == 16 and rows[0]["unit"] == "voxel"
    same, rows = predict(tmp_path / "stated.ome.tif", tmp_path / "out")
    np.testing.assert_array_equal(same, labels)
    assert rows[0]["unit"] == "nanometer"
    assert float(rows[0]["volume"]) == pytest.approx(325**2 * float(rows[0]["voxels"]), rel=1e-4)
    with caplog.at_level("INFO"):
        same, rows = predict(tmp_path / "stated.ome.tif", tmp_path / "out", spacing=[0.5, 0.5])
    np.testing.assert_array_equal(same, labels)
    assert rows[0]["unit"] == "micrometer"
    assert f"--spacing 0.5 x 0.5 um replaces the 325 x 325 nanometer that {tmp_path}/stated.ome.tif" in caplog.text


@pytest.mark.parametrize("blockwise", ["False", "True"])
def test_noise_holds_no_objects(tmp_path, caplog, blockwise):
    noise = np.random.default_rng(0).normal(100, 5, (24, 64, 64)).astype(np.uint16)
    metadata = {"axes": "ZYX", "spacing": 2.0, "unit": "um"}
    tifffile.imwrite(tmp_path / "noise.tif", noise, imagej=True, resolution=(1.25, 1.25), metadata=metadata)
    _, rows = predict(tmp_path / "noise.tif", tmp_path / "out", dims=3, blockwise=blockwise)
    assert rows == [] and "hardly any contrast" in caplog.text


def test_an_evaluation_scores_what_a_prediction_finds(tmp_path):
    """Discs larger than those that the model learnt, in a file that says nothing: both see them smaller."""
    image = np.kron(discs(), np.ones((3, 3), np.uint8))
    (tmp_path / "data" / "val").mkdir(parents=True)
    path = tmp_path / "data" / "val" / "discs_raw.tif"
    tifffile.imwrite(path, image, photometric="minisblack")
    labels, rows = predict(path, tmp_path / "out")
    assert len(rows) == 16
    tifffile.imwrite(path.with_name("discs_label.tif"), labels.astype(np.uint16))
    Spoco().evaluate(str(tmp_path / "data"), output=str(tmp_path / "scores"), partly_labelled=False)
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert scores["ap_95"] == scores["sbd"] == 1
    assert (tmp_path / "scores" / "discs_raw_overview.png").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_images_shared_by_processes_give_the_same_files(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number, size in enumerate((192, 150, 130, 170, 110)):
        tifffile.imwrite(images / f"{number}.tif", discs()[:size, number:], photometric="minisblack")
    for processes in (1, 3):
        Spoco().predict(str(images), output=str(tmp_path / str(processes)), processes=processes)
    names = sorted(path.name for path in (tmp_path / "1").glob("*_*.*"))
    assert len(names) >= 10
    for name in names:
        if not name.endswith(".json"):
            assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes(), name
