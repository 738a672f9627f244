"""Annotations, trainings, predictions and saved files, without a window."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import tifffile

from spoco_bundle.annotation.ledger import read_ledger
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist
from spoco_bundle.formats import read_image
from spoco_bundle.formats.lazy import open_volume
from spoco_bundle.formats.objects_table import read_objects_table
from spoco_bundle.napari.annotations import Annotations
from spoco_bundle.napari.files import region_to_train
from spoco_bundle.napari.labels import BACKGROUND, as_ids, ids_of, together
from spoco_bundle.napari.reader import open_image
from spoco_bundle.napari.session import Session
from spoco_bundle.transforms import LoadVolumed, SaveInstancesd

TINY = "--batch_size 1 --device cpu --learning_rate 0.000001".split()


@pytest.fixture
def session():
    """Opens sessions, which are closed in the end."""
    opened = []

    def open_one(path, **arguments):
        opened.append(Session(open_image(path), **arguments))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()
        assert not one.folder.exists()


def result(steps):
    """What a generator returns, and what it yields."""
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return end.value, seen


def test_known_background_is_no_object():
    assert ids_of(np.array([0, 0, 3, 3, 7, BACKGROUND])) == {3, 7}
    assert ids_of(np.zeros((2, 2), int)) == set()


def test_ids_of_files():
    assert as_ids(np.array([0, 5])).dtype == np.uint16 and as_ids(np.array([70_000])).dtype == np.uint32
    with pytest.raises(SpocoError, match="-1"):
        as_ids(np.array([-1, 2]))


def test_annotated_objects_lie_above_predicted_ones():
    predicted = np.array([12, 12, 12, 12, 15, 15, 15, 19, 19, 19])
    annotated = np.array([0, 0, 0, 0, 0, 4, 4, 7, BACKGROUND, 0])
    # 15 and 19 are covered by more than half, 19 in part by known background
    assert together(predicted, annotated).tolist() == [12, 12, 12, 12, 0, 4, 4, 7, 0, 0]
    assert together(None, annotated).tolist() == [0, 0, 0, 0, 0, 4, 4, 7, 0, 0]


def test_training_needs_an_object(session, volume, truth):
    with pytest.raises(SpocoError, match="no object is annotated yet: paint"):
        next(session(volume).train(Annotations(np.full(truth.shape, BACKGROUND))))


def test_saving_needs_something(session, volume, truth, tmp_path):
    with pytest.raises(SpocoError, match="nothing to save yet"):
        session(volume).save(tmp_path, Annotations(np.zeros_like(truth)), {})
    assert list(tmp_path.iterdir()) == []


def test_shipped_weights_are_for_one_channel(session, tmp_path):
    tifffile.imwrite(
        tmp_path / "plane.tif", np.arange(1200, dtype=np.uint16).astype(np.uint8).reshape(20, 20, 3), photometric="rgb"
    )
    one = session(tmp_path / "plane.tif")
    for steps in (one.train(Annotations(np.eye(20, dtype=int))), one.predict(np.eye(20, dtype=int))):
        with pytest.raises(SpocoError, match="train from scratch first"):
            next(steps)


@pytest.mark.slow
def test_shipped_weights_for_images(session, tmp_path):
    grid = np.indices((96, 96))
    image = sum(np.exp(-(((grid - np.reshape(middle, (2, 1, 1))) ** 2).sum(0)) / 60) for middle in ((30, 30), (64, 60)))
    tifffile.imwrite(tmp_path / "plane.tif", (200 * image).astype(np.uint8))
    found, _ = result(session(tmp_path / "plane.tif").predict(np.zeros((96, 96), int), ["--device", "cpu"]))
    assert found.instances[30, 30] > 0 and found.instances[64, 60] > 0
    assert found.instances[30, 30] != found.instances[64, 60] and found.instances[2, 90] == 0


@pytest.mark.slow
def test_two_dimensions_from_scratch(session, tmp_path):
    rng = np.random.default_rng(0)
    grid = np.indices((64, 64))
    labels = np.zeros((64, 64), int)
    for number, middle in enumerate(((16, 16), (16, 44), (44, 20), (46, 48)), start=1):
        labels[np.hypot(*(grid - np.reshape(middle, (2, 1, 1)))) < 8] = number
    image = np.stack([(120 * (labels > 0) + rng.integers(0, 60, labels.shape)).astype(np.uint8)] * 3, axis=-1)
    tifffile.imwrite(tmp_path / "rgb.tif", image, photometric="rgb")
    one = session(tmp_path / "rgb.tif", spacing=(0.5, 0.5))
    annotated = np.where(labels < 4, labels, 0)
    trained, seen = result(
        one.train(Annotations(annotated), 10, from_scratch=True, options=[*TINY, "--crop_size", "[32,32]"])
    )
    assert trained.before is None and trained.better and any(progress.fraction == 1 for progress in seen)
    found, _ = result(one.predict(annotated, ["--device", "cpu"]))
    assert found.instances.shape == (64, 64) and found.embedding.shape == (64, 64, 3)
    # a second training goes on from the first, with the network that it was made for
    trained, _ = result(one.train(Annotations(annotated), 10, options=[*TINY, "--crop_size", "[32,32]"]))
    assert trained.before is not None
    saved = one.save(tmp_path / "out", Annotations(annotated, found.instances + 3 * (found.instances > 0)), {})
    assert json.loads((tmp_path / "out" / "rgb_model" / "model.json").read_text())["in_channels"] == 3
    assert all(path.exists() for path in saved)


@pytest.mark.slow
def test_ome_zarr_trains_on_a_part_and_is_predicted_and_saved_as_zarr(
    session, volume, truth, zarr_image, tmp_path, monkeypatch
):
    image = read_image(volume)
    path = zarr_image(tmp_path / "crowd.ome.zarr", image.array[0], image.spacing)
    one = session(path)
    number = next(n for n in np.unique(truth) if n and np.argwhere(truth == n)[:, 2].max() < 30)
    annotated = np.where(truth == number, 3, 0)
    options = [*TINY, "--crop_size", "[8,24,24]"]
    monkeypatch.setattr("spoco_bundle.napari.files.AROUND", (4, 8, 8))
    region = region_to_train(Annotations(annotated).contents())
    assert region[2].stop < truth.shape[2]
    trained, _ = result(one.train(Annotations(annotated), 10, options=options))
    assert trained.before is not None
    found, _ = result(one.predict(annotated, ["--device", "cpu"]))
    assert found.instances.shape == truth.shape and found.embedding is None and found.rows
    assert not found.instances[annotated > 0].any()
    assert all(0 <= row["confidence"] <= 1 for row in found.rows)

    both = Annotations(annotated, found.instances + 3 * (found.instances > 0))
    one.save(tmp_path / "out", both, {row["id"] + 3: row["confidence"] for row in found.rows})
    saved = open_volume(tmp_path / "out" / "crowd_instances.ome.zarr")
    assert saved.spacing == pytest.approx(image.spacing) and saved.file_unit == "micrometer"
    labels = saved.read(tuple(slice(0, size) for size in saved.shape))[0]
    rows = read_objects_table(tmp_path / "out" / "crowd_objects.csv")
    assert {int(row["id"]) for row in rows} == set(np.unique(labels)) - {0}
    assert len(np.unique(labels[annotated > 0])) == 1
    label = open_volume(tmp_path / "out" / "crowd_label.ome.zarr")
    kept = label.read(tuple(slice(0, size) for size in label.shape))[0]
    np.testing.assert_array_equal(np.where(kept == 3, kept, 0), annotated)
    ledger = read_ledger(tmp_path / "out" / "crowd_annotation.csv")
    assert [number for number, entry in ledger.items() if entry.checked] == [3]
    # a second time over the first
    one.save(tmp_path / "out", both, {})
    assert not list((tmp_path / "out").glob(".*"))


def test_failed_run_leaves_nothing_and_its_reason(session, volume, truth):
    one = session(volume)
    with pytest.raises(SpocoError, match="crop_size"):
        result(one.train(Annotations(truth), 10, options=["--crop_size", "many"]))
    assert list(one.folder.iterdir()) == [] and one.model is None


def test_annotations_make_a_datalist(session, volume, truth, tmp_path):
    session(volume).save(tmp_path, Annotations(truth), {})
    (pair,) = build_datalist(tmp_path / "crowd_00_raw_datalist.json", "val")
    assert pair["image"] == str(volume) and pair["annotation"] == str(tmp_path / "crowd_00_annotation.csv")
    np.testing.assert_array_equal(read_image(pair["label"], "label").array[0], truth)


def test_a_saved_table_is_that_of_a_prediction_where_the_file_names_no_unit_and_its_grid_is_sheared(session, tmp_path):
    voxels = np.random.default_rng(0).integers(0, 200, (4, 6, 8)).astype(np.uint8)
    sheared = np.array([[0.5, 0.3, 0, 0], [0, 0.4, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(voxels.T, sheared)
    image.header.set_xyzt_units("unknown")
    nibabel.save(image, tmp_path / "a.nii")
    found = np.ones(voxels.shape, np.int32)
    SaveInstancesd(output_dir=tmp_path / "predicted")(
        LoadVolumed("image")({"image": str(tmp_path / "a.nii")}) | {"pred": found[None]}
    )
    session(tmp_path / "a.nii").save(tmp_path / "saved", Annotations(np.zeros_like(found), found), {})
    tables = [(tmp_path / folder / "a_objects.csv").read_text() for folder in ("predicted", "saved")]
    assert tables[0] == tables[1] and ",unknown," in tables[0]
