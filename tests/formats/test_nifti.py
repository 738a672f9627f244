from __future__ import annotations

import nibabel
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import read_image, write_instances
from spoco_bundle.formats.lazy import open_volume

SHAPE_XYZ = (7, 6, 5)


def rotated(spacing=(0.8, 0.9, 1.75), origin=(11.0, -7.0, 3.0)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix() * spacing
    affine[:3, 3] = origin
    return affine


AFFINES = {
    "ras": np.array([[0.8, 0, 0, 5], [0, 0.9, 0, -4], [0, 0, 1.75, 2], [0, 0, 0, 1.0]]),
    "lps": np.array([[-0.8, 0, 0, 5], [0, -0.9, 0, -4], [0, 0, 1.75, 2], [0, 0, 0, 1.0]]),
    "sagittal": np.array([[0, 0, 1.75, 5], [-0.8, 0, 0, -4], [0, 0.9, 0, 2], [0, 0, 0, 1.0]]),
    "rotated": rotated(),
}


def save(path, array, affine, unit="micron", dtype=None) -> None:
    image = nibabel.Nifti1Image(array if dtype is None else array.astype(dtype), affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, SHAPE_XYZ).astype(np.uint16)


@pytest.mark.parametrize("name", AFFINES)
def test_index_to_world_is_that_of_the_file(tmp_path, voxels, name):
    path = tmp_path / "a.nii.gz"
    save(path, voxels, AFFINES[name])
    volume = read_image(path)
    assert volume.array.shape == (1, 5, 6, 7)
    assert volume.array.dtype == np.uint16
    for x, y, z in [(0, 0, 0), (6, 5, 4), (1, 2, 3)]:
        assert volume.array[0, z, y, x] == voxels[x, y, z]
        np.testing.assert_allclose(volume.affine @ [z, y, x, 1], AFFINES[name] @ [x, y, z, 1], atol=1e-5)
    np.testing.assert_allclose(volume.spacing, (1.75, 0.9, 0.8), rtol=1e-6)
    assert volume.file_unit == "micrometer"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", AFFINES)
def test_labels_get_the_header_of_their_image(tmp_path, voxels, name, suffix):
    source = tmp_path / f"a{suffix}"
    image = nibabel.Nifti1Image(voxels.astype(np.float32), AFFINES[name])
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(AFFINES[name], code=1)
    image.set_sform(AFFINES[name], code=4)
    image.header["descrip"] = b"scanner 7"
    image.header["cal_max"] = 900
    nibabel.save(image, source)
    labels = np.random.default_rng(1).integers(0, 9, (5, 6, 7))
    written = nibabel.load(write_instances(tmp_path / "out" / f"a_instances{suffix}", labels, source))
    original = nibabel.load(source)
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels.transpose())
    assert written.get_data_dtype() == np.uint16
    np.testing.assert_array_equal(written.affine, original.affine)
    for field in ("sform_code", "qform_code", "quatern_b", "srow_x", "srow_z", "xyzt_units", "descrip", "pixdim"):
        np.testing.assert_array_equal(written.header[field], original.header[field], err_msg=field)
    assert written.header["cal_max"] == 0


def test_only_qform_stays_only_qform(tmp_path, voxels):
    source = tmp_path / "a.nii"
    image = nibabel.Nifti1Image(voxels, None)
    image.set_qform(AFFINES["rotated"], code=1)
    image.set_sform(None, code=0)
    nibabel.save(image, source)
    written = nibabel.load(write_instances(tmp_path / "b.nii", np.ones((5, 6, 7), int), source))
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (1, 0)
    np.testing.assert_allclose(written.affine, nibabel.load(source).affine)


def test_scaled_intensities_are_scaled_and_labels_are_not(tmp_path, voxels):
    source = tmp_path / "a.nii.gz"
    image = nibabel.Nifti1Image(voxels.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nibabel.save(image, source)
    stored = nibabel.load(source)
    stored_raw = np.asarray(stored.dataobj.get_unscaled(), dtype=np.float64)
    volume = read_image(source)
    np.testing.assert_allclose(volume.array[0].transpose(), stored_raw * stored.dataobj.slope + stored.dataobj.inter)
    labels = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    written = read_image(write_instances(tmp_path / "b.nii.gz", labels, source), kind="label")
    np.testing.assert_array_equal(written.array[0], labels)


def test_channels_come_first(tmp_path):
    stack = np.random.default_rng(0).normal(size=(7, 6, 5, 2)).astype(np.float32)
    save(tmp_path / "a.nii", stack, AFFINES["ras"])
    volume = read_image(tmp_path / "a.nii")
    assert volume.array.shape == (2, 5, 6, 7)
    np.testing.assert_array_equal(volume.array[1], stack[..., 1].transpose())
    labels = np.ones((5, 6, 7), int)
    assert nibabel.load(write_instances(tmp_path / "b.nii", labels, tmp_path / "a.nii")).shape == SHAPE_XYZ


def test_one_slice_is_2d(tmp_path):
    save(tmp_path / "a.nii.gz", np.arange(42, dtype=np.uint8).reshape(7, 6, 1), AFFINES["lps"])
    volume = read_image(tmp_path / "a.nii.gz", spatial_dims=2)
    assert volume.array.shape == (1, 6, 7)
    np.testing.assert_allclose(volume.spacing, (0.9, 0.8), rtol=1e-6)
    np.testing.assert_allclose(volume.affine, [[0, -0.8, 5], [-0.9, 0, -4], [0, 0, 1]], atol=1e-6)
    written = nibabel.load(write_instances(tmp_path / "b.nii.gz", np.eye(6, 7, dtype=int), tmp_path / "a.nii.gz"))
    assert written.shape == (7, 6, 1)
    np.testing.assert_allclose(written.affine, AFFINES["lps"])
    with pytest.raises(SpocoError, match=r"a\.nii\.gz.*one slice.*spatial_dims 2"):
        read_image(tmp_path / "a.nii.gz", spatial_dims=3)


def test_oblique_slice_keeps_its_spacing(tmp_path):
    save(tmp_path / "a.nii", np.arange(42, dtype=np.uint8).reshape(7, 6, 1), AFFINES["rotated"])
    volume = read_image(tmp_path / "a.nii", spatial_dims=2)
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:2, :2], axis=0), (0.9, 0.8), rtol=1e-6)


