from __future__ import annotations

import os
from pathlib import Path
from stat import S_ISDIR

import itk
import nibabel
import numpy as np
import pytest
import tifffile
import zarr

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import image_name
from spoco_bundle.formats import file_suffix, read_image, write_instances
from spoco_bundle.formats.files import image_dimensions
from spoco_bundle.formats.names import family


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)


def save(path, array) -> None:
    if path.name.endswith((".nii", ".nii.gz")):
        nibabel.save(nibabel.Nifti1Image(array.transpose(), np.diag([0.5, 0.5, 2, 1])), path)
    else:
        tifffile.imwrite(path, array, photometric="minisblack")


def test_tiff_and_nifti_of_one_volume_are_the_same_inside(tmp_path, voxels):
    sizes = {"PhysicalSizeX": 0.8, "PhysicalSizeY": 0.7, "PhysicalSizeZ": 1.1}
    tifffile.imwrite(tmp_path / "a.tif", voxels, ome=True, metadata={"axes": "ZYX"} | sizes)
    # 0.8 is 0.800000012 in the float32 of the header
    nibabel.save(nibabel.Nifti1Image(voxels.transpose(), np.diag([0.8, 0.7, 1.1, 1])), tmp_path / "a.nii.gz")
    one, other = read_image(tmp_path / "a.tif"), read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(one.array, other.array)
    assert one.spacing == other.spacing == (1.1, 0.7, 0.8)
    assert one.spatial_shape == (4, 5, 6)


@pytest.mark.parametrize("name", ["a.tif", "a.nii", "a.nii.gz"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers(tmp_path, voxels, name, value):
    voxels[1, 2, :2] = value
    save(tmp_path / name, voxels)
    with pytest.raises(SpocoError, match=rf"{name}: 2 of 120 voxels are NaN or infinite: replace"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.tif", "a.nii.gz"])
def test_constant_image(tmp_path, name):
    save(tmp_path / name, np.full((4, 5, 6), 7, np.uint16))
    with pytest.raises(SpocoError, match=rf"{name}: every voxel is 7"):
        read_image(tmp_path / name)
    # a label volume may well be all zero
    assert read_image(tmp_path / name, kind="label").array.max() == 7


@pytest.mark.parametrize("name", ["a.tif", "a.nii", "a.nii.gz", "a.nrrd", "a.png"])
def test_missing_and_empty_files(tmp_path, name):
    with pytest.raises(SpocoError, match=rf"{name}: no such file"):
        read_image(tmp_path / name)
    (tmp_path / name).touch()
    with pytest.raises(SpocoError, match=rf"{name}: is empty"):
        read_image(tmp_path / name)
    with pytest.raises(SpocoError, match="is a folder"):
        read_image(tmp_path)


def test_folders_of_no_size_are_not_empty(tmp_path, voxels, monkeypatch):
    zarr.save_array(str(tmp_path / "a.zarr"), voxels, zarr_format=2)
    seen = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **options: _sizeless(seen(path, **options)))
    np.testing.assert_array_equal(read_image(tmp_path / "a.zarr").array[0], voxels)


def _sizeless(known: os.stat_result) -> os.stat_result:
    """As file systems say of folders that keep no size for them."""
    return os.stat_result([*known[:6], 0, *known[7:10]]) if S_ISDIR(known.st_mode) else known


@pytest.mark.parametrize("name", ["a.tif", "a.nii.gz"])
@pytest.mark.parametrize("door", [read_image, image_dimensions])
def test_a_file_that_goes_while_it_is_opened_is_missing_not_damaged(tmp_path, voxels, door, name, monkeypatch):
    save(tmp_path / name, voxels)
    from_disk = family(tmp_path / name)

    def gone(path):
        path.unlink(missing_ok=True)
        return from_disk

    monkeypatch.setattr("spoco_bundle.formats.files.family", gone)
    with pytest.raises(SpocoError, match=rf"{name}: no such file: check the path$"):
        door(tmp_path / name)


def test_complex_voxels(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "a.tif", voxels.astype(np.complex64), photometric="minisblack")
    with pytest.raises(SpocoError, match="complex64"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 0.5], "0.5 is no whole number"),
        ([0, np.nan], "NaN or infinite"),
        ([0, 3e9], "3000000000 does not fit"),
    ],
)
def test_label_values(tmp_path, values, message):
    labels = np.resize(np.array(values), (4, 5, 6))
    save(tmp_path / "a.tif", labels.astype(np.float64))
    with pytest.raises(SpocoError, match=rf"a\.tif: .*{message}"):
        read_image(tmp_path / "a.tif", kind="label")


