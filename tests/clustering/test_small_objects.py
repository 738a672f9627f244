"""Objects a few voxels wide between large ones, where blocks of voxels see mixtures only."""

from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

from spoco_bundle.clustering import cluster_embeddings
from spoco_bundle.clustering.blocks import Regions, pool_blocks
from spoco_bundle.clustering.density_peaks import reunited
from spoco_bundle.clustering.mixtures import from_mixtures
from spoco_bundle.clustering.small_objects import (
    BESIDE,
    RAYS,
    Finds,
    Surroundings,
    furthest,
    joined,
    mixtures_of_others,
    window,
)
from spoco_bundle.clustering.voxels import Volume

POOLED = {"max_blocks": 5_000}  # of 32^3 voxels: blocks of 2 x 2 x 2


def tissue(corner=(15, 15, 15), size=5, coordinates=False, seed=0):
    """Two halves of a volume and a cube at the border between them, smooth and noisy, with outliers."""
    random = np.random.default_rng(seed)
    truth = np.ones((32, 32, 32), int)
    truth[16:] = 2
    truth[tuple(slice(c, c + size) for c in corner)] = 3
    colours = np.array([[0, 0], [4, 0], [0, 4], [-3, -3]]).repeat(4, 1).T * (0.3 if coordinates else 1)
    embeddings = colours[:, truth]
    if coordinates:
        centres = np.array([[0, 0, 0], *ndimage.center_of_mass(truth > 0, truth, (1, 2, 3))]).T
        embeddings = np.concatenate([centres[:, truth] / 8, embeddings])
    embeddings = ndimage.uniform_filter(embeddings, (0, 2, 2, 2)) + random.normal(0, 0.1, embeddings.shape)
    outliers = random.random(truth.shape) < 0.02
    embeddings[3 * coordinates :, outliers] = random.normal(0, 2, (8, outliers.sum()))
    return embeddings.astype(np.float32), truth


def overlap(labels, truth, number):
    """IoU of an object with the label that covers it best."""
    best = np.bincount(labels[truth == number]).argmax()
    return ((labels == best) & (truth == number)).sum() / ((labels == best) | (truth == number)).sum()


@pytest.mark.parametrize("coordinates", [False, True])
@pytest.mark.parametrize("corner", list(itertools.product((14, 15), repeat=3)))
def test_a_cube_of_five_voxels_between_large_objects_is_found_wherever_it_lies_in_the_blocks(
    corner, coordinates, monkeypatch
):
    embeddings, truth = tissue(corner, coordinates=coordinates)
    options = {"coordinate_channels": 3 * coordinates, "foreground": np.ones_like(truth), "merge_distance": 1.0}
    labels = cluster_embeddings(embeddings, **options, **POOLED)
    assert labels.max() == 3
    assert overlap(labels, truth, 3) > 0.49
    module = importlib.import_module("spoco_bundle.clustering.density_peaks")  # whose name is also a function's
    monkeypatch.setattr(module, "find_small_objects", lambda *given, **_: given[2:4])
    assert cluster_embeddings(embeddings, **options, **POOLED).max() == 2


@pytest.mark.parametrize("coordinates", [False, True])
def test_a_blurred_border_is_no_object(coordinates):
    embeddings, truth = tissue(size=0, coordinates=coordinates)
    labels = cluster_embeddings(
        embeddings, coordinate_channels=3 * coordinates, foreground=np.ones_like(truth), merge_distance=1.0, **POOLED
    )
    assert labels.max() == 2
    assert min(overlap(labels, truth, 1), overlap(labels, truth, 2)) > 0.93


def test_points_in_one_group_differ_from_mixtures_as_they_do_alone():
    generator = torch.Generator().manual_seed(0)
    points, ends = torch.randn(3, 7, 5, generator=generator), torch.randn(3, 6, 5, generator=generator)
    first = torch.rand(3, 6, generator=generator) > 0.5
    others = torch.rand(3, 6, generator=generator) > 0.5
    first[:, 0], first[2] = True, False
    together = from_mixtures(points, ends, first, others)
    assert together[2].isinf().all()
    for group, place in itertools.product(range(2), range(7)):
        alone = from_mixtures(
            points[group, place][None, None] + 100, ends[group][None] + 100, first[group][None], others[group][None]
        )
        assert torch.allclose(together[group, place], alone[0, 0], atol=1e-3)
    assert from_mixtures(points, ends[:, :0], first[:, :0], others[:, :0]).isinf().all()
    no_others = from_mixtures(points[:2], ends[:2], first[:2], torch.zeros_like(others[:2]))
    distances = (points[:2, :, None] - ends[:2, None]).square().sum(3).masked_fill(~first[:2, None], torch.inf)
    assert torch.allclose(no_others.square().sum(2), distances.amin(2), atol=1e-5)


