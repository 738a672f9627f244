from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from spoco_bundle.app.config import find_config, read_configs
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist, stored_dimensions
from support import file_names as names
from support import touch


def test_pairs_beside_each_other(tmp_path):
    touch(tmp_path, "train/b_raw.tif", "train/b_label.tif", "train/a_raw.nii.gz", "train/a_label.nii.gz")
    touch(tmp_path, "val/c_raw.tif", "val/c_label.tif", "train/notes.txt", "train/.hidden_raw.tif")
    train = build_datalist(tmp_path, "train")
    assert names(train) == [("a_raw.nii.gz", "a_label.nii.gz"), ("b_raw.tif", "b_label.tif")]
    assert all(list(item) == ["image", "label"] for item in train)
    assert all(type(value) is str and value.startswith("/") for item in train for value in item.values())
    assert names(build_datalist(str(tmp_path), "val")) == [("c_raw.tif", "c_label.tif")]


@pytest.mark.parametrize(
    ("image", "label", "image_ending", "label_ending"),
    [("x_FLAIR", "x_lesions", "_FLAIR", "_lesions"), ("x", "x_label", "", "_label"), ("x_raw", "x", "_raw", "")],
)
def test_endings(tmp_path, image, label, image_ending, label_ending):
    touch(tmp_path, f"train/{image}.nii.gz", f"train/{label}.nii.gz")
    items = build_datalist(tmp_path, "train", image_ending, label_ending)
    assert names(items) == [(f"{image}.nii.gz", f"{label}.nii.gz")]


def test_suffixes_of_a_pair_may_differ(tmp_path):
    touch(tmp_path, "train/a_raw.ome.tif", "train/a_label.nii.gz")
    assert names(build_datalist(tmp_path)) == [("a_raw.ome.tif", "a_label.nii.gz")]


