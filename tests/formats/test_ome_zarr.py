from __future__ import annotations

import json

import numpy as np
import pytest
import zarr

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import ome_zarr
from spoco_bundle.formats.lazy import open_volume


def write_image(path, voxels, axes, scale, translation=None, units=None, version="0.4", zarr_format=2):
    """An OME-Zarr image of one level, as other programs write it."""
    group = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    zarr.create_array(
        str(path / "full"), shape=voxels.shape, chunks=(7,) * voxels.ndim, dtype=voxels.dtype, zarr_format=zarr_format
    )[:] = voxels
    kinds = {"t": "time", "c": "channel"}
    described = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    for axis in described:
        if units and axis["name"] in units:
            axis["unit"] = units[axis["name"]]
    steps = [{"type": "scale", "scale": scale}]
    if translation:
        steps.append({"type": "translation", "translation": translation})
    content = {
        "version": version,
        "axes": described,
        "datasets": [{"path": "full", "coordinateTransformations": steps}],
    }
    group.attrs.update({"multiscales": [content]} if zarr_format == 2 else {"ome": {"multiscales": [content]}})
    return path


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(0, 1000, (2, 3, 9, 10, 11)).astype(np.uint16)


MICRON = dict.fromkeys("zyx", "micrometer")


@pytest.mark.parametrize("zarr_format, version", [(2, "0.4"), (3, "0.5")])
def test_axes_scale_translation_and_units_are_read(tmp_path, voxels, zarr_format, version):
    units = {"z": "micrometer", "y": "nanometer", "x": "nanometer"}
    write_image(tmp_path / "a.zarr", voxels[0], "czyx", [1, 2, 500, 250], [0, 4, 0, 100], units, version, zarr_format)
    volume = open_volume(tmp_path / "a.zarr")
    assert (volume.shape, volume.channels, volume.dtype) == ((9, 10, 11), 3, np.uint16)
    assert volume.spacing == pytest.approx((2, 0.5, 0.25)) and volume.file_unit == "nanometer"
    assert volume.translation == pytest.approx((4, 0, 0.1))
    region = (slice(2, 9), slice(0, 3), slice(4, 11))
    np.testing.assert_array_equal(volume.read(region), voxels[(0, slice(None), *region)])


def test_the_scale_of_the_whole_image_multiplies_that_of_the_level(tmp_path, voxels):
    path = write_image(tmp_path / "a.zarr", voxels[0, 0], "zyx", [1, 0.5, 0.5], [1, 0, 0], MICRON)
    attributes = json.loads((path / ".zattrs").read_text())
    attributes["multiscales"][0]["coordinateTransformations"] = [{"type": "scale", "scale": [3, 3, 3]}]
    (path / ".zattrs").write_text(json.dumps(attributes))
    volume = open_volume(path)
    assert volume.spacing == pytest.approx((3, 1.5, 1.5)) and volume.translation == pytest.approx((3, 0, 0))


@pytest.mark.parametrize(
    ("names", "letters"),
    [
        (["time", "y", "x"], "TYX"),
        (["Channel", "y", "x"], "CYX"),
        (["z", "y", "x"], "ZYX"),
        (["dim_0", "dim_1", "dim_2"], "ZYX"),
        (None, "ZYX"),
    ],
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_axes_of_an_array_that_are_named_in_words(tmp_path, voxels, names, letters, zarr_format):
    named = {"dimension_names": names} if zarr_format == 3 else {}
    path = str(tmp_path / "a.zarr")
    array = zarr.create_array(path, data=voxels[0, 0], chunks=(7, 7, 7), zarr_format=zarr_format, **named)
    if zarr_format == 2 and names:
        array.attrs["_ARRAY_DIMENSIONS"] = names
    assert ome_zarr.open_image(tmp_path / "a.zarr").axes == letters


def test_axes_of_unknown_names_are_refused(tmp_path, voxels):
    array = zarr.create_array(str(tmp_path / "a.zarr"), data=voxels[0, 0], chunks=(7, 7, 7), zarr_format=2)
    array.attrs["_ARRAY_DIMENSIONS"] = ["depth", "row", "x"]
    with pytest.raises(SpocoError, match="axes DEPTH, ROW, X do not name the 3 dimensions"):
        open_volume(tmp_path / "a.zarr")
    assert open_volume(tmp_path / "a.zarr", axes="ZYX").shape == (9, 10, 11)


def test_time_points_and_channels_are_chosen_or_refused(tmp_path, voxels):
    path = write_image(tmp_path / "a.zarr", voxels, "tczyx", [1, 1, 2, 1, 1], None, MICRON)
    region = (slice(0, 9), slice(1, 3), slice(0, 11))
    with pytest.raises(SpocoError, match="2 time points: choose one with --time"):
        open_volume(path)
    chosen = open_volume(path, time=1, channel=2)
    assert chosen.channels == 1
    np.testing.assert_array_equal(chosen.read(region)[0], voxels[(1, 2, *region)])
    for wrong in ({"time": 2}, {"time": 0, "channel": 3}):
        with pytest.raises(SpocoError, match="the image has"):
            open_volume(path, **wrong)


def test_lengths_without_a_unit_and_without_a_scale(tmp_path, voxels):
    volume = open_volume(write_image(tmp_path / "a.zarr", voxels[0, 0], "zyx", [2, 1, 1]))
    assert volume.spacing == (2, 1, 1) and volume.file_unit == "unknown"
    volume = open_volume(write_image(tmp_path / "b.zarr", voxels[0, 0], "zyx", [1, 1, 1]), spacing=[3, 1, 1])
    assert volume.spacing == (3, 1, 1) and volume.file_unit == "micrometer"


def test_a_unit_without_a_scale_is_no_size(tmp_path, voxels):
    write_image(tmp_path / "a.zarr", voxels[0, 0], "zyx", [2, 1, 1], units=dict.fromkeys("zyx", "micrometer"))
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="r+")
    multiscales = group.attrs["multiscales"]
    del multiscales[0]["datasets"][0]["coordinateTransformations"]
    group.attrs["multiscales"] = multiscales
    volume = open_volume(tmp_path / "a.zarr", 3)
    assert volume.spacing is None and volume.stated_size == ""


