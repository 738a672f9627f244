from __future__ import annotations

import csv
import re

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import RandFlipd, RandRotate90d

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist
from spoco_bundle.formats import batch_spacing, read_image, voxel_spacing
from spoco_bundle.transforms import FindForegroundd, LoadVolumed, SaveInstancesd

SHAPE = (4, 6, 8)


@pytest.fixture
def sample(tmp_path) -> dict:
    image = np.random.default_rng(0).integers(0, 999, SHAPE).astype(np.uint16)
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 1:4, 2:6] = 3
    labels[3, 5, 7] = 9
    spacing = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.8, "PhysicalSizeZ": 1.75}
    tifffile.imwrite(tmp_path / "a.tif", image, ome=True, metadata={"axes": "ZYX"} | spacing)
    tifffile.imwrite(tmp_path / "a_label.tif", labels, photometric="minisblack")
    return {"image": str(tmp_path / "a.tif"), "label": str(tmp_path / "a_label.tif")}


def test_load(sample):
    loaded = LoadVolumed()(sample)
    image, label = loaded["image"], loaded["label"]
    assert isinstance(image, MetaTensor)
    assert isinstance(label, MetaTensor)
    assert (image.shape, image.dtype) == ((1, *SHAPE), torch.float32)
    assert (label.shape, label.dtype) == ((1, *SHAPE), torch.int32)
    assert voxel_spacing(image, 3) == pytest.approx((1.75, 0.8, 0.5))
    assert image.meta["filename_or_obj"] == sample["image"]
    assert (image.meta["length_unit"], image.meta["file_unit"]) == ("micrometer", "micrometer")
    assert (label.meta["length_unit"], label.meta["file_unit"]) == ("pixel", "unknown")
    assert None not in image.meta.values()
    np.testing.assert_array_equal(label[0].numpy(), tifffile.imread(sample["label"]))


def test_geometry_passes_through_augmentation_and_collation(sample):
    loaded = LoadVolumed(spacing=(1.75, 0.8, 0.5))(sample)
    turned = RandRotate90d(("image", "label"), prob=1, spatial_axes=(1, 2), max_k=1)(loaded)
    turned = RandFlipd(("image", "label"), prob=1, spatial_axis=0)(turned)
    batch = list_data_collate([turned, turned])
    torch.testing.assert_close(batch_spacing(batch["image"], 3), torch.tensor([[1.75, 0.5, 0.8]] * 2))
    torch.testing.assert_close(batch_spacing(batch["label"], 3), torch.tensor([[1.75, 0.5, 0.8]] * 2))
    single = decollate_batch(batch)[0]["image"]
    assert single.meta["filename_or_obj"] == sample["image"]
    assert voxel_spacing(single, 3) == pytest.approx((1.75, 0.5, 0.8))
    assert np.linalg.norm(single.meta["file_affine"][:3, :3], axis=0) == pytest.approx([1.75, 0.8, 0.5])


def test_missing_label(sample):
    del sample["label"]
    assert list(LoadVolumed(allow_missing_keys=True)(sample)) == ["image"]
    with pytest.raises(KeyError, match="label"):
        LoadVolumed()(sample)


def test_a_given_spacing_replaces_what_files_state_and_says_so_once(sample, caplog):
    load = LoadVolumed(spacing=(3, 2, 1))
    with caplog.at_level("INFO"):
        loaded = [load(sample), load(sample)][0]
    for key in ("image", "label"):
        assert voxel_spacing(loaded[key], 3) == pytest.approx((3, 2, 1))
        assert loaded[key].meta["length_unit"] == "micrometer"
    assert [record.message for record in caplog.records] == [
        f"--spacing 3 x 2 x 1 um replaces the 1.75 x 0.8 x 0.5 um that {sample['image']} states"
    ]
    with pytest.raises(SpocoError, match="2 positive numbers in the order y, x"):
        LoadVolumed(spatial_dims=2, spacing=(3, 2, 1))


