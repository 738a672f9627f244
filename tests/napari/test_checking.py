"""Kinds of annotation and decisions about predicted objects, in a real viewer, and what is on the disk after each."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from spoco_bundle.annotation.ledger import Entry, read_ledger
from spoco_bundle.formats import read_image, write_instances


@pytest.fixture
def ledger(volume):
    """Reads the ledger beside the volume."""
    return lambda: read_ledger(volume.with_name("crowd_00_annotation.csv"))


@pytest.fixture
def label(volume):
    """Reads the label beside the volume."""
    return lambda: read_image(volume.with_name("crowd_00_label.nii.gz"), "label").array[0]


@pytest.fixture
def imported(opened, volume, truth, wait, tmp_path):
    """The widget with the whole truth as the result of another tool, in which objects 1 and 2 are one."""
    result = tmp_path / "foreign_masks.nii.gz"
    write_instances(result, np.where(truth == 2, 1, truth), volume)
    opened.import_file(str(result))
    wait(lambda: not opened.running)
    return opened


def done(widget, wait):
    """Waits until a decision is carried out and written."""
    wait(lambda: not widget.running)
    wait(lambda: not widget._pause.isActive() and not widget._keeping)


def rows(widget):
    return {row["id"]: row for row in widget.view.table.rows}


def test_every_stroke_is_written_beside_the_image(opened, truth, paint, wait, ledger, label):
    paint(opened, truth, 2)
    done(opened, wait)
    np.testing.assert_array_equal(label(), opened.annotations.data)
    assert ledger() == {1: Entry("whole"), 2: Entry("whole")}
    opened.annotations.data_setitem(np.nonzero(opened.annotations.data == 2), 0)
    done(opened, wait)
    assert ledger() == {1: Entry("whole")} and set(np.unique(label())) == {0, 1}


def test_kinds_are_chosen_for_all_and_for_one(opened, truth, paint, wait, ledger):
    paint(opened, truth, 3)
    opened.default_box.setCurrentText("slices")
    assert "one or a few planes" in opened.help_label.text()
    opened.annotations.selected_label = 2
    assert opened.kind_box.currentText() == "slices" and opened.kind_label.text() == "object 2 is"
    opened.kind_box.setCurrentText("strokes")
    opened.annotations.selected_label = 1
    assert opened.kind_box.currentText() == "slices"
    opened.paint_background()
    done(opened, wait)
    opened._refresh()
    assert not opened.kind_box.isEnabled()
    assert ledger() == {1: Entry("slices"), 2: Entry("strokes"), 3: Entry("slices")}
    assert "(2 in slices, 1 by strokes)" in opened.count_label.text()


def test_a_flat_image_has_no_slices(widget, wait, tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "flat.tif", np.random.default_rng(0).integers(0, 255, (20, 30), dtype=np.uint8))
    widget.open_path(str(tmp_path / "flat.tif"))
    wait(lambda: not widget.running)
    for box in (widget.default_box, widget.kind_box):
        assert [box.itemText(index) for index in range(box.count())] == ["whole", "strokes", "points"]


@pytest.mark.slow
def test_clicks_and_regions_come_back(opened, volume, wait):
    opened.points_button.click()
    assert opened.points.mode == "add"
    opened.points.add([3.0, 20.2, 30.6])
    opened.points.add([3.0, 20.2, -30.0])  # beside the image
    opened.regions_button.click()
    assert opened.regions.mode == "add_rectangle"
    opened.regions.add_rectangles(np.array([[2, 0, 0], [2, 0, 9], [2, 9, 9], [2, 9, 0.0]]))
    opened.regions.add_ellipses(np.array([[4, 0, 0], [4, 0, 9], [4, 9, 9], [4, 9, 0.0]]))
    done(opened, wait)
    assert "<b>1</b> point, <b>1</b> complete region" in opened.count_label.text()
    names = {path.name for path in volume.parent.iterdir()}
    assert names == {volume.name, "crowd_00_points.csv", "crowd_00_complete.csv"}
    opened.open_path(str(volume))
    wait(lambda: not opened.running)
    assert opened.points.data.tolist() == [[3, 20, 31]]
    assert [corners[0].tolist() for corners in opened.regions.data] == [[2, 0, 0]]
    assert {layer.name for layer in opened.viewer.layers} >= {"points", "complete regions"}
    assert len([layer for layer in opened.viewer.layers if layer.name.startswith("annotations")]) == 1


def test_opening_alone_writes_nothing(opened, volume, truth, wait):
    write_instances(volume.with_name("crowd_00_label.nii.gz"), truth, volume)
    before = {path: path.stat().st_mtime_ns for path in volume.parent.iterdir()}
    opened.open_path(str(volume))
    wait(lambda: not opened.running)
    np.testing.assert_array_equal(opened.annotations.data, truth)
    opened._keep_now()
    done(opened, wait)
    assert {path: path.stat().st_mtime_ns for path in volume.parent.iterdir()} == before


def test_opened_again_at_once_an_image_has_the_last_stroke(opened, volume, truth, wait):
    opened.new_button.click()
    opened.annotations.data_setitem(np.nonzero(truth == 1), 1)
    drawn = opened.annotations.data.copy()
    opened.open_path(str(volume))
    wait(lambda: not opened.running)
    np.testing.assert_array_equal(opened.annotations.data, drawn)


def test_foreign_objects_teach_nothing_until_they_are_accepted(imported, truth, wait, ledger, label, volume):
    done(imported, wait)
    assert ledger() == {number: Entry("whole", checked=False) for number in rows(imported)}
    assert not imported.annotations.data.any() and "<b>0</b> objects" in imported.count_label.text()
    number = int(imported.instances.data[truth == 3][0])
    imported.default_box.setCurrentText("slices")
    imported.view.select({number})
    imported.accept_button.click()
    done(imported, wait)
    assert ledger()[number] == Entry("whole"), "a predicted object is drawn in all its voxels"
    assert sum(entry.checked for entry in ledger().values()) == 1
    np.testing.assert_array_equal(imported.annotations.data == number, truth == 3)
    imported.open_path(str(volume))
    wait(lambda: not imported.running)
    np.testing.assert_array_equal(imported.annotations.data > 0, truth == 3)
    np.testing.assert_array_equal(imported.instances.data > 0, (truth > 0) & (truth != 3))
    assert number not in rows(imported) and len(rows(imported)) == len(np.unique(truth)) - 3


def test_a_layer_of_another_plugin_is_imported_under_free_numbers(opened, truth, paint, wait, errors):
    paint(opened, truth, 2)
    foreign = opened.viewer.add_labels(truth.astype(np.uint8), name="StarDist")
    opened.import_layer_button.click()
    wait(lambda: not opened.running)
    # what is drawn already is not found again
    assert len(rows(opened)) == len(np.unique(truth)) - 3 and min(rows(opened)) > 2
    np.testing.assert_array_equal(opened.instances.data > 0, truth > 2)
    assert foreign in opened.viewer.layers and errors() == []
    opened.viewer.layers.selection.active = opened.annotations
    opened.import_layer_button.click()
    assert errors()[-1].startswith("select a layer of labels")
    opened.new_button.click()
    assert opened.annotations.selected_label > max(rows(opened))


def test_merge_delete_and_split_are_written_and_taken_back(imported, truth, wait, ledger, label, errors):
    before, table = imported.instances.data.copy(), rows(imported)
    both, third, fourth = (int(imported.instances.data[truth == number][0]) for number in (1, 3, 4))
    # two nuclei under one number that do not touch fall into their pieces
    imported.view.select({both})
    imported.split_button.click()
    done(imported, wait)
    parts = set(imported.view.selected())
    assert len(parts) == 2 and both in parts
    for number in (1, 2):
        assert len(set(imported.instances.data[truth == number])) == 1
    assert {number: ledger()[number].checked for number in parts} == dict.fromkeys(parts, False)
    assert all(rows(imported)[number]["voxels"] == (imported.instances.data == number).sum() for number in parts)

    imported.view.select({third, fourth})
    imported.merge_button.click()
    done(imported, wait)
    assert imported.view.selected() == [min(third, fourth)]
    np.testing.assert_array_equal(imported.instances.data == min(third, fourth), np.isin(truth, (3, 4)))

    imported.view.select({min(third, fourth)})
    imported.delete_button.click()
    done(imported, wait)
    assert not imported.instances.data[np.isin(truth, (3, 4))].any() and min(third, fourth) not in ledger()
    for _ in range(3):
        imported.undo_button.click()
    done(imported, wait)
    np.testing.assert_array_equal(imported.instances.data, before)
    assert rows(imported) == table and set(ledger()) == set(table)
    np.testing.assert_array_equal(label(), before)
    imported.undo_button.click()
    assert errors() == ["there is no decision to take back; Ctrl-Z takes back what was painted"]
    imported.merge_button.click()
    assert errors()[-1].startswith("select two objects or more")


def test_an_object_in_one_piece_is_split_where_one_clicks(imported, truth, wait):
    number = int(imported.instances.data[truth == 5][0])
    imported.view.select({number})
    imported.split_button.click()
    done(imported, wait)
    assert imported.seeds.mode == "add" and "click once" in imported.status_label.text()
    inside = np.argwhere(imported.instances.data == number)
    seeds = inside[np.argmin(inside[:, 2])], inside[np.argmax(inside[:, 2])]
    imported.seeds.add(seeds)
    imported.split_button.click()
    done(imported, wait)
    assert imported.instances.data[tuple(seeds[0])] != imported.instances.data[tuple(seeds[1])]
    assert imported.seeds is None and sum(rows(imported)[part]["voxels"] for part in imported.view.selected()) == len(
        inside
    )


def test_an_empty_layer_of_seeds_says_nothing(imported, truth, wait):
    imported._ask_for_seeds()
    imported.view.select({int(imported.instances.data[truth == 1][0])})
    imported.split_button.click()
    done(imported, wait)
    assert len(imported.view.selected()) == 2  # the pieces of two nuclei under one number


def test_redraw_takes_an_object_away_and_the_brush(imported, wait, ledger):
    number = min(rows(imported))
    imported.view.select({number})
    imported.redraw_button.click()
    done(imported, wait)
    assert not (imported.instances.data == number).any() and number not in ledger()
    assert imported.annotations.mode == "paint" and imported.annotations.selected_label not in rows(imported)
    drawn = imported.annotations.selected_label
    imported.annotations.data_setitem((np.array([4]), np.array([5]), np.array([6])), drawn)
    done(imported, wait)
    assert ledger()[drawn] == Entry("whole")


def test_paint_over_an_accepted_object_stays_when_it_is_taken_back(imported, wait):
    number = min(rows(imported))
    imported.view.select({number})
    imported.accept_button.click()
    done(imported, wait)
    places = np.nonzero(imported.annotations.data == number)
    imported.annotations.data_setitem(tuple(along[:5] for along in places), 500)
    imported.undo_button.click()
    done(imported, wait)
    assert (imported.annotations.data == 500).sum() == 5 and not (imported.annotations.data == number).any()
    assert (imported.instances.data == number).sum() == len(places[0])


def test_the_least_certain_object_is_shown_next(imported, wait, errors):
    few = list(rows(imported).values())[:4]
    table = [{**row, "confidence": 1 / row["id"] if row["id"] % 2 else ""} for row in few]
    imported._show_rows(table)
    order = sorted((row["confidence"] or 9, row["id"]) for row in table)
    for _, number in [*order, order[0]]:
        imported.next_button.click()
        assert imported.view.selected() == [number] and imported.instances.selected_label == number
        row = next(row for row in table if row["id"] == number)
        outline = imported._chosen
        assert outline in imported.viewer.layers and (outline.data > 0).sum() == row["voxels"]
        np.testing.assert_allclose(outline.translate / outline.scale, [row[f"{axis}_min"] - 1 for axis in "zyx"])
        middle = (row["z_min"] + row["z_max"] - 1) / 2
        assert abs(imported.viewer.dims.current_step[0] - middle) <= 1
        at = (row["y_min"] + row["y_max"] - 1) / 2 * imported.instances.scale[1]
        assert getattr(imported.viewer, "scene", imported.viewer).camera.center[1] == pytest.approx(at)
    imported._show_rows([])
    imported.next_button.click()
    assert errors()[-1].startswith("no unchecked object is left")


def test_closing_at_once_loses_nothing(opened, viewer, truth, ledger, label):
    opened.new_button.click()
    opened.annotations.data_setitem(np.nonzero(truth == 1), 1)
    drawn = opened.annotations.data.copy()
    viewer.close()
    np.testing.assert_array_equal(label(), drawn)
    assert ledger() == {1: Entry("whole")}


def test_another_image_does_not_get_the_annotations_of_the_last(opened, volume, truth, wait, tmp_path, zarr_image):
    opened.new_button.click()
    opened.annotations.data_setitem(np.nonzero(truth == 1), 1)
    other = zarr_image(tmp_path / "other.ome.zarr", np.arange(4096, dtype=np.uint16).reshape(16, 16, 16), (2, 1, 1))
    opened.open_path(str(other))
    wait(lambda: not opened.running)
    assert (read_image(volume.with_name("crowd_00_label.nii.gz"), "label").array[0] > 0).sum() == (truth == 1).sum()
    assert not opened.annotations.data.any() and opened.annotations.data.shape == (16, 16, 16)
    opened.annotations.data_setitem(np.nonzero(np.ones((16, 16, 16))), 3)
    done(opened, wait)
    assert read_ledger(tmp_path / "other_annotation.csv") == {3: Entry("whole")}
    opened.open_path(str(other))
    wait(lambda: not opened.running)
    assert (opened.annotations.data == 3).all()


def test_a_place_that_cannot_be_written_is_said_once(opened, truth, paint, wait, errors, tmp_path):
    (tmp_path / "file").write_text("")
    opened.session.label = tmp_path / "file" / "crowd_00_label.nii.gz"
    paint(opened, truth, 2)
    done(opened, wait)
    assert len(errors()) == 1 and "not kept until you press Save" in errors()[0]
    opened.save_to(str(tmp_path / "saved"))
    wait(lambda: not opened.running)
    opened.annotations.data_setitem(np.nonzero(truth == 9), 9)
    done(opened, wait)
    assert 9 in read_ledger(tmp_path / "saved" / "crowd_00_annotation.csv") and len(errors()) == 1


KILLED = """
import os
import sys
import time

