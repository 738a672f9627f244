from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage, optimize
from skimage.metrics import adapted_rand_error

from spoco_bundle.clustering import cluster_embeddings, voxels
from spoco_bundle.clustering.density_peaks import largest_first
from spoco_bundle.clustering.mixtures import borders, from_mixtures, mixed
from spoco_bundle.core.errors import SpocoError


def same_partition(a, b):
    pairs = np.unique(np.stack([np.ravel(a), np.ravel(b)]), axis=1)
    return len(np.unique(pairs[0])) == pairs.shape[1] == len(np.unique(pairs[1]))


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("coordinates", [False, True])
@pytest.mark.parametrize("max_blocks", [10, 10**9])
def test_finds_every_ball_voxel_for_voxel(scene, spatial_dims, coordinates, max_blocks):
    s = scene(spatial_dims, coordinates)
    d = spatial_dims if coordinates else 0
    labels = cluster_embeddings(
        s.embeddings, coordinate_channels=d, foreground=s.label > 0, max_blocks=max_blocks, merge_distance=0.6
    )
    assert labels.dtype == np.int32
    assert np.array_equal(np.unique(labels), np.arange(10))
    assert same_partition(labels, s.label)


@pytest.mark.parametrize("coordinates", [False, True])
def test_background_is_found_without_help(scene, coordinates):
    s = scene(3, coordinates)
    labels = cluster_embeddings(s.embeddings, coordinate_channels=3 * coordinates, merge_distance=0.6)
    assert labels.max() == 9
    objects = s.label > 0
    assert ((labels > 0) == objects)[objects].mean() > 0.97
    assert ((labels > 0) == objects)[~objects].mean() > 0.97


def test_background_between_small_objects_is_known_by_its_votes_for_its_own_place():
    random = np.random.default_rng(0)
    middles = np.stack(np.meshgrid(*[np.arange(5, 64, 9)] * 3, indexing="ij")).reshape(3, -1)
    place = np.stack(np.meshgrid(*[np.arange(64.0)] * 3, indexing="ij"))
    truth = np.zeros((64, 64, 64), int)
    votes = place / 4
    for number, middle in enumerate(middles.T, start=1):
        ball = ((place - middle[:, None, None, None]) ** 2).sum(0) < 3.2**2
        truth[ball] = number
        votes[:, ball] = middle[:, None] / 4
    colours = random.normal(0, 0.3, (8, truth.max() + 1))[:, truth]
    embeddings = ndimage.uniform_filter(np.concatenate([votes, colours]), (0, 2, 2, 2))
    embeddings += random.normal(0, 0.1, embeddings.shape)
    labels = cluster_embeddings(embeddings, coordinate_channels=3, merge_distance=0.6, max_blocks=40_000)
    assert abs(labels.max() - middles.shape[1]) <= 6
    assert (labels > 0)[truth > 0].mean() > 0.93
    assert (labels > 0)[truth == 0].mean() < 0.3  # objects have a blurred border


def test_mixed_finds_ends_and_mixtures():
    ends = torch.tensor([[0.0, 0.0, 0.0], [8.0, 0.0, 0.0], [0.0, 6.0, 0.0]])
    points = torch.tensor(
        [[-0.9, 0.0, 0.0], [-1.1, 0.0, 0.0], [4.0, 0.9, 0.0], [6.0, 1.0, 0.9], [2.5, 2.0, 0.0], [2.5, 2.0, 1.1]]
    )
    assert mixed(points, ends, 1.0).tolist() == [True, False, True, True, True, False]
    assert mixed(points, ends[:1], 1.0).tolist() == [True, False, False, False, False, False]


def test_distance_to_mixtures_is_exact_for_two_ends_and_bounded_for_more():
    generator = torch.Generator().manual_seed(0)
    points, ends = torch.randn(40, 5, generator=generator), torch.randn(40, 6, 5, generator=generator)
    present = torch.rand(40, 6, generator=generator) > 0.4
    present[:10] = torch.tensor([True, False, False, True, False, False])
    present[:, 3] = True
    found = from_mixtures(points[:, None], ends, present, present)[:, 0].norm(dim=1)
    nearest = (ends - points[:, None]).norm(dim=2).masked_fill(~present, torch.inf).amin(1)
    shorter = 0
    for i in range(len(points)):
        offsets = (ends[i, present[i]] - points[i]).double().numpy()
        # the nearest point of the hull: weights that sum to 1, which a heavy row enforces
        system = np.vstack([offsets.T, np.full(len(offsets), 1e4)])
        weights, _ = optimize.nnls(system, np.append(np.zeros(5), 1e4))
        hull = np.linalg.norm(weights @ offsets)
        assert hull - 1e-4 <= found[i] <= nearest[i] + 1e-6
        if i < 10:
            assert found[i] == pytest.approx(hull, abs=1e-4)
        shorter += found[i] < nearest[i] - 1e-3
    assert shorter > 20