def predicted(sample, labels, **extra) -> dict:
    """What a post-processing transform meets: one decollated sample with the image and the labels."""
    loaded = LoadVolumed("image")(sample)
    batch = list_data_collate([{"image": loaded["image"], "pred": torch.as_tensor(labels)[None]}])
    return decollate_batch(batch)[0] | extra


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.uint8])
def test_save(tmp_path, sample, dtype):
    labels = np.zeros(SHAPE, dtype)
    labels[1:3, 1:4, 2:6] = 1
    labels[3, 5, 6:] = 2
    data = predicted(sample, labels, pred_confidence=torch.tensor([0.75, 0.5]))
    assert list(SaveInstancesd(output_dir=tmp_path / "out")(data)) == list(data)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_instances.tif", "a_objects.csv"]
    after, before = read_image(tmp_path / "out/a_instances.tif", kind="label"), read_image(sample["image"])
    np.testing.assert_array_equal(after.array[0], labels)
    assert (after.spacing, after.axes, after.file_format) == (before.spacing, before.axes, before.file_format)
    with (tmp_path / "out/a_objects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["voxels"], row["confidence"], row["unit"]) for row in rows] == [
        ("1", "24", "0.75", "micrometer"),
        ("2", "2", "0.5", "micrometer"),
    ]
    assert float(rows[1]["volume"]) == pytest.approx(2 * 1.75 * 0.8 * 0.5)
    assert float(rows[1]["centroid_x"]) == pytest.approx(6.5 * 0.5)


def test_table_is_in_the_units_of_the_file_whatever_was_resampled(tmp_path, sample):
    data = predicted(sample, np.ones(SHAPE, np.int32))
    data["image"].affine = torch.eye(4)
    SaveInstancesd(output_dir=tmp_path)(data)
    with (tmp_path / "a_objects.csv").open() as file:
        assert float(next(csv.DictReader(file))["volume"]) == pytest.approx(np.prod(SHAPE) * 1.75 * 0.8 * 0.5, rel=1e-5)


def test_unknown_spacing_gives_voxels(tmp_path, sample):
    data = predicted({"image": sample["label"]}, np.ones(SHAPE, np.int32))
    SaveInstancesd(output_dir=tmp_path)(data)
    with (tmp_path / "a_label_objects.csv").open() as file:
        row = next(csv.DictReader(file))
    assert (row["unit"], float(row["volume"])) == ("voxel", np.prod(SHAPE))


def test_nothing_found_still_writes_both_files(tmp_path, sample):
    SaveInstancesd(output_dir=tmp_path / "out")(predicted(sample, np.zeros(SHAPE, np.int32)))
    assert tifffile.imread(tmp_path / "out/a_instances.tif").max() == 0
    assert len((tmp_path / "out/a_objects.csv").read_text().splitlines()) == 1


def test_nifti_name_and_affine(tmp_path):
    affine = np.array([[0, 0, 1.75, 5], [-0.8, 0, 0, -4], [0, 0.9, 0, 2], [0, 0, 0, 1.0]])
    image = np.random.default_rng(0).normal(size=(8, 6, 4)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(image, affine), tmp_path / "a.nii.gz")
    labels = np.arange(192).reshape(SHAPE).astype(np.int32)
    SaveInstancesd(output_dir=str(tmp_path / "out"))(predicted({"image": str(tmp_path / "a.nii.gz")}, labels))
    written = nibabel.load(tmp_path / "out/a_instances.nii.gz")
    np.testing.assert_allclose(written.affine, affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels.transpose())
    assert (tmp_path / "out/a_objects.csv").exists()


def test_lossy_source_gives_png(tmp_path):
    import itk

    itk.imwrite(itk.image_from_array(np.arange(192, dtype=np.uint8).reshape(12, 16)), str(tmp_path / "a.jpg"))
    loaded = LoadVolumed("image", spatial_dims=2)({"image": str(tmp_path / "a.jpg")})
    labels = torch.arange(192).reshape(1, 12, 16) * 300
    SaveInstancesd(output_dir=tmp_path / "out")(loaded | {"pred": labels})
    written = read_image(tmp_path / "out/a_instances.png", kind="label", spatial_dims=2)
    np.testing.assert_array_equal(written.array, labels)


def test_results_of_a_folder_are_not_its_next_input(tmp_path, sample):
    SaveInstancesd(output_dir=tmp_path)(predicted(sample, np.ones(SHAPE, np.int32)))
    assert [item["image"] for item in build_datalist(tmp_path, "predict")] == [sample["image"]]


def test_two_sources_of_one_name(tmp_path, sample):
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / "a.tif"
    other.write_bytes((tmp_path / "a.tif").read_bytes())
    save = SaveInstancesd(output_dir=tmp_path / "out")
    labels = np.ones(SHAPE, np.int32)
    save(predicted(sample, labels))
    save(predicted(sample, labels))
    with pytest.raises(SpocoError, match="share the name 'a'"):
        save(predicted({"image": str(other)}, labels))


