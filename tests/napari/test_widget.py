"""The window, in a real viewer: the buttons are pressed and the layers painted as a person would."""

from __future__ import annotations

import nibabel
import numpy as np
import psutil
import pytest

from spoco_bundle.annotation.ledger import Entry, read_ledger
from spoco_bundle.dataset import build_datalist
from spoco_bundle.formats import read_image
from spoco_bundle.formats.objects_table import read_objects_table

#: so small that a training takes seconds, most of them to start; a rate at which the weights hardly move
TINY = "--crop_size [8,24,24] --batch_size 1 --device cpu --learning_rate 0.000001"


def children():
    return [
        child for child in psutil.Process().children() if "spoco_bundle.napari.command" in " ".join(child.cmdline())
    ]


def test_manifest_is_valid(screen):
    from npe2 import PluginManifest

    manifest = PluginManifest.from_distribution("spoco-bundle")
    manifest.validate_imports()
    assert [widget.display_name for widget in manifest.contributions.widgets] == [
        "Segment from a few annotated objects"
    ]


@pytest.mark.slow
def test_paint_train_predict_accept_save(opened, viewer, volume, truth, paint, wait, errors, tmp_path, monkeypatch):
    from qtpy.QtCore import QTimer
    from qtpy.QtWidgets import QFileDialog

    affine = nibabel.load(volume).affine
    np.testing.assert_allclose(viewer.layers[0].scale, np.linalg.norm(affine, axis=0)[2::-1], rtol=1e-5)
    paint(opened, truth, 3)
    assert {int(n) for n in np.unique(opened.annotations.data)} == {0, 1, 2, 3}

    beats = []
    timer = QTimer(interval=20)
    timer.timeout.connect(lambda: beats.append(None))
    opened.iterations_box.setValue(10)
    opened.train_options.setText(TINY)
    timer.start()
    opened.train_button.click()
    assert not opened.train_button.isEnabled() and opened.cancel_button.isEnabled()
    wait(lambda: not opened.running)
    timer.stop()
    assert errors() == []
    assert len(beats) > 20, "the window stood still while the network trained"
    # at such a rate the new weights may be no better, and are then not taken
    kept = "kept the old weights: none was better" in opened.status_label.text()
    assert opened.session.trained_here != kept
    assert ("trained here" in opened.model_label.text()) == opened.session.trained_here
    assert kept or (opened.session.model / "model.pt").is_file()

    opened.predict_options.setText("--device cpu")
    opened.predict_button.click()
    wait(lambda: not opened.running)
    assert errors() == []
    instances, embedding = opened.instances, opened.embedding
    np.testing.assert_allclose(instances.scale, viewer.layers[0].scale)
    assert embedding.rgb and embedding.data.shape == (*truth.shape, 3) and len(np.unique(embedding.data)) > 50
    found = {row["id"] for row in opened.view.table.rows}
    assert found and found == set(np.unique(instances.data)) - {0}
    assert not (instances.data > 0)[opened.annotations.data > 0].any(), "annotated objects are found once"
    assert list(instances.features["index"]) == sorted(found) and instances.features["confidence"].between(0, 1).all()

    chosen = opened.view.table.rows[0]["id"]
    accepted = instances.data == chosen
    opened.view.selectRow(0)
    assert instances.selected_label == chosen
    outlined = opened._chosen
    assert outlined in viewer.layers and (outlined.data > 0).sum() == accepted.sum(), "the object is outlined"
    assert not np.allclose(instances.colormap.colors[1], opened.annotations.colormap.colors[1])
    opened.accept_button.click()
    wait(lambda: not opened.running)
    assert (opened.annotations.data[accepted] == chosen).all(), "an object keeps its number"
    assert (opened.annotations.data == chosen).sum() == accepted.sum()
    assert not (instances.data == chosen).any() and chosen not in {row["id"] for row in opened.view.table.rows}
    wait(lambda: "<b>4</b> objects" in opened.count_label.text())

    opened.confidence_box.setValue(0.0)
    assert set(opened.view.selected()) == {row["id"] for row in opened.view.table.rows}, (
        "it is shown what would be taken"
    )
    assert f"({len(opened.view.table.rows)})" in opened.accept_all_button.text()
    others = len(opened.view.table.rows)
    opened.undo_button.click()
    assert not (opened.annotations.data == chosen).any() and ((opened.instances.data == chosen) == accepted).all()
    assert chosen in {row["id"] for row in opened.view.table.rows}, "an acceptance can be undone"
    opened.accept([chosen])
    wait(lambda: not opened.running)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    opened.save_button.click()
    wait(lambda: not opened.running)
    assert errors() == []
    name = volume.name.removesuffix(".nii.gz")
    saved = tmp_path / f"{name}_instances.nii.gz"
    np.testing.assert_array_equal(nibabel.load(saved).affine, affine)
    assert nibabel.load(saved).header.get_xyzt_units() == nibabel.load(volume).header.get_xyzt_units()
    labels = read_image(saved, "label").array[0]
    rows = read_objects_table(tmp_path / f"{name}_objects.csv")
    assert {int(row["id"]) for row in rows} == set(np.unique(labels)) - {0} and len(rows) == others + 4
    assert sum(row["confidence"] == "" for row in rows) == 4, "what a person drew has no confidence"
    assert len(np.unique(labels[accepted])) == 1

    pairs = build_datalist(tmp_path / f"{name}_datalist.json", "train")
    label, ledger = tmp_path / "crowd_00_label.nii.gz", tmp_path / "crowd_00_annotation.csv"
    assert pairs == [{"image": str(volume), "label": str(label), "annotation": str(ledger)}]
    checked = [number for number, entry in read_ledger(ledger).items() if entry.checked]
    assert checked == [1, 2, 3, chosen]
    written = read_image(label, "label").array[0]
    np.testing.assert_array_equal(np.where(np.isin(written, checked), written, 0), opened.annotations.data)
    assert (tmp_path / f"{name}_model" / "model.pt").is_file() != kept

    opened.accept_all_button.click()
    wait(lambda: not opened.running)
    assert opened.view.table.rows == [] and not opened.instances.data.any()
    wait(lambda: f"<b>{others + 4}</b> objects" in opened.count_label.text())


