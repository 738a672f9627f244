import nibabel
import numpy as np
import pytest
import tifffile

from spoco_bundle.annotation.complete import read_complete
from spoco_bundle.annotation.kept import told_apart, write_kept
from spoco_bundle.annotation.ledger import Entry, ledger_path, read_ledger
from spoco_bundle.annotation.points import points_path, write_points
from spoco_bundle.annotation.rectangles import keep_rectangles
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import read_image
from spoco_bundle.label.studies import Studies, adopt_labels, is_result, what_is_said, with_side_files
from spoco_bundle.napari.annotations import label_file
from spoco_bundle.transforms import LoadVolumed, ReadAnnotationd

BACKGROUND = 65535


@pytest.fixture
def prediction():
    labels = np.zeros((5, 6, 7), dtype=np.int32)
    labels[1:3, 1:3, 1:3] = 1
    labels[1:3, 3:5, 4:6] = 2
    return labels


@pytest.fixture(params=["emb.tif", "emb.nii.gz"])
def image(request, tmp_path):
    file = tmp_path / request.param
    intensities = np.random.default_rng(0).integers(0, 255, (5, 6, 7), dtype=np.uint8)
    if file.suffix == ".tif":
        tifffile.imwrite(file, intensities)
    else:
        nibabel.save(nibabel.Nifti1Image(intensities.T, np.diag([-0.8, -0.8, 1.75, 1])), file)
    return file


@pytest.fixture
def studies(tmp_path):
    return Studies(tmp_path, 3, BACKGROUND)


def written(labels, folder, affine=None, name="label.nii.gz"):
    affine = np.diag([-0.8, -0.8, 1.75, 1]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(labels.T.astype(np.uint16), affine), folder / name)
    return folder / name


def taken(studies, image, labels, tmp_path, previous="", **info):
    """The label as it is kept, with its ledger, and of it what teaches."""
    affine = np.eye(4) if image.suffix == ".tif" else None
    kept = studies.take_back("emb", image, written(labels, tmp_path, affine), info, previous)
    file = tmp_path / "final" / image.name
    write_kept(file, kept.labels, kept.ledger, image)
    read, entries = read_image(file, "label").array[0], read_ledger(ledger_path(file))
    np.testing.assert_array_equal(read, kept.labels)
    assert entries == kept.ledger and set(entries) == set(np.unique(read)) - {0, BACKGROUND}
    return file, told_apart(read, entries)[0], entries


def test_a_round_keeps_what_was_drawn_and_shows_it_again(studies, image, prediction, tmp_path):
    shown, names = studies.hand_out("emb", prediction, "")
    assert names == {"object 1": 1, "object 2": 2}
    returned = shown.copy()
    returned[3:5, 0, :] = 3
    file, checked, entries = taken(studies, image, returned, tmp_path)
    np.testing.assert_array_equal(checked, np.where(returned == 3, 3, 0))
    assert entries == {3: Entry("whole"), 1: Entry("whole", checked=False), 2: Entry("whole", checked=False)}
    shown, names = studies.hand_out("emb", np.roll(prediction, 1, axis=2), file)
    assert names == {"object 1": 1, "object 2": 2, "confirmed 3": 3}
    np.testing.assert_array_equal(shown == 3, checked == 3)
    _, again, entries = taken(studies, image, shown, tmp_path, file)
    np.testing.assert_array_equal(again, np.where(checked, 3, 0))
    assert [number for number, entry in entries.items() if entry.checked] == [3]


def test_what_was_kept_unchecked_stays_so_when_it_comes_back(studies, image, prediction, tmp_path):
    # as from another viewer in which the result of another tool was imported: it was never handed out here
    kept = np.where(prediction == 2, 9, np.where(prediction == 1, 7, 0))
    file = tmp_path / "final" / image.name
    write_kept(file, kept, {7: Entry("whole"), 9: Entry("whole", checked=False)}, image)
    returned = kept.copy()
    returned[4, 0, :] = 3
    _, checked, entries = taken(studies, image, returned, tmp_path, file)
    np.testing.assert_array_equal(checked, np.where(returned == 9, 0, returned))
    assert not entries[9].checked and entries[7].checked and entries[3].checked
    shown, names = studies.hand_out("emb", np.zeros_like(prediction), file)
    assert sorted(names) == ["confirmed 1", "confirmed 2"] and not shown[kept == 9].any()