def test_labels_off_the_grid_of_the_source(tmp_path, sample):
    with pytest.raises(SpocoError, match=r"\(4, 6, 7\) do not fit .*a\.tif of shape \(4, 6, 8\)"):
        SaveInstancesd(output_dir=tmp_path / "out")(predicted(sample, np.ones((4, 6, 7), np.int32)))
    with pytest.raises(SpocoError, match="no whole number"):
        SaveInstancesd(output_dir=tmp_path / "out")(predicted(sample, np.full(SHAPE, 0.5, np.float32)))


def test_without_metadata(tmp_path):
    with pytest.raises(ValueError, match="metadata of LoadVolumed"):
        SaveInstancesd(output_dir=tmp_path)({"pred": torch.ones(1, 4, 4)})


def test_missing_pred(tmp_path, sample):
    data = LoadVolumed("image")(sample)
    assert SaveInstancesd(output_dir=tmp_path, allow_missing_keys=True)(data) is not None
    with pytest.raises(KeyError):
        SaveInstancesd(output_dir=tmp_path)(data)


@pytest.mark.parametrize("stated", [False, True])
def test_an_assumed_spacing_holds_only_where_the_file_states_none(tmp_path, stated, caplog):
    options = {"metadata": {"axes": "ZYX", "spacing": 3.0, "unit": "um"}, "imagej": True} if stated else {}
    resolution = {"resolution": (2.0, 2.0)} if stated else {}
    voxels = np.random.default_rng(0).integers(0, 99, (4, 8, 8)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", voxels, photometric="minisblack", **options, **resolution)
    with caplog.at_level("INFO"):
        image = LoadVolumed("image", assumed_spacing=(2.0, 0.8, 0.8))({"image": tmp_path / "a.tif"})["image"]
    assert voxel_spacing(image, 3) == ((3.0, 0.5, 0.5) if stated else (2.0, 0.8, 0.8))
    assert image.meta["length_unit"] == "micrometer"
    assert ("is assumed" in caplog.text) != stated


def test_a_mask_takes_the_grid_of_its_image_or_is_refused(sample, tmp_path):
    load = LoadVolumed(["image", "foreground"], label_keys=["foreground"])
    mask = np.ones(SHAPE, np.uint8)
    tifffile.imwrite(tmp_path / "a_fg.tif", mask, photometric="minisblack")
    paths = {"image": sample["image"], "foreground": str(tmp_path / "a_fg.tif")}
    loaded = load(paths)
    torch.testing.assert_close(loaded["foreground"].affine, loaded["image"].affine)
    assert loaded["foreground"].meta["filename_or_obj"] == paths["foreground"]
    assert loaded["foreground"].meta["length_unit"] == "micrometer" and loaded["foreground"].all()
    tifffile.imwrite(tmp_path / "a_fg.tif", mask[:, 1:], photometric="minisblack")
    shapes = [re.escape(str(shape)) for shape in (mask[:, 1:].shape, SHAPE)]
    with pytest.raises(SpocoError, match=rf"a_fg\.tif: has shape {shapes[0]}, its image {shapes[1]}: draw the mask"):
        load(paths)


def test_masks_are_found_beside_images_of_any_format(tmp_path):
    for image, mask in (("a_raw.zarr", "a_fg.zarr"), ("b_raw.ome.tif", "b_fg.ome.tif"), ("c_raw.jpg", "c_fg.png")):
        with pytest.raises(SpocoError, match=f"has no foreground mask {mask} beside it"):
            FindForegroundd()({"image": str(tmp_path / image)})
        (tmp_path / mask).mkdir() if mask.endswith("zarr") else (tmp_path / mask).touch()
        assert FindForegroundd()({"image": str(tmp_path / image)})["foreground"] == str(tmp_path / mask)


@pytest.mark.parametrize(
    ("values", "message"),
    [([0, 1e300], r"\(as float32\): 60 of 120 voxels are NaN or infinite"), ([1, 1 + 1e-12], "every voxel is 1")],
)
def test_voxels_that_float32_does_not_hold_are_refused(tmp_path, values, message):
    tifffile.imwrite(tmp_path / "a.tif", np.resize(np.array(values), (4, 5, 6)), photometric="minisblack")
    with pytest.raises(SpocoError, match=rf"a\.tif {message}" if "60" in message else message):
        LoadVolumed("image")({"image": str(tmp_path / "a.tif")})
