from __future__ import annotations

import itk
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import read_image, write_instances

DIRECTION = Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()


def save(path, array, spacing=(0.8, 0.9, 1.75), direction=DIRECTION, origin=(4.0, 5.0, -6.0)) -> None:
    image = itk.image_from_array(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(direction)))
    itk.imwrite(image, str(path))


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, (5, 6, 7)).astype(np.int16)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
def test_index_to_world_and_back(tmp_path, voxels, suffix):
    source = tmp_path / f"a{suffix}"
    save(source, voxels)
    volume = read_image(source)
    np.testing.assert_array_equal(volume.array[0], voxels)
    np.testing.assert_allclose(volume.spacing, (1.75, 0.9, 0.8))
    image = itk.imread(str(source))
    left, posterior, superior = image.TransformIndexToPhysicalPoint([3, 2, 1])
    np.testing.assert_allclose(volume.affine @ [1, 2, 3, 1], [-left, -posterior, superior, 1], atol=1e-6)
    labels = np.random.default_rng(1).integers(0, 9, (5, 6, 7))
    if suffix == ".mhd":
        suffix = ".mha"
    target = write_instances(tmp_path / f"b{suffix}", labels, source)
    after = read_image(target, kind="label")
    np.testing.assert_array_equal(after.array[0], labels)
    np.testing.assert_allclose(after.affine, volume.affine, atol=1e-6)


def test_same_world_as_nifti(tmp_path, voxels):
    save(tmp_path / "a.nrrd", voxels)
    save(tmp_path / "a.nii.gz", voxels)
    numbers, millimetres = read_image(tmp_path / "a.nrrd").affine, read_image(tmp_path / "a.nii.gz").affine
    np.testing.assert_allclose(numbers[:-1], millimetres[:-1] / 1000, atol=1e-5)


def test_colour_png(tmp_path):
    colour = np.random.default_rng(0).integers(0, 255, (12, 14, 3)).astype(np.uint8)
    itk.imwrite(itk.image_from_array(colour, ttype=itk.Image[itk.RGBPixel[itk.UC], 2]), str(tmp_path / "a.png"))
    volume = read_image(tmp_path / "a.png", spatial_dims=2)
    np.testing.assert_array_equal(volume.array, colour.transpose(2, 0, 1))
    assert volume.spacing is None
    labels = np.arange(168).reshape(12, 14) * 100
    after = read_image(write_instances(tmp_path / "b.png", labels, tmp_path / "a.png"), kind="label", spatial_dims=2)
    np.testing.assert_array_equal(after.array[0], labels)
    with pytest.raises(SpocoError, match=r"a\.png: ITK cannot write uint32"):
        write_instances(tmp_path / "c.png", labels * 100, tmp_path / "a.png")
    with pytest.raises(SpocoError, match="cannot hold label ids"):
        write_instances(tmp_path / "c.jpg", labels, tmp_path / "a.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_alpha_is_left_out(tmp_path):
    colour = np.random.default_rng(0).integers(0, 255, (12, 14, 4)).astype(np.uint8)
    itk.imwrite(itk.image_from_array(colour, ttype=itk.Image[itk.RGBAPixel[itk.UC], 2]), str(tmp_path / "a.png"))
    volume = read_image(tmp_path / "a.png", spatial_dims=2)
    np.testing.assert_array_equal(volume.array, colour[..., :3].transpose(2, 0, 1))


def test_nrrd_units(tmp_path, voxels):
    save(tmp_path / "a.nrrd", voxels)
    content = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "b.nrrd").write_bytes(content.replace(b"\n\n", b'\nspace units: "um" "um" "um"\n\n', 1))
    assert read_image(tmp_path / "a.nrrd").file_unit == "unknown"
    assert read_image(tmp_path / "b.nrrd").file_unit == "micrometer"


def test_dimension_mismatch(tmp_path, voxels):
    save(tmp_path / "a.nrrd", voxels)
    with pytest.raises(SpocoError, match=r"a\.nrrd: is 3D, 2D images are expected"):
        read_image(tmp_path / "a.nrrd", spatial_dims=2)


def test_one_slice_counts_as_2d(tmp_path, voxels):
    save(tmp_path / "a.nrrd", voxels[:1], direction=np.eye(3))
    volume = read_image(tmp_path / "a.nrrd", spatial_dims=2)
    assert volume.array.shape == (1, 6, 7)
    np.testing.assert_allclose(volume.spacing, (0.9, 0.8))
    written = write_instances(tmp_path / "b.nrrd", np.ones((6, 7), int), tmp_path / "a.nrrd")
    assert tuple(itk.size(itk.imread(str(written)))) == (7, 6, 1)


@pytest.mark.parametrize("turn", [np.eye(3)[:, [1, 2, 0]], np.eye(3)[:, [0, 2, 1]], DIRECTION])
def test_a_slice_that_is_not_axial_keeps_its_spacing(tmp_path, voxels, turn):
    save(tmp_path / "a.nrrd", voxels[:1], direction=turn)
    volume = read_image(tmp_path / "a.nrrd", spatial_dims=2)
    np.testing.assert_allclose(volume.spacing, (0.9, 0.8))
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:2, :2], axis=0), (0.9, 0.8))


@pytest.mark.parametrize("name", ["a.nrrd", "a.xyz", "a.txt"])
def test_unreadable(tmp_path, name):
    (tmp_path / name).write_text("this is no image")
    with pytest.raises(SpocoError, match=rf"{name}: cannot be read") as caught:
        read_image(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_truncated(tmp_path, voxels):
    save(tmp_path / "a.mha", voxels)
    content = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(content[:-100])
    with pytest.raises(SpocoError, match=r"a\.mha"):
        read_image(tmp_path / "a.mha")
