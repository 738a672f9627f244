"""Every format states lengths in its own way; inside they are micrometres, in results the file's own unit again."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import tifffile
import zarr

from spoco_bundle.formats import objects_table, read_image, write_instances
from spoco_bundle.formats.lazy import open_volume

SHAPE = (4, 6, 8)


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.uint16)


def imagej(path, voxels, entries: bytes, resolution=(1.25, 1.25)):
    slices = b"ImageJ=1.54f\nimages=4\nslices=4\nloop=false\n" + entries
    options = {"photometric": "minisblack", "metadata": None, "resolution": resolution, "resolutionunit": 1}
    tifffile.imwrite(path, voxels, description=slices, **options)
    return path


def ome(path, voxels, factor, unit, **others):
    sizes = {f"PhysicalSize{a}": s * factor for a, s in zip("ZYX", (2.0, 0.8, 0.8))}
    units = {f"PhysicalSize{a}Unit": unit for a in "ZYX"}
    metadata = {"axes": "ZYX", **sizes, **units, **others}
    tifffile.imwrite(path, voxels, ome=True, photometric="minisblack", metadata=metadata)
    return path


def nifti(path, voxels, factor, unit):
    image = nibabel.Nifti1Image(voxels.T, np.diag([0.8 * factor, 0.8 * factor, 2 * factor, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


def ngff(path, voxels, factor, unit):
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    group.create_array("0", data=voxels, chunks=SHAPE)
    scale = [2 * factor, 0.8 * factor, 0.8 * factor]
    axes = [{"name": a, "type": "space", "unit": unit} for a in "zyx"]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    return path


def itk_file(path, voxels, factor, header):
    """ITK writes no unit; the line that states it is put where other programs have it."""
    import itk

    image = itk.image_from_array(voxels)
    image.SetSpacing([0.8 * factor, 0.8 * factor, 2.0 * factor])
    itk.imwrite(image, str(path))
    place = b"ElementDataFile" if path.suffix == ".mha" else b"\n\n"
    head, mark, rest = path.read_bytes().partition(place)
    stated = header + b"\n" + mark if path.suffix == ".mha" else b"\n" + header + mark
    path.write_bytes(head + stated + rest)
    return path


FILES = {
    "ome nm": lambda f, v: ome(f / "a.tif", v, 1000, "nm"),
    "ome mm": lambda f, v: ome(f / "a.tif", v, 1e-3, "mm"),
    "ome angstrom": lambda f, v: ome(f / "a.tif", v, 1e4, "Å"),
    "ome wrong encoding": lambda f, v: ome(f / "a.tif", v, 1, "Âµm"),
    "ome one axis of its own": lambda f, v: ome(f / "a.tif", v, 1, "µm", PhysicalSizeZ=2000.0, PhysicalSizeZUnit="nm"),
    "imagej plural": lambda f, v: imagej(f / "a.tif", v, b"unit=micrometres\nspacing=2.0\n"),
    "imagej latin-1": lambda f, v: imagej(f / "a.tif", v, b"unit=\xb5m\nspacing=2.0\n"),
    "imagej escape": lambda f, v: imagej(f / "a.tif", v, b"unit=\\u00B5m\nspacing=2.0\n"),
    "imagej negative": lambda f, v: imagej(f / "a.tif", v, b"unit=micron\nspacing=-2.0\n"),
    "imagej z in nm": lambda f, v: imagej(f / "a.tif", v, b"unit=micron\nzunit=nm\nspacing=2000\n"),
    "imagej cm": lambda f, v: imagej(f / "a.tif", v, b"unit=cm\nspacing=0.0002\n", (12500, 12500)),
    "nifti mm": lambda f, v: nifti(f / "a.nii.gz", v, 1e-3, "mm"),
    "nifti um": lambda f, v: nifti(f / "a.nii", v, 1, "micron"),
    "nifti m": lambda f, v: nifti(f / "a.nii", v, 1e-6, "meter"),
    "ngff nm": lambda f, v: ngff(f / "a.ome.zarr", v, 1000, "nanometer"),
    "ngff angstrom": lambda f, v: ngff(f / "a.ome.zarr", v, 1e4, "angstrom"),
    "nrrd": lambda f, v: itk_file(f / "a.nrrd", v, 1000, b'space units: "nm" "nm" "nm"'),
    "mha": lambda f, v: itk_file(f / "a.mha", v, 1e-3, b"DistanceUnits = mm"),
}


@pytest.mark.parametrize("name", FILES)
def test_micrometres_inside_and_the_same_size_in_the_result(tmp_path, voxels, name):
    path = FILES[name](tmp_path, voxels)
    image = read_image(path)
    assert image.spacing == pytest.approx((2.0, 0.8, 0.8), rel=1e-5)
    assert np.linalg.norm(image.affine[:3, :3], axis=0) == pytest.approx(image.spacing)
    result = tmp_path / f"b{''.join(path.suffixes)}"
    write_instances(result, voxels, path)
    again = read_image(result, "label")
    np.testing.assert_array_equal(again.array[0], voxels)
    assert again.spacing == pytest.approx(image.spacing, rel=1e-5) and again.file_unit == image.file_unit
    if name.partition(" ")[0] in ("ome", "imagej", "nifti", "ngff") and not path.name.endswith(".gz"):
        assert open_volume(path).spacing == image.spacing


UNKNOWN = {
    "inch": (b"unit=inch\nspacing=2.0\n", ""),
    "pixel": (b"unit=pixel\nspacing=2.0\n", ""),
    "none": (b"", ""),
    "unheard": (b"unit=furlong\nspacing=2.0\n", "2 x 0.8 x 0.8 furlong"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_no_voxel_size_is_unknown_and_named(tmp_path, voxels, name):
    entries, stated = UNKNOWN[name]
    image = read_image(imagej(tmp_path / "a.tif", voxels, entries))
    assert (image.spacing, image.stated_size) == (None, stated)


def test_the_density_of_a_picture_is_no_voxel_size(tmp_path, voxels):
    from PIL import Image

    picture = Image.fromarray((voxels[0] % 250).astype(np.uint8))
    for name in ("a.png", "a.jpg", "a.bmp", "a.tif"):
        picture.save(tmp_path / name, dpi=(96, 96))
        image = read_image(tmp_path / name, spatial_dims=2)
        assert image.spacing is None and image.affine[0, 1] ** 2 == image.affine[1, 0] ** 2 == 1


def test_numbers_without_a_unit_are_no_micrometres(tmp_path, voxels):
    image = read_image(nifti(tmp_path / "a.nii", voxels, 1, "unknown"))
    assert (image.file_unit, image.stated_size) == ("unknown", "2 x 0.8 x 0.8 (no unit)")
    assert image.spacing == pytest.approx((2, 0.8, 0.8))


def test_a_stack_whose_slice_distance_is_not_stated_is_of_unknown_size(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "a.tif", voxels, resolution=(2, 2), metadata={"axes": "ZYX", "unit": "um"})
    image = read_image(tmp_path / "a.tif")
    assert (image.spacing, image.stated_size) == (None, "? x 0.5 x 0.5 um")


def test_volumes_of_a_sheared_grid_go_by_the_determinant(tmp_path, voxels):
    sheared = np.array([[0.5, 0.3, 0, 0], [0, 0.4, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(voxels.T, sheared)
    image.header.set_xyzt_units("micron")
    image.set_sform(sheared, 2)
    nibabel.save(image, tmp_path / "a.nii")
    read = read_image(tmp_path / "a.nii")
    volume = abs(np.linalg.det(read.affine[:3, :3]))
    assert volume == pytest.approx(0.4)
    (row,) = objects_table(np.ones(SHAPE, int), read.spacing, "nanometer", voxel_volume=volume)
    assert row["volume"] == pytest.approx(0.4e9 * voxels.size)