def test_ends_are_the_distinct_regions_around_and_background_with_the_votes_for_the_place():
    region = torch.zeros(5, 5, 5, dtype=torch.long)
    region[0], region[1, 1, 1], region[2, 0, 0], region[4, 2, 2] = 1, 2, 3, 4
    mean = torch.arange(5.0)[:, None].repeat(1, 4)
    empty = torch.tensor([False, False, True, False, False])
    cell = torch.tensor([2 * 25 + 2 * 5 + 2])

    def seen(offsets, lines=None, background=True):
        regions = Regions(mean, empty, None)
        around = Surroundings(region, regions, lines, torch.full((1, 4), 9.0))
        ends, present = around.ends(cell, around.near(cell, offsets), background)
        return sorted(ends[0, present[0]].tolist())

    assert seen(BESIDE) == [[2.0] * 4, [9.0] * 4]
    assert seen(BESIDE, background=False) == [[2.0] * 4]
    assert seen(RAYS) == [[1.0] * 4, [2.0] * 4, [3.0] * 4, [4.0] * 4, [9.0] * 4]
    lines = [(0, 10.0, 0.5), (1, 20.0, 0.0)]
    assert seen(BESIDE, lines) == [[20.5, 40.0, 2.0, 2.0], [20.5, 40.0, 9.0, 9.0]]
    corner = Surroundings(region, Regions(mean, empty), None, mean[:0]).near(torch.tensor([124]), BESIDE)
    assert corner.shape == (1, 0)  # the grid ends there


def test_the_furthest_of_neighbouring_cells_is_chosen():
    cells = torch.tensor([0, 1, 4, 26])
    assert furthest(cells, torch.tensor([1.0, 3.0, 2.0, 0.5]), (3, 3, 3)).tolist() == [False, True, False, True]
    assert furthest(cells[[0, 3]], torch.tensor([1.0, 0.5]), (3, 3, 3)).tolist() == [True, True]


def test_near_finds_of_one_embedding_are_one_object():
    cells = torch.tensor([0, 3, 6, 9, 17])  # along a line: a chain of steps of 3, and one 8 further
    mean = torch.tensor([[0.0], [0.8], [1.6], [4.0], [4.0]])
    finds = Finds(cells, mean, torch.ones(5))
    assert joined(finds, 1.0, (1, 1, 20)).tolist() == [0, 0, 0, 1, 2]
    assert joined(finds.only(mean[:, 0] < 0), 1.0, (1, 1, 20)).tolist() == []


def test_a_find_that_mixes_another_one_is_none():
    region = torch.zeros(1, 1, 5, dtype=torch.long)
    region[0, 0, 0] = 1
    start = Surroundings(region, Regions(torch.tensor([[0.0, 0], [0, 0]]), torch.zeros(2) > 1), None, torch.zeros(0, 2))
    mean = torch.tensor([[2.0, 0.1], [4.0, 0.0], [4.2, 0.0]])
    finds = Finds(torch.tensor([1, 2, 3]), mean, torch.ones(3))
    found = mixtures_of_others(finds, start.with_finds(finds), 1.0, 1.0)
    assert found.tolist() == [True, False, False]  # the last two are of one object
    assert mixtures_of_others(finds, start.with_finds(finds), 5.0, 1.0).tolist() == [False] * 3


def test_a_small_object_becomes_part_of_the_nearest_region_of_its_embedding_that_it_touches():
    region = torch.tensor([1, 1, 4, 2, 0, 3, 5, 5, 6, 0, 1])[None, None]
    means = torch.tensor([[0.0], [0.0], [1.2], [5.0], [0.7], [5.2], [5.3]])  # from 4 on of small objects
    # 4 lies between 1 and 2, and joins only the nearer one; 6 touches a small object alone
    assert reunited(region, means, 4, 1.0).flatten().tolist() == [1, 1, 2, 2, 0, 3, 3, 3, 6, 0, 1]
    assert torch.equal(reunited(region, means, 4, 0.1), region)
    assert torch.equal(reunited(region, means, 7, 1.0), region)


@pytest.mark.parametrize("kind", ["array", "half", "memory map", "tensor", "image"])
def test_a_window_reads_the_voxels_of_a_block_and_one_around_it(kind, tmp_path):
    random = np.random.default_rng(0)
    values = random.normal(size=(3, 6, 8, 7) if kind != "image" else (3, 8, 7)).astype(np.float32)
    given = {"half": values.astype(np.float16), "tensor": torch.from_numpy(values)}.get(kind, values)
    if kind == "memory map":
        np.save(tmp_path / "e.npy", values)
        given = np.load(tmp_path / "e.npy", mmap_mode="r")
    volume = Volume(given)
    size = (2, 2, 2) if kind != "image" else (2, 1, 2)
    blocks = pool_blocks(volume, size)
    mask = torch.from_numpy(random.random(volume.shape) > 0.3)
    cells = torch.arange(int(np.prod(blocks.shape)))
    vectors, inside = window(volume, blocks, cells, mask)
    whole = values.reshape(3, *volume.shape)
    steps = list(itertools.product(*[range(-1, s + 1) for s in size]))
    assert vectors.shape == (len(cells), len(steps), 3)
    for cell, step in itertools.product(range(0, len(cells), 5), range(len(steps))):
        place = [c * s + o for c, s, o in zip(np.unravel_index(cell, blocks.shape), size, steps[step], strict=True)]
        there = all(0 <= p < n for p, n in zip(place, volume.shape, strict=True))
        assert inside[cell, step] == (there and bool(mask[tuple(place)]))
        if there:
            assert np.allclose(vectors[cell, step], whole[(slice(None), *place)], atol=2e-3)
