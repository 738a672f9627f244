"""What lies beside images: side files of no image are refused, foreground masks are no images."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from spoco_bundle.app.config import find_config, read_configs
from spoco_bundle.app.early_checks import check_early
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist
from support import file_names as names
from support import touch


@pytest.mark.parametrize(
    ("stray", "remedy"),
    [
        ("a_raw_points.csv", r"call it a_points\.csv"),
        ("a_label_annotation.csv", r"call it a_annotation\.csv"),
        ("a_label_complete.csv", r"call it a_complete\.csv"),
        ("a_raw_complete.nii.gz", r"call it a_complete\.nii\.gz"),
        ("ab_points.csv", r"call it NAME_points\.csv, after its image, or take it away"),
        ("b_complete.tif", r"call it NAME_complete\.tif"),
    ],
)
def test_a_side_file_of_no_image_is_refused(tmp_path, stray, remedy):
    touch(tmp_path, "train/a_raw.tif", "train/a_label.tif", f"train/{stray}")
    with pytest.raises(SpocoError, match=rf"train/{stray}: belongs to no image here: {remedy}"):
        build_datalist(tmp_path)


def test_a_side_file_of_no_image_is_refused_across_folders_and_in_a_datalist(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.tif", "labelsTr/a.tif", "imagesTr/a_0000_points.csv")
    with pytest.raises(SpocoError, match=r"a_0000_points\.csv: belongs to no image .*: call it a_points\.csv"):
        build_datalist(tmp_path)
    touch(tmp_path, "i/b_raw.tif", "i/b_label.tif", "i/b_label_annotation.csv", "i/other_points.csv")
    entry = {"image": "i/b_raw.tif", "label": "i/b_label.tif"}
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": [entry]}))
    with pytest.raises(SpocoError, match=r"b_label_annotation\.csv: belongs to no image .*: call it b_annotation\.csv"):
        build_datalist(path)
    path.write_text(json.dumps({"training": [entry | {"annotation": "i/b_label_annotation.csv"}]}))
    assert Path(build_datalist(path)[0]["annotation"]).name == "b_label_annotation.csv"


def test_foreground_masks_are_no_images(tmp_path):
    touch(tmp_path, "p/a.tif", "p/a_fg.tif", "p/b_raw.tif", "p/b_fg.tif", "p/c_fg.tif")
    touch(tmp_path, "p/d.zarr/.zarray", "p/d_fg.zarr/.zarray")
    found = [("a.tif",), ("b_raw.tif",), ("c_fg.tif",), ("d.zarr",)]
    for source in (tmp_path / "p", f"{tmp_path}/p/*"):
        assert names(build_datalist(source, "predict", foreground_ending="_fg")) == found
        assert len(build_datalist(source, "predict")) == 7
    touch(tmp_path, "train/a.tif", "train/a_label.tif", "train/a_fg.tif")
    assert names(build_datalist(tmp_path, "train", "", "_label", "_fg")) == [("a.tif", "a_label.tif")]
    touch(tmp_path, "test/a.tif", "test/a_label.tif")  # labels may serve as masks
    assert names(build_datalist(tmp_path, "test", "", "_label", "_label")) == [("a.tif", "a_label.tif")]
    touch(tmp_path, "imagesVal/a.tif", "imagesVal/a_fg.tif", "labelsVal/a.tif")
    assert names(build_datalist(tmp_path, "val", foreground_ending="_fg")) == [("a.tif", "a.tif")]


def test_every_command_leaves_out_foreground_masks(tmp_path, bundle_root):
    configs = "".join(file.read_text() for file in (bundle_root / "configs").glob("*.json"))
    lists = re.findall(r'dataset\.build_datalist"[^}]*', configs)
    assert len(lists) == 4 and all('"foreground_ending": "@foreground_ending"' in arguments for arguments in lists)
    touch(tmp_path, "train/a.tif", "train/a_label.tif", "train/a_fg.tif")
    options = {"dataset_dir": str(tmp_path), "image_ending": "", "foreground_ending": "_fg"}
    images = check_early([find_config("train")], options, ["train#dataset#data#split"])
    assert [Path(image).name for image in images] == ["a.tif"]
    options = {"dataset_dir": str(tmp_path / "train"), "foreground_ending": "_fg"}
    assert names(read_configs([find_config("inference")], options).get_parsed_content("dataset#data")) == [("a.tif",)]


@pytest.mark.parametrize(
    "files",
    [
        ("a_raw.tif", "a_mask_0.tif", "a_mask_1.tif"),
        ("images/a.png", "masks/a_1.png", "masks/a_2.png"),
        ("images/a.png", "masks/a_1.png", "masks/a_2.png", "images/a_3.png", "masks/a_3.png"),
    ],
)
def test_masks_of_one_object_each_are_to_be_merged(tmp_path, files):
    touch(tmp_path / "train", *files)
    first, second = (Path(name).name for name in files[1:3])
    merge = rf"only {first}, {second}: where each holds one object, merge them into one label image"
    with pytest.raises(SpocoError, match=rf"a(_raw\.tif|\.png): has no label .*{merge} .* \(1 such images\): add"):
        build_datalist(tmp_path)


def test_labels_of_other_images_are_not_taken_for_masks_of_one_object(tmp_path):
    touch(tmp_path / "train", "images/a.png", "images/a_1.png", "images/a_2.png", "masks/a_1.png", "masks/a_2.png")
    with pytest.raises(SpocoError, match=r"a\.png: has no label a\.EXT in .*masks \(1 such images\): add"):
        build_datalist(tmp_path)
