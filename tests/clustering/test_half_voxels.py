"""Embeddings half a voxel beside their voxels: the shift is found, and taken back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

from spoco_bundle.clustering import cluster_embeddings
from spoco_bundle.clustering.blocks import pool_blocks
from spoco_bundle.clustering.half_voxels import NO_SHIFT, centred, leaning, shift_from_mask, shift_from_votes
from spoco_bundle.clustering.voxels import Volume
from spoco_bundle.core.errors import SpocoError

# of a filter of two voxels, by the shift that it makes: the mean of a voxel and the one before it is `origin` 0
ORIGIN = {1: 0, -1: -1}


def shifted(values, shift):
    """Values (C, *spatial) averaged over two voxels along each axis with a shift."""
    for axis, step in enumerate(shift, start=1):
        if step:
            values = ndimage.uniform_filter1d(values, 2, axis, mode="nearest", origin=ORIGIN[step])
    return values


def balls(shape=(24, 26, 28), seed=0):
    """Labels of touching balls of several sizes."""
    random = np.random.default_rng(seed)
    middles = random.uniform(4, np.array(shape) - 4, (9, len(shape)))
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    distance = np.stack([np.linalg.norm(grid - middle, axis=-1) / random.uniform(4, 7) for middle in middles])
    return np.where(distance.min(0) < 1, distance.argmin(0) + 1, 0)


def embedded(label, shift, noise=0.1, outliers=0.03, seed=0):
    """Embeddings of objects and background, with a shift, noise and outliers."""
    random = np.random.default_rng(seed)
    values = random.normal(0, 2, (6, label.max() + 1))[:, label]
    values = shifted(values, shift) + random.normal(0, noise, (6, *label.shape))
    strange = random.random(label.shape) < outliers
    values[:, strange] = random.normal(0, 2, (6, strange.sum()))
    return values.astype(np.float32)


@pytest.mark.parametrize("shape", [(5, 6, 7), (4, 1, 6), (1, 5, 4)])
@pytest.mark.parametrize("shift", [(1, 1, 1), (-1, 0, 1), (0, -1, -1), (-1, -1, 0), NO_SHIFT])
def test_planes_are_averaged_with_the_next_or_the_previous_whatever_the_slab(shape, shift):
    values = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    volume = Volume(values)
    expected = values.astype(float)
    for axis, step in enumerate(shift, start=1):
        index = np.clip(np.arange(shape[axis - 1]) + step, 0, shape[axis - 1] - 1)
        expected = (expected + expected.take(index, axis)) / 2
    for start, stop in itertools.combinations(range(shape[0] + 1), 2):
        planes = expected[:, start:stop].reshape(3, -1)
        rows = torch.arange(0, planes.shape[1], 2)
        assert np.allclose(centred(volume, start, stop, shift, rows), planes[:, ::2], atol=1e-6)
    assert np.array_equal(volume.source, np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32))


@pytest.mark.parametrize("shift", list(itertools.product((-1, 0, 1), repeat=3)))
def test_a_shift_against_a_mask_is_found_along_every_axis(shift):
    label = balls()
    mask = torch.from_numpy(label > 0)
    assert shift_from_mask(Volume(embedded(label, shift)), mask) == shift
    flipped = np.ascontiguousarray(embedded(label, shift)[:, ::-1, :, ::-1])
    assert shift_from_mask(Volume(flipped), mask.flip((0, 2))) == (-shift[0], shift[1], -shift[2])


def test_embeddings_blurred_on_their_voxels_have_no_shift():
    label = balls()
    mask = torch.from_numpy(label > 0)
    values = np.random.default_rng(0).normal(0, 2, (6, label.max() + 1))[:, label]
    for blurred in (
        values,
        ndimage.uniform_filter(values, (0, 3, 3, 3)),
        ndimage.gaussian_filter(values, (0, 1, 1, 1)),
    ):
        noisy = blurred + np.random.default_rng(1).normal(0, 0.1, blurred.shape)
        assert shift_from_mask(Volume(noisy.astype(np.float32)), mask) == NO_SHIFT


def test_where_no_face_tells_there_is_no_shift():
    random = np.random.default_rng(0)
    noise = Volume(random.normal(size=(4, 12, 12, 12)).astype(np.float32))
    for mask in (np.zeros((12, 12, 12), bool), np.ones((12, 12, 12), bool), random.random((12, 12, 12)) > 0.5):
        assert shift_from_mask(noise, torch.from_numpy(mask)) == NO_SHIFT
    thin = Volume(random.normal(size=(4, 3, 12, 1)).astype(np.float32))
    assert shift_from_mask(thin, torch.ones(3, 12, 1, dtype=torch.bool)) == NO_SHIFT
    assert leaning([0.0, 0.0, 0.0]) == 0


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("shift", [(1, -1, 0), (0, 0, 1), NO_SHIFT, (-1, -1, -1)])
def test_background_that_votes_for_its_own_place_tells_the_shift(size, shift):
    random = np.random.default_rng(0)
    shape = (20, 24, 31)
    votes = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")) / 6.0
    votes = shifted(votes, shift) + random.normal(0, 0.12, votes.shape)
    objects = np.zeros(shape, bool)
    objects[5:12, 6:15, 10:20] = True
    votes[:, objects] = np.array([[8.0], [10.0], [15.0]]) / 6
    blocks = pool_blocks(Volume(np.concatenate([votes, votes[:1] * 0]).astype(np.float32)), (size,) * 3)
    cells = torch.arange(blocks.mass.numel())  # objects too, a tenth of all
    assert shift_from_votes(blocks, cells, 3) == shift
    assert shift_from_votes(blocks, cells[:0], 3) == NO_SHIFT
    blocks.mean[:3] += 20.0  # coordinates of a piece from somewhere else
    assert shift_from_votes(blocks, cells, 3) == NO_SHIFT
    blocks.mean[:3] = 1.0
    assert shift_from_votes(blocks, cells, 3) == NO_SHIFT


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize("pooling", [1, 2])
def test_a_flat_border_lies_where_it_is_only_if_the_shift_is_taken_back(spatial_dims, step, pooling):
    truth = np.ones((40, 48, 44)[-spatial_dims:], int)
    truth[21:] = 2
    truth[:, 30:] += 2
    mask = np.ones(truth.shape, bool)
    mask[..., :9] = False  # background, whose faces tell
    mask[:9] = mask[:, :9] = False
    truth = truth * mask
    embeddings = embedded(truth, (step,) * spatial_dims, outliers=0)
    axes = [pooling] * 3 if spatial_dims == 3 else [pooling, 1, pooling]

    def wrong(**given):
        labels = cluster_embeddings(embeddings, foreground=mask, pooling=axes, **given)
        assert labels.max() == 4
        names = [np.bincount(labels[truth == number]).argmax() for number in range(1, 5)]
        return np.mean(np.array([0, *names])[truth][mask] != labels[mask])

    assert wrong() < 0.002
    assert wrong() == wrong(half_voxels=[step] * 3 if spatial_dims == 3 else [step, 0, step])
    assert wrong(half_voxels=NO_SHIFT) > 0.01
    assert wrong(objectness=mask.astype(np.float32)) > 0.01  # which is the network's own


@pytest.mark.parametrize("bad", [(1, 1), (0, 2, 0), (0.5, 0, 0)])
def test_a_shift_that_is_none_is_refused(bad):
    with pytest.raises(SpocoError, match="half_voxels"):
        cluster_embeddings(np.zeros((4, 6, 6, 6), np.float32), half_voxels=bad)


def test_slabs_threads_and_kind_of_input_do_not_matter_where_a_shift_is_taken_back(monkeypatch, tmp_path):
    truth = balls((40, 48, 52))
    embeddings = embedded(truth, (1, -1, 1)).astype(np.float16)
    np.save(tmp_path / "e.npy", embeddings)
    options = {"foreground": truth > 0, "max_blocks": 20_000, "min_size": 8}
    expected = cluster_embeddings(embeddings, **options)
    whole, before = Volume.slabs, torch.get_num_threads()
    try:
        for threads, slab in itertools.product((1, 3), (1, 1 << 15, 1 << 30)):
            torch.set_num_threads(threads)
            monkeypatch.setattr(Volume, "slabs", lambda self, multiple=1, _=0, slab=slab: whole(self, multiple, slab))
            assert np.array_equal(cluster_embeddings(embeddings, **options), expected)
    finally:
        torch.set_num_threads(before)
    mapped = np.load(tmp_path / "e.npy", mmap_mode="r")
    assert np.array_equal(cluster_embeddings(mapped, **options), expected)
    assert np.array_equal(cluster_embeddings(torch.from_numpy(embeddings), **options), expected)
    assert (cluster_embeddings(embeddings, half_voxels=NO_SHIFT, **options) != expected).any()
