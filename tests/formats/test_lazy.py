from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
import tifffile
import zarr

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import read_image, write_instances
from spoco_bundle.formats.lazy import open_volume, stored_header, unpack

SIZES = {"PhysicalSizeZ": 2.0, "PhysicalSizeY": 0.5, "PhysicalSizeX": 0.25}
TIFFS = {
    "plain": {},
    "zlib": {"compression": "zlib"},
    "tiled": {"compression": "zlib", "tile": (16, 16)},
    "strips": {"rowsperstrip": 5},
    "big": {"bigtiff": True},
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX", "spacing": 2.0, "unit": "um"}, "resolution": (4, 2)},
    "ome": {"ome": True, "metadata": {"axes": "ZYX", **SIZES}},
}


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(0, 60000, (6, 30, 21)).astype(np.uint16)


def same_as_whole(path, lazy=None, **options):
    """A volume read by region says and holds what the same volume read as a whole does."""
    whole, volume = read_image(path, **options), open_volume(lazy or path, **options)
    assert (volume.shape, volume.channels) == (whole.spatial_shape, len(whole.array))
    assert (volume.spacing, volume.file_unit) == (whole.spacing, whole.file_unit)
    assert volume.file_format == whole.file_format
    np.testing.assert_allclose(volume.affine, whole.affine)
    header = stored_header(path, len(volume.shape))
    assert (header.voxels, header.channels) == (volume.voxels, volume.channels)
    for start, stop in ((0, 1), (0.3, 0.8)):
        region = tuple(slice(int(start * size), int(stop * size)) for size in volume.shape)
        read = volume.read(region)
        assert read.dtype == whole.array.dtype
        np.testing.assert_array_equal(read, whole.array[(slice(None), *region)])


@pytest.mark.parametrize("name", TIFFS)
def test_tiff(tmp_path, voxels, name):
    options = {"byteorder": ">"} if name in ("plain", "imagej") else {}
    tifffile.imwrite(tmp_path / "a.tif", voxels, **{"photometric": "minisblack", **options, **TIFFS[name]})
    same_as_whole(tmp_path / "a.tif")


def test_a_pyramid_is_read_at_its_full_resolution(tmp_path, voxels):
    options = {"photometric": "minisblack", "compression": "zlib"}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        tif.write(voxels, subifds=1, metadata={"axes": "ZYX"}, **options)
        tif.write(voxels[:, ::2, ::2], subfiletype=1, **options)
    same_as_whole(tmp_path / "a.ome.tif")


def test_tiff_with_channels_and_colours(tmp_path):
    random = np.random.default_rng(0)
    stack = random.integers(0, 255, (5, 3, 20, 22)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "zc.ome.tif", stack, ome=True, photometric="minisblack", metadata={"axes": "ZCYX"})
    same_as_whole(tmp_path / "zc.ome.tif")
    for samples in (3, 4):
        colours = random.integers(0, 255, (40, 30, samples)).astype(np.uint8)
        extra = {"extrasamples": ["unassalpha"]} if samples == 4 else {}
        tifffile.imwrite(tmp_path / "rgb.tif", colours, photometric="rgb", **extra)
        volume = open_volume(tmp_path / "rgb.tif", 2)
        np.testing.assert_array_equal(
            volume.read((slice(3, 30), slice(4, 9))), colours[3:30, 4:9, :3].transpose(2, 0, 1)
        )
        assert volume.channels == 3


@pytest.mark.parametrize("shape", [(7, 8, 9), (7, 8, 9, 2), (7, 8, 9, 1, 3)])
@pytest.mark.parametrize("scaled", [False, True])
def test_nifti(tmp_path, shape, scaled):
    array = np.random.default_rng(0).integers(0, 1000, shape).astype(np.int16)
    affine = np.array([[0, 2.0, 0, 5], [-0.5, 0, 0, 7], [0, 0, 3, -2], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("micron")
    if scaled:
        image.header.set_slope_inter(0.5, 10)
    nibabel.save(image, tmp_path / "a.nii")
    same_as_whole(tmp_path / "a.nii")
    with open(tmp_path / "a.nii", "rb") as plain, gzip.open(tmp_path / "b.nii.gz", "wb") as packed:
        packed.write(plain.read())
    same_as_whole(tmp_path / "b.nii.gz", lazy=unpack(tmp_path / "b.nii.gz", tmp_path / "c.nii"))


def test_slices(tmp_path, voxels):
    nibabel.save(nibabel.Nifti1Image(voxels[:1].T, np.diag([0.5, 0.5, 2, 1])), tmp_path / "one.nii")
    same_as_whole(tmp_path / "one.nii", spatial_dims=2)
    tifffile.imwrite(tmp_path / "one.tif", voxels[0], photometric="minisblack")
    same_as_whole(tmp_path / "one.tif", spatial_dims=2)
    with pytest.raises(SpocoError, match="one slice"):
        open_volume(tmp_path / "one.nii")


def test_a_damaged_or_unknown_file_is_named(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "a.tif", voxels, compression="zlib")
    volume = open_volume(tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "gone.nii.gz").write_bytes(gzip.compress(content)[:500])
    with pytest.raises(SpocoError, match="gone.nii.gz.*damaged"):
        unpack(tmp_path / "gone.nii.gz", tmp_path / "gone.nii")
    (tmp_path / "a.tif").unlink()
    with pytest.raises(SpocoError, match="a.tif: cannot be read"):
        volume.read((slice(0, 1), slice(0, 5), slice(0, 5)))
    (tmp_path / "a.mha").write_bytes(b"x")
    with pytest.raises(SpocoError, match="a.mha.*convert"):
        open_volume(tmp_path / "a.mha")
    assert stored_header(tmp_path / "a.mha") is None
    with pytest.raises(SpocoError, match="no such file"):
        open_volume(tmp_path / "nowhere.zarr")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_a_zarr_array_is_written_like_an_array(tmp_path, voxels, suffix, dtype):
    like = tmp_path / f"a{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(like, voxels, photometric="minisblack", **TIFFS["imagej"])
    else:
        image = nibabel.Nifti1Image(voxels.T, np.diag([-0.5, 0.5, 2, 1]))
        image.header.set_sform(np.diag([-0.5, 0.5, 2, 1]), code=3)
        nibabel.save(image, like)
    labels = (voxels // 100).astype(dtype) + (70000 if dtype == np.uint32 else 0)
    lazy = zarr.create_array(str(tmp_path / "labels"), shape=labels.shape, chunks=(2, 8, 8), dtype=dtype)
    lazy[:] = labels
    write_instances(tmp_path / f"whole{suffix}", labels, like)
    write_instances(tmp_path / f"lazy{suffix}", lazy, like)
    whole, other = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("whole", "lazy"))
    assert abs(len(whole) - len(other)) <= 64 and (suffix != ".nii" or whole == other)
    again = read_image(tmp_path / f"lazy{suffix}", "label")
    np.testing.assert_array_equal(again.array[0], labels)
    assert again.spacing == read_image(like).spacing