def test_two_folders(tmp_path):
    touch(tmp_path, "imagesTr/b.nii.gz", "labelsTr/b.nii.gz", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    touch(tmp_path, "imagesTs/c.nii.gz")
    assert names(build_datalist(tmp_path, "train")) == [("a.nii.gz", "a.nii.gz"), ("b.nii.gz", "b.nii.gz")]
    assert names(build_datalist(tmp_path, "test")) == [("c.nii.gz",)]
    with pytest.raises(SpocoError, match="no val/.*imagesVal.*training split"):
        build_datalist(tmp_path, "val")
    touch(tmp_path, "labelsTs/c.nii.gz")
    assert names(build_datalist(tmp_path, "val")) == [("c.nii.gz", "c.nii.gz")]
    touch(tmp_path, "imagesVal/d.nii.gz", "labelsVal/d.nii.gz")
    assert names(build_datalist(tmp_path, "val")) == [("d.nii.gz", "d.nii.gz")]


@pytest.mark.parametrize("labels", ["labels", "masks"])
def test_images_and_labels_in_folders_of_their_own(tmp_path, labels):
    touch(tmp_path, "train/images/a.png", f"train/{labels}/a.tif", "val/images/b.tif", f"val/{labels}/b.tif")
    assert names(build_datalist(tmp_path, "train")) == [("a.png", "a.tif")]
    assert names(build_datalist(tmp_path, "val")) == [("b.tif", "b.tif")]
    touch(tmp_path, "train/images/c.png")
    with pytest.raises(SpocoError, match=rf"c.png: has no label c.EXT in .*{labels}"):
        build_datalist(tmp_path, "train")
    touch(tmp_path, "test/images/d.tif")
    assert names(build_datalist(tmp_path, "test")) == [("d.tif",)]


def test_channel_numbers(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/b.nii.gz")
    assert names(build_datalist(tmp_path)) == [("a_0000.nii.gz", "a.nii.gz"), ("b_0000.nii.gz", "b.nii.gz")]
    touch(tmp_path, "imagesTr/a_0001.nii.gz")
    with pytest.raises(SpocoError, match=r"a_0001\.nii\.gz.*second channel"):
        build_datalist(tmp_path)


def test_incomplete_pairs(tmp_path):
    touch(tmp_path, "train/a_raw.tif", "train/b_raw.tif", "train/b_label.tif")
    with pytest.raises(SpocoError, match=r"a_raw\.tif: has no label a_label\.EXT"):
        build_datalist(tmp_path)
    touch(tmp_path, "train/a_label.tif", "train/c_label.tif")
    with pytest.raises(SpocoError, match=r"c_label\.tif: has no image c_raw\.EXT"):
        build_datalist(tmp_path)


def test_incomplete_pairs_across_folders(tmp_path):
    touch(tmp_path, "imagesTr/a.tif", "imagesTr/b.tif", "labelsTr/b.tif")
    with pytest.raises(SpocoError, match=r"imagesTr/a\.tif: has no label"):
        build_datalist(tmp_path)
    touch(tmp_path, "labelsTr/a.tif", "labelsTr/c.tif")
    with pytest.raises(SpocoError, match=r"labelsTr/c\.tif: has no image"):
        build_datalist(tmp_path)


def test_two_files_of_one_name(tmp_path):
    touch(tmp_path, "train/a_raw.tif", "train/a_raw.nii.gz", "train/a_label.tif")
    with pytest.raises(SpocoError, match=r"a_raw\.nii\.gz and a_raw\.tif share the name 'a'"):
        build_datalist(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(SpocoError, match="no such folder"):
        build_datalist(tmp_path / "missing")
    with pytest.raises(SpocoError, match="has no train/"):
        build_datalist(tmp_path)
    touch(tmp_path, "train/a.tif", "train/b.tif")
    with pytest.raises(SpocoError, match=r"no image named NAME_raw\.EXT.*image_ending"):
        build_datalist(tmp_path)
    with pytest.raises(SpocoError, match="split is 'training'"):
        build_datalist(tmp_path, "training")
    with pytest.raises(SpocoError, match="must differ"):
        build_datalist(tmp_path, image_ending="", label_ending="")
    with pytest.raises(SpocoError, match="2 paths has no labels"):
        build_datalist(["a.tif", "b.tif"], "train")


def test_monai_datalist(tmp_path):
    touch(tmp_path, "images/b.tif", "images/a.tif", "labels/a.tif", "labels/b.tif", "images/c.tif")
    lists = {
        "training": [{"image": "images/b.tif", "label": "labels/b.tif", "fold": 0}],
        "validation": [{"image": "./images/a.tif", "label": str(tmp_path / "labels/a.tif")}],
        "testing": ["images/c.tif"],
    }
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps(lists))
    assert names(build_datalist(path, "train")) == [("b.tif", "b.tif")]
    assert build_datalist(str(path), "val") == [
        {"image": str(tmp_path / "images/a.tif"), "label": str(tmp_path / "labels/a.tif")}
    ]
    assert names(build_datalist(path, "test")) == names(build_datalist(path, "predict")) == [("c.tif",)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no readable datalist"),
        ("[]", "has no list 'training'"),
        ('{"training": []}', "has no list 'training'"),
        ('{"training": [{"label": "a.tif"}]}', "names no image"),
        ('{"training": [{"image": "a.tif"}]}', "has no label"),
        ('{"training": [{"image": "a.tif", "label": "missing.tif"}]}', r"missing\.tif, which is missing"),
        (
            '{"training": [{"image": "a.tif", "label": "b.tif"}, {"image": "a.tif", "label": "b.tif"}]}',
            "share the name",
        ),
    ],
)
def test_bad_datalist(tmp_path, content, message):
    touch(tmp_path, "a.tif", "b.tif")
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(SpocoError, match=message):
        build_datalist(tmp_path / "list.json")


def test_images_to_predict(tmp_path):
    touch(tmp_path, "b.tif", "a.nii.gz", "a_instances.nii.gz", "b_label.tif", "c.csv", "other/d.tif")
    assert names(build_datalist(tmp_path, "predict")) == [("a.nii.gz",), ("b.tif",)]
    assert names(build_datalist(str(tmp_path / "b.tif"), "predict")) == [("b.tif",)]
    assert names(build_datalist(str(tmp_path / "**/*.tif"), "predict")) == [("b.tif",), ("b_label.tif",), ("d.tif",)]
    listed = [str(tmp_path / "b.tif"), str(tmp_path / "other")]
    assert names(build_datalist(listed, "predict")) == [("b.tif",), ("d.tif",)]


def test_folder_of_pairs_to_predict(tmp_path):
    touch(tmp_path, "a_raw.tif", "a_label.tif", "other.tif")
    assert names(build_datalist(tmp_path, "predict")) == [("a_raw.tif",)]


def test_nothing_to_predict(tmp_path):
    for source in (tmp_path, str(tmp_path / "*.tif"), str(tmp_path / "a.tif"), []):
        with pytest.raises(SpocoError):
            build_datalist(source, "predict")


def test_results_would_overwrite_each_other(tmp_path):
    touch(tmp_path, "x/a.tif", "y/a.tif", "z/a.nii.gz")
    with pytest.raises(SpocoError, match=r"y/a\.tif and .*x/a\.tif share the name 'a'"):
        build_datalist(str(tmp_path / "[xy]" / "*"), "predict")
    with pytest.raises(SpocoError, match="share the name"):
        build_datalist([str(tmp_path / "x/a.tif"), str(tmp_path / "z/a.nii.gz")], "predict")


def test_real_folders(shared_dir):
    data = shared_dir / "data"
    assert len(build_datalist(data / "bbbc050", "train")) == 40
    assert len(build_datalist(data / "dsb2018", "val")) == 40
    assert len(build_datalist(data / "ms_lesions", "val", "_FLAIR", "_lesions")) == 1


def zarr_image(path):
    path.mkdir(parents=True)
    (path / ".zarray").touch()
    return path


def test_formats_that_are_passed_over_are_named(tmp_path, caplog):
    for name in ("a.tif", "b.czi", "c.LSM", "d.h5", "notes.txt"):
        (tmp_path / name).touch()
    found = build_datalist(tmp_path, "predict")
    assert [Path(item["image"]).name for item in found] == ["a.tif"]
    assert "passes over 3 files (b.czi, c.LSM, d.h5)" in caplog.text
    (tmp_path / "a.tif").unlink()
    with pytest.raises(SpocoError, match=r"holds no image.*other formats \(b\.czi, c\.LSM, d\.h5\)"):
        build_datalist(tmp_path, "predict")


def test_folders_in_a_folder_are_named(tmp_path):
    (tmp_path / "day1").mkdir()
    (tmp_path / "day1" / "a.tif").touch()
    with pytest.raises(SpocoError, match=r"holds no image.*the folders day1.*\*\*/\*\.tif"):
        build_datalist(tmp_path, "predict")
    assert len(build_datalist(f"{tmp_path}/**/*.tif", "predict")) == 1


def test_a_pattern_in_a_folder_whose_name_holds_brackets(tmp_path):
    folder = tmp_path / "exp [1]"
    folder.mkdir()
    (folder / "a.tif").touch()
    assert len(build_datalist(f"{folder}/*.tif", "predict")) == 1


def test_one_image_under_several_names_is_one(tmp_path):
    (tmp_path / "a.tif").touch()
    (tmp_path / "b.tif").symlink_to(tmp_path / "a.tif")
    several = [str(tmp_path), str(tmp_path / "a.tif"), f"{tmp_path}/*.tif"]
    assert [Path(item["image"]).name for item in build_datalist(several, "predict")] == ["a.tif"]


def test_files_that_hold_parts_of_one_image_are_one(tmp_path, caplog):
    names = "".join(f'<UUID FileName="z{z}.ome.tif">urn:uuid:1</UUID>' for z in range(2))
    xml = f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{names}</OME>'
    for z in range(2):
        tifffile.imwrite(tmp_path / f"z{z}.ome.tif", np.zeros((4, 4), np.uint8), description=xml, metadata=None)
    with caplog.at_level("INFO"):
        found = build_datalist(tmp_path, "predict")
    assert [Path(item["image"]).name for item in found] == ["z0.ome.tif"]
    assert "z1.ome.tif: holds a part of the image" in caplog.text


def test_zarr_images_and_segmentations_of_slicer_are_pairs(tmp_path):
    for split in ("train", "val"):
        zarr_image(tmp_path / split / "a_raw.ome.zarr")
        zarr_image(tmp_path / split / "a_label.ome.zarr")
        (tmp_path / split / "b_raw.nii.gz").touch()
        (tmp_path / split / "b_label.seg.nrrd").touch()
    for split in ("train", "val"):
        found = [(Path(i["image"]).name, Path(i["label"]).name) for i in build_datalist(tmp_path, split)]
        assert found == [("a_raw.ome.zarr", "a_label.ome.zarr"), ("b_raw.nii.gz", "b_label.seg.nrrd")]


def test_a_datalist_names_zarr_images_and_says_what_a_folder_is(tmp_path):
    zarr_image(tmp_path / "plate.zarr" / "A" / "1" / "0")
    file = tmp_path / "list.json"
    file.write_text(json.dumps({"testing": ["plate.zarr/A/1/0"]}))
    assert len(build_datalist(file, "predict")) == 1
    file.write_text(json.dumps({"testing": ["plate.zarr/A"]}))
    with pytest.raises(SpocoError, match="a folder that is no Zarr image"):
        build_datalist(file, "predict")


def test_what_has_the_name_of_a_missing_label_is_named(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("a_raw.tif", "a_label.czi"):
        (tmp_path / "train" / name).touch()
    with pytest.raises(SpocoError, match=r"has no label a_label\.EXT beside it that is read here, only a_label\.czi"):
        build_datalist(tmp_path, "train")


def beside(item) -> dict[str, str]:
    return {key: Path(path).name for key, path in item.items() if key not in ("image", "label")}


def test_side_files_join_the_item_they_are_called_after(tmp_path):
    touch(tmp_path, "train/a_raw.tif", "train/a_label.tif", "train/b_raw.tif", "train/b_label.tif")
    plain = build_datalist(tmp_path)
    touch(tmp_path, "train/a_annotation.csv", "train/a_points.csv", "train/a_complete.nii.gz")
    touch(tmp_path, "train/.a_complete.tif", "train/a_annotation.tif.txt")
    a, b = build_datalist(tmp_path)
    assert beside(a) == {
        "annotation": "a_annotation.csv",
        "points": "a_points.csv",
        "complete": "a_complete.nii.gz",
    }
    assert all(type(value) is str and value.startswith(str(tmp_path)) for value in a.values())
    assert {key: a[key] for key in ("image", "label")} == plain[0]
    assert b == plain[1]
    touch(tmp_path, "train/a_complete.csv")
    with pytest.raises(SpocoError, match=r"a_complete\.csv: a_complete\.nii\.gz beside it says too"):
        build_datalist(tmp_path)


@pytest.mark.parametrize(
    ("image", "label", "image_ending", "label_ending"),
    [("x_FLAIR", "x_lesions", "_FLAIR", "_lesions"), ("x", "x_label", "", "_label"), ("x_raw", "x", "_raw", "")],
)
def test_side_files_under_other_endings(tmp_path, image, label, image_ending, label_ending):
    touch(tmp_path, *(f"train/{name}.tif" for name in (image, label, "x_complete")), "train/x_points.csv")
    (item,) = build_datalist(tmp_path, "train", image_ending, label_ending)
    assert names([item])[0][:2] == (f"{image}.tif", f"{label}.tif")
    assert beside(item) == {"points": "x_points.csv", "complete": "x_complete.tif"}


def test_images_may_be_called_complete(tmp_path):
    touch(tmp_path, "train/x_complete.tif", "train/x_label.tif")
    (item,) = build_datalist(tmp_path, "train", "_complete")
    assert names([item]) == [("x_complete.tif", "x_label.tif")]
    assert names(build_datalist(tmp_path / "train", "predict", "_complete")) == [("x_complete.tif",)]
    touch(tmp_path, "other/embryo_complete.tif", "other/embryo_2.tif")  # no file that it would be the mask of
    found = names(build_datalist(tmp_path / "other", "predict"))
    assert found == [("embryo_2.tif",), ("embryo_complete.tif",)]


def test_an_image_with_points_needs_no_label(tmp_path):
    touch(tmp_path, "train/a_raw.tif", "train/b_raw.tif", "train/b_label.tif", "train/a_complete.csv")
    with pytest.raises(SpocoError, match=r"a_raw\.tif: has no label a_label\.EXT .*the label or points a_points\.csv"):
        build_datalist(tmp_path)
    touch(tmp_path, "train/a_points.csv")
    a, b = build_datalist(tmp_path)
    assert "label" not in a
    assert beside(a) == {"points": "a_points.csv", "complete": "a_complete.csv"}
    assert names([b]) == [("b_raw.tif", "b_label.tif")]


def test_side_files_in_two_folders(tmp_path):
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "labelsTr/a_complete.nii.gz", "labelsTr/a_annotation.csv")
    (item,) = build_datalist(tmp_path)
    assert beside(item) == {"annotation": "a_annotation.csv", "complete": "a_complete.nii.gz"}
    touch(tmp_path, "imagesTr/b.nii.gz", "imagesTr/b_complete.nii.gz", "imagesTr/c_raw.nii.gz", "labelsTr/c_points.csv")
    with pytest.raises(SpocoError, match=r"imagesTr/b\.nii\.gz: has no label .*the label or points b_points\.csv"):
        build_datalist(tmp_path)
    touch(tmp_path, "imagesTr/b_points.csv")
    _, b, c = build_datalist(tmp_path)
    assert beside(b) == {"points": "b_points.csv", "complete": "b_complete.nii.gz"}
    assert beside(c) == {"points": "c_points.csv"}  # called after c_raw as beside it
    assert [Path(item["image"]).name for item in build_datalist(tmp_path / "imagesTr", "predict")] == [
        "a.nii.gz",
        "b.nii.gz",
        "c_raw.nii.gz",
    ]


def test_side_files_beside_channel_numbers(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/b_points.csv")
    touch(tmp_path, "imagesTr/a_complete.nii.gz", "labelsTr/b_complete.nii.gz")
    a, b = build_datalist(tmp_path)
    assert beside(a) == {"complete": "a_complete.nii.gz"}
    assert beside(b) == {"points": "b_points.csv", "complete": "b_complete.nii.gz"}


def test_masks_are_no_images_to_predict(tmp_path):
    touch(tmp_path, "a.tif", "a_complete.tif", "b_raw.tif", "b_complete.nii", "b_points.csv")
    assert names(build_datalist(tmp_path, "predict")) == [("a.tif",), ("b_raw.tif",)]
    touch(tmp_path, "a_label.tif")
    assert names(build_datalist(tmp_path, "predict")) == [("b_raw.tif",)]
    assert names(build_datalist(str(tmp_path / "a_complete.tif"), "predict")) == [("a_complete.tif",)]


def test_side_files_of_a_datalist(tmp_path):
    touch(tmp_path, "i/a_raw.tif", "l/a_label.tif", "l/a_annotation.csv", "l/a_points.csv", "elsewhere/clicks.csv")
    path = tmp_path / "list.json"
    entry = {"image": "i/a_raw.tif", "label": "l/a_label.tif"}

    def item(**more):
        path.write_text(json.dumps({"training": [entry | more]}))
        (found,) = build_datalist(path)
        return found

    assert beside(item()) == {"annotation": "a_annotation.csv", "points": "a_points.csv"}
    found = item(points="elsewhere/clicks.csv", complete="i/a_raw.tif")
    assert beside(found) == {"annotation": "a_annotation.csv", "points": "clicks.csv", "complete": "a_raw.tif"}
    assert all(Path(value).is_absolute() for value in found.values())
    with pytest.raises(SpocoError, match=r"lists .*missing\.csv, which is missing"):
        item(points="missing.csv")
    assert build_datalist(path, "predict") == [{"image": str(tmp_path / "i/a_raw.tif")}]
    del entry["label"]
    with pytest.raises(SpocoError, match=r"image i/a_raw\.tif of 'training' has no label and no points"):
        item()
    assert beside(item(points="elsewhere/clicks.csv")) == {"points": "clicks.csv"}


def test_pairs_of_links_to_one_file_are_kept(tmp_path):
    touch(tmp_path, "plain.tif", "train/a_label.tif", "train/b_label.tif")
    for name in "ab":
        (tmp_path / f"train/{name}_raw.tif").symlink_to(tmp_path / "plain.tif")
    assert names(build_datalist(tmp_path)) == [("a_raw.tif", "a_label.tif"), ("b_raw.tif", "b_label.tif")]


def test_dimensions_of_a_time_point(tmp_path):
    movie = np.random.default_rng(0).integers(0, 99, (3, 8, 9)).astype(np.uint8)
    touch(tmp_path, "train/a_label.tif")
    image = str(tmp_path / "train/a_raw.tif")
    tifffile.imwrite(image, movie, ome=True, photometric="minisblack", metadata={"axes": "TYX"})
    items = [{"image": image}]
    training = read_configs([find_config("train")], {"dataset_dir": str(tmp_path), "time": 0})
    assert training.get_parsed_content("spatial_dims") == 2
    assert stored_dimensions(items, time=0) == 2
    with pytest.raises(SpocoError, match="3 time points"):
        stored_dimensions(items)


def test_pictures_that_commands_leave_beside_images_are_no_images(tmp_path):
    left = [f"a{end}" for end in ("_instances.tif", "_report.png", "_overview.png")]
    touch(tmp_path, "a.tif", *left, "b_report.png")
    for source in (tmp_path, f"{tmp_path}/*"):
        assert names(build_datalist(source, "predict")) == [("a.tif",), ("b_report.png",)]


def test_what_lies_there_in_place_of_a_split_is_named(tmp_path):
    touch(tmp_path, "Train/a_raw.tif", "Train/a_label.tif")
    with pytest.raises(SpocoError, match="has no train/ .*, but the folders Train: "):
        build_datalist(tmp_path)
