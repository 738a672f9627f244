import nibabel
import numpy as np
import pytest
import tifffile

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import read_image
from spoco_bundle.label.studies import Studies, named_segments

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
    affine = np.eye(4) if image.suffix == ".tif" else None
    file = studies.take_back("emb", image, written(labels, tmp_path, affine), info, previous)
    assert file.name.endswith(image.name.removeprefix("emb"))
    return read_image(file, "label").array[0]


def test_a_round_keeps_what_was_drawn_and_shows_it_again(studies, image, prediction, tmp_path):
    shown, names = studies.hand_out("emb", prediction, "")
    assert names == {"object 1": 1, "object 2": 2}
    returned = shown.copy()
    returned[3:5, 0, :] = 3
    kept = taken(studies, image, returned, tmp_path)
    np.testing.assert_array_equal(kept, np.where(returned == 3, 3, 0))
    file = written(kept, tmp_path, name="kept.nii.gz")
    shown, names = studies.hand_out("emb", np.roll(prediction, 1, axis=2), file)
    assert names == {"object 1": 1, "object 2": 2, "confirmed 3": 3}
    np.testing.assert_array_equal(shown == 3, kept == 3)
    again = taken(studies, image, shown, tmp_path, file)
    np.testing.assert_array_equal(again, np.where(kept, 3, 0))


def test_names_confirm_and_paint_background(studies, image, prediction, tmp_path):
    shown, _ = studies.hand_out("emb", prediction, "")
    returned = shown.copy()
    returned[0] = 3
    info = [
        {"name": "object 1", "idx": 1},
        {"name": "Confirmed, I looked", "idx": 2},
        {"name": "no object", "idx": 3},
    ]
    kept = taken(studies, image, returned, tmp_path, label_info=info)
    np.testing.assert_array_equal(kept, np.select([returned == 2, returned == 3], [2, BACKGROUND], 0))


def test_ids_confirm_and_paint_background_without_names(studies, image, prediction, tmp_path):
    shown, _ = studies.hand_out("emb", prediction, "")
    returned = shown.copy()
    returned[0] = 3
    kept = taken(studies, image, returned, tmp_path, confirmed=[1], background=[3])
    np.testing.assert_array_equal(kept, np.select([returned == 1, returned == 3], [1, BACKGROUND], 0))


def test_slicers_order_decides_where_its_numbers_count_segments_left_out():
    labels = np.array([0, 1, 2])
    info = {"label_info": [{"name": "object", "idx": 1}, {"name": "confirmed", "idx": 3}]}
    assert named_segments(info, labels) == ([2], [])
    assert named_segments(info, np.array([0, 1, 3])) == ([3], [])
    assert named_segments({}, labels) == ([], [])


@pytest.mark.parametrize("info", [{"confirmed": "all"}, {"label_info": [1]}, {"label_info": [{"name": "a"}]}])
def test_params_of_another_form_are_answered(info):
    with pytest.raises(SpocoError, match="label_info"):
        named_segments(info, np.array([0, 9]))


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
        assert studies.take_back("emb", tmp_path / "emb.nii.gz", file, {}, "").is_file()
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
        file = studies.take_back("emb", tmp_path / "emb.nii.gz", tmp_path / "label.nii.gz", {}, "")
        assert nibabel.load(file).shape == shape
        np.testing.assert_array_equal(read_image(file, "label", 2).array[0], np.where(returned == 3, 3, 0))
    moved = affine.copy()
    moved[0, 3] = 4
    nibabel.save(nibabel.Nifti1Image(returned.T.astype(np.uint16), moved), tmp_path / "label.nii.gz")
    with pytest.raises(SpocoError, match="affine"):
        studies.take_back("emb", tmp_path / "emb.nii.gz", tmp_path / "label.nii.gz", {}, "")