@pytest.mark.slow
def test_two_slices_of_two_objects_and_what_is_accepted_of_the_prediction(opened, volume, truth, wait, errors):
    opened.default_box.setCurrentText("slices")
    opened.iterations_box.setValue(10)
    opened.train_options.setText(TINY)
    opened.predict_options.setText("--device cpu")
    for number in (1, 2):
        opened.new_button.click()
        sizes = (truth == number).sum((1, 2))
        outlined = (truth == number) & np.isin(np.arange(len(sizes)), np.argsort(sizes)[-2:])[:, None, None]
        opened.annotations.data_setitem(np.nonzero(outlined), opened.annotations.selected_label)
    ledger = volume.with_name("crowd_00_annotation.csv")
    wait(lambda: "<b>2</b> objects annotated (2 in slices)" in opened.count_label.text())
    assert read_ledger(ledger) == {1: Entry("slices"), 2: Entry("slices")}

    opened.train_button.click()
    wait(lambda: not opened.running)
    opened.predict_button.click()
    wait(lambda: not opened.running)
    assert errors() == [] and opened.view.table.rows
    opened.next_button.click()
    (accepted,) = opened.view.selected()
    opened.accept_button.click()
    wait(lambda: not opened.running)
    wait(lambda: accepted in read_ledger(ledger) and read_ledger(ledger)[accepted].checked)
    entries = read_ledger(ledger)
    assert [entries[number].kind for number in (1, 2, accepted)] == ["slices", "slices", "whole"]
    assert {number for number, entry in entries.items() if entry.checked} == {1, 2, accepted}

    opened.train_button.click()
    wait(lambda: not opened.running)
    assert errors() == [] and "trained" in opened.status_label.text() or "kept" in opened.status_label.text()
    # closed and opened again, the two slices and the accepted object are what is annotated
    drawn = opened.annotations.data.copy()
    opened.open_path(str(volume))
    wait(lambda: not opened.running)
    np.testing.assert_array_equal(opened.annotations.data, drawn)
    assert opened.default_kind == "slices" and opened.kinds == {accepted: "whole"}
    opened.train_button.click()
    wait(lambda: not opened.running)
    assert errors() == []


