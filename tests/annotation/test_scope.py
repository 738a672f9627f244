import numpy as np
import pytest

from spoco_bundle.annotation.scope import WHOLE, annotation_scope, outlined_planes


def planes_by_hand(coordinates):
    """The greedy cover, written out in words of one plane at a time."""
    left, planes = {tuple(c) for c in coordinates}, []
    while left:
        every = sorted({(axis, voxel[axis]) for voxel in left for axis in range(3)})
        best = max(every, key=lambda plane: sum(voxel[plane[0]] == plane[1] for voxel in left))  # the first of equals
        planes.append(best)
        left = {voxel for voxel in left if voxel[best[0]] != best[1]}
    return planes


def scope_by_hand(ids, kinds, default):
    """Voxel by voxel, planes kept as (axis, index)."""
    kind = {number: kinds.get(number, default) for number in np.unique(ids).tolist() if number > 0}
    planes = {n: planes_by_hand(np.argwhere(ids == n)) for n in kind if kind[n] == "slices"}
    numbers = {plane: n for n, plane in enumerate(sorted(set().union(*planes.values())), start=1)}
    scope = np.zeros((3, *ids.shape), int)
    for voxel in np.ndindex(ids.shape):
        number = int(ids[voxel])
        for axis in range(3):
            through = (axis, voxel[axis])
            if kind.get(number) == "whole":
                scope[(axis, *voxel)] = -1
            elif kind.get(number) == "slices":
                scope[(axis, *voxel)] = numbers[through] if through in planes[number] else 0
            elif number not in kind:
                scope[(axis, *voxel)] = numbers.get(through, 0)
    return scope


@pytest.mark.parametrize("default", ["whole", "slices", "strokes"])
@pytest.mark.parametrize("seed", range(4))
def test_scope_is_what_its_definition_says(seed, default):
    random = np.random.default_rng(seed)
    ids = np.zeros((5, 6, 7), np.int32)
    for number in (2, 7, 30, 31, 400, -1):
        first = random.integers(0, 4, 3)
        box = tuple(slice(a, a + n) for a, n in zip(first, random.integers(1, 4, 3), strict=True))
        ids[box][random.random(ids[box].shape) < 0.7] = number
    ids[:, 3][ids[:, 3] > 0] = 7  # an object that lies in a crossing plane too
    kinds = {7: "slices", 30: "whole", 31: "points", 9999: "strokes"}
    found = annotation_scope(ids, kinds, default)
    np.testing.assert_array_equal(found, scope_by_hand(ids, kinds, default))
    assert found.dtype == np.int16


def test_planes_of_crossing_outlines():
    mask = np.zeros((7, 8, 9), bool)
    mask[3, :, :] = True  # 72 voxels
    mask[:, 2, 1:9] = True
    mask[6, 7, 8] = True
    assert list(outlined_planes(mask)) == [(0, 3), (1, 2), (0, 6)]


def test_planes_have_one_number_each_over_all_axes():
    ids = np.zeros((6, 6, 6), np.int32)
    ids[1, :3, :3] = 1
    ids[1, 4:, 4:] = 2  # the same plane
    ids[2:, 3, :] = 3
    ids[2:, :3, 1] = 4
    scope = annotation_scope(ids, {}, "slices")
    assert scope[:, 1, 0, 0].tolist() == [1, 0, 0]
    assert scope[:, 1, 5, 5].tolist() == [1, 0, 0]
    assert scope[:, 4, 3, 0].tolist() == [0, 2, 0]
    assert scope[:, 4, 1, 1].tolist() == [0, 0, 3]
    assert scope[:, 0, 3, 1].tolist() == [0, 2, 3]  # unlabeled, where two planes cross
    assert scope[:, 1, 3, 1].tolist() == [1, 2, 3]
    assert scope[:, 0, 0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["whole", "strokes", "points"])
def test_flat_images(kind):
    ids = np.array([[0, 5], [5, 8]], np.int32)
    expected = {"whole": WHOLE, "strokes": 0, "points": 0}[kind]
    found = annotation_scope(ids, {8: "whole"}, kind)
    np.testing.assert_array_equal(found, [[[0, expected], [expected, WHOLE]]])


def test_nothing_annotated():
    assert not annotation_scope(np.full((2, 3, 4), -1), {}, "slices").any()
    assert annotation_scope(np.zeros((2, 3, 4), int), {}, "whole").shape == (3, 2, 3, 4)


def test_what_has_no_scope():
    with pytest.raises(ValueError, match="kind is 'outline': give one of whole, slices, strokes, points"):
        annotation_scope(np.ones((2, 2, 2), int), {1: "outline"}, "whole")
    with pytest.raises(ValueError, match="slices of objects lie in volumes, the labels have 2 axes"):
        annotation_scope(np.ones((2, 2), int), {}, "slices")
    ids = np.zeros((2**15, 1, 2), np.int32)
    ids[:, 0, 0] = np.arange(1, 2**15 + 1)
    with pytest.raises(ValueError, match="objects are outlined in 32768 planes"):
        annotation_scope(ids, {}, "slices")
