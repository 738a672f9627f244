from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import read_image, write_instances
from spoco_bundle.formats.lazy import open_volume
from spoco_bundle.formats.tiff_writing import write_image

SHAPE = (5, 12, 14)
IMAGEJ = {"imagej": True, "resolution": (1.25, 2.0), "metadata": {"axes": "ZYX", "spacing": 1.75, "unit": "um"}}
OME = {
    "ome": True,
    "metadata": {
        "axes": "ZYX",
        "PhysicalSizeX": 0.5,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 800.0,
        "PhysicalSizeYUnit": "nm",
        "PhysicalSizeZ": 1.75,
    },
}


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, SHAPE).astype(np.uint16)


def layout(path) -> dict:
    """What a reader sees of a TIFF file apart from its voxels."""
    with tifffile.TiffFile(path) as tif:
        tags = tif.pages.first.tags
        imagej = tif.imagej_metadata or {}
        pixels = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"] if tif.is_ome else {}
        return {
            "kind": tif.series[0].kind,
            "axes": tif.series[0].axes,
            "shape": tif.series[0].shape,
            "resolution": (tags["XResolution"].value, tags["YResolution"].value, int(tags["ResolutionUnit"].value)),
            "imagej": {name: imagej.get(name) for name in ("spacing", "unit", "xorigin")},
            "ome": {name: value for name, value in pixels.items() if name.startswith("PhysicalSize")},
        }


@pytest.mark.parametrize(
    ("dtype", "compression"),
    [("uint8", None), ("int16", "zlib"), ("uint16", "lzw"), ("uint32", "zstd"), ("float32", "zstd")],
)
def test_plain_stack_of_any_type(tmp_path, voxels, dtype, compression):
    tifffile.imwrite(tmp_path / "a.tif", voxels.astype(dtype), compression=compression, photometric="minisblack")
    volume = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array[0], voxels)
    assert volume.array.dtype == dtype
    assert volume.spacing is None
    assert volume.file_format == "tiff"


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_pages_without_any_metadata(tmp_path, voxels, byteorder):
    tifffile.imwrite(tmp_path / "a.tif", voxels, metadata=None, photometric="minisblack", byteorder=byteorder)
    volume = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array[0], voxels)
    write_instances(tmp_path / "b.tif", voxels, tmp_path / "a.tif")
    assert layout(tmp_path / "b.tif") == layout(tmp_path / "a.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), voxels)


def test_imagej_spacing(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "a.tif", voxels, **IMAGEJ)
    volume = read_image(tmp_path / "a.tif")
    np.testing.assert_allclose(volume.spacing, (1.75, 0.5, 0.8))
    assert (volume.file_unit, volume.file_format, volume.axes) == ("micrometer", "imagej", "ZYX")
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), volume.spacing)


def test_ome_spacing_in_the_unit_of_x(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "a.ome.tif", voxels, **OME)
    volume = read_image(tmp_path / "a.ome.tif")
    np.testing.assert_allclose(volume.spacing, (1.75, 0.8, 0.5))
    assert (volume.file_unit, volume.file_format, volume.axes) == ("micrometer", "ome", "ZYX")


def test_ome_without_z_size_is_unknown(tmp_path, voxels):
    metadata = {name: value for name, value in OME["metadata"].items() if name != "PhysicalSizeZ"}
    tifffile.imwrite(tmp_path / "a.tif", voxels, ome=True, metadata=metadata)
    volume = read_image(tmp_path / "a.tif", spacing=(3, 2, 1))
    assert volume.spacing == (3, 2, 1)


def test_a_given_spacing_wins_over_the_stated_one(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "a.tif", voxels, **OME)
    forced = read_image(tmp_path / "a.tif", spacing=(3, 2, 1))
    assert (forced.spacing, forced.file_unit) == ((3, 2, 1), "micrometer")
    assert forced.stated_size == "1.75 um x 800 nanometer x 0.5 um"
    np.testing.assert_allclose(np.linalg.norm(forced.affine[:3, :3], axis=0), (3, 2, 1))


SOURCES = {
    "plain": {"photometric": "minisblack"},
    "plain compressed": {"photometric": "minisblack", "compression": "zlib", "metadata": {"axes": "ZYX"}},
    "plain with unit": {"resolution": (2, 4), "metadata": {"axes": "ZYX", "spacing": 1.5, "unit": "mm"}},
    "imagej": IMAGEJ,
    "imagej compressed": IMAGEJ | {"compression": "zlib"},
    "ome": OME,
    "ome compressed": OME | {"compression": "lzw"},
}


