"""Images as layers: their voxel size, their channels, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist
from spoco_bundle.formats import read_image
from spoco_bundle.napari.annotations import Annotations
from spoco_bundle.napari.files import write_pair
from spoco_bundle.napari.reader import get_reader, open_image


def layers(path):
    return get_reader(str(path))(str(path))


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(0, 200, (6, 20, 24), dtype=np.uint8)


def test_nifti_with_its_voxel_size(volume):
    ((data, options, kind),) = layers(volume)
    assert kind == "image" and data.shape == (16, 64, 64) and options["name"] == "crowd_00_raw"
    np.testing.assert_allclose(options["scale"], [2, 0.8, 0.8], rtol=1e-5)
    assert options["units"] == ("micrometer",) * 3 and options["axis_labels"] == ("z", "y", "x")


def test_tiff_without_a_voxel_size(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "a.tif", voxels)
    ((data, options, _),) = layers(tmp_path / "a.tif")
    np.testing.assert_array_equal(data, voxels)
    assert options["scale"] == (1, 1, 1) and options["units"] == ("pixel",) * 3


def test_plane_and_colours_of_two_dimensions(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "plane.tif", voxels[0])
    ((data, options, _),) = layers(tmp_path / "plane.tif")
    assert data.shape == (20, 24) and options["axis_labels"] == ("y", "x")
    rgb = np.stack([voxels[0], voxels[1], voxels[2]], axis=-1)
    tifffile.imwrite(tmp_path / "rgb.tif", rgb, photometric="rgb")
    ((data, options, _),) = layers(tmp_path / "rgb.tif")
    np.testing.assert_array_equal(data, rgb)
    assert options["rgb"]


def test_channels_of_a_volume_become_layers(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "two.tif", np.stack([voxels, voxels // 2]), imagej=False, metadata={"axes": "CZYX"})
    found = layers(tmp_path / "two.tif")
    assert [options["name"] for _, options, _ in found] == ["two 0", "two 1"]
    np.testing.assert_array_equal(found[1][0], voxels // 2)


def test_ome_zarr_is_read_when_it_is_shown(tmp_path, voxels, zarr_image):
    image = open_image(zarr_image(tmp_path / "a.ome.zarr", voxels, (2.0, 0.5, 0.5)))
    assert not isinstance(image.array, np.ndarray)
    assert image.spacing == (2.0, 0.5, 0.5) and image.file_unit == "micrometer"
    np.testing.assert_array_equal(np.asarray(image.array[0, 2:4, 3, 5:]), voxels[2:4, 3, 5:])
    ((data, options, _),) = layers(tmp_path / "a.ome.zarr")
    np.testing.assert_array_equal(np.asarray(data), voxels)
    assert options["scale"] == (2.0, 0.5, 0.5)


def test_other_files_are_left_to_others(tmp_path):
    assert get_reader(str(tmp_path / "notes.txt")) is None
    assert get_reader(str(tmp_path)) is None
    zarr.open_group(str(tmp_path / "group"), mode="w")
    assert get_reader([str(tmp_path / "group"), str(tmp_path / "a.tif")]) is not None


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "bad.nii.gz").write_bytes(b"nothing")
    with pytest.raises(SpocoError, match="bad.nii.gz"):
        layers(tmp_path / "bad.nii.gz")


@pytest.mark.parametrize(
    ("unit", "spacing"),
    [
        ("nanometer", (80, 40, 40)),
        ("millimeter", (1e-3, 5e-4, 5e-4)),
        (None, (2.0, 0.5, 0.5)),
        (None, (2.0, 2.0, 2.0)),
        (None, (1, 1, 1)),
    ],
)
def test_a_part_has_the_voxel_size_of_its_image(tmp_path, voxels, zarr_image, unit, spacing):
    image = open_image(zarr_image(tmp_path / "a.ome.zarr", voxels, spacing, unit))
    labels = np.zeros(voxels.shape, np.int32)
    labels[2:4, 3:6, 3:6] = 1
    (tmp_path / "job").mkdir()
    datalist = write_pair(Annotations(labels).contents(), image, tmp_path / "a_label.ome.zarr", tmp_path / "job")
    (pair,) = build_datalist(datalist, "train")
    for part, expected in ((read_image(pair["image"]), voxels), (read_image(pair["label"], "label"), labels)):
        assert part.spacing == (None if image.spacing is None else pytest.approx(image.spacing))
        assert part.file_unit == image.file_unit
        np.testing.assert_array_equal(part.array[0], expected)


def test_the_contrast_of_a_flat_ome_zarr_is_that_of_all_of_it(tmp_path, zarr_image):
    plane = np.zeros((40, 50), np.uint8)
    plane[5:15] = 200  # the middle row is dark
    ((_, options, _),) = layers(zarr_image(tmp_path / "flat.ome.zarr", plane, (0.5, 0.5)))
    assert options["contrast_limits"] == (0, 200)
