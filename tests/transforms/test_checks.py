from __future__ import annotations

import nibabel
import numpy as np
import pytest
import tifffile

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist
from spoco_bundle.formats import voxel_spacing
from spoco_bundle.transforms import CheckLabelsd, LoadVolumed

SHAPE = (4, 6, 8)
AFFINE = np.diag([2, 2, 3, 1.0])


def save(folder, labels, affine=AFFINE) -> dict:
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    paths = {"image": str(folder / "a_raw.nii"), "label": str(folder / "a_label.nii")}
    nibabel.save(nibabel.Nifti1Image(image.transpose(), AFFINE), paths["image"])
    nibabel.save(nibabel.Nifti1Image(labels.transpose(), affine), paths["label"])
    return LoadVolumed()(paths)


def two_objects() -> np.ndarray:
    labels = np.zeros(SHAPE, np.int16)
    labels[:2, :2, :2], labels[2:, 3:, 4:] = 1, 2
    return labels


def test_good_sample_passes_unchanged(tmp_path):
    sample = save(tmp_path, two_objects())
    checked = CheckLabelsd()(sample)
    assert checked.keys() == sample.keys()
    assert checked["image"] is sample["image"]
    np.testing.assert_array_equal(checked["label"], sample["label"])
    assert checked["label"].dtype == sample["label"].dtype
    assert checked["label"].meta["filename_or_obj"] == str(tmp_path / "a_label.nii")


def test_labels_take_over_the_grid_of_the_image(tmp_path):
    sample = CheckLabelsd()(save(tmp_path, two_objects(), affine=np.eye(4)))
    assert voxel_spacing(sample["label"], 3) == voxel_spacing(sample["image"], 3) == (3, 2, 2)
    np.testing.assert_array_equal(sample["label"].affine, sample["image"].affine)
    assert sample["label"].meta["file_affine"].tolist() == sample["image"].meta["file_affine"].tolist()


def test_tiff_does_not_say_where_it_lies(tmp_path):
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0}
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    tifffile.imwrite(tmp_path / "a_raw.tif", image, ome=True, metadata={"axes": "ZYX"} | sizes)
    # as a viewer saves labels over an image of which it read no depth
    affine = np.diag([-0.5, -0.5, 1, 1])
    nibabel.save(nibabel.Nifti1Image(two_objects().transpose(), affine), tmp_path / "a_label.nii.gz")
    paths = {"image": str(tmp_path / "a_raw.tif"), "label": str(tmp_path / "a_label.nii.gz")}
    sample = CheckLabelsd()(LoadVolumed()(paths))
    assert voxel_spacing(sample["label"], 3) == (2, 0.5, 0.5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (two_objects().transpose(2, 1, 0), "axes are transposed"),
        (two_objects()[:, :, :7], "differs from shape"),
        (np.minimum(two_objects(), 1), "binary mask"),
        (-two_objects(), "negative"),
        (two_objects() * 0, "no annotated object"),
    ],
)
def test_each_failure_names_the_file(tmp_path, labels, message):
    with pytest.raises(SpocoError, match=rf"a_label\.nii: .*{message}") as caught:
        CheckLabelsd()(save(tmp_path, labels))
    assert "\n" not in str(caught.value)


def test_options_reach_the_check(tmp_path):
    binary = save(tmp_path, np.minimum(two_objects(), 1))
    CheckLabelsd(allow_binary=True)(binary)
    CheckLabelsd(require_objects=False)(save(tmp_path, two_objects() * 0))
    negative = save(tmp_path, two_objects() - 2)
    with pytest.raises(SpocoError, match="label id -2"):
        CheckLabelsd(ignore_label=-1)(negative)
    CheckLabelsd(ignore_label=-1, background_label=-2, require_objects=False)(negative)


def test_labels_elsewhere_in_the_world(tmp_path):
    flipped = np.diag([-2, 2, 3, 1.0])
    sample = save(tmp_path, two_objects(), affine=flipped)
    with pytest.raises(SpocoError, match=r"a_label\.nii: its affine"):
        CheckLabelsd()(sample)
    CheckLabelsd(check_affine=False)(sample)
    CheckLabelsd()(save(tmp_path, two_objects(), affine=np.eye(4)))


def test_missing_labels(tmp_path):
    sample = {"image": save(tmp_path, two_objects())["image"]}
    assert CheckLabelsd(allow_missing_keys=True)(sample) == sample
    with pytest.raises(KeyError):
        CheckLabelsd()(sample)


def test_tiff_in_2d(tmp_path):
    rng = np.random.default_rng(0)
    tifffile.imwrite(tmp_path / "a_raw.tif", rng.integers(0, 99, (6, 8, 3)).astype(np.uint8), photometric="rgb")
    tifffile.imwrite(tmp_path / "a_label.tif", two_objects()[0])
    paths = {"image": str(tmp_path / "a_raw.tif"), "label": str(tmp_path / "a_label.tif")}
    checked = CheckLabelsd(min_voxels=4)(LoadVolumed(spatial_dims=2)(paths))
    assert checked["image"].shape == (3, 6, 8)


def test_doubts_are_said_once(tmp_path, caplog):
    labels = np.zeros(SHAPE, np.int16)
    labels[:, :3, :3], labels[:, :, 7], labels[0, 5, 0], labels[3, 5, 0], labels[0, 5, 5] = 1, 2, 3, 4, 5
    sample, check = save(tmp_path, labels), CheckLabelsd(allow_thin=True)
    for _ in range(2):
        check(sample)
    assert [record.getMessage().partition(": ")[2][:26] for record in caplog.records] == ["3 of 5 objects have fewer "]


def test_every_real_annotation_passes(shared_dir):
    for folder, rank in (("bbbc050", 3), ("dsb2018", 2), ("cvppp_a1", 2)):
        for item in build_datalist(shared_dir / "data" / folder, "val"):
            CheckLabelsd()(LoadVolumed(spatial_dims=rank)(item))
