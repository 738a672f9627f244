from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from spoco_bundle.clustering import cluster_embeddings
from spoco_bundle.clustering.center_votes import center_votes, largest_parts
from spoco_bundle.clustering.voxels import Volume
from spoco_bundle.errors import SpocoError

module = sys.modules[center_votes.__module__]  # the package's attribute of that name is the function
SCALE = 3.0
CENTRES = {
    3: ((14, 22, 24), [(6, 6, 6), (6, 6, 15), (7, 15, 8), (6, 16, 17)]),
    2: ((24, 40), [(7, 8), (8, 18), (16, 10), (17, 30)]),
}


def scene(shape, centres, radius=4.5, noise=0.06, channels=6, seed=0):
    """Embeddings (E, *shape): objects collapsed to their centres, background kept its place; and the truth."""
    generator = np.random.default_rng(seed)
    place = np.indices(shape).astype(np.float32)
    distance, nearest = cKDTree(centres).query(np.moveaxis(place, 0, -1))
    truth = np.where(distance < radius, nearest + 1, 0)
    codes = generator.normal(size=(len(centres) + 1, channels)).astype(np.float32)
    embeddings = np.moveaxis(codes[truth], -1, 0).copy()
    centre_of = np.concatenate([np.zeros((1, len(shape))), np.array(centres)])[truth]
    embeddings[: len(shape)] = np.where(truth > 0, np.moveaxis(centre_of, -1, 0), place) / SCALE
    return torch.from_numpy(embeddings + noise * generator.normal(size=embeddings.shape).astype(np.float32)), truth


def labels_of(embeddings, foreground=None, objectness=None, **arguments):
    volume = Volume(embeddings)
    mask = None if foreground is None else volume.grid(torch.as_tensor(foreground), "foreground", torch.bool)
    weight = None if objectness is None else volume.grid(torch.as_tensor(objectness), "objectness", torch.float32)
    arguments = {"coordinate_channels": len(volume.spatial), "min_votes": 10.0, **arguments}
    if mask is not None:
        arguments.setdefault("background", "mask")
    found = center_votes(volume, foreground=mask, objectness=weight, **arguments)
    assert found.shape == volume.shape and found.dtype == torch.int32
    return found.reshape(volume.spatial).numpy()


def same_partition(a, b) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return pairs.shape[1] == len(np.unique(a)) == len(np.unique(b)) and bool(((pairs[0] > 0) == (pairs[1] > 0)).all())


@pytest.mark.parametrize("dims", [2, 3])
def test_noisy_votes_give_the_objects_back(dims):
    embeddings, truth = scene(*CENTRES[dims])
    assert len(np.unique(truth)) == 5 and ndimage.label(truth > 0)[1] < 4  # some of them touch
    assert same_partition(labels_of(embeddings, truth > 0), truth)
    by_name = cluster_embeddings(
        embeddings, "center_votes", coordinate_channels=dims, foreground=truth > 0, min_votes=10.0
    )
    assert same_partition(by_name.numpy(), truth)


def test_density_tells_background_from_objects():
    embeddings, truth = scene(*CENTRES[3], noise=0.02)
    assert same_partition(labels_of(embeddings, background="density", min_votes=60.0), truth)
    everything = labels_of(embeddings, background="none", min_votes=60.0)
    assert (everything[truth == 0] > 0).mean() > 0.5


def test_other_channels_may_be_permuted_and_rotated():
    embeddings, truth = scene(*CENTRES[3], noise=0.25)
    expected = labels_of(embeddings, truth > 0)
    permuted = torch.cat([embeddings[:3], embeddings[[5, 3, 4]]])
    assert (labels_of(permuted, truth > 0) == expected).all()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
    rotated = torch.cat([embeddings[:3], torch.einsum("ij,jzyx->izyx", turn, embeddings[3:])])
    assert (labels_of(rotated, truth > 0) == expected).all()


@pytest.mark.parametrize(("slab_values", "rows"), [(1, 7), (6 * 22 * 24 * 3, 100), (1 << 25, 50)])
def test_slabs_chunks_and_threads_change_nothing(monkeypatch, slab_values, rows):
    embeddings, truth = scene(*CENTRES[3], noise=0.25)
    expected = labels_of(embeddings, truth > 0)
    threads = torch.get_num_threads()
    monkeypatch.setattr(Volume.slabs, "__defaults__", (1, slab_values))
    monkeypatch.setattr(module, "ROWS", rows)
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert (labels_of(embeddings, truth > 0) == expected).all()
    finally:
        torch.set_num_threads(threads)


def test_objects_fill_the_foreground_and_nothing_else():
    shape, centres = CENTRES[3]
    embeddings, truth = scene(shape, centres, noise=0.02)
    foreground = ndimage.binary_dilation(truth > 0, iterations=1)  # a blurred border votes for its own place
    found = labels_of(embeddings, foreground)
    assert ((found > 0) == foreground).all()
    assert same_partition(np.where(truth > 0, found, 0), truth)