def test_stack_is_not_2d(tmp_path, voxels):
    save(tmp_path / "a.nii", voxels, np.eye(4))
    with pytest.raises(SpocoError, match="5 slices.*spatial_dims 3"):
        read_image(tmp_path / "a.nii", spatial_dims=2)


@pytest.mark.parametrize(("unit", "expected", "factor"), [("mm", "millimeter", 1000), ("unknown", "unknown", 1)])
def test_units(tmp_path, voxels, unit, expected, factor):
    save(tmp_path / "a.nii", voxels, AFFINES["ras"], unit=unit)
    volume = read_image(tmp_path / "a.nii")
    assert volume.file_unit == expected
    np.testing.assert_allclose(volume.spacing, np.array([1.75, 0.9, 0.8]) * factor, rtol=1e-6)


def test_metres_become_micrometres_in_spacing_and_affine(tmp_path, voxels):
    save(tmp_path / "a.nii", voxels, np.diag([8e-7, 8e-7, 2e-6, 1]), unit="meter")
    volume = read_image(tmp_path / "a.nii")
    assert volume.file_unit == "meter"
    np.testing.assert_allclose(volume.spacing, (2, 0.8, 0.8), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), volume.spacing)


def test_header_without_geometry_is_unknown_spacing(tmp_path, voxels):
    image = nibabel.Nifti1Image(voxels, None)
    nibabel.save(image, tmp_path / "a.nii")
    volume = read_image(tmp_path / "a.nii")
    assert volume.spacing is None
    given = read_image(tmp_path / "a.nii", spacing=(2, 0.5, 0.25))
    np.testing.assert_allclose(np.linalg.norm(given.affine[:3, :3], axis=0), (2, 0.5, 0.25))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("part", [0.01, 0.3, 0.9])
def test_truncated(tmp_path, suffix, part):
    path = tmp_path / f"a{suffix}"
    save(path, np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.uint16), np.eye(4))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(SpocoError, match=rf"a{suffix}.*damaged or truncated"):
        read_image(path)


def test_singular_affine(tmp_path, voxels):
    image = nibabel.Nifti1Image(voxels, np.eye(4))
    image.header["srow_x"] = 0
    image.header["sform_code"] = 1
    nibabel.save(nibabel.Nifti1Image(voxels, None, image.header), tmp_path / "a.nii")
    with pytest.raises(SpocoError, match="affine.*singular"):
        read_image(tmp_path / "a.nii")


def test_real_mri_round_trip(tmp_path, shared_dir):
    source = shared_dir / "data/ms_lesions/val/patient26_FLAIR.nii.gz"
    truth = read_image(str(source).replace("FLAIR", "lesions"), kind="label")
    original = nibabel.load(source)
    written = nibabel.load(write_instances(tmp_path / "out.nii.gz", truth.array[0], source))
    np.testing.assert_array_equal(written.affine, original.affine)
    assert written.header.get_zooms() == original.header.get_zooms()
    assert written.shape == original.shape
    np.testing.assert_array_equal(read_image(tmp_path / "out.nii.gz", kind="label").array, truth.array)


def test_codes_of_units_that_do_not_exist_say_nothing(tmp_path, voxels):
    for code, unit in ((128 + 3, "micrometer"), (5, "unknown")):
        image = nibabel.Nifti1Image(voxels, np.diag([0.5, 0.5, 2.0, 1.0]))
        image.header["xyzt_units"] = code
        nibabel.save(image, tmp_path / "image.nii")
        volume = read_image(tmp_path / "image.nii")
        assert volume.spacing == (2.0, 0.5, 0.5) and volume.file_unit == unit


@pytest.mark.parametrize("axes", [0, 1])
def test_files_of_less_than_two_axes_are_refused(tmp_path, axes):
    data = bytearray(nibabel.Nifti1Image(np.ones((4, 1), np.uint8), np.eye(4)).to_bytes())
    data[40:42] = axes.to_bytes(2, "little")  # dim[0], the number of axes
    (tmp_path / "image.nii").write_bytes(data)
    for read in (read_image, open_volume):
        for dims in (2, 3):
            with pytest.raises(SpocoError, match="image.nii: has [01] axes"):
                read(tmp_path / "image.nii", spatial_dims=dims)


def test_a_header_that_asks_for_more_than_memory_is_named(tmp_path, monkeypatch):
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6), np.uint8), np.eye(4)), tmp_path / "image.nii.gz")

    def too_much(*_, **__):
        raise MemoryError

    monkeypatch.setattr(nibabel.arrayproxy.ArrayProxy, "__array__", too_much)
    with pytest.raises(SpocoError, match=r"image.nii.gz: by its header it holds \(4, 5, 6\) voxels"):
        read_image(tmp_path / "image.nii.gz")