@pytest.mark.slow
def test_clicks_and_a_finished_corner_train(opened, truth, wait, errors):
    opened.click_points()
    for number in (1, 2, 3, 4):
        places = np.argwhere(truth == number)
        opened.points.add(places[len(places) // 2].astype(float))
    opened.draw_regions()
    # a corner without objects, known to be none
    empty = next(z for z in range(len(truth)) if not truth[z, :4, :4].any())
    opened.regions.add_rectangles(np.array([[empty, 0, 0], [empty, 0, 3], [empty, 3, 3], [empty, 3, 0.0]]))
    opened.iterations_box.setValue(10)
    opened.train_options.setText(f"{TINY} --diameter 10")
    opened.train_button.click()
    wait(lambda: not opened.running)
    assert errors() == []


@pytest.mark.slow
def test_cancel_ends_the_training_and_leaves_nothing(opened, truth, paint, wait, errors):
    paint(opened, truth, 2)
    opened.iterations_box.setValue(400)
    opened.train_options.setText(TINY)
    opened.train_button.click()
    wait(lambda: "left" in opened.status_label.text())
    assert 0 <= opened.bar.value() < opened.bar.maximum() and len(children()) == 1
    opened.cancel_button.click()
    wait(lambda: not opened.running, 30)
    assert "cancelled" in opened.status_label.text() and errors() == []
    assert children() == [] and list(opened.session.folder.iterdir()) == []
    assert opened.session.model is None and opened.train_button.isEnabled()


def test_closing_the_viewer_ends_what_runs(opened, viewer, truth, paint, wait, process_events):
    paint(opened, truth, 1)
    opened.predict_button.click()
    wait(lambda: len(children()) == 1)
    folder = opened.session.folder
    viewer.close()
    wait(lambda: process_events() or not children(), 30)
    assert not folder.exists()


def test_training_without_an_object_says_what_to_do(opened, wait, errors):
    opened.paint_background()
    opened.annotations.data_setitem(
        np.nonzero(np.ones_like(opened.annotations.data)), opened.annotations.selected_label
    )
    opened.train_button.click()
    wait(lambda: not opened.running)
    assert len(errors()) == 1 and errors()[0].startswith("no object is annotated yet: paint")
    assert opened.train_button.isEnabled() and children() == []


@pytest.mark.slow
def test_errors_of_the_commands_are_one_line(opened, truth, wait, errors):
    opened.predict_options.setText("--objectness_treshold 0.5")
    opened.predict_button.click()
    wait(lambda: not opened.running)
    assert len(errors()) == 1 and "objectness_threshold" in errors()[0] and "\n" not in errors()[0]
    opened.predict_options.setText('--spacing "[1')
    opened.predict_button.click()
    assert "close what is quoted" in errors()[-1]


def test_files_that_are_no_images(widget, wait, errors, tmp_path):
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"no TIFF")
    widget.open_path(str(bad))
    wait(lambda: not widget.running)
    assert len(errors()) == 1 and errors()[0].startswith(str(bad))
    assert not widget.train_button.isEnabled()
    widget.use_button.click()
    assert errors()[-1].startswith("select an image layer")
    widget.viewer.add_image(np.zeros((4, 4, 4)))
    widget.use_button.click()
    assert len(errors()) == 3


def test_voxel_size_of_a_file_that_states_none(widget, viewer, wait, errors, tmp_path):
    import tifffile

    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 255, (6, 20, 20), dtype=np.uint8))
    viewer.open(str(path), plugin="spoco-bundle")
    widget.use_button.click()
    wait(lambda: not widget.running)
    assert widget.session.path == path and list(viewer.layers[0].scale) == [1, 1, 1]
    widget.spacing_edit.setText("2, 0.5")
    widget.spacing_edit.editingFinished.emit()
    assert "give 3 numbers" in errors()[-1]
    widget.spacing_edit.setText("2, 0.5, 0.5")
    widget.spacing_edit.editingFinished.emit()
    assert list(widget.annotations.scale) == [2, 0.5, 0.5] == list(viewer.layers[0].scale)
    assert str(viewer.layers[0].units[0]) == "micrometer" and widget.session.spacing == (2, 0.5, 0.5)


