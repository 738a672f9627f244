"""Round trips through TIFF and NIfTI, lists of files, and checks of labels, for any shape, type, name and number."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist, check_labels
from spoco_bundle.formats import read_image, write_instances
from spoco_bundle.formats.label_ids import as_label_ids

FEW = settings(max_examples=40, deadline=None, derandomize=True)
TYPES = ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"]
STEPS = st.floats(0.01, 50).map(lambda step: float(np.float32(step)))


@st.composite
def voxels(draw, dims, types=TYPES):
    """An image that is not constant."""
    shape = draw(st.tuples(*[st.integers(2, 6)] * dims))
    dtype = np.dtype(draw(st.sampled_from(types)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    array = random.integers(0, 120, shape).astype(dtype)
    array.flat[:2] = 1, 2
    return array


def ids_for(shape, top):
    labels = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    labels.flat[-1] = top
    return labels


TOPS = st.sampled_from([65_535, 65_536, 2**31 - 1])


@FEW
@given(data=st.data(), dims=st.sampled_from([2, 3]), kind=st.sampled_from(["plain", "imagej", "ome"]), top=TOPS)
def test_tiff_round_trip(data, dims, kind, top):
    image = data.draw(voxels(dims, ["uint8", "uint16", "float32"] if kind == "imagej" else TYPES))
    steps = data.draw(st.tuples(*[STEPS] * dims))
    names = "ZYX"[-dims:]
    options = {"photometric": "minisblack", "metadata": {"axes": names}}
    if kind == "imagej":
        options |= {"imagej": True, "resolution": (1 / steps[-1], 1 / steps[-2])}
        options["metadata"] |= {"unit": "um", **({"spacing": steps[0]} if dims == 3 else {})}
    elif kind == "ome":
        options |= {"ome": True}
        options["metadata"] |= {f"PhysicalSize{axis}": step for axis, step in zip(names, steps)}
    else:
        options["compression"] = data.draw(st.sampled_from([None, "zlib", "lzw"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tif"
        tifffile.imwrite(path, image, **options)
        volume = read_image(path, spatial_dims=dims)
        np.testing.assert_array_equal(volume.array[0], image)
        assert volume.array.dtype == image.dtype
        if kind == "plain":
            assert volume.spacing is None
        else:
            assert volume.spacing == pytest.approx(steps, rel=1e-4) and volume.file_unit == "micrometer"
        labels = ids_for(image.shape, top)
        written = read_image(write_instances(Path(folder) / "b.tif", labels, path), "label", dims)
        np.testing.assert_array_equal(written.array[0], labels)
        assert (written.spacing is None) == (volume.spacing is None)
        if volume.spacing is not None:
            assert written.spacing == pytest.approx(volume.spacing, rel=1e-5)


@FEW
@given(
    image=voxels(3, ["uint8", "int16", "uint16", "int32", "float32", "float64"]),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    steps=st.tuples(*[STEPS] * 3),
    origin=st.tuples(*[st.floats(-100, 100)] * 3),
    mirrored=st.booleans(),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
    top=TOPS,
)
def test_nifti_round_trip(image, angles, steps, origin, mirrored, suffix, top):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * steps
    affine[:3, 0] *= -1 if mirrored else 1
    affine[:3, 3] = origin
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        source = nibabel.Nifti1Image(image.transpose(), affine)
        source.header.set_xyzt_units("micron")
        nibabel.save(source, path)
        volume = read_image(path)
        np.testing.assert_array_equal(volume.array[0], image)
        assert volume.spacing == pytest.approx(steps[::-1], rel=1e-4)
        corner = np.array(image.shape) - 1
        world = affine @ [*corner[::-1], 1]
        np.testing.assert_allclose(volume.affine @ [*corner, 1], world, atol=1e-3, rtol=1e-4)
        labels = ids_for(image.shape, top)
        target = write_instances(Path(folder) / f"b{suffix}", labels, path)
        written = nibabel.load(target)
        np.testing.assert_array_equal(np.asarray(written.dataobj).transpose(), labels)
        np.testing.assert_array_equal(written.affine, nibabel.load(path).affine)
        np.testing.assert_array_equal(read_image(target, "label").array[0], labels)


NAMES = st.text("ab 0_-.äé細", min_size=1, max_size=8).filter(lambda name: name.strip(" .") == name)


@FEW
@given(
    names=st.sets(NAMES, min_size=1, max_size=5),
    suffix=st.sampled_from([".tif", ".nii.gz", ".nii", ".ome.tif", ".png", ".TIF"]),
    lost=st.sampled_from(["", "image", "label"]),
    split=st.sampled_from(["train", "val"]),
)
def test_a_folder_of_pairs_is_listed_in_full_or_the_lost_file_is_named(names, suffix, lost, split):
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / split
        inside.mkdir()
        for name in names:
            for end in ("raw", "label"):
                (inside / f"{name}_{end}{suffix}").touch()
        if lost:
            one = sorted(names)[0]
            (inside / f"{one}_{'raw' if lost == 'image' else 'label'}{suffix}").unlink()
            with pytest.raises(SpocoError, match=f"{split}.*(no {lost}|no image named)"):
                build_datalist(folder, split)
            return
        items = build_datalist(folder, split)
        assert [Path(item["image"]).name for item in items] == [f"{name}_raw{suffix}" for name in sorted(names)]
        for item in items:
            assert item["label"] == item["image"].replace(f"_raw{suffix}", f"_label{suffix}")
            assert Path(item["image"]).is_absolute()
        predicted = build_datalist(inside, "predict")
        assert [item["image"] for item in predicted] == [item["image"] for item in items]


@FEW
@given(
    content=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text("a./", max_size=4),
        lambda c: (
            st.lists(c, max_size=3)
            | st.dictionaries(st.sampled_from(["training", "image", "label", "testing"]), c, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_any_json_is_a_datalist_or_refused(content):
    import json

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.json"
        path.write_text(json.dumps(content))
        for split in ("train", "predict"):
            with pytest.raises(SpocoError, match="list.json"):
                build_datalist(path, split)


@FEW
@given(
    values=st.lists(
        st.one_of(st.integers(-5, 70_000), st.sampled_from([2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**40])),
        min_size=1,
        max_size=6,
    ),
    dtype=st.sampled_from(["int64", "float64"]),
    spoil=st.sampled_from([None, 0.5, np.nan, np.inf]),
)
def test_label_ids_are_kept_exactly_or_refused(values, dtype, spoil):
    array = np.array(values, dtype=dtype)
    if spoil is not None:
        array = np.append(array.astype(np.float64), spoil)
    fits = spoil is None and all(-(2**31) <= value < 2**31 for value in values)
    if not fits:
        with pytest.raises(SpocoError, match="a.tif"):
            as_label_ids(array, "a.tif")
        return
    ids = as_label_ids(array, "a.tif")
    assert ids.dtype == np.int32 and ids.tolist() == values


@FEW
@given(data=st.data(), dims=st.sampled_from([2, 3]), ignore=st.sampled_from([None, -1, 3]))
def test_labels_without_an_object_or_with_negative_ids_are_refused_and_every_refusal_names_the_file(data, dims, ignore):
    shape = data.draw(st.tuples(*[st.integers(1, 5)] * dims))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    ids = data.draw(st.sampled_from([(0,), (0, 1), (0, 0, 0, 0, 1), (0, 1, 2), (-1, 0, 1, 2), (0, 3), (0, 3, 5)]))
    labels = random.choice(ids, shape)
    present = set(np.unique(labels)) - {ignore}
    hopeless = not any(value > 0 for value in present) or min(present) < 0
    try:
        check_labels(np.zeros((1, *shape)), labels[None], "i.tif", "l.tif", ignore_label=ignore)
    except SpocoError as error:
        assert "l.tif" in str(error)
    else:
        assert not hopeless


@FEW
@given(data=st.data(), dims=st.sampled_from([2, 3]))
def test_labels_of_another_shape_are_refused(data, dims):
    shapes = data.draw(st.tuples(*[st.tuples(*[st.integers(1, 4)] * dims)] * 2))
    assume(shapes[0] != shapes[1])
    with pytest.raises(SpocoError, match="l.tif: shape") as refused:
        check_labels(np.zeros((1, *shapes[0])), np.ones((1, *shapes[1]), int), "i.tif", "l.tif")
    assert ("transposed" in str(refused.value)) == (sorted(shapes[0]) == sorted(shapes[1]))
