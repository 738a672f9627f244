from __future__ import annotations

import itertools

import numpy as np

from spoco_bundle.clustering.refine import absorb, refine


def test_parts_are_split_and_ids_consecutive():
    labels = np.zeros((1, 4, 12), np.int32)
    labels[0, :, :4] = 7
    labels[0, :, 8:] = 7
    assert np.array_equal(np.unique(refine(labels, min_size=2)), [0, 1, 2])
    assert refine(labels, min_size=2, split_parts=False).max() == 1


def test_small_parts_go_where_they_touch_most():
    labels = np.zeros((1, 8, 8), np.int32)
    labels[0, :, :4] = 1
    labels[0, :, 4:] = 2
    labels[0, 3, 3] = 3  # three faces to 1, one to 2
    refined = refine(labels, min_size=3)
    assert refined.max() == 2
    assert refined[0, 3, 3] == refined[0, 3, 2]


def test_small_parts_in_the_background_vanish_unless_there_is_a_foreground():
    labels = np.zeros((1, 8, 8), np.int32)
    labels[0, :, :4] = 1
    labels[0, 3, 4] = 2  # one face to the object, three to the background
    assert refine(labels, min_size=3)[0, 3, 4] == 0
    assert refine(labels, foreground=labels > 0, min_size=3)[0, 3, 4] == 1


def test_objects_without_a_seed_are_dropped():
    labels = np.zeros((1, 8, 8), np.int32)
    labels[0, :, :3] = 1
    labels[0, :, 5:] = 2
    objectness = np.where(labels == 1, 0.9, 0.3).astype(np.float32)
    refined = refine(labels, objectness=objectness, min_size=1, seed_objectness=0.5)
    assert np.array_equal(refined > 0, labels == 1)


def test_small_parts_are_absorbed_as_counting_all_faces_one_by_one_says():
    random = np.random.default_rng(0)
    labels = random.integers(0, 40, (5, 6, 7)).astype(np.int32)
    labels[2:] = np.maximum(labels[2:], labels[:3])
    small = random.random(40) > 0.4
    small[0] = False
    for against_background in (True, False):
        faces = np.zeros((40, 40), int)
        for place in np.ndindex(labels.shape):
            for axis, step in itertools.product(range(3), (-1, 1)):
                beside = np.array(place)
                beside[axis] += step
                if 0 <= beside[axis] < labels.shape[axis]:
                    faces[labels[place], labels[tuple(beside)]] += 1
        faces[:, small] = 0
        if not against_background:
            faces[:, 0] = 0
        target = np.where(small, np.where(faces.any(1), faces.argmax(1), 0), np.arange(40))
        assert np.array_equal(absorb(labels, small, against_background), target[labels])
