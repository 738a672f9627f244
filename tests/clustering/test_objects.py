from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
import torch
from accelerator import AWAY, Accelerator
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from spoco_bundle.clustering.connected_parts import connected_parts, joined_runs
from spoco_bundle.clustering.neighbourhood import components
from spoco_bundle.clustering.refine import absorbed

module = importlib.import_module("spoco_bundle.clustering.refine")  # whose name is also a function's


def refine(labels, foreground=None, objectness=None, **options):
    """`refine` of arrays."""
    maps = {"foreground": foreground, "objectness": objectness}
    maps = {name: torch.from_numpy(values) for name, values in maps.items() if values is not None}
    return module.refine(torch.from_numpy(labels), **maps, **options).numpy()


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
        found = absorbed(torch.from_numpy(labels), torch.from_numpy(small), against_background)
        assert np.array_equal(found, target)


def test_nodes_are_connected_as_a_graph_library_says():
    random = np.random.default_rng(0)
    for count, edges in ((1, 0), (200, 90), (200, 150), (200, 400)):
        one, other = random.integers(0, count, (2, edges))
        graph = coo_array((np.ones(edges), (one, other)), (count, count))
        parts = connected_components(graph, directed=False)[1]
        smallest = np.array([np.flatnonzero(parts == part)[0] for part in parts])
        assert np.array_equal(components(torch.from_numpy(one), torch.from_numpy(other), count), smallest)


@pytest.mark.parametrize("shape", [(9, 11, 13), (1, 20, 30), (20, 1, 30), (30, 20, 1), (1, 1, 1)])
@pytest.mark.parametrize("labels", [1, 2, 6])
def test_connected_parts_are_the_same_on_all_devices_and_as_scipy_says(shape, labels):
    random = np.random.default_rng(labels)
    given = random.integers(0, labels + 1, shape).astype(np.int32)
    given[..., : shape[2] // 2] *= random.random((*shape[:2], shape[2] // 2)) > 0.5
    found = connected_parts(torch.from_numpy(given))
    assert found.dtype == torch.int32
    assert torch.equal(joined_runs(torch.from_numpy(given)), found)
    expected, total = np.zeros_like(given), 0
    for label in range(1, labels + 1):
        parts, count = ndimage.label(given == label, np.ones((3, 3, 3)))
        expected[parts > 0] = parts[parts > 0] + total
        total += count
    first = {part: place for place, part in reversed(list(enumerate(expected.flat)))}
    ranks = {part: rank for rank, part in enumerate(sorted(first.keys() - {0}, key=first.get), start=1)}
    assert np.array_equal(found, np.vectorize({0: 0, **ranks}.get)(expected))


@pytest.mark.parametrize("foreground", [False, True])
@pytest.mark.parametrize("objectness", [False, True])
def test_nothing_leaves_the_device(foreground, objectness):
    random = np.random.default_rng(0)
    labels = torch.from_numpy(ndimage.zoom(random.integers(0, 5, (4, 6, 6)), 3, order=0).astype(np.int32))
    maps = {"foreground": labels > 0} if foreground else {}
    if objectness:
        maps["objectness"] = torch.from_numpy(random.random(labels.shape).astype(np.float32))
    options = {"min_size": 40, "seed_objectness": 0.98}
    here = module.refine(labels, **maps, **options)
    with Accelerator() as accelerator:
        away = {name: accelerator.put(values) for name, values in maps.items()}
        away = module.refine(accelerator.put(labels), **away, **options)
        assert away.device == AWAY
        assert accelerator.copied_back == []
    assert torch.equal(away.held, here)
    assert 3 < here.max() < connected_parts(labels).max()