def test_names_confirm_and_paint_background(studies, image, prediction, tmp_path):
    shown, _ = studies.hand_out("emb", prediction, "")
    returned = shown.copy()
    returned[0] = 3
    info = [
        {"name": "object 1", "idx": 1},
        {"name": "Confirmed, I looked", "idx": 2},
        {"name": "no object", "idx": 3},
    ]
    _, checked, _ = taken(studies, image, returned, tmp_path, label_info=info)
    np.testing.assert_array_equal(checked, np.select([returned == 2, returned == 3], [2, BACKGROUND], 0))


def test_ids_confirm_and_paint_background_without_names(studies, image, prediction, tmp_path):
    shown, _ = studies.hand_out("emb", prediction, "")
    returned = shown.copy()
    returned[0] = 3
    _, checked, _ = taken(studies, image, returned, tmp_path, confirmed=[1], background=[3])
    np.testing.assert_array_equal(checked, np.select([returned == 1, returned == 3], [1, BACKGROUND], 0))


def test_kinds_are_said_by_names_and_come_back_with_them(studies, image, prediction, tmp_path):
    shown, _ = studies.hand_out("emb", prediction, "")
    returned = shown.copy()
    returned[0, 0, :5], returned[4, 5, :], returned[4, 0, :] = 3, 4, 5
    names = ["object 1", "confirmed 2", "Slices 3", "strokes: the long one", "Segment_5"]
    info = [{"name": name, "idx": number} for number, name in enumerate(names, start=1)]
    file, _, entries = taken(studies, image, returned, tmp_path, label_info=info)
    assert entries == {
        1: Entry("whole", checked=False),
        2: Entry("whole"),
        3: Entry("slices"),
        4: Entry("strokes"),
        5: Entry("whole"),
    }
    shown, names = studies.hand_out("emb", np.zeros_like(prediction), file)
    assert sorted(names) == ["confirmed 1", "confirmed 4", "slices 2", "strokes 3"]
    # outlined in one more slice, by a client that says nothing: it stays an object in slices
    shown[2, 0, :5] = names["slices 2"]
    _, checked, entries = taken(studies, image, shown, tmp_path, file)
    assert entries[names["slices 2"]] == Entry("slices") and (checked == names["slices 2"]).sum() == 10


def test_kinds_are_said_by_ids(studies, image, prediction, tmp_path):
    shown, _ = studies.hand_out("emb", prediction, "")
    returned = shown.copy()
    returned[4, 5, :], returned[4, 0, :], returned[3, 2, :2] = 3, 4, 5
    said = {"3": "points", "default": "slices"}
    _, _, entries = taken(studies, image, returned, tmp_path, annotation=said, confirmed=[2])
    assert entries == {
        1: Entry("whole", checked=False),
        2: Entry("whole"),  # a prediction that is right is right in all its voxels
        3: Entry("points"),
        4: Entry("slices"),
        5: Entry("slices"),
    }
    _, _, entries = taken(studies, image, returned, tmp_path, annotation={"1": "whole"})
    assert entries[1] == Entry("whole"), "whose kind is said was looked at"


def test_the_server_may_have_another_default(image, prediction, tmp_path):
    _, _, entries = taken(Studies(tmp_path, 3, BACKGROUND, "strokes"), image, prediction, tmp_path)
    assert set(entries.values()) == {Entry("strokes")}


def test_what_looks_like_no_whole_object_passes_where_it_is_said_to_be_none(studies, image, tmp_path):
    clicks = np.zeros((5, 6, 7), np.int32)
    clicks[2, 1, 1], clicks[2, 4, 5] = 1, 2
    with pytest.raises(SpocoError, match="looks like points"):
        taken(studies, image, clicks, tmp_path)
    file, checked, entries = taken(studies, image, clicks, tmp_path, annotation={"default": "points"})
    np.testing.assert_array_equal(checked, clicks)
    assert set(entries.values()) == {Entry("points")}
    # the next time too, by a client that says nothing
    assert taken(studies, image, clicks, tmp_path, file)[2] == entries