import napari
import numpy as np
from qtpy.QtWidgets import QApplication
viewer = napari.Viewer(show=False)
_, widget = viewer.window.add_plugin_dock_widget("spoco-bundle", "Segment from a few annotated objects")

def wait(holds):
    while not holds():
        QApplication.processEvents()
        time.sleep(0.01)

widget.open_path(sys.argv[1])
wait(lambda: not widget.running)
widget.default_box.setCurrentText("slices")
widget.annotations.data_setitem(np.nonzero(np.arange(65536).reshape(16, 64, 64) < 50), 1)
widget.import_file(sys.argv[2])
wait(lambda: not widget.running)
widget.accept([widget.view.table.rows[0]["id"]])
wait(lambda: not widget.running)
wait(lambda: not widget._pause.isActive() and not widget._keeping)
widget.annotations.data_setitem(tuple(np.array([[0], [63], [63]])), 99)  # the stroke that is being painted
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_killed_viewer_keeps_all_but_the_last_stroke(screen, volume, truth, tmp_path, ledger, label):
    result = tmp_path / "masks.nii.gz"
    write_instances(result, np.where(truth < 8, truth, 0), volume)
    script = tmp_path / "viewer.py"
    script.write_text(KILLED)
    assert subprocess.run([sys.executable, script, volume, result], timeout=300).returncode == -9
    entries = ledger()
    assert entries[1] == Entry("slices") and 99 not in entries and 99 not in label()
    checked = {number for number, entry in entries.items() if entry.checked}
    assert len(checked) == 2 and len(entries) == 8