def test_a_region_without_a_core_that_mixes_its_neighbours_is_a_border():
    means = torch.zeros(6, 8)
    means[1, 0] = means[2, 1] = means[3, 2] = 6.0
    means[4, :3] = 2.0  # all three in equal parts
    means[5, 3] = 6.0  # none of them
    edges = torch.tensor([[i, j] for i in (1, 2, 3) for j in (4, 5)])
    likeness = torch.tensor([0.0, 20.0, 20.0, 20.0, 4.0, 4.0])
    core = likeness > 13.5
    size = torch.tensor([0, 9, 9, 9, 4, 4])
    assert borders(edges, means, likeness, size, core, 1.0).tolist() == [False, False, False, False, True, False]
    assert not borders(edges[2:], means, likeness, size, core, 1.0).any()  # of two neighbours it is no mixture
    assert not borders(edges, means, likeness, size, likeness > 3, 1.0).any()  # with a core it is an object
    size[1:4] = 6
    assert not borders(edges, means, likeness, size, core, 1.0).any()  # nearly as large as what it lies between
    means[4] = means[1] + 0.5
    assert borders(edges, means, likeness, size, core, 2.0).tolist() == [False, False, False, False, True, False]


def test_largest_first_orders_chosen_regions_by_mass():
    region = torch.tensor([1, 2, 2, 3, 0, 0, 0]).reshape(1, 1, 7)
    mass = torch.tensor([1.0, 1.0, 1.0, 8.0, 9.0, 9.0, 9.0]).reshape(1, 1, 7)
    means = torch.arange(8.0).reshape(4, 2)
    chosen = torch.tensor([False, True, True, True])
    assert largest_first(chosen, region, mass, means).tolist() == means[[3, 2, 1]].tolist()
    assert largest_first(~chosen, region, mass, means).tolist() == means[:1].tolist()


def test_single_voxels_are_objects_where_that_is_asked():
    embeddings = np.zeros((4, 7, 8, 9), np.float32)
    lone = np.zeros((7, 8, 9), bool)
    lone[3, 2::3, 2::3] = True
    embeddings[:, lone] = 5 * np.random.default_rng(0).normal(size=(4, lone.sum()))
    for min_size, count in ((1, lone.sum()), (2, 0)):
        labels = cluster_embeddings(embeddings, background="largest", min_size=min_size, border_distance=0.1)
        assert labels.max() == count
        assert ((labels > 0) == (lone & (count > 0))).all()


def test_objectness_is_the_foreground_and_weak_objects_go(scene):
    s = scene(3, True)
    objectness = np.where(s.label == 4, 0.4 * s.objectness, s.objectness)
    labels = cluster_embeddings(s.embeddings, coordinate_channels=3, objectness=objectness, objectness_threshold=0.04)
    assert labels.max() == 8
    assert (labels[s.label == 4] == 0).mean() > 0.95
    assert (labels[(s.label > 0) & (s.label != 4)] > 0).mean() > 0.95


def test_blurred_borders_and_outliers_are_assigned(scene):
    s = scene(3, noise=0.1)
    blurred = ndimage.uniform_filter(s.embeddings, (0, 2, 2, 2))
    drop = np.random.default_rng(1).random(s.label.shape) < 0.05
    blurred[:, drop] = 2 * np.random.default_rng(2).normal(size=(8, drop.sum()))
    labels = cluster_embeddings(blurred, foreground=s.label > 0, max_blocks=10)
    assert labels.max() == 9
    assert (labels[s.label > 0] > 0).all()
    assert adapted_rand_error(s.label, labels)[0] < 0.05
    outliers = drop & (ndimage.grey_erosion(s.label, size=(5, 5, 5)) > 0)  # deep inside an object
    majority = np.array([np.bincount(labels[s.label == i]).argmax() for i in range(10)])
    assert np.array_equal(labels[outliers], majority[s.label[outliers]])


