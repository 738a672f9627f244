"""What objects look like of which only slices, or strokes in them, are drawn; on synthetic and on real images."""

from collections import Counter

import numpy as np
import pytest
from scipy import ndimage
from skimage.draw import line_nd

from spoco_bundle.dataset import build_datalist
from spoco_bundle.dataset.label_checks import measured_objects
from spoco_bundle.dataset.partial_objects import look_at_objects
from spoco_bundle.formats import read_image


def ellipsoids(dims, random):
    """Bright objects in noise, and their ids."""
    size = {2: 40, 3: 22}[dims]
    shape = (size * 4,) * 2 if dims == 2 else (size + 2, size * 3, size * 3)
    ids = np.zeros(shape, np.int32)
    grid = np.stack(np.indices(shape), -1)
    for number, corner in enumerate(np.ndindex(*(n // size for n in shape)), start=1):
        centre = (np.array(corner) + 0.5) * size + 0.3 * random.random(dims)
        ids[(((grid - centre) / (0.4 * size)) ** 2).sum(-1) < 1] = number
    return random.normal(0, 0.2, shape) + ndimage.gaussian_filter((ids > 0) * 1.0, 1), ids


def strokes(ids, random, width):
    """Three lines in each object, of the longest between some places in it, in a plane of a volume each."""
    drawn = np.zeros_like(ids)
    for number, box in enumerate(ndimage.find_objects(ids), start=1):
        mask = ids[box] == number
        lines = np.zeros_like(mask)
        for _ in range(3):
            places = np.argwhere(mask)
            start = places[random.integers(len(places))]
            places = places[places[:, 0] == start[0]] if ids.ndim == 3 else places
            ends = places[random.integers(len(places), size=5)]
            end = ends[np.abs(ends - start).max(1).argmax()]
            lines[line_nd(start, end, endpoint=True)] = True
        if width > 1:
            lines = ndimage.binary_dilation(lines, np.ones((1,) * (ids.ndim - 2) + (width, width)))
        drawn[box][lines & mask] = number
    return drawn


def every(ids, step):
    return np.where(np.isin(np.arange(len(ids)), np.arange(1, len(ids), step))[:, None, None], ids, 0)


def middle(ids, thick=1, axis=0):
    drawn = np.zeros_like(ids)
    for number, box in enumerate(ndimage.find_objects(ids), start=1):
        mask = np.moveaxis(ids[box] == number, axis, 0)
        at = len(mask) // 2
        np.moveaxis(drawn[box], axis, 0)[at : at + thick][mask[at : at + thick]] = number
    return drawn


def looks(image, ids):
    objects = [found for found in measured_objects(ids) if found.voxels.sum() >= 8]
    return Counter(look_at_objects(image[None], ids, objects).values())


def share(counts, kind):
    return counts[kind] / sum(counts.values())


@pytest.mark.parametrize("dims", [2, 3])
def test_whole_objects_look_whole(dims):
    counts = looks(*ellipsoids(dims, np.random.default_rng(0)))
    assert share(counts, "whole") == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("thick", [1, 2, 3])
def test_slices_along_any_axis(axis, thick):
    image, ids = ellipsoids(3, np.random.default_rng(0))
    assert share(looks(image, middle(ids, thick, axis)), "slices") == 1


@pytest.mark.parametrize("step", [2, 3, 5, 10])
def test_slices_at_equal_distances(step):
    image, ids = ellipsoids(3, np.random.default_rng(0))
    assert share(looks(image, every(ids, step)), "slices") == 1


def test_slices_that_cross():
    image, ids = ellipsoids(3, np.random.default_rng(0))
    crossing = np.maximum.reduce([middle(ids, axis=axis) for axis in range(3)])
    assert share(looks(image, crossing), "slices") == 1


@pytest.mark.parametrize(("dims", "width"), [(2, 1), (2, 3), (3, 1), (3, 3)])
def test_strokes(dims, width):
    random = np.random.default_rng(0)
    image, ids = ellipsoids(dims, random)
    counts = looks(image, strokes(ids, random, width))
    assert share(counts, "whole") < 0.2
    assert share(counts, "strokes") > 0.5


@pytest.mark.parametrize(("dims", "draw"), [(2, strokes), (3, strokes), (3, lambda ids, *_: middle(ids))])
def test_objects_that_are_thin_themselves_look_whole(dims, draw):
    random = np.random.default_rng(0)
    _, ids = ellipsoids(dims, random)
    thin = draw(ids, random, 1)
    counts = looks(random.normal(0, 0.2, ids.shape) + (thin > 0), thin)
    assert share(counts, "whole") == 1


def test_flat_objects_that_taper_look_whole():
    random = np.random.default_rng(0)
    image, ids = ellipsoids(3, random)
    assert share(looks(image[::3], np.ascontiguousarray(ids[::3])), "whole") == 1


def test_what_the_border_cuts_looks_whole():
    image, ids = ellipsoids(3, np.random.default_rng(0))
    for cut in (np.s_[11:12], np.s_[10:12], np.s_[:5]):
        assert share(looks(image[cut], np.ascontiguousarray(ids[cut])), "whole") == 1


def test_many_objects_are_sampled():
    image, ids = ellipsoids(2, np.random.default_rng(0))
    objects = measured_objects(ids)
    assert len(objects) == 16
    found = look_at_objects(image[None], ids, objects, max_objects=5)
    assert list(found) == [1, 5, 9, 13]


def test_large_objects_are_looked_at_in_a_window():
    random = np.random.default_rng(0)
    ids = np.zeros((20, 300, 300), np.int32)
    ids[10, 5:295, 5:295] = 1
    assert looks(random.normal(0, 1, ids.shape), ids) == {"slices": 1}
    assert looks(random.normal(0, 0.1, ids.shape) + ids, ids) == {"whole": 1}


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        ("bbbc050", 3),
        ("epithelial_tube_3d", 3),
        ("vnc_mito", 3),
        ("cvppp_a1", 2),
        ("usiigaci_phase", 2),
        ("dsb2018", 2),
    ],
)
def test_real_objects(shared_dir, name, dims):
    random = np.random.default_rng(0)
    for item in build_datalist(shared_dir / "data" / name, "val")[:2]:
        image, ids = read_image(item["image"], "image", dims).array, read_image(item["label"], "label", dims).array[0]
        drawn = {"whole": ids, "strokes": strokes(ids, random, 1)}
        if dims == 3:
            drawn |= {"slices": every(ids, 3), "middle": middle(ids)}
        for kind, labels in drawn.items():
            whole = share(looks(image[0], np.ascontiguousarray(labels)), "whole")
            assert whole > 0.9 if kind == "whole" else whole < 0.4, (item["label"], kind)
