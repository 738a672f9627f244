from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist, check_labels
from spoco_bundle.dataset.label_checks import check_same_grid
from spoco_bundle.formats import read_image
from spoco_bundle.formats.geometry import affine_from_spacing
from spoco_bundle.formats.label_ids import as_label_ids


def two_boxes(first=1, second=2) -> np.ndarray:
    labels = np.zeros((1, 6, 10, 10), np.int32)
    labels[0, 1:4, 1:4, 1:4] = first
    labels[0, 2:5, 6:9, 6:9] = second
    return labels


def check(labels, image=None, **options) -> list[str]:
    """Checks labels, by default of an image in which exactly what they name is bright."""
    return check_labels(labels != 0 if image is None else image, labels, "a_raw.tif", "a_label.tif", **options)


def grid(ids, shape=(24, 96, 96), size=(8, 10, 10)) -> np.ndarray:
    """Boxes on a grid of 2 x 5 x 5, with these ids in turn."""
    labels = np.zeros((1, *shape), np.int32)
    for number, (z, y, x) in enumerate(np.ndindex(2, 5, 5)):
        place = tuple(slice(a, a + n) for a, n in zip((2 + 11 * z, 3 + 18 * y, 3 + 18 * x), size))
        labels[0][place] = ids[number % len(ids)]
    return labels


def check_grid(ids, change=None, **options):
    labels = grid(ids)
    return check(labels if change is None else change(labels.copy()), labels > 0, **options)


EACH = range(1, 51)
FLAT = ("bbbc007_sparse", "cvppp_a1", "usiigaci_phase")


def test_objects_pass_without_a_word():
    assert check_grid(EACH) == []
    assert check(grid(EACH)[:, 5]) == []


def test_classes_are_no_objects():
    with pytest.raises(
        SpocoError, match="2 of 2 ids lie in several places, one of them .* 25 separate pieces .*classes"
    ):
        check_grid([1, 2])
    with pytest.raises(SpocoError, match="1 of 2 ids lie in several places.*classes: number the objects"):
        check_grid([2], lambda labels: np.where(labels > 0, labels, 1))  # 1 background, 2 objects
    assert check_grid([1, 2], allow_binary=True) == []


def test_a_background_id_is_no_object():
    with pytest.raises(SpocoError, match="id 1 fills 82% of the image: .*--background_label 1"):
        check_grid(EACH, lambda labels: labels + 1)
    assert check_grid(EACH, lambda labels: labels + 1, background_label=1) == []

    def large(labels):
        labels[0, :, :60] = 77  # an object may be large
        return labels

    (said,) = check_grid(EACH, large)
    assert "a_label.tif: id 77 fills 62% of the image" in said
    assert check_grid(EACH, large, allow_binary=True) == []


def test_one_id_in_two_places_is_said():
    (said,) = check_grid(EACH, lambda labels: np.where(labels == 50, 1, labels))
    assert "id 1 lies in 2 places far apart" in said and "id of its own" in said
    # what is cut by something in front of it lies close together
    assert check_grid(EACH, lambda labels: np.where(labels == 2, 1, labels)) == []


def keep(*slices):
    return lambda labels: np.where(np.isin(np.arange(24), slices)[:, None, None], labels, 0)


def test_slices_of_objects():
    with pytest.raises(SpocoError, match="50 of 50 objects .* looks like slices: add --annotation slices .strokes if"):
        check_grid(EACH, keep(5, 15))
    with pytest.raises(SpocoError, match="looks like slices"):
        check_grid(EACH, keep(5, 6, 15))
    assert check_grid(EACH, keep(5, 15), allow_thin=True) == []
    assert check_grid(EACH, keep(5, 15), annotation="slices") == []


def test_a_few_slices_are_said():
    def change(labels):
        labels[0, 5:] = np.where(labels[0, 5:] <= 15, 0, labels[0, 5:])
        labels[0, :4] = np.where(labels[0, :4] <= 15, 0, labels[0, :4])
        return labels

    (said,) = check_grid(EACH, change)
    assert "15 of 50 objects (id 1 first) are thin" in said
    assert "looks like slices: give them the kind slices in NAME_annotation.csv" in said
    assert check_grid(EACH, change, kinds=dict.fromkeys(range(1, 16), "slices")) == []
    # of the others, one alone is no cause
    assert check_grid(EACH, change, kinds=dict.fromkeys(range(2, 16), "slices")) == []


