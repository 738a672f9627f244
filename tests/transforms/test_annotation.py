import logging

import numpy as np
import pytest
import tifffile
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose

from spoco_bundle.annotation.ledger import Entry, write_ledger
from spoco_bundle.annotation.points import write_points
from spoco_bundle.annotation.scope import annotation_scope
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist
from spoco_bundle.transforms import CheckLabelsd, LoadVolumed, ReadAnnotationd, ScopeAnnotationd

SHAPE = (6, 20, 24)


@pytest.fixture
def label():
    ids = np.zeros(SHAPE, np.int32)
    ids[1:5, 2:8, 2:8] = 3
    ids[2, 10:16, 2:8] = 5
    ids[2:5, 10:16, 12:18] = 9
    return ids


@pytest.fixture
def folder(tmp_path, label):
    """A training folder of one volume."""
    image = np.random.default_rng(0).random(SHAPE, np.float32)
    (tmp_path / "train").mkdir()
    tifffile.imwrite(
        tmp_path / "train/a_raw.tif", image, imagej=True, metadata={"axes": "ZYX", "spacing": 2.0, "unit": "um"}
    )
    tifffile.imwrite(tmp_path / "train/a_label.tif", label.astype(np.uint16), metadata={"axes": "ZYX"})
    return tmp_path


def read(folder, item=0, **arguments):
    loaded = LoadVolumed(allow_missing_keys=True)(build_datalist(folder)[item])
    return ReadAnnotationd("label", **arguments)(loaded)


def test_a_label_by_itself_is_left_as_it_is(folder, label):
    sample = read(folder)
    np.testing.assert_array_equal(sample["label"][0], label)
    assert sorted(sample) == ["image", "label"]
    assert sample["label"].meta["filename_or_obj"].endswith("a_label.tif")
    assert sample["label"].dtype == torch.int32


def test_unchecked_objects_are_unlabeled_and_kinds_are_told(folder, label):
    entries = {3: Entry("whole"), 5: Entry("slices"), 9: Entry("points", checked=False), 77: Entry("strokes")}
    write_ledger(folder / "train/a_annotation.csv", entries)
    sample = read(folder)
    np.testing.assert_array_equal(sample["label"][0], np.where(label == 9, 0, label))
    assert sample["kinds"] == {5: "slices", 77: "strokes"}
    assert "annotation" not in sample
    assert read(folder, annotation="slices")["kinds"] == {3: "whole", 77: "strokes"}


def test_unchecked_objects_may_become_another_label(folder, label):
    write_ledger(folder / "train/a_annotation.csv", {9: Entry("whole", checked=False)})
    write_points(folder / "train/a_points.csv", np.array([(3, 12, 14), (0, 0, 0)]))  # the first in the unchecked object
    expected = np.where(label == 9, -1, label)
    expected[3, 12, 14], expected[0, 0, 0] = 6, 7
    np.testing.assert_array_equal(read(folder, ignore_label=-1, hidden_label=-1)["label"][0], expected)


def test_points_become_objects_of_one_voxel(folder, label, caplog):
    write_ledger(folder / "train/a_annotation.csv", {9: Entry("whole", checked=False)})
    points = [(0, 0, 0), (1, 3, 3), (3, 12, 14), (5, 19, 23)]  # the second in object 3, the third in an unchecked one
    path = write_points(folder / "train/a_points.csv", np.array(points))
    transform = Compose([LoadVolumed(), ReadAnnotationd("label", background_label=-2, ignore_label=40)])
    with caplog.at_level(logging.INFO):
        sample = transform(build_datalist(folder)[0])
        transform(build_datalist(folder)[0])
    expected = np.where(label == 9, 0, label)
    expected[0, 0, 0], expected[3, 12, 14], expected[5, 19, 23] = 41, 42, 43
    np.testing.assert_array_equal(sample["label"][0], expected)
    assert sample["kinds"] == dict.fromkeys((41, 42, 43), "points")
    assert caplog.messages == [f"{path}: 1 of 4 points lie in what is labeled already and add nothing"]
    assert "kinds" not in read(folder, annotation="points")


def test_points_alone(folder):
    (folder / "train/a_label.tif").unlink()
    path = write_points(folder / "train/a_points.csv", np.array([(0, 1, 2), (5, 19, 23)]))
    sample = read(folder)
    label = sample["label"]
    assert label[0].nonzero().tolist() == [[0, 1, 2], [5, 19, 23]]
    assert label[0][0, 1, 2] == 1
    assert label[0][5, 19, 23] == 2
    assert (label.dtype, label.shape) == (torch.int32, (1, *SHAPE))
    assert sample["kinds"] == {1: "points", 2: "points"}
    assert label.meta["filename_or_obj"] == str(path)
    assert sample["image"].meta["filename_or_obj"].endswith("a_raw.tif")
    torch.testing.assert_close(label.affine, sample["image"].affine)
    checked = CheckLabelsd("label")(sample)
    assert checked["label"].meta["length_unit"] == sample["image"].meta["length_unit"]