@pytest.mark.parametrize("name", SOURCES)
def test_labels_are_written_in_the_likeness_of_their_image(tmp_path, voxels, name):
    source = tmp_path / "a.tif"
    tifffile.imwrite(source, voxels, **SOURCES[name])
    labels = np.random.default_rng(1).integers(0, 65536, SHAPE)
    target = write_instances(tmp_path / "out" / "a_instances.tif", labels, source)
    assert layout(target) == layout(source)
    stored = tifffile.imread(target)
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored, labels)
    before, after = read_image(source), read_image(target, kind="label")
    assert (after.spacing, after.file_unit, after.axes) == (before.spacing, before.file_unit, before.axes)
    with tifffile.TiffFile(target) as tif:
        # ImageJ reads its stacks as one run of raw voxels
        assert (tif.pages.first.compression == tifffile.COMPRESSION.NONE) == ("imagej" in name)
        assert not tif.is_imagej or tif.series[0].dataoffset is not None


def test_plain_name_that_ends_like_ome_stays_plain(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "a.tif", voxels, **IMAGEJ)
    (tmp_path / "a.tif").rename(tmp_path / "a.ome.tif")
    write_instances(tmp_path / "b.ome.tif", voxels, tmp_path / "a.ome.tif")
    assert layout(tmp_path / "b.ome.tif")["kind"] == "imagej"


@pytest.mark.parametrize("name", ["plain", "ome", "imagej"])
def test_more_ids_than_16_bits(tmp_path, voxels, name):
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(source, voxels, **SOURCES[name])
    labels = np.zeros(SHAPE, np.int64)
    labels[0, 0, :2] = 1, 65536
    write_instances(target, labels, source)
    after, before = read_image(target, kind="label"), read_image(source)
    assert tifffile.imread(target).dtype == np.uint32
    np.testing.assert_array_equal(after.array[0], labels)
    assert (after.spacing, after.file_unit) == (before.spacing, before.file_unit)
    # ImageJ's own format has no 32-bit integers
    assert after.file_format == {"plain": "tiff"}.get(name, "ome")


@pytest.mark.parametrize("ome", [False, True])
@pytest.mark.parametrize("samples", [3, 4])
def test_colour_in_2d(tmp_path, ome, samples):
    colour = np.random.default_rng(0).integers(0, 255, (12, 14, samples)).astype(np.uint8)
    options = {"extrasamples": ["unassalpha"]} if samples == 4 else {}
    tifffile.imwrite(tmp_path / "a.tif", colour, photometric="rgb", ome=ome, **options)
    volume = read_image(tmp_path / "a.tif", spatial_dims=2)
    assert volume.array.shape == (3, 12, 14)
    np.testing.assert_array_equal(volume.array, colour[..., :3].transpose(2, 0, 1))
    labels = np.arange(168).reshape(12, 14)
    write_instances(tmp_path / "b.tif", labels, tmp_path / "a.tif")
    assert layout(tmp_path / "b.tif")["axes"] == "YX"
    assert layout(tmp_path / "b.tif")["kind"] == layout(tmp_path / "a.tif")["kind"]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), labels)


@pytest.mark.parametrize(
    ("photometric", "samples", "extra", "kept"),
    [("rgb", 4, "unspecified", 4), ("minisblack", 2, "unassalpha", 1), ("minisblack", 2, "assocalpha", 1)],
)
def test_the_last_sample_is_left_out_where_the_file_calls_it_alpha(tmp_path, photometric, samples, extra, kept):
    values = np.random.default_rng(0).integers(0, 255, (12, 14, samples)).astype(np.uint8)
    options = {"photometric": photometric, "extrasamples": [extra] * (1 if photometric == "rgb" else samples - 1)}
    tifffile.imwrite(tmp_path / "a.tif", values, planarconfig="contig", **options)
    expected = values[..., :kept].transpose(2, 0, 1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", spatial_dims=2).array, expected)
    lazy = open_volume(tmp_path / "a.tif", 2)
    assert lazy.channels == kept
    np.testing.assert_array_equal(lazy.read((slice(0, 12), slice(0, 14))), expected)


def test_planar_colour(tmp_path):
    colour = np.random.default_rng(0).integers(0, 255, (3, 12, 14)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", colour, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", spatial_dims=2).array, colour)


def test_imagej_2d_spacing(tmp_path):
    image = np.arange(168, dtype=np.uint8).reshape(12, 14)
    tifffile.imwrite(tmp_path / "a.tif", image, imagej=True, resolution=(4, 2), metadata={"axes": "YX", "unit": "nm"})
    volume = read_image(tmp_path / "a.tif", spatial_dims=2)
    assert (volume.spacing, volume.file_unit) == ((0.0005, 0.00025), "nanometer")