def test_whole_floats_are_labels(tmp_path):
    labels = np.arange(120).reshape(4, 5, 6)
    save(tmp_path / "a.nii.gz", labels.astype(np.float32))
    volume = read_image(tmp_path / "a.nii.gz", kind="label")
    assert volume.array.dtype == np.int32
    np.testing.assert_array_equal(volume.array[0], labels)


def test_labels_in_colour(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 6, 3), np.uint8), photometric="rgb")
    with pytest.raises(SpocoError, match="3 channels"):
        read_image(tmp_path / "a.tif", kind="label", spatial_dims=2)


def test_slices_of_labels_that_are_stored_as_channels(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "a.tif", np.rint(voxels).astype(np.uint8), imagej=True)
    with pytest.raises(SpocoError, match="4 channels.*if these are slices, give --axes ZYX"):
        read_image(tmp_path / "a.tif", kind="label", spatial_dims=2)
    assert read_image(tmp_path / "a.tif", kind="label", axes="ZYX").spatial_shape == (4, 5, 6)


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.nrrd"])
@pytest.mark.parametrize(("shape", "dims"), [((9, 8), 2), ((5, 9, 8), 3)])
def test_what_cannot_be_chosen_is_named_whatever_the_dimensions(tmp_path, name, shape, dims):
    if (name, dims) == ("a.png", 3):
        return
    image = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    if name == "a.tif":
        tifffile.imwrite(tmp_path / name, image, metadata={"axes": "ZYX"[-dims:]})
    else:
        itk.imwrite(itk.image_from_array(image), str(tmp_path / name))
    assert image_dimensions(tmp_path / name) == image_dimensions(tmp_path / name, channel=0) == dims
    with pytest.raises(SpocoError, match="channel is 1: the image has channels 0 to 0"):
        image_dimensions(tmp_path / name, channel=1)
    with pytest.raises(SpocoError, match="time is 0, but"):
        image_dimensions(tmp_path / name, time=0)


@pytest.mark.parametrize("spacing", [(1, 2), (1, 0, 1), (1, -1, 1), (1, np.nan, 1), "abc", 3])
def test_spacing_argument(tmp_path, voxels, spacing):
    save(tmp_path / "a.tif", voxels)
    with pytest.raises(SpocoError, match="3 positive numbers in the order z, y, x"):
        read_image(tmp_path / "a.tif", spacing=spacing)


@pytest.mark.parametrize("name", ["a.tif", "a.nii.gz"])
def test_interrupted_writing_leaves_the_old_file(tmp_path, voxels, name, monkeypatch):
    save(tmp_path / name, voxels)
    target = tmp_path / f"out_{name}"
    write_instances(target, np.ones((4, 5, 6), int), tmp_path / name)
    before = target.read_bytes()

    def interrupted(source, destination):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(SpocoError, match="the disk is full"):
        write_instances(target, np.zeros((4, 5, 6), int), tmp_path / name)
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, target.name])


def test_target_folder_that_is_a_file(tmp_path, voxels):
    save(tmp_path / "a.tif", voxels)
    with pytest.raises(SpocoError, match="cannot be written"):
        write_instances(tmp_path / "a.tif" / "b.tif", np.ones((4, 5, 6), int), tmp_path / "a.tif")


def test_image_is_never_overwritten(tmp_path, voxels):
    save(tmp_path / "a.tif", voxels)
    with pytest.raises(SpocoError, match="overwrite the image"):
        write_instances(tmp_path / "x" / ".." / "a.tif", np.ones((4, 5, 6), int), tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[0], voxels)


def test_other_format_than_the_image(tmp_path, voxels):
    save(tmp_path / "a.tif", voxels)
    with pytest.raises(SpocoError, match="same kind of suffix"):
        write_instances(tmp_path / "b.nii.gz", np.ones((4, 5, 6), int), tmp_path / "a.tif")


@pytest.mark.parametrize("labels", [np.ones((4, 5, 6)), -np.ones((4, 5, 6), int), np.ones((1, 4, 5, 6), int)])
def test_labels_that_are_no_ids(tmp_path, voxels, labels):
    save(tmp_path / "a.tif", voxels)
    with pytest.raises(ValueError, match="labels"):
        write_instances(tmp_path / "b.tif", labels, tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("name", "stem", "suffix"),
    [
        ("b/a.nii.gz", "a", ".nii.gz"),
        ("a.x.tif", "a.x", ".tif"),
        ("a.OME.TIF", "a", ".OME.TIF"),
        ("a.gz", "a", ".gz"),
        ("a", "a", ""),
    ],
)
def test_names(name, stem, suffix):
    assert (image_name(name), file_suffix(name)) == (stem, suffix)