def test_plain_arrays_need_names_for_unusual_axes(tmp_path, voxels):
    zarr.save_array(str(tmp_path / "plain.zarr"), voxels[0, 0], zarr_format=2)
    volume = open_volume(tmp_path / "plain.zarr", spacing=[2, 1, 1])
    assert volume.shape == (9, 10, 11) and volume.spacing == (2, 1, 1)
    zarr.save_array(str(tmp_path / "four.zarr"), voxels[0], zarr_format=2)
    with pytest.raises(SpocoError, match="axes unnamed do not name the 4 dimensions.*CZYX"):
        open_volume(tmp_path / "four.zarr")
    named = open_volume(tmp_path / "four.zarr", axes="CZYX", channel=1)
    everything = tuple(slice(0, size) for size in named.shape)
    np.testing.assert_array_equal(named.read(everything)[0], voxels[0, 1])
    crossed = open_volume(tmp_path / "four.zarr", axes="CXYZ")
    np.testing.assert_array_equal(crossed.read((slice(0, 11), slice(0, 10), slice(0, 9)))[2], voxels[0, 2].T)


@pytest.mark.parametrize("damage", ["group", "missing level", "json", "axes", "folder"])
def test_what_is_no_image_is_refused_with_its_name(tmp_path, voxels, damage):
    path = write_image(tmp_path / "a.zarr", voxels[0, 0], "zyx", [1, 1, 1])
    attributes = json.loads((path / ".zattrs").read_text())
    if damage == "group":
        attributes = {}
    elif damage == "missing level":
        attributes["multiscales"][0]["datasets"][0]["path"] = "gone"
    elif damage == "axes":
        attributes["multiscales"][0]["axes"].pop()
    (path / ".zattrs").write_text("{" if damage == "json" else json.dumps(attributes))
    if damage == "folder":
        (path / ".zgroup").unlink()
    with pytest.raises(SpocoError, match="a.zarr"):
        open_volume(path)


def test_a_label_pyramid_says_where_it_lies_and_keeps_ids(tmp_path):
    shape, chunks = (9, 40, 44), (4, 16, 16)
    levels = ome_zarr.label_pyramid_shapes(shape, (2.0, 0.5, 0.5), coarsest=12)
    # the long axis z waits until y and x have caught up
    assert levels == [
        (shape, (1, 1, 1)),
        ((9, 20, 22), (1, 2, 2)),
        ((9, 10, 11), (1, 4, 4)),
    ]
    path = tmp_path / "labels.zarr"
    ome_zarr.create_label_image(path, levels, chunks, np.uint16, (2.0, 0.5, 0.5), (1, 0, 0), "micrometer", "x", "../a")
    labels = np.random.default_rng(0).integers(0, 9, shape).astype(np.uint16)
    zarr.open_array(str(path / "0"))[:] = labels
    for level in (1, 2):
        size = levels[level][0]
        for part in ome_zarr.chunk_regions(tuple(slice(0, n) for n in size), chunks):
            ome_zarr.halve(path, level, part, levels)
        found = zarr.open_array(str(path / str(level)), mode="r")
        assert found.chunks == tuple(min(c, n) for c, n in zip(chunks, size))
        np.testing.assert_array_equal(found[:], labels[:, :: 2**level, :: 2**level])
    content = json.loads((path / ".zattrs").read_text())
    assert content["image-label"] == {"version": "0.4", "source": {"image": "../a"}}
    (multiscale,) = content["multiscales"]
    assert multiscale["version"] == "0.4" and [axis["unit"] for axis in multiscale["axes"]] == ["micrometer"] * 3
    transformations = [dataset["coordinateTransformations"] for dataset in multiscale["datasets"]]
    assert [steps[0]["scale"] for steps in transformations] == [[2, 0.5, 0.5], [2, 1, 1], [2, 2, 2]]
    assert all(steps[1] == {"type": "translation", "translation": [1, 0, 0]} for steps in transformations)
    assert (path / "0" / "0" / "1" / "2").is_file() and json.loads((path / ".zgroup").read_text())["zarr_format"] == 2
    assert ome_zarr.is_label_image(path) and not ome_zarr.is_label_image(tmp_path)
    again = open_volume(path)
    assert again.spacing == (2, 0.5, 0.5) and again.translation == (1, 0, 0)