def test_points():
    points = np.zeros((1, 6, 10, 10), np.int32)
    points[0, ::2, ::3, ::3] = np.arange(1, 49).reshape(3, 4, 4)
    with pytest.raises(
        SpocoError, match="48 of 48 objects have fewer than 8 voxels .*--annotation points or NAME_points"
    ):
        check(points)
    assert check(points, annotation="points") == []
    assert check(points, min_voxels=1) == []
    points[0, 1:3, 1:3, 1:3] = 99
    (said,) = check(points)
    assert "of 49 objects have fewer than 8 voxels" in said


def test_only_whole_objects_are_asked_to_look_whole():
    assert check_grid([1, 2], annotation="strokes") == []
    with pytest.raises(SpocoError, match="one id|1 of 1 ids"):
        check_grid([1, 2], kinds={1: "slices"})
    assert check_grid([1, 2], kinds={1: "slices", 2: "strokes"}) == []
    with pytest.raises(SpocoError, match="looks like classes"):
        check_grid([1, 2], annotation="slices", kinds={1: "whole", 2: "whole"})


def test_good_labels_pass():
    assert check(two_boxes()) == []
    assert check(two_boxes().astype(np.float32)) == []
    flat = two_boxes().astype(np.uint16)[:, 3]
    assert check(flat, image=np.repeat(flat > 0, 3, axis=0)) == []


@pytest.mark.parametrize("shape", [(6, 10, 9), (10, 10), (5, 10, 10)])
def test_shape_mismatch(shape):
    with pytest.raises(SpocoError, match=r"a_label\.tif: shape .* differs .*\(6, 10, 10\) of a_raw\.tif: pair"):
        check(np.ones((1, *shape), int), np.zeros((1, 6, 10, 10)))


def test_transposed_axes():
    with pytest.raises(SpocoError, match=r"a_label\.tif: .*\(10, 10, 6\).*axes are transposed"):
        check(two_boxes().transpose(0, 3, 2, 1), np.zeros((1, 6, 10, 10)))


def test_interpolated_labels():
    labels = two_boxes().astype(np.float32)
    labels[0, 4, 4, 4] = 1.25
    with pytest.raises(SpocoError, match=r"a_label\.tif: label value 1\.25.*nearest neighbour"):
        check(labels)


@pytest.mark.parametrize("value", [1, 255])
def test_binary_mask(value):
    with pytest.raises(SpocoError, match=rf"a_label\.tif: one id \({value}\) in 2 separate pieces.*binary mask"):
        check(two_boxes(value, value))
    check(two_boxes(value, value), allow_binary=True)


def test_binary_mask_beside_special_ids():
    labels = two_boxes(5, 5)
    labels[0, 0, 0, 0], labels[0, 5, 0, 0] = 9, -1
    with pytest.raises(SpocoError, match="binary mask"):
        check(labels, ignore_label=-1, background_label=9)


def test_one_object_is_no_binary_mask():
    check(two_boxes(1, 0))
    touching_by_a_corner = np.zeros((1, 6, 10, 10), np.int32)
    touching_by_a_corner[0, :2, :2, :2] = touching_by_a_corner[0, 2:4, 2:4, 2:4] = 3
    check(touching_by_a_corner)
    with_a_stray_voxel = two_boxes(1, 0)
    with_a_stray_voxel[0, 5, 9, 9] = 1
    check(with_a_stray_voxel)


def test_a_piece_of_some_size_is_another_object():
    labels = np.zeros((1, 6, 20, 20), np.int32)
    labels[0, 1:5, 1:8, 1:8] = 3
    labels[0, 1:4, 12:15, 12:15] = 3  # 27 voxels beside 196
    with pytest.raises(SpocoError, match="in 2 separate pieces"):
        check(labels)