def test_known_background_is_where_annotations_are_complete(folder, label):
    write_ledger(folder / "train/a_annotation.csv", {9: Entry("whole", checked=False)})
    (folder / "train/a_complete.csv").write_text(
        "z_start,y_start,x_start,z_stop,y_stop,x_stop\n0,0,0,4,20,20\n", encoding="utf-8"
    )
    inside = np.zeros(SHAPE, bool)
    inside[:4, :, :20] = True
    expected = np.where(inside & (label == 0), -2, np.where(label == 9, 0, label))  # where 9 was nobody has looked
    np.testing.assert_array_equal(read(folder, background_label=-2)["label"][0], expected)
    np.testing.assert_array_equal(read(folder)["label"][0], np.where(label == 9, 0, label))  # 0 is background there
    write_points(folder / "train/a_points.csv", np.array([(3, 12, 14), (5, 0, 0), (2, 19, 1)]))
    with pytest.raises(
        SpocoError, match=r"a_points\.csv: the point in voxel 2, 19, 1 lies in no object, but .*a_complete"
    ):
        read(folder, background_label=-2)


def test_a_mask_of_known_background(folder, label):
    mask = np.zeros(SHAPE, np.uint8)
    mask[2] = 255
    tifffile.imwrite(folder / "train/a_complete.tif", mask, metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(
        read(folder, background_label=70)["label"][0], np.where((mask > 0) & (label == 0), 70, label)
    )


def test_what_is_given_is_not_changed(folder, label):
    write_points(folder / "train/a_points.csv", np.array([(0, 0, 0)]))
    loaded = LoadVolumed()(build_datalist(folder)[0])
    before = loaded["label"].clone()
    ReadAnnotationd("label")(loaded)
    torch.testing.assert_close(loaded["label"], before)
    assert "points" in loaded


def test_flat_images_have_no_slices(tmp_path):
    (tmp_path / "train").mkdir()
    tifffile.imwrite(tmp_path / "train/a_raw.tif", np.random.default_rng(0).random((9, 9), np.float32))
    tifffile.imwrite(tmp_path / "train/a_label.tif", np.eye(9, dtype=np.uint8))
    loaded = LoadVolumed(spatial_dims=2)(build_datalist(tmp_path)[0])
    with pytest.raises(SpocoError, match=r"a_raw\.tif: is a flat image, which has no slices: give --annotation whole"):
        ReadAnnotationd("label", annotation="slices")(loaded)
    write_ledger(tmp_path / "train/a_annotation.csv", {1: Entry("slices")})
    loaded = LoadVolumed(spatial_dims=2)(build_datalist(tmp_path)[0])
    with pytest.raises(
        SpocoError, match=r"a_annotation\.csv: id 1 is of kind slices, but .*a_raw\.tif is a flat image"
    ):
        ReadAnnotationd("label")(loaded)
    write_ledger(tmp_path / "train/a_annotation.csv", {1: Entry("slices", checked=False)})
    assert not ReadAnnotationd("label")(loaded)["label"].any()


@pytest.mark.parametrize("transform", [ReadAnnotationd, ScopeAnnotationd])
def test_there_are_four_kinds(transform):
    with pytest.raises(SpocoError, match="annotation is 'outlines': give one of whole, slices, strokes, points"):
        transform("label", annotation="outlines")


def test_scope_lies_beside_the_label(folder, label):
    label = np.where(label == 9, -1, label)
    label[0] = 70
    meta = {"filename_or_obj": "a"}
    sample = {"label": MetaTensor(torch.from_numpy(label[None]), torch.diag(torch.tensor([2.0, 1, 1, 1])), meta)}
    transform = ScopeAnnotationd("label", annotation="strokes", ignore_label=-1, background_label=70)
    found = transform({**sample, "kinds": {5: "slices", 70: "whole"}})
    assert sorted(found) == ["label", "scope"]
    objects = np.where((label == 70) | (label == -1), 0, label)
    np.testing.assert_array_equal(found["scope"], annotation_scope(objects, {5: "slices"}, "strokes"))
    assert found["scope"].dtype == torch.int16
    assert found["scope"].meta["filename_or_obj"] == "a"
    torch.testing.assert_close(found["scope"].affine, sample["label"].affine)
    found["scope"].affine = torch.eye(4)
    assert found["label"].affine[0, 0] == 2  # they share no metadata
    np.testing.assert_array_equal(transform(sample)["scope"], annotation_scope(objects, {}, "strokes"))


def test_samples_collate_whatever_lies_beside_them(folder):
    for name in ("raw", "label"):
        content = tifffile.imread(folder / f"train/a_{name}.tif")
        tifffile.imwrite(folder / f"train/b_{name}.tif", content, metadata={"axes": "ZYX"})
    write_ledger(folder / "train/a_annotation.csv", {5: Entry("slices")})
    write_points(folder / "train/b_points.csv", np.array([(0, 0, 0)]))
    (folder / "train/a_complete.csv").write_text("z_start,y_start,x_start,z_stop,y_stop,x_stop\n0,0,0,1,2,2\n")
    transform = ScopeAnnotationd("label")
    samples = [transform(read(folder, item, background_label=-2)) for item in range(2)]
    (batch,) = DataLoader(samples, batch_size=2)
    assert sorted(batch) == ["image", "label", "scope"]
    assert batch["scope"].shape == (2, 3, *SHAPE)