def test_a_missing_voxel_size_is_asked_for_before_anything_starts(widget, viewer, wait, errors, tmp_path, monkeypatch):
    import tifffile
    from qtpy.QtWidgets import QInputDialog

    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 255, (6, 20, 20), dtype=np.uint8))
    widget.open_path(str(path))
    wait(lambda: not widget.running)
    started, answers, asked = [], [("", False), ("2, 0.5", True), ("2, 0.5, 0.5", True)], []
    monkeypatch.setattr(widget, "_start", lambda *work: started.append(work))
    monkeypatch.setattr(QInputDialog, "getText", lambda *about: asked.append(about[-1]) or answers[len(asked) - 1])
    for press in (widget.train_button, widget.train_button, widget.predict_button):
        assert not started
        press.click()
    assert len(started) == 1 and len(errors()) == 1 and "give 3 numbers" in errors()[0]
    assert "z, y, x in micrometres" in asked[0] and widget.session.spacing == (2, 0.5, 0.5)
    widget.train_button.click()
    assert len(started) == 2 and len(asked) == 3, "nobody is asked twice"
    widget.session.spacing = None
    answers.append(("", True))
    for _ in range(2):
        widget.predict_button.click()
    assert len(started) == 4 and len(asked) == 4, "that nobody knows it is an answer too"


def test_every_button_can_be_reached_on_a_small_screen(opened, viewer, process_events):
    from qtpy.QtWidgets import QPushButton

    viewer.window.resize(1366, 768)
    process_events()
    sections = [opened.image_section, opened.paint_section, opened.model_section, opened.check_section]
    assert sections[0].content.isHidden() and not sections[1].content.isHidden()
    for section in sections:
        section.head.click()
        assert section.content.isHidden() != section.head.isChecked()
        for other in sections:
            other.fold(other is not section)
        process_events()
        for button in section.findChildren(QPushButton):
            corner = button.mapTo(opened, button.rect().bottomRight())
            assert opened.rect().contains(corner), f"{button.text()} is out of sight"
    assert opened.cancel_button.isVisible() and opened.rect().contains(opened.cancel_button.geometry().center())


def test_long_messages_are_shown_to_their_end(opened):
    text = "reading /data/" + "folder/" * 40 + "image.tif"
    opened._say(text)
    assert opened.status_label.text().replace("\u200b", "") == text and opened.status_label.wordWrap()


def test_a_layer_of_annotations_that_is_removed_comes_back_as_it_was(opened, viewer, truth, paint, wait):
    paint(opened, truth, 1)
    drawn = opened.annotations.data.copy()
    viewer.layers.remove(opened.annotations)
    assert opened.annotations is None
    opened.new_button.click()
    assert opened.annotations in viewer.layers
    np.testing.assert_array_equal(opened.annotations.data, drawn)


def test_model_folder_without_a_model(opened, errors, tmp_path):
    opened.use_model(str(tmp_path))
    assert errors() == [f"{tmp_path}: holds no model.pt: name the output folder of `spoco train`"]
    assert "comes with the bundle" in opened.model_label.text()