def test_close_centres_are_merged():
    embeddings, truth = scene((12, 12, 12), [(6, 6, 6)], noise=0.02)
    embeddings[2, :, :, 6:] += 1.0
    assert len(np.unique(labels_of(embeddings, truth > 0, merge_distance=1.5))) == 2
    assert len(np.unique(labels_of(embeddings, truth > 0, merge_distance=0.6))) == 3


def test_few_votes_are_no_object():
    embeddings, truth = scene((14, 22, 24), [(6, 7, 7), (6, 14, 19)], radius=5.0)
    speck = np.zeros_like(truth)
    speck[1:3, 1:3, 20:23] = 1
    embeddings[:3, speck > 0] = torch.tensor([[2.0], [2.0], [21.0]]) / SCALE
    kept = labels_of(embeddings, (truth + speck) > 0, min_votes=6.0)
    assert len(np.unique(kept)) == 4 and len(np.unique(kept[speck > 0])) == 1
    dropped = labels_of(embeddings, (truth + speck) > 0, min_votes=60.0)
    assert same_partition(dropped, truth)


def test_a_faint_object_has_no_mode_and_takes_none_from_its_neighbours():
    embeddings, truth = scene(*CENTRES[3])
    found = labels_of(embeddings, truth > 0, objectness=np.where(truth == 4, 0.001, 1.0))
    assert same_partition(np.where(truth == 4, 0, found), np.where(truth == 4, 0, truth))
    assert set(found[truth == 4]) <= {0, *found[truth < 4]}


def test_only_one_part_of_an_object_stays():
    embeddings, truth = scene(*CENTRES[3])
    apart = np.zeros_like(truth)
    apart[11:13, 1:3, 1:3] = 1
    embeddings[:, apart > 0] = embeddings[:, truth == 4].mean(1, keepdim=True)
    found = labels_of(embeddings, (truth + apart) > 0)
    assert not found[apart > 0].any() and same_partition(found, truth)


@pytest.mark.parametrize("seed", range(3))
def test_largest_parts_as_by_brute_force(seed):
    generator = np.random.default_rng(seed)
    labels = generator.choice(5, (6, 7, 8), p=[0.6, 0.1, 0.1, 0.1, 0.1]).astype(np.int32)
    voting = generator.random(labels.shape) < 0.5
    kept = largest_parts(labels, voting)
    for number in range(1, 5):
        parts, count = ndimage.label(labels == number, np.ones((3, 3, 3)))
        best = max((voting[parts == part].sum(), (parts == part).sum()) for part in range(1, count + 1))
        mine = kept == number
        assert len(np.unique(parts[mine])) == 1 and (parts[mine] > 0).all()
        assert (voting[mine].sum(), mine.sum()) == best
    assert not kept[labels == 0].any()
    nothing = np.zeros((2, 3, 4), np.int32)
    assert not largest_parts(nothing, nothing > 0).any()


def test_nothing_there_gives_nothing():
    embeddings, truth = scene(*CENTRES[2])
    assert not labels_of(embeddings, np.zeros_like(truth)).any()
    assert not labels_of(embeddings, truth > 0, min_votes=1e6).any()


def test_stray_votes_do_not_stretch_the_histogram():
    embeddings, truth = scene((20, 40, 40), [(9, 9, 9), (9, 9, 28), (9, 28, 9), (9, 28, 28)], radius=8.0)
    stray = np.flatnonzero(truth)[100:3000:2000]
    embeddings.reshape(6, -1)[:3, stray] = torch.tensor([1e7, -1e7, 1e7])[:, None]
    found = labels_of(embeddings, truth > 0).ravel()
    clean = np.setdiff1d(np.arange(truth.size), stray)
    assert same_partition(found[clean], truth.ravel()[clean])


def test_a_lone_object_far_from_a_crowd_is_found():
    centres = [(y, x) for y in range(4, 230, 6) for x in range(4, 400, 6)] + [(100, 700)]
    embeddings, truth = scene((234, 705), centres, radius=2.5, noise=0.03, channels=3)
    assert (truth == len(centres)).sum() < module.STRAY_VOTES * (truth > 0).sum()
    assert same_partition(labels_of(embeddings, truth > 0), truth)


def test_coordinates_without_a_sensible_scale_are_refused():
    embeddings, truth = scene(*CENTRES[3])
    embeddings[:3] *= 1e5
    with pytest.raises(SpocoError, match="coordinate_scale"):
        labels_of(embeddings, truth > 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinate_channels": 0}, "density_peaks"),
        ({"background": "scatter"}, "scatter"),
        ({"merge_distance": 0.0}, "merge_distance is 0.0"),
        ({"min_votes": -1.0}, "min_votes is -1.0"),
        ({"bin_width": 0.0}, "bin_width"),
        ({"smoothing": float("nan")}, "smoothing is nan"),
        ({"candidates": 0}, "candidates is 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    embeddings, _ = scene(*CENTRES[2])
    with pytest.raises(SpocoError, match=message):
        labels_of(embeddings, **arguments)


def test_values_that_are_not_finite_are_refused():
    embeddings, truth = scene(*CENTRES[2])
    embeddings[4, 7, 8] = float("nan")
    with pytest.raises(SpocoError, match="NaN"):
        labels_of(embeddings, truth > 0)
