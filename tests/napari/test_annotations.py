"""What a person has said of an image, in the files beside it: written, killed in the midst, read again."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tifffile

from spoco_bundle.annotation.complete import read_complete
from spoco_bundle.annotation.ledger import Entry, read_ledger, write_ledger
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist
from spoco_bundle.formats import read_image, write_instances
from spoco_bundle.formats.objects_table import objects_table, write_objects_table
from spoco_bundle.napari.annotations import Annotations, label_file, read_annotations, write_annotations
from spoco_bundle.napari.labels import BACKGROUND
from spoco_bundle.napari.reader import open_image
from spoco_bundle.napari.session import Session


@pytest.fixture
def image(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 200, (6, 20, 24), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "cells_raw.tif", voxels)
    return tmp_path / "cells_raw.tif"


@pytest.fixture
def everything():
    """Two drawn objects, known background, two unchecked ones, points, regions in two directions."""
    checked, unchecked = np.zeros((6, 20, 24), np.int32), np.zeros((6, 20, 24), np.int32)
    checked[2, 2:6, 2:6], checked[:, 10:14, 2:6], checked[0, 19] = 1, 4, BACKGROUND
    unchecked[1:4, 2:8, 12:16], unchecked[1:4, 4:8, 4:9] = 7, 9
    rectangle = np.array([[2, 0, 0], [2, 0, 7], [2, 7, 7], [2, 7, 0.0]])
    along = np.array([[0, 10, 1], [0, 10, 8], [5, 10, 8], [5, 10, 1.0]])
    points = np.array([[3.2, 17.6, 20.0], [0, 0, 23]])
    return Annotations(checked, unchecked, {1: "slices"}, "whole", points, [rectangle, along])


def test_everything_comes_back(image, everything):
    label = label_file(image)
    written = write_annotations(label, everything.contents(), image)
    names = ["cells_label.tif", "cells_annotation.csv", "cells_points.csv", "cells_complete.csv"]
    assert [path.name for path in written] == names
    assert read_ledger(written[1]) == {
        1: Entry("slices"),
        4: Entry("whole"),
        7: Entry("whole", checked=False),
        9: Entry("whole", checked=False),
    }
    read = read_annotations(label, (6, 20, 24))
    np.testing.assert_array_equal(read.checked, everything.checked)
    # what is drawn lies above
    np.testing.assert_array_equal(read.unchecked, np.where(everything.checked > 0, 0, everything.unchecked))
    assert [read.kinds.get(number, read.default) for number in (1, 4)] == ["slices", "whole"]
    np.testing.assert_array_equal(read.points, [[3, 18, 20], [0, 0, 23]])
    for one, other in zip(read.rectangles, everything.rectangles):
        np.testing.assert_array_equal(one, other)
    complete = read_complete(written[3], (6, 20, 24))
    assert complete[2, :8, :8].all() and complete[:, 10, 1:9].all() and complete.sum() == 8 * 8 + 6 * 8
    assert "<b>2</b> objects annotated (1 in slices), <b>2</b> points, <b>2</b> complete regions" == (
        everything.contents().in_words()
    )


def test_a_training_reads_what_was_written(image, everything):
    write_annotations(label_file(image), everything.contents(), image)
    folder = image.parent / "train"
    folder.mkdir()
    for path in list(image.parent.glob("cells_*")):
        path.rename(folder / path.name)
    (pair,) = build_datalist(image.parent, "train")
    assert {key: path.rpartition("/")[2] for key, path in pair.items()} == {
        "image": "cells_raw.tif",
        "label": "cells_label.tif",
        "annotation": "cells_annotation.csv",
        "points": "cells_points.csv",
        "complete": "cells_complete.csv",
    }


def test_nothing_is_written_where_there_is_nothing_to_say(image, everything):
    label, nothing = label_file(image), Annotations(np.zeros((6, 20, 24), np.int32))
    assert write_annotations(label, nothing.contents(), image) == []
    assert [path.name for path in image.parent.iterdir()] == ["cells_raw.tif"]
    write_annotations(label, everything.contents(), image)
    written = write_annotations(label, nothing.contents(), image)
    assert [path.name for path in written] == ["cells_label.tif", "cells_annotation.csv"]
    assert not read_image(label, "label").array.any() and read_ledger(written[1]) == {}
    assert {path.name for path in image.parent.iterdir()} == {"cells_raw.tif", *(path.name for path in written)}


@pytest.mark.parametrize("fails", ["annotation.kept.write_instances", "napari.annotations.write_points"])
def test_killed_in_the_midst_no_unchecked_object_counts_as_checked(image, everything, monkeypatch, fails):
    label = label_file(image)
    write_annotations(label, everything.contents(), image)

    class Killed(Exception):
        pass

    def killed(*_):
        raise Killed

    # 7 is deleted, 9 accepted, and 30 and 31 are new predictions
    later = Annotations(everything.checked.copy(), everything.unchecked.copy(), everything.kinds, "whole")
    later.checked[everything.unchecked == 9], later.unchecked[:] = 9, 0
    later.unchecked[4, 1:3, 18:20], later.unchecked[4, 5:7, 18:20] = 30, 31
    later.points = everything.points
    monkeypatch.setattr(f"spoco_bundle.{fails}", killed)
    with pytest.raises(Killed):
        write_annotations(label, later.contents(), image)
    read = read_annotations(label, (6, 20, 24))
    checked = set(np.unique(read.checked)) - {0, BACKGROUND}
    assert checked == {1, 4, 9}, "7 is not among them, whether or not it is gone from the label already"
    monkeypatch.undo()
    write_annotations(label, later.contents(), image)
    assert {n: entry.checked for n, entry in read_ledger(image.with_name("cells_annotation.csv")).items()} == {
        **{1: True, 4: True, 9: True},
        **{30: False, 31: False},
    }


def test_a_number_that_is_painted_counts_as_painted_only(everything):
    everything.checked[5, 0, :3] = 7
    contents = everything.contents()
    assert contents.entries[7].checked and (contents.labels == 7).sum() == 3


def test_the_most_common_kind_is_that_of_new_objects(image):
    checked = np.arange(6, dtype=np.int32)[:, None, None] * np.ones((6, 20, 24), np.int32)
    label = label_file(image)
    write_annotations(label, Annotations(checked, None, {5: "strokes"}, "slices").contents(), image)
    read = read_annotations(label, (6, 20, 24))
    assert (read.default, read.kinds) == ("slices", {5: "strokes"})


@pytest.mark.parametrize("content", ["mask", "boxes"])
def test_a_mask_or_boxes_of_somebody_else_stay(image, everything, content):
    label = label_file(image)
    other = image.with_name("cells_complete.tif")
    if content == "mask":
        tifffile.imwrite(other, np.ones((6, 20, 24), np.uint8))
    else:
        other = image.with_name("cells_complete.csv")
        other.write_text("z_start,y_start,x_start,z_stop,y_stop,x_stop\n0,0,0,6,20,24\n")
    before = other.read_bytes()
    assert read_annotations(label, (6, 20, 24)).rectangles == []
    with pytest.raises(SpocoError, match="says already where every object is drawn"):
        write_annotations(label, everything.contents(), image)
    everything.rectangles = ()
    assert other in write_annotations(label, everything.contents(), image)
    assert other.read_bytes() == before


def test_where_labels_are(tmp_path):
    for name, label in (
        ("a/cells_raw.nii.gz", "a/cells_label.nii.gz"),
        ("a/cells.jpg", "a/cells_label.png"),
        ("imagesTr/cells_0000.nii.gz", "labelsTr/cells.nii.gz"),
        ("train/images/cells.tif", "train/masks/cells.tif"),
        ("imagesTs/cells_0000.nii.gz", "imagesTs/cells_0000_label.nii.gz"),
        ("studies/cells.nii.gz", "studies/labels/final/cells.nii.gz"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        for folder in ("labelsTr", "train/masks"):
            (tmp_path / folder).mkdir(exist_ok=True, parents=True)
        if name.startswith("studies"):
            (tmp_path / "studies" / "datastore_v2.json").write_text("{}")
        assert label_file(tmp_path / name) == tmp_path / label


@pytest.mark.parametrize("name", ["a_label.tif", "a_label.ome.zarr"])
def test_a_label_in_another_format_is_read_and_written_as_it_is(tmp_path, name, zarr_image):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (20, 24), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    labels = np.zeros((20, 24), np.uint16)
    labels[3:8, 3:8] = 300
    if name.endswith(".tif"):
        tifffile.imwrite(tmp_path / name, labels)
    else:
        (tmp_path / "elsewhere").mkdir()
        write_instances(tmp_path / name, labels, zarr_image(tmp_path / "elsewhere" / "a.ome.zarr", pixels, (1, 1)))
        shutil.rmtree(tmp_path / "elsewhere")
    session = Session(open_image(tmp_path / "a.png"))
    try:
        read, _ = session.read()
        np.testing.assert_array_equal(read.checked, labels)
        for number in (301, 302):  # a second time too
            read.checked[10:12] = number
            session.keep(read.contents())
            np.testing.assert_array_equal(read_image(tmp_path / name, "label", 2).array[0], read.checked)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a_annotation.csv", name]
    finally:
        session.close()


def test_files_of_another_image_are_named(image):
    tifffile.imwrite(image.with_name("cells_label.tif"), np.ones((6, 20, 23), np.uint8))
    with pytest.raises(SpocoError, match="cells_label.tif: has 6 x 20 x 23 voxels, the image 6 x 20 x 24"):
        read_annotations(label_file(image), (6, 20, 24))
    tifffile.imwrite(image.with_name("cells_label.tif"), np.ones((6, 20, 24), np.uint8))
    image.with_name("cells_annotation.csv").write_text("id,kind,state\n1,circles,checked\n")
    with pytest.raises(SpocoError, match="cells_annotation.csv: row 2: kind is 'circles'"):
        read_annotations(label_file(image), (6, 20, 24))


def test_a_result_of_any_tool_is_read_beside_what_is_drawn(image, everything):
    session = Session(open_image(image))
    try:
        found = np.zeros((6, 20, 24), np.float32)  # Cellpose and others save floats
        found[:, 2:6, 2:6], found[:, 14:19, 14:20] = 3, 8
        tifffile.imwrite(image.with_name("cp_masks.tif"), found)
        steps = session.take_file(image.with_name("cp_masks.tif"), everything.checked)
        with pytest.raises(StopIteration) as end:
            while True:
                next(steps)
        predicted = end.value.value
        np.testing.assert_array_equal(predicted.instances, np.where(everything.checked > 0, 0, found))
        assert [row["id"] for row in predicted.rows] == [3, 8] and predicted.rows[0]["confidence"] == ""
        with pytest.raises(SpocoError, match=f"layer 1: label id {2**32 + 3} does not fit 32 bits"):
            list(session.take_labels(np.where(found > 0, 2**32 + 3, 0), "layer 1", everything.checked))
        with pytest.raises(SpocoError, match="layer 1: has 20 x 24 voxels, the image 6 x 20 x 24"):
            list(session.take_labels(found[0].astype(int), "layer 1", everything.checked))
        with pytest.raises(SpocoError, match="holds numbers that are no ids"):
            list(session.take_labels(-found.astype(int), "layer 1", everything.checked))
    finally:
        session.close()


def test_large_ids_become_small_ones_with_their_confidences(image, everything):
    session, found = Session(open_image(image)), np.zeros((6, 20, 24), np.int32)
    found[:, 2:6, 2:6], found[:, 14:19, 14:20] = 2**31 - 1, 2**30
    try:
        write_instances(image.with_name("cells_instances.tif"), found, image)
        rows = objects_table(found, None, "voxel")
        rows = [{**row, "confidence": {2**31 - 1: 0.25, 2**30: 0.75}[row["id"]]} for row in rows]
        write_objects_table(image.with_name("cells_objects.csv"), rows, 3)
        steps = session.take_file(image.with_name("cells_instances.tif"), everything.checked)
        with pytest.raises(StopIteration) as end:
            while True:
                next(steps)
        instances, confidence = end.value.value.instances, {r["id"]: r["confidence"] for r in end.value.value.rows}
        assert instances.max() == 2
        assert (confidence[instances[0, 5, 5]], confidence[instances[0, 18, 19]]) == (0.25, 0.75)
    finally:
        session.close()


def test_confidences_come_back_with_the_objects_that_they_are_of(image, everything):
    session = Session(open_image(image))
    try:
        session.save(image.parent, everything, {7: 0.25, 9: 0.75})
        _, rows = session.read()
        assert {row["id"]: row["confidence"] for row in rows} == {7: 0.25, 9: 0.75}
        everything.unchecked[1:4, 2, 12:16] = 0
        session.keep(everything.contents())
        _, rows = session.read()
        assert {row["id"]: row["confidence"] for row in rows} == {7: "", 9: 0.75}, "7 is another object now"
    finally:
        session.close()


def test_a_folder_that_cannot_be_written_is_replaced_by_one_that_can(image, everything, monkeypatch, tmp_path):
    session = Session(open_image(image))
    try:
        (tmp_path / "file").write_text("")
        session.label = tmp_path / "file" / "cells_label.tif"  # as if the folder were write-protected
        with pytest.raises(SpocoError, match="cannot be written"):
            session.keep(everything.contents())
        session.save(tmp_path / "saved", everything, {})
        session.keep(everything.contents())
        assert session.label == tmp_path / "saved" / "cells_label.tif"
    finally:
        session.close()


def test_a_ledger_is_kept_in_step(image, everything):
    label = label_file(image)
    write_annotations(label, everything.contents(), image)
    ledger = image.with_name("cells_annotation.csv")
    write_ledger(ledger, {**read_ledger(ledger), 77: Entry("points")})
    write_annotations(label, everything.contents(), image)
    assert sorted(read_ledger(ledger)) == [1, 4, 7, 9]
