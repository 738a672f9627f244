from __future__ import annotations

import numpy as np
import tifffile
import torch

from spoco_bundle.app.run_summary import device_in_words, log_summary


def pair(folder, name, ids):
    label = np.zeros((2, 8, 8), np.uint16)
    label[0, 0, : len(ids)] = ids
    files = {"image": str(folder / f"{name}_raw.tif"), "label": str(folder / f"{name}_label.tif")}
    tifffile.imwrite(files["image"], label)
    tifffile.imwrite(files["label"], label)
    return files


def said(caplog, *arguments, **options):
    caplog.clear()
    with caplog.at_level("INFO"):
        log_summary(*arguments, **options)
    (record,) = caplog.records
    return record.getMessage()


def test_one_line_tells_work_device_extent_and_data(tmp_path, caplog):
    train = [pair(tmp_path, "a", [3, 9, 99]), pair(tmp_path, "b", [5, 77])]
    val = [pair(tmp_path, "c", [1])]
    images = {"to learn from": train, "to validate on": val}
    assert said(caplog, "training", images, "cpu", {"epochs": 3, "minutes": None}) == (
        f"training on {device_in_words('cpu')}, 3 epochs: "
        "2 images to learn from (256 voxels); 1 image to validate on (128 voxels)"
    )


def test_without_labels_there_are_images_and_voxels(tmp_path, caplog):
    items = [{"image": pair(tmp_path, "a", [1])["image"]}]
    assert said(caplog, "segmenting", {"": items}, "cpu").endswith(": 1 image (128 voxels)")


def test_bad_files_are_left_for_their_turn(tmp_path, caplog):
    good = pair(tmp_path, "a", [1, 2])
    (tmp_path / "bad.tif").write_bytes(b"no picture")
    bad = {"image": str(tmp_path / "bad.tif"), "label": str(tmp_path / "missing.tif")}
    assert said(caplog, "evaluating", {"": [good, bad]}, "cpu").endswith("2 images (128 voxels)")


def test_device_is_named(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert device_in_words("cpu") == "cpu (2 threads)"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    assert device_in_words(torch.device("cuda:1")) == "NVIDIA H100 (cuda:1)"