def test_far_objects_of_one_colour_are_two(scene):
    s = scene(3)
    s.embeddings[:, s.label == 9] = s.embeddings[:, s.label == 1].mean(1, keepdims=True)
    labels = cluster_embeddings(s.embeddings, foreground=s.label > 0, merge_distance=0.6)
    assert labels.max() == 9


@pytest.mark.parametrize("planes", [11, 12])  # an odd number leaves a last slab of half a block
@pytest.mark.parametrize(("slab", "threads"), [(1, 1), (5000, 2)])
def test_labels_do_not_depend_on_slabs_and_threads(scene, monkeypatch, slab, threads, planes):
    embeddings = scene(3, noise=0.3).embeddings[:, :planes, :30, :30]
    whole = voxels.Volume.slabs
    monkeypatch.setattr(voxels.Volume, "slabs", lambda self, multiple=1, values=0: whole(self, multiple, slab))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert len(list(voxels.Volume(embeddings).slabs())) > 1
        labels = cluster_embeddings(embeddings, max_blocks=10)
    finally:
        torch.set_num_threads(before)
    monkeypatch.undo()
    assert np.array_equal(labels, cluster_embeddings(embeddings, max_blocks=10))


@pytest.mark.parametrize("coordinates", [False, True])
def test_rotated_channels_give_the_same_partition(scene, coordinates):
    s = scene(3, coordinates, noise=0.2)
    free = slice(3 * coordinates, None)
    n = s.embeddings[free].shape[0]
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))[0].astype(np.float32)
    rotated = s.embeddings.copy()
    rotated[free] = np.einsum("ij,j...->i...", rotation, s.embeddings[free])
    keywords = {"coordinate_channels": 3 * coordinates, "foreground": s.label > 0, "merge_distance": 0.6}
    a, b = cluster_embeddings(s.embeddings, **keywords), cluster_embeddings(rotated, **keywords)
    assert adapted_rand_error(a + 1, b + 1)[0] <= 1e-4
    assert a.max() == b.max() == 9


def test_half_precision_memory_maps_and_tensors(scene, tmp_path):
    s = scene(3)
    file = np.memmap(tmp_path / "e", dtype=np.float16, mode="w+", shape=s.embeddings.shape)
    file[:] = s.embeddings
    file.flush()
    mapped = np.memmap(tmp_path / "e", dtype=np.float16, mode="r", shape=s.embeddings.shape)
    labels = cluster_embeddings(mapped, foreground=s.label > 0)
    assert same_partition(labels, s.label)
    tensor = cluster_embeddings(torch.from_numpy(s.embeddings), foreground=torch.from_numpy(s.label > 0)[None])
    assert torch.is_tensor(tensor) and tensor.dtype == torch.int32
    assert np.array_equal(tensor.numpy(), labels)


def test_empty_foreground_and_single_voxel():
    empty = np.zeros((4, 5, 6, 7), np.float32)
    assert cluster_embeddings(empty, foreground=np.zeros((5, 6, 7), bool)).max() == 0
    assert cluster_embeddings(np.ones((4, 1, 1, 1), np.float32), background="none", min_size=1).item() == 1


def test_bad_input_is_named():
    embeddings = np.zeros((4, 5, 6, 7), np.float32)
    broken = embeddings.copy()
    broken[0, 0, 0, 0] = np.nan
    for message, arguments, keywords in [
        ("NaN", [broken], {}),
        ("one volume at a time", [embeddings[None]], {}),
        ("floating", [embeddings.astype(int)], {}),
        ("density_peaks, ", [embeddings, "watershed"], {}),
        ("merge_distance", [embeddings], {"merge_distanse": 1.0}),
        ("foreground has shape", [embeddings], {"foreground": np.ones((5, 6))}),
        ("carry 0 or 3", [embeddings], {"coordinate_channels": 4}),
        ("needs the argument objectness", [embeddings], {"background": "objectness"}),
        ("needs coordinate_channels", [embeddings], {"background": "density"}),
        ("is unknown", [embeddings], {"background": "darkest"}),
        ("teacher_embeddings have shape", [embeddings], {"teacher_embeddings": embeddings[:3]}),
        ("min_size", [embeddings], {"min_size": 0}),
    ]:
        with pytest.raises(SpocoError, match=message):
            cluster_embeddings(*arguments, **keywords)
