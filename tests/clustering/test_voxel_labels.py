"""From labels of blocks to those of voxels, against a search voxel by voxel in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from spoco_bundle.clustering.blocks import Regions, pool, pool_blocks
from spoco_bundle.clustering.neighbourhood import distinct
from spoco_bundle.clustering.voxel_labels import (
    LARGE,
    MOST_WEIGHT,
    OWN_BLOCK,
    SIZE_EXPONENT,
    assign_voxels,
    channel_weights,
    choose,
    distance_between,
)
from spoco_bundle.clustering.voxels import Volume

PREFERENCE, SMOOTHNESS, CAP = 9.0, 0.3, 2.5


def best_label(vector, candidates, own_label, means, empty, size):
    """The label that a voxel with these candidates, one of each block near it, should take."""
    best = {}
    for label in sorted(set(candidates) - {0}, reverse=True):  # of equals the greatest
        squared = ((vector - means[label]) ** 2).sum()
        weight = 1 if empty[label] else size[label] ** SIZE_EXPONENT
        votes = SMOOTHNESS * candidates.count(label)
        cost = min(squared * weight, CAP**2) - votes - OWN_BLOCK * (label == own_label)
        kind = bool(empty[label])
        if kind not in best or cost < best[kind][0]:
            best[kind] = cost, label, min(squared, CAP**2), votes
    if False not in best:
        return 0
    _, label, squared, votes = best[False]
    if True in best:
        preference = max(1, PREFERENCE * min(1, size[label] / LARGE))
        if preference * best[True][2] - best[True][3] < squared - votes:
            return 0
    return label


@pytest.mark.parametrize("shape", [(6, 8, 10), (7, 9, 5), (1, 9, 8), (5, 6, 1), (1, 1, 7)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("thick", [False, True])
def test_every_voxel_takes_the_best_label_of_the_blocks_nearest_to_it(shape, masked, thick):
    random = np.random.default_rng(sum(shape))
    size = tuple(2 if n > 1 and (axis or thick) else 1 for axis, n in enumerate(shape))
    embeddings = random.normal(size=(4, *shape)).astype(np.float32)
    volume = Volume(embeddings)
    blocks = pool_blocks(volume, size)
    label = random.integers(0, 7, blocks.shape)
    means = random.normal(size=(30, 4)).astype(np.float32)
    empty = np.isin(np.arange(30), (2, 5))  # and many regions that no block is in any more
    mask = random.random(shape) > 0.3 if masked else np.ones(shape, bool)
    found = assign_voxels(
        volume,
        blocks,
        torch.from_numpy(label),
        Regions(torch.from_numpy(means), torch.from_numpy(empty)),
        mask=torch.from_numpy(mask) if masked else None,
        coordinate_channels=0,
        preference=PREFERENCE,
        smoothness=SMOOTHNESS,
        cap=CAP,
    )
    count = np.bincount(label.ravel(), minlength=30)
    present = np.sort(count[1:][(count > 0)[1:] & ~empty[1:]])
    relative = count / present[(len(present) - 1) // 2]  # the lower of two in the middle, as torch has it
    compared, several = 0, 1 < max(size) or not masked
    for place in np.ndindex(shape):
        near = []
        for voxel, step, extent in zip(place, size, label.shape, strict=True):
            own = voxel // step
            side = np.clip(own + (1 if voxel % 2 else -1), 0, extent - 1)
            beside = [own] if masked or extent == 1 else [own, max(own - 1, 0), min(own + 1, extent - 1)]
            near.append([own, side] if step == 2 else beside)
        single = [axis for axis in range(3) if size[axis] == 1]
        blocks_near = [
            block
            for block in itertools.product(*(enumerate(places) for places in near))
            if sum(block[axis][0] > 0 for axis in single) <= 1  # of single voxels those that share a face
        ]
        candidates = [int(label[tuple(place for _, place in block)]) for block in blocks_near]
        own = candidates[0]
        if not mask[place]:
            expected = 0
        elif len(set(candidates)) == 1:
            expected = 0 if empty[own] else own
        else:
            vector = embeddings[(slice(None), *place)].astype(float)
            expected = best_label(vector, candidates, own, means.astype(float), empty, relative)
            compared += 1
        assert found[place] == expected, place
    assert compared > 0 or not several


def two_objects(noise, votes=3, channels=9, seed=0):
    """Blocks of a volume of two touching halves, whose votes and other channels differ in noise; their regions."""
    random = np.random.default_rng(seed)
    label = np.ones((24, 24, 24), int)
    label[12:] = 2
    means = np.zeros((3, channels), np.float32)
    means[2, 0], means[2, votes] = 3, 4
    sigma = np.array([noise] * votes + [0.1] * (channels - votes))
    values = means[label].transpose(3, 0, 1, 2) + sigma[:, None, None, None] * random.normal(
        size=(channels, 24, 24, 24)
    )
    blocks = pool_blocks(Volume(values.astype(np.float32)), (1, 1, 1))
    return blocks, torch.from_numpy(label), Regions(torch.from_numpy(means), torch.zeros(3, dtype=torch.bool))


def test_noisy_channels_weigh_less_however_they_are_rotated():
    pairs = torch.tensor([[1, 2]])
    for noise in (0.05, 0.1, 0.3):
        blocks, label, regions = two_objects(noise)
        weights = channel_weights(blocks, label, regions, pairs, 3)
        # a quarter of few squares lies lower than one of many
        assert weights[3] / weights[0] == pytest.approx(noise / 0.1, rel=0.3)
        assert len(weights[:3].unique()) == len(weights[3:].unique()) == 1
        assert (regions.mean[2] * weights).norm() == pytest.approx(5)
        assert distance_between(pairs, regions.mean) == pytest.approx(5)
        rotation = torch.eye(9)
        rotation[3:, 3:] = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
        blocks.mean = torch.einsum("ij,jzyx->izyx", rotation, blocks.mean)
        rotated = Regions(regions.mean @ rotation.T, regions.empty)
        assert torch.allclose(channel_weights(blocks, label, rotated, pairs, 3), weights, rtol=1e-4)
    blocks, label, regions = two_objects(10.0)
    weights = channel_weights(blocks, label, regions, pairs, 3)
    assert weights[3] / weights[0] == pytest.approx(MOST_WEIGHT)
    for votes, some in ((0, pairs), (9, pairs), (3, pairs[:0])):
        assert channel_weights(blocks, label, regions, some, votes).tolist() == [1.0] * 9


def test_a_voxel_far_from_all_objects_does_not_speak():
    values = np.zeros((2, 8, 8, 8), np.float32)
    values[0, :, :, 4:] = 4
    values[1, 4, 4, 3] = 30  # an outlier just before the border, in a block of its own object
    values[0, 4, 4, 3] = 4.1
    volume = Volume(values)
    blocks = pool_blocks(volume, (2, 2, 2))
    label = torch.ones(4, 4, 4, dtype=torch.long)
    label[:, :, 2:] = 2
    regions = Regions(torch.tensor([[0.0, 0], [0, 0], [4, 0]]), torch.zeros(3, dtype=torch.bool))
    settings = {"mask": None, "coordinate_channels": 0, "preference": 1.0, "smoothness": 0.1}
    expected = np.repeat([[[1] * 4 + [2] * 4]], 8, 1).repeat(8, 0)
    assert np.array_equal(assign_voxels(volume, blocks, label, regions, **settings, cap=None), expected)
    found = assign_voxels(volume, blocks, label, regions, **settings, cap=100.0)
    assert found[4, 4, 3] == 2
    assert (found.numpy() != expected).sum() == 1


def test_distinct_values_are_sorted_and_cut():
    values = torch.tensor([[3, 0, 1, 0], [1, 0, 1, 2], [3, 0, 2, 0], [2, 0, 2, 2]])
    assert distinct(values, 5).tolist() == [[3, 0, 2, 2], [2, 0, 1, 0], [1, 0, 0, 0]]
    assert distinct(values, 2).tolist() == [[3, 0, 2, 2], [2, 0, 1, 0]]
    assert distinct(values[:, 1:2], 5).shape == (0, 1)


@pytest.mark.parametrize("size", [(2, 2, 2), (1, 2, 2), (2, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("shape", [(6, 8, 4), (5, 7, 1), (1, 1, 9)])
def test_blocks_average_the_voxels_that_they_have(size, shape):
    size = tuple(min(step, extent) for step, extent in zip(size, shape, strict=True))
    values = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    found = pool(values, size)
    assert found.shape[1:] == tuple(-(-n // s) for n, s in zip(shape, size, strict=True))
    for place in np.ndindex(*found.shape[1:]):
        block = tuple(slice(p * s, (p + 1) * s) for p, s in zip(place, size, strict=True))
        assert torch.allclose(found[(slice(None), *place)], values[(slice(None), *block)].mean((1, 2, 3)), atol=1e-6)


def test_a_voxel_halfway_goes_to_the_smaller_object_and_from_background_to_an_object():
    regions = Regions(torch.tensor([[0.0], [0.0], [1.0], [1.0]]), torch.tensor([False, False, False, True]))
    size = torch.tensor([1.0, 20.0, 0.1, 50.0])
    halfway = torch.tensor([[0.5], [0.3], [0.8]])

    def chosen(near, preference=9.0):
        candidates, once = torch.tensor(near, dtype=torch.int32)[:, None], torch.ones(len(near), 1, dtype=torch.int64)
        none, window = torch.zeros(3, dtype=torch.int32), torch.zeros(3, dtype=torch.int64)
        settings = {"own": None, "size": size, "preference": preference, "smoothness": 0.0, "cap": 4.5}
        return choose(halfway, none, window, candidates, once, regions, **settings).tolist()

    assert chosen([1, 2]) == chosen([2, 1]) == [2, 1, 2]
    assert chosen([3, 1]) == [1, 1, 3]  # 0.5 < 3 * 0.5, and 0.8 > 3 * 0.2
    regions.mean[2:] = torch.tensor([[0.0], [1.0]])
    assert chosen([3, 2]) == [2, 2, 3]  # a small object takes less from background
    assert chosen([3, 1], 25.0) == [1, 1, 1]
    assert chosen([3, 2], 25.0) == [2, 2, 3]
