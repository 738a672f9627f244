"""What a file says is what it holds, results stay readable, and nothing lies or goes outside its folder."""

from __future__ import annotations

import os

import nibabel
import numpy as np
import pytest
import tifffile
import zarr

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import check_result, read_image, result_suffix, write_instances
from spoco_bundle.formats.lazy import open_volume

SHAPE = (4, 6, 8)


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(1, 200, SHAPE).astype(np.uint8)


def itk_write(path, voxels):
    import itk

    image = itk.image_from_array(np.ascontiguousarray(voxels))
    image.SetSpacing([0.8, 0.8, 2.0][: voxels.ndim])
    itk.imwrite(image, str(path))
    return path


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.mhd", ".mha"), ("a.nhdr", ".nrrd"), ("a.img", ".nii"), ("a.hdr", ".nii"), ("a.dcm", ".nrrd")],
)
def test_results_are_single_files_with_the_grid_of_their_image(tmp_path, voxels, name, suffix):
    source, folder = tmp_path / name, tmp_path / "results"
    if suffix == ".nii":
        pair = nibabel.Nifti1Pair(voxels.T, np.diag([0.8, 0.8, 2.0, 1]))
        pair.header.set_xyzt_units("micron")
        nibabel.save(pair, tmp_path / "a.img")
    else:
        itk_write(source, voxels)
    image = read_image(source)
    np.testing.assert_array_equal(image.array[0], voxels)
    assert result_suffix(source) == suffix
    result = folder / f"a_instances{suffix}"
    check_result(result, source, 3)
    for _ in range(2):  # what an earlier run left does not matter
        write_instances(result, voxels.astype(np.uint16), source)
    again = read_image(result, "label")
    np.testing.assert_array_equal(again.array[0], voxels)
    np.testing.assert_allclose(again.affine, image.affine)
    assert again.file_unit == image.file_unit
    assert [file.name for file in folder.iterdir()] == [result.name]


def test_metadata_that_a_writer_refuses_are_found_before_the_work(tmp_path, voxels):
    description = b"ImageJ=1.54f\nimages=4\nslices=4\nunit=\xb5m\nspacing=2.0\nloop=false\n"
    options = {"photometric": "minisblack", "metadata": None, "resolution": (2, 2), "resolutionunit": 1}
    tifffile.imwrite(tmp_path / "a.tif", voxels, description=description, **options)
    check_result(tmp_path / "b.tif", tmp_path / "a.tif", 3)
    write_instances(tmp_path / "b.tif", voxels, tmp_path / "a.tif")
    (tmp_path / "file").touch()
    with pytest.raises(SpocoError, match="file: cannot be written to"):
        check_result(tmp_path / "file" / "b.tif", tmp_path / "a.tif", 3)
    with pytest.raises(SpocoError, match="same kind of suffix"):
        check_result(tmp_path / "b.nii", tmp_path / "a.tif", 3)
    itk_write(tmp_path / "c.png", voxels[0])
    with pytest.raises(SpocoError, match="cannot hold label ids"):
        check_result(tmp_path / "d.jpg", tmp_path / "c.png", 2)


def test_a_place_that_is_taken_is_found_before_the_work(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "a.tif", voxels, photometric="minisblack", metadata={"axes": "ZYX"})
    zarr.save_array(str(tmp_path / "a.zarr"), voxels, zarr_format=2)
    for suffix in (".tif", ".zarr"):
        result = tmp_path / f"a_instances{suffix}"
        check_result(result, tmp_path / f"a{suffix}", 3)
        result.mkdir()
        for work in (check_result, write_instances):
            with pytest.raises(SpocoError, match=f"a_instances{suffix}: exists and is no result of this command: move"):
                work(result, *{check_result: (tmp_path / f"a{suffix}", 3)}.get(work, (voxels, tmp_path / f"a{suffix}")))


def test_a_name_that_is_too_long_for_the_partial_file_is_found_before_the_work(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "a.tif", voxels, photometric="minisblack", metadata={"axes": "ZYX"})
    for length in (250, 260):
        with pytest.raises(SpocoError, match=r"too long for this disk: give .*a\.tif a shorter one"):
            check_result(tmp_path / f"{'n' * (length - 4)}.tif", tmp_path / "a.tif", 3)


