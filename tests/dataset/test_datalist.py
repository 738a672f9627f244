from __future__ import annotations

import json

import pytest

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist


def touch(folder, *names) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(items) -> list[tuple[str, ...]]:
    return [tuple(value.rsplit("/", 1)[1] for value in item.values()) for item in items]


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