def test_many_small_pieces_are_a_mask_whatever_their_size():
    labels = np.zeros((1, 20, 20, 20), np.int32)
    labels[0, :, :, :10] = 1
    labels[0, ::4, ::4, 15] = 1
    with pytest.raises(SpocoError, match="26 separate pieces"):
        check(labels)


def test_negative_ids():
    with pytest.raises(SpocoError, match=r"a_label\.tif: label id -1 is negative.*ignore_label"):
        check(two_boxes(1, -1))
    check(two_boxes(1, -1), ignore_label=-1)
    check(two_boxes(1, -1), background_label=-1)
    with pytest.raises(SpocoError, match="label id -2"):
        check(two_boxes(-1, -2), ignore_label=-1)


@pytest.mark.parametrize("labels", [two_boxes(0, 0), two_boxes(7, 9)])
def test_no_object(labels):
    with pytest.raises(SpocoError, match=r"a_label\.tif: holds no annotated object"):
        check(labels, ignore_label=7, background_label=9)
    check(labels, ignore_label=7, background_label=9, require_objects=False)


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**40])
def test_ids_beyond_32_bits(value):
    with pytest.raises(SpocoError, match=rf"a_label\.tif: label id {value} does not fit"):
        check(two_boxes().astype(np.int64) * 0 + value)


def test_ids_at_the_limit():
    labels = np.array([0, 2**31 - 1], np.uint64)
    np.testing.assert_array_equal(as_label_ids(labels, "a"), labels.astype(np.int64))
    assert as_label_ids(np.array([True, False]), "a").tolist() == [1, 0]


def test_values_that_are_no_numbers():
    with pytest.raises(SpocoError, match="1 label voxels are NaN"):
        as_label_ids(np.array([0, np.inf]), "a")
    with pytest.raises(SpocoError, match="complex"):
        as_label_ids(np.array([1j]), "a")


def rotated() -> np.ndarray:
    affine = affine_from_spacing((2.0, 0.5, 0.5))
    affine[:3, :3] = Rotation.from_euler("x", 30, degrees=True).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = 4, 5, 6
    return affine


def test_grids():
    shape, paths = (6, 10, 10), ("a_raw.nii", "a_label.nii")
    image = rotated()
    near, far, flipped = image.copy(), image.copy(), image.copy()
    near[:3, 3] += 0.1
    far[0, 3] += 1
    flipped[:3, 2] *= -1
    check_same_grid(image, near, shape, *paths)
    check_same_grid(image, np.eye(4)[:, [2, 1, 0, 3]], shape, *paths)
    check_same_grid(affine_from_spacing((1, 1, 1)), image, shape, *paths)
    for label in (far, flipped, affine_from_spacing((2.0, 0.5, 0.5))):
        with pytest.raises(SpocoError, match=r"a_label\.nii: its affine"):
            check_same_grid(image, label, shape, *paths)


def test_real_mask_is_recognised(shared_dir):
    folder = shared_dir / "data/ms_lesions/train"
    labels = read_image(folder / "patient19_lesions.nii.gz", kind="label").array
    image = read_image(folder / "patient19_FLAIR.nii.gz").array
    check_labels(image, labels, "image", "labels")
    with pytest.raises(SpocoError, match="binary mask"):
        check_labels(image, (labels > 0).astype(np.uint8), "image", "labels")


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_annotations_pass(shared_dir, split):
    said = []
    for name in ("bbbc007_sparse", "cvppp_a1", "epithelial_tube_3d", "fib25_neuron", "usiigaci_phase", "vnc_mito"):
        for item in build_datalist(shared_dir / "data" / name, split)[:8]:
            dims = 2 if name in FLAT else 3
            image, labels = (
                read_image(item["image"], "image", dims).array,
                read_image(item["label"], "label", dims).array,
            )
            said += check_labels(image, labels, item["image"], item["label"])
    # the validation volume holds the trunk of a neuron
    assert [line.partition(": ")[2][:15] for line in said] == ["id 4 fills 56% "] * (split == "val")