def test_labels_of_a_zarr_image_are_a_label_image(tmp_path, voxels):
    group = zarr.open_group(str(tmp_path / "a.ome.zarr"), mode="w", zarr_format=2)
    group.create_array("0", data=voxels, chunks=SHAPE)
    axes = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
    scale = [{"type": "scale", "scale": [2000, 800, 800]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    np.testing.assert_array_equal(read_image(tmp_path / "a.ome.zarr").array[0], voxels)
    write_instances(tmp_path / "b.ome.zarr", voxels.astype(np.uint16), tmp_path / "a.ome.zarr")
    again = read_image(tmp_path / "b.ome.zarr", "label")
    np.testing.assert_array_equal(again.array[0], voxels)
    assert (again.spacing, again.file_unit) == ((2.0, 0.8, 0.8), "nanometer")
    (tmp_path / "c.ome.zarr").mkdir()
    (tmp_path / "c.ome.zarr" / "notes.txt").touch()
    with pytest.raises(SpocoError, match="no result of this command"):
        write_instances(tmp_path / "c.ome.zarr", voxels.astype(np.uint16), tmp_path / "a.ome.zarr")


# ---- one slice, times, channels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mha", "a.nii", "a.tif", "a.zarr", "a.dcm"])
def test_a_single_slice_is_no_volume_in_any_format(tmp_path, voxels, name):
    path, slices = tmp_path / name, voxels[:1]
    if name == "a.nii":
        nibabel.save(nibabel.Nifti1Image(slices.T, np.eye(4)), path)
    elif name == "a.tif":
        tifffile.imwrite(path, slices, photometric="minisblack", metadata={"axes": "ZYX"})
    elif name == "a.zarr":
        zarr.save_array(str(path), slices, zarr_format=2)
    else:
        itk_write(path, slices)
    with pytest.raises(SpocoError, match="spatial_dims 2"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, spatial_dims=2).array[0], slices[0])


def test_slices_of_a_dicom_series_are_told_once(tmp_path, voxels):
    messages = set()
    for number in range(3):
        path = itk_write(tmp_path / f"IM{number}.dcm", voxels[number : number + 1])
        with pytest.raises(SpocoError) as error:
            read_image(path)
        messages.add(str(error.value))
    assert len(messages) == 1 and "convert the series" in messages.pop()


def test_channel_and_time_in_every_format_that_has_them(tmp_path):
    stack = np.random.default_rng(0).integers(0, 99, (3, 2, *SHAPE)).astype(np.uint8)  # t, c, z, y, x
    tifffile.imwrite(tmp_path / "a.tif", stack, ome=True, photometric="minisblack", metadata={"axes": "TCZYX"})
    nibabel.save(nibabel.Nifti1Image(stack.transpose(4, 3, 2, 0, 1), np.eye(4)), tmp_path / "a.nii")
    zarr.save_array(str(tmp_path / "a.zarr"), stack, zarr_format=2)
    for name, axes in (("a.tif", None), ("a.nii", None), ("a.zarr", "TCZYX")):
        read = read_image(tmp_path / name, axes=axes, time=2, channel=1)
        np.testing.assert_array_equal(read.array, stack[2, 1:2])
        lazy = open_volume(tmp_path / name, axes=axes, time=2, channel=1)
        np.testing.assert_array_equal(lazy.read(tuple(slice(0, size) for size in SHAPE)), stack[2, 1:2])
        assert read_image(tmp_path / name, axes=axes, time=0).array.shape == (2, *SHAPE)
        for wrong, message in (
            ({}, "3 time points.*--time"),
            ({"time": 3}, "0 to 2"),
            ({"time": 0, "channel": 2}, "0 to 1"),
        ):
            with pytest.raises(SpocoError, match=message):
                read_image(tmp_path / name, axes=axes, **wrong)


def test_the_fourth_axis_of_nifti_is_channels_unless_a_time_is_asked_for(tmp_path, voxels):
    movie = np.stack([voxels, voxels + 1])
    nibabel.save(nibabel.Nifti1Image(movie.transpose(3, 2, 1, 0), np.eye(4)), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz").array, movie)
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz", time=1).array, movie[1:])


def test_labels_have_the_time_points_of_their_image_or_hold_for_all(tmp_path, voxels):
    movie = np.stack([voxels, voxels + 1])
    nibabel.save(nibabel.Nifti1Image(movie.transpose(3, 2, 1, 0), np.eye(4)), tmp_path / "a.nii")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii", "label", time=1).array[0], movie[1])
    nibabel.save(nibabel.Nifti1Image(voxels.T[..., None], np.eye(4)), tmp_path / "b.nii")
    np.testing.assert_array_equal(read_image(tmp_path / "b.nii", "label", time=1).array[0], voxels)


@pytest.mark.parametrize(("option", "value"), [("axes", "ZYX"), ("time", 0), ("channel", 1)])
def test_options_that_a_file_has_no_place_for_are_refused(tmp_path, voxels, option, value):
    itk_write(tmp_path / "a.mha", voxels)
    nibabel.save(nibabel.Nifti1Image(voxels.T, np.eye(4)), tmp_path / "a.nii")
    tifffile.imwrite(tmp_path / "a.tif", voxels, photometric="minisblack", metadata={"axes": "ZYX"})
    for name in ("a.mha", "a.nii", "a.tif")[: 2 if option == "axes" else 3]:
        with pytest.raises(SpocoError, match=f"{name}: {option} is"):
            read_image(tmp_path / name, **{option: value})


def test_labels_take_those_axes_of_their_image_that_they_have(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "a.tif", voxels, photometric="minisblack")
    for axes in ("CZYX", "TCZYX", "ZYXS"):
        read = read_image(tmp_path / "a.tif", "label", axes=axes, channel=1, time=3)
        np.testing.assert_array_equal(read.array[0], voxels)
    nibabel.save(nibabel.Nifti1Image(voxels.T, np.eye(4)), tmp_path / "a.nii")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii", "label", axes="CZYX").array[0], voxels)


# ---- flags that change what values mean ----------------------------------------------------------------------------


def test_an_image_whose_0_is_white_is_turned_round(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "a.tif", 255 - voxels, photometric="miniswhite", metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[0], voxels)
    region = tuple(slice(1, size) for size in SHAPE)
    np.testing.assert_array_equal(open_volume(tmp_path / "a.tif").read(region)[0], voxels[region])
    with pytest.raises(SpocoError, match="0 is white"):
        read_image(tmp_path / "a.tif", "label")
    tifffile.imwrite(tmp_path / "b.tif", voxels.astype(np.float32), photometric="miniswhite", metadata={"axes": "ZYX"})
    with pytest.raises(SpocoError, match="0 is white"):
        read_image(tmp_path / "b.tif")


def test_a_table_of_colours_is_a_display_or_no_intensity(tmp_path, voxels):
    fire = np.linspace(0, 65535, 256).astype(np.uint16) * np.ones((3, 1), np.uint16)
    random = np.random.default_rng(1).integers(0, 65535, (3, 256)).astype(np.uint16)
    for name, table in (("fire.tif", fire), ("random.tif", random)):
        tifffile.imwrite(tmp_path / name, voxels[0], photometric="palette", colormap=table)
        np.testing.assert_array_equal(read_image(tmp_path / name, "label", 2).array[0], voxels[0])
    np.testing.assert_array_equal(read_image(tmp_path / "fire.tif", spatial_dims=2).array[0], voxels[0])
    with pytest.raises(SpocoError, match="numbers of colours"):
        read_image(tmp_path / "random.tif", spatial_dims=2)


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG"])
def test_labels_are_no_jpeg(tmp_path, voxels, name):
    itk_write(tmp_path / "a.jpg", voxels[0]).rename(tmp_path / name)
    assert read_image(tmp_path / name, spatial_dims=2).spatial_shape == SHAPE[1:]
    with pytest.raises(SpocoError, match=f"{name}: JPEG blurs ids: save labels as PNG or TIFF"):
        read_image(tmp_path / name, "label", 2)


@pytest.mark.parametrize("name", ["a.png", "a.bmp"])
def test_labels_in_an_indexed_picture_are_its_numbers(tmp_path, voxels, name):
    from PIL import Image

    picture = Image.fromarray(voxels[0]).convert("P")
    picture.putpalette(np.random.default_rng(1).integers(0, 255, 768).tolist())
    picture.save(tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name, "label", 2).array[0], voxels[0])


def test_a_scale_of_values_is_honoured_or_refused(tmp_path, voxels):
    nibabel.save(nibabel.Nifti1Image(voxels.T.astype(np.int16), np.eye(4)), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[112:120] = np.array([0.5, 10], "<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "a.nii").write_bytes(content)
    np.testing.assert_allclose(read_image(tmp_path / "a.nii").array[0], voxels * 0.5 + 10)
    path = itk_write(tmp_path / "a.mha", voxels)
    path.write_bytes(
        path.read_bytes().replace(b"ElementDataFile", b"ElementToIntensityFunctionSlope = 2\nElementDataFile")
    )
    with pytest.raises(SpocoError, match="scaled by 2"):
        read_image(path)


def test_fewer_planes_than_a_file_says_are_an_error(tmp_path, voxels):
    description = "ImageJ=1.54f\nimages=9\nslices=9\nloop=false\n"
    tifffile.imwrite(tmp_path / "a.tif", voxels, photometric="minisblack", description=description, metadata=None)
    with pytest.raises(SpocoError, match=r"a\.tif"):
        read_image(tmp_path / "a.tif")


# ---- folders and links ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", ["../secret.raw", "/etc/hostname", "link.raw"])
@pytest.mark.parametrize("name", ["a.mhd", "a.nhdr"])
def test_a_header_takes_no_voxels_from_elsewhere(tmp_path, voxels, name, elsewhere):
    folder = tmp_path / "in"
    folder.mkdir()
    path = itk_write(folder / name, voxels)
    data = next(file for file in folder.iterdir() if file != path)
    (tmp_path / "secret.raw").write_bytes(data.read_bytes())
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    path.write_bytes(path.read_bytes().replace(data.name.encode(), elsewhere.encode()))
    with pytest.raises(SpocoError, match="folder"):
        read_image(path)


def test_an_ome_file_takes_no_planes_from_elsewhere(tmp_path, voxels):
    folder = tmp_path / "in"
    folder.mkdir()
    tifffile.imwrite(tmp_path / "b.ome.tif", voxels, ome=True, photometric="minisblack", metadata={"axes": "ZYX"})
    with tifffile.TiffFile(tmp_path / "b.ome.tif") as tif:
        xml, uuid = tif.ome_metadata, "urn:uuid:00000000-0000-0000-0000-000000000001"
    planes = "".join(
        f'<TiffData IFD="{z}" FirstZ="{z}" PlaneCount="1"><UUID FileName="../b.ome.tif">{uuid}</UUID></TiffData>'
        for z in range(SHAPE[0])
    )
    start, end = xml.index("<TiffData"), xml.index("</Pixels>")
    xml = xml[:start] + planes + xml[end:]
    tifffile.imwrite(folder / "a.ome.tif", voxels, description=xml.encode(), metadata=None, photometric="minisblack")
    with pytest.raises(SpocoError, match=r"a\.ome\.tif"):
        read_image(folder / "a.ome.tif")


def test_a_result_is_not_written_through_links(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "a.tif", voxels, photometric="minisblack", metadata={"axes": "ZYX"})
    (tmp_path / "mine.tif").write_text("mine")
    (tmp_path / "b.tif").symlink_to(tmp_path / "mine.tif")
    write_instances(tmp_path / "b.tif", voxels, tmp_path / "a.tif")
    assert (tmp_path / "mine.tif").read_text() == "mine" and not os.path.islink(tmp_path / "b.tif")


def test_a_label_image_is_not_written_through_links(tmp_path):
    from spoco_bundle.formats.ome_zarr import create_label_image

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "b.zarr").mkdir()
    (tmp_path / "b.zarr" / "0").symlink_to(elsewhere)
    with pytest.raises(SpocoError, match="is a link"):
        create_label_image(
            tmp_path / "b.zarr", [(SHAPE, (1, 1, 1))], SHAPE, np.uint16, None, (0, 0, 0), "unknown", "b", None
        )
    assert not list(elsewhere.iterdir())


# ---- messages name what is there -----------------------------------------------------------------------------------


def test_a_plate_and_a_well_name_an_image_inside(tmp_path, voxels):
    plate = zarr.open_group(str(tmp_path / "p.zarr"), mode="w", zarr_format=2)
    plate.attrs["plate"] = {"wells": [{"path": "A/1"}], "version": "0.4"}
    well = plate.require_group("A/1")
    well.attrs["well"] = {"images": [{"path": "0"}], "version": "0.4"}
    well.create_array("0", data=voxels, chunks=SHAPE)
    with pytest.raises(SpocoError, match=r"is a plate of 1 well .*p\.zarr/A/1/0"):
        read_image(tmp_path / "p.zarr")
    with pytest.raises(SpocoError, match=r"is a well.*p\.zarr/A/1/0"):
        read_image(tmp_path / "p.zarr" / "A" / "1")
    np.testing.assert_array_equal(read_image(tmp_path / "p.zarr" / "A" / "1" / "0").array[0], voxels)


def test_transformations_that_are_not_understood_are_refused(tmp_path, voxels):
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    group.create_array("0", data=voxels, chunks=SHAPE)
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "rotation", "rotation": [1, 2, 3]}]}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": list("zyx"), "datasets": datasets}]
    with pytest.raises(SpocoError, match="rotation"):
        read_image(tmp_path / "a.zarr")
