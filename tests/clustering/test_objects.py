from __future__ import annotations

import itertools

import numpy as np
import pytest

from spoco_bundle.clustering.objects import absorbed, find_objects


def test_parts_are_split_and_ids_consecutive():
    labels = np.zeros((1, 4, 12), np.int32)
    labels[0, :, :4] = 7
    labels[0, :, 8:] = 7
    assert np.array_equal(np.unique(find_objects(labels, min_size=2)), [0, 1, 2])
    assert find_objects(labels, min_size=2, split_parts=False).max() == 1


def test_parts_that_meet_at_a_corner_are_one():
    labels = np.zeros((3, 4, 4), np.int32)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[1, 3, 3] = 7
    found = find_objects(labels, min_size=1)
    assert (found[0, 0, 0], found[1, 1, 1], found[1, 3, 3]) == (1, 1, 2)


def test_ids_follow_the_order_of_first_voxels():
    labels = np.zeros((2, 4, 12), np.int32)
    labels[:, :, 8:], labels[:, :, :3], labels[1, :, 4:7] = 1, 9, 4
    found = find_objects(labels, min_size=2)
    assert found.dtype == np.int32
    assert (found[0, 0, 0], found[0, 0, 8], found[1, 0, 4]) == (1, 2, 3)


def test_small_parts_go_where_they_touch_most():
    labels = np.zeros((1, 8, 8), np.int32)
    labels[0, :, :4] = 1
    labels[0, :, 4:] = 2
    labels[0, 3, 3] = 3  # three faces to 1, one to 2
    found = find_objects(labels, min_size=3)
    assert found.max() == 2
    assert found[0, 3, 3] == found[0, 3, 2]


def test_small_parts_alone_in_the_background_vanish():
    labels = np.zeros((1, 8, 8), np.int32)
    labels[0, :, :3] = 1
    labels[0, 3, 3] = 2  # one face to the object, three to the background
    labels[0, 6, 6] = 3
    found = find_objects(labels, min_size=3)
    assert found[0, 3, 3] == 1 and found[0, 6, 6] == 0


def test_objects_without_a_seed_are_dropped():
    labels = np.zeros((1, 8, 8), np.int32)
    labels[0, :, :3] = 1
    labels[0, :, 5:] = 2
    objectness = np.where(labels == 1, 0.9, 0.3).astype(np.float32)
    objectness[0, 0, 4] = 0.9  # of nobody
    found = find_objects(labels, objectness, min_size=1, seed_objectness=0.5)
    assert np.array_equal(found > 0, labels == 1)


def test_the_seed_of_a_small_part_is_one_of_the_object_that_it_goes_to():
    labels = np.ones((1, 6, 6), np.int32)
    labels[0, 3, 3] = 2
    objectness = np.where(labels == 2, 0.9, 0.3).astype(np.float32)
    assert (find_objects(labels, objectness, min_size=3) == 1).all()


def test_objects_grow_within_the_mask_alone():
    labels = np.zeros((1, 8, 8), np.int32)
    labels[0, 2:4, 2:4] = 1
    objectness = np.full(labels.shape, 0.6, np.float32)
    mask = np.zeros(labels.shape, bool)
    mask[0, :5] = True
    grown = find_objects(labels, objectness, min_size=1, extent_threshold=0.5, mask=mask)
    assert np.array_equal(grown > 0, mask)


@pytest.mark.parametrize("seed", range(3))
def test_small_parts_are_absorbed_as_counting_all_faces_one_by_one_says(seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 40, (5, 6, 7)).astype(np.int32)
    labels[2:] = np.maximum(labels[2:], labels[:3])
    small = random.random(40) > 0.4
    small[0] = False
    faces = np.zeros((40, 40), int)
    for place in np.ndindex(labels.shape):
        for axis, step in itertools.product(range(3), (-1, 1)):
            beside = np.array(place)
            beside[axis] += step
            if 0 <= beside[axis] < labels.shape[axis]:
                faces[labels[place], labels[tuple(beside)]] += 1
    faces[:, small] = 0
    faces[:, 0] = 0
    target = np.where(small, np.where(faces.any(1), faces.argmax(1), 0), np.arange(40))
    assert np.array_equal(absorbed(labels, small), target)