def test_the_files_beside_a_label_are_trained_on_too(studies, image, prediction, tmp_path):
    file, _, _ = taken(studies, image, prediction, tmp_path, annotation={"1": "slices"})
    pair = {"image": str(image), "label": str(file)}
    assert with_side_files([pair]) == [{**pair, "annotation": str(file.with_name("emb_annotation.csv"))}]
    (tmp_path / "elsewhere.csv").write_text("z,y,x\n0,0,0\n")
    file.with_name("emb_points.csv").symlink_to(tmp_path / "elsewhere.csv")
    assert "points" not in with_side_files([pair])[0], "links that lead out of the folder are not followed"


def test_slicers_order_decides_where_its_numbers_count_segments_left_out():
    labels = np.array([0, 1, 2])
    info = {"label_info": [{"name": "object", "idx": 1}, {"name": "confirmed", "idx": 3}]}
    assert what_is_said(info, labels, "whole") == ([2], [], [], {1: "whole"}, "whole")
    assert what_is_said(info, np.array([0, 1, 3]), "whole") == ([3], [], [], {1: "whole"}, "whole")
    assert what_is_said({}, labels, "strokes") == ([], [], [], {}, "strokes")


@pytest.mark.parametrize("named", [True, False])
def test_what_is_painted_around_finished_slices_is_no_object(studies, image, prediction, tmp_path, named):
    returned = prediction.copy()
    returned[1, 0, 0], returned[1, 5, 6], returned[4, 2:4, 3] = 3, 3, 3
    names = ["confirmed", "completely new", "Complete: three corners"]
    said = {"label_info": [{"name": name, "idx": number} for number, name in enumerate(names, start=1)]}
    said = said if named else {"confirmed": [1, 2], "complete": [3]}
    affine = np.eye(4) if image.suffix == ".tif" else None
    kept = studies.take_back("emb", image, written(returned, tmp_path, affine), said, "")
    np.testing.assert_array_equal(kept.labels, prediction)
    keep_rectangles(tmp_path / "emb_label.tif", kept.rectangles)
    wanted = np.zeros(prediction.shape, bool)
    wanted[1], wanted[4, 2:4, 3] = True, True
    np.testing.assert_array_equal(read_complete(tmp_path / "emb_complete.csv", prediction.shape), wanted)
    assert studies.take_back("emb", image, written(prediction, tmp_path, affine), {}, "").rectangles is None


@pytest.mark.parametrize(
    "info",
    [
        {"confirmed": "all"},
        {"label_info": [1]},
        {"label_info": [{"name": "a"}]},
        {"annotation": "slices"},
        {"annotation": {"first": "slices"}},
    ],
)
def test_params_of_another_form_are_answered(info):
    with pytest.raises(SpocoError, match="label_info"):
        what_is_said(info, np.array([0, 9]), "whole")


@pytest.mark.parametrize("said", [{"1": "circles"}, {"default": "circles"}])
def test_kinds_that_there_are_not_are_answered(said):
    with pytest.raises(SpocoError, match="annotation 'circles': give one of whole, slices, strokes, points"):
        what_is_said({"annotation": said}, np.array([0, 9]), "whole")


def test_an_untouched_prediction_is_answered(studies, image, prediction, tmp_path):
    shown, _ = studies.hand_out("emb", prediction, "")
    with pytest.raises(SpocoError, match="nothing to learn"):
        taken(studies, image, shown, tmp_path)
    with pytest.raises(SpocoError, match="nothing to learn"):
        taken(studies, image, np.zeros_like(shown), tmp_path)


def test_another_shape_another_place_and_a_damaged_file_are_answered(studies, image, prediction, tmp_path):
    with pytest.raises(SpocoError, match="shape"):
        taken(studies, image, prediction[:, :, :5], tmp_path)
    with pytest.raises(SpocoError, match="transposed"):
        taken(studies, image, prediction.transpose(0, 2, 1), tmp_path)
    damaged = written(prediction, tmp_path)
    damaged.write_bytes(damaged.read_bytes()[:50])
    with pytest.raises(SpocoError, match="cannot be read"):
        studies.take_back("emb", image, damaged, {}, "")
    if image.suffix == ".gz":
        moved = np.diag([-0.8, -0.8, 1.75, 1])
        moved[0, 3] = 5
        with pytest.raises(SpocoError, match="affine"):
            studies.take_back("emb", image, written(prediction, tmp_path, moved), {}, "")