@pytest.mark.parametrize("axes", ["CZYX", "ZCYX"])
def test_channels_of_a_stack(tmp_path, axes):
    stack = np.random.default_rng(0).integers(0, 99, (2, *SHAPE)).astype(np.uint16)
    stored = stack if axes == "CZYX" else stack.transpose(1, 0, 2, 3)
    tifffile.imwrite(tmp_path / "a.tif", stored, ome=True, metadata=OME["metadata"] | {"axes": axes})
    volume = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array, stack)
    write_instances(tmp_path / "b.tif", stack[1], tmp_path / "a.tif")
    assert layout(tmp_path / "b.tif")["axes"] == "ZYX"
    assert layout(tmp_path / "b.tif")["ome"] == layout(tmp_path / "a.tif")["ome"]


def test_named_axes_in_another_order_come_out_as_zyx_and_go_back(tmp_path, voxels):
    stored = voxels.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", stored, metadata={"axes": "XZY"}, photometric="minisblack")
    volume = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array[0], voxels)
    write_instances(tmp_path / "b.tif", voxels, tmp_path / "a.tif")
    assert layout(tmp_path / "b.tif") == layout(tmp_path / "a.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), stored)


@pytest.mark.parametrize("wrong", ["CYX", "TYX"])
def test_slices_stored_as_channels_or_times(tmp_path, voxels, wrong):
    tifffile.imwrite(tmp_path / "a.tif", voxels, imagej=True, metadata={"axes": wrong})
    with pytest.raises(SpocoError, match=rf"a\.tif: axes {wrong}.*ZYX"):
        read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", axes="ZYX").array[0], voxels)
    write_instances(tmp_path / "b.tif", voxels, tmp_path / "a.tif", axes="ZYX")
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif", kind="label").array[0], voxels)


@pytest.mark.parametrize("axes", ["ZY", "ZYXC", "YYX", "ABC"])
def test_axes_argument_that_does_not_fit(tmp_path, voxels, axes):
    tifffile.imwrite(tmp_path / "a.tif", voxels, photometric="minisblack")
    with pytest.raises(SpocoError, match=r"a\.tif.*axes"):
        read_image(tmp_path / "a.tif", axes=axes)


def test_dimension_mismatch(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "stack.tif", voxels, photometric="minisblack")
    tifffile.imwrite(tmp_path / "single.tif", voxels[0])
    with pytest.raises(SpocoError, match=r"stack\.tif.*5x12x14.*spatial_dims 3"):
        read_image(tmp_path / "stack.tif", spatial_dims=2)
    with pytest.raises(SpocoError, match=r"single\.tif.*12x14.*spatial_dims 2"):
        read_image(tmp_path / "single.tif", spatial_dims=3)


def test_a_time_point_is_chosen(tmp_path, voxels):
    movie = np.stack([voxels, voxels + 1])
    tifffile.imwrite(tmp_path / "a.tif", movie, imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(SpocoError, match="2 time points.*--time"):
        read_image(tmp_path / "a.tif")
    with pytest.raises(SpocoError, match="time is 2.*0 to 1"):
        read_image(tmp_path / "a.tif", time=2)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", time=1).array[0], voxels + 1)
    np.testing.assert_array_equal(open_volume(tmp_path / "a.tif", time=1).read_all()[0], voxels + 1)
    write_instances(tmp_path / "b.tif", voxels, tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif", kind="label", time=1).array[0], voxels)


def test_several_images_in_one_file(tmp_path, voxels):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(voxels, photometric="minisblack")
        tif.write(voxels[:, :4], photometric="minisblack")
    with pytest.raises(SpocoError, match="2 separate images"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("name", SOURCES)
def test_truncated_file_is_never_read_with_fewer_slices(tmp_path, name):
    voxels = np.random.default_rng(0).integers(0, 60000, (9, 20, 24)).astype(np.uint16)
    whole = tmp_path / "whole.tif"
    tifffile.imwrite(whole, voxels, **SOURCES[name])
    content = whole.read_bytes()
    refused = 0
    for part in np.linspace(0.02, 0.98, 25):
        (tmp_path / "cut.tif").write_bytes(content[: int(part * len(content))])
        try:
            volume = read_image(tmp_path / "cut.tif")
        except SpocoError as error:
            assert "cut.tif" in str(error)
            assert "damaged or truncated" in str(error)
            refused += 1
        else:
            # uncompressed voxels stand before the directory, so they may all be there
            np.testing.assert_array_equal(volume.array[0], voxels)
    assert refused >= 20


def test_planes_that_the_metadata_name_but_the_file_lacks(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "a.tif", voxels, **OME)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        description = tif.ome_metadata.replace('SizeZ="5"', 'SizeZ="7"').replace('PlaneCount="5"', 'PlaneCount="7"')
    tifffile.imwrite(tmp_path / "b.tif", voxels, description=description.encode(), metadata=None)
    with pytest.raises(SpocoError, match=r"b\.tif: 2 of 7 planes .* missing"):
        read_image(tmp_path / "b.tif")


def test_damage_in_one_thread_is_not_blamed_on_another(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "good.tif", voxels, photometric="minisblack", compression="zlib")
    content = (tmp_path / "good.tif").read_bytes()
    (tmp_path / "bad.tif").write_bytes(content[: len(content) // 2])

    def attempt(name) -> bool:
        try:
            return read_image(tmp_path / name).spatial_shape == SHAPE
        except SpocoError as error:
            assert name == "bad.tif"
            assert "bad.tif" in str(error)
            return False

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(attempt, ["good.tif", "bad.tif"] * 40)) == [True, False] * 40


def test_wrong_shape_is_refused_and_leaves_nothing(tmp_path, voxels):
    tifffile.imwrite(tmp_path / "a.tif", voxels, **OME)
    with pytest.raises(SpocoError, match=r"\(5, 12, 13\).*\(5, 12, 14\)"):
        write_instances(tmp_path / "b.tif", np.ones((5, 12, 13), int), tmp_path / "a.tif")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_images_are_written_with_their_spacing(tmp_path, voxels, dtype):
    path = tmp_path / "a_raw.tif"
    write_image(path, voxels.astype(dtype), (45, 4.6, 4.6), "nanometer")
    volume = read_image(path)
    assert (volume.spacing, volume.file_unit, volume.file_format) == ((45, 4.6, 4.6), "nanometer", "ome")
    assert volume.array.dtype == dtype and volume.array.tobytes() == voxels.astype(dtype).tobytes()
    labels = read_image(write_instances(tmp_path / "a_label.tif", voxels, path), "label")
    assert labels.spacing == volume.spacing and (labels.array[0] == voxels).all()


def test_images_without_spacing_stay_without(tmp_path, voxels):
    write_image(tmp_path / "a.tif", voxels)
    assert layout(tmp_path / "a.tif")["axes"] == "ZYX" and read_image(tmp_path / "a.tif").spacing is None
    write_image(tmp_path / "b.tif", voxels[0])
    assert (read_image(tmp_path / "b.tif", spatial_dims=2).array[0] == voxels[0]).all()
    colour = np.stack([voxels[0], voxels[1], voxels[2]], axis=-1)
    write_image(tmp_path / "c.tif", colour, (0.5, 0.25), colour=True)
    volume = read_image(tmp_path / "c.tif", spatial_dims=2)
    assert volume.spacing == (0.5, 0.25) and (volume.array == voxels[:3]).all()


def test_images_of_other_axes_are_refused(tmp_path, voxels):
    for image, colour in ((voxels[None], False), (voxels[0, 0], False), (voxels, True)):
        with pytest.raises(ValueError, match="shape"):
            write_image(tmp_path / "a.tif", image, colour=colour)
    with pytest.raises(SpocoError, match="spacing"):
        write_image(tmp_path / "a.tif", voxels, (1, 1))
    assert not list(tmp_path.iterdir())


def test_ome_made_from_a_real_stack(tmp_path, shared_dir):
    raw = sorted((shared_dir / "data/bbbc050/val").glob("*_raw.tif"))[0]
    plain = read_image(raw, spacing=(1.75, 0.8, 0.8))
    truth = read_image(str(raw).replace("_raw", "_label"), kind="label").array[0]
    sizes = {"PhysicalSizeX": 0.8, "PhysicalSizeY": 0.8, "PhysicalSizeZ": 1.75}
    source = tmp_path / "a.ome.tif"
    tifffile.imwrite(source, plain.array[0], ome=True, compression="zlib", metadata={"axes": "ZYX"} | sizes)
    volume = read_image(source)
    assert (volume.spacing, volume.file_unit) == (plain.spacing, plain.file_unit)
    np.testing.assert_array_equal(volume.affine, plain.affine)
    target = write_instances(tmp_path / "a_instances.ome.tif", truth, source)
    assert layout(target) == layout(source)
    np.testing.assert_array_equal(tifffile.imread(target), truth)


def test_real_colour_image(tmp_path, shared_dir):
    raw = sorted((shared_dir / "data/cvppp_a1/val").glob("*_raw.tif"))[0]
    volume = read_image(raw, spatial_dims=2)
    assert volume.array.shape == (3, 530, 500)
    labels = read_image(str(raw).replace("_raw", "_label"), kind="label", spatial_dims=2).array[0]
    np.testing.assert_array_equal(tifffile.imread(write_instances(tmp_path / "b.tif", labels, raw)), labels)