def test_viewers_write_millimetres_and_others_the_numbers_of_the_image(studies, prediction, tmp_path):
    image = nibabel.Nifti1Image(np.arange(210, dtype=np.uint8).reshape(7, 6, 5), np.diag([-0.8, -0.8, 1.75, 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "emb.nii.gz")
    for affine in (np.diag([-0.8, -0.8, 1.75, 1]), np.diag([-0.0008, -0.0008, 0.00175, 1])):
        file = written(prediction, tmp_path, affine)
        kept = studies.take_back("emb", tmp_path / "emb.nii.gz", file, {}, "")
        np.testing.assert_array_equal(kept.labels, prediction)
    with pytest.raises(SpocoError, match="affine"):
        file = written(prediction, tmp_path, np.diag([-0.08, -0.08, 0.175, 1]))
        studies.take_back("emb", tmp_path / "emb.nii.gz", file, {}, "")


@pytest.mark.parametrize("shape", [(7, 6), (7, 6, 1)])
def test_planes_of_either_form_come_and_go(shape, prediction, tmp_path):
    affine = np.diag([-0.5, -0.5, 2, 1])
    nibabel.save(nibabel.Nifti1Image(np.arange(42, dtype=np.uint8).reshape(shape), affine), tmp_path / "emb.nii.gz")
    studies = Studies(tmp_path, 2, BACKGROUND)
    shown, _ = studies.hand_out("emb", prediction[1], "")
    returned = shown.copy()
    returned[4:6] = 3
    for form in (returned.T, returned.T[..., None]):
        nibabel.save(nibabel.Nifti1Image(form.astype(np.uint16), affine), tmp_path / "label.nii.gz")
        kept = studies.take_back("emb", tmp_path / "emb.nii.gz", tmp_path / "label.nii.gz", {}, "")
        file, _ = write_kept(tmp_path / "final" / "emb.nii.gz", kept.labels, kept.ledger, tmp_path / "emb.nii.gz")
        assert nibabel.load(file).shape == shape
        read = read_image(file, "label", 2).array[0]
        np.testing.assert_array_equal(told_apart(read, kept[1])[0], np.where(returned == 3, 3, 0))
    moved = affine.copy()
    moved[0, 3] = 4
    nibabel.save(nibabel.Nifti1Image(returned.T.astype(np.uint16), moved), tmp_path / "label.nii.gz")
    with pytest.raises(SpocoError, match="affine"):
        studies.take_back("emb", tmp_path / "emb.nii.gz", tmp_path / "label.nii.gz", {}, "")


def test_labels_that_napari_keeps_beside_the_images_are_taken_over_once(image, prediction, tmp_path):
    beside = tmp_path / image.name.replace("emb", "emb_label")
    write_kept(beside, prediction, {1: Entry("slices"), 2: Entry("whole", checked=False)}, image)
    assert adopt_labels(tmp_path) == [image]
    final = tmp_path / "labels" / "final" / image.name
    assert label_file(image) == beside
    np.testing.assert_array_equal(read_image(final, "label").array[0], prediction)
    assert read_ledger(ledger_path(final)) == {1: Entry("slices"), 2: Entry("whole", checked=False)}
    write_kept(final, prediction * 0, {}, image)
    assert adopt_labels(tmp_path) == [] and not read_image(final, "label").array.any(), "what is kept there stays"
    (tmp_path / "datastore_v2.json").write_text("{}")
    assert label_file(image) == final, "napari goes on with what the server keeps"


def test_clicks_without_a_label_are_taken_over(image, tmp_path):
    write_points(points_path(image), np.array([[3, 4, 5], [1, 2, 3]]))
    assert adopt_labels(tmp_path) == [image]
    final = tmp_path / "labels" / "final" / image.name
    assert not read_image(final, "label").array.any()
    (pair,) = with_side_files([{"image": str(image), "label": str(final)}])
    sample = ReadAnnotationd()(LoadVolumed(["image", "label"])(pair))
    assert sorted(map(tuple, np.argwhere(sample["label"][0].numpy()))) == [(1, 2, 3), (3, 4, 5)]
    assert set(sample["kinds"].values()) == {"points"}


def test_labels_and_results_beside_images_are_no_images():
    names = ["a", "a_label", "b_raw", "b_label", "b_instances", "b_complete", "c_label", "tissue_label"]
    assert [name for name in names if not is_result(name, names)] == ["a", "b_raw", "c_label", "tissue_label"]
    assert is_result("b_raw_instances", names)
