from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.metrics import adapted_rand_error

from spoco_bundle.clustering import cluster_embeddings
from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.errors import SpocoError
from support import matched, same_partition


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("coordinates", [False, True])
@pytest.mark.parametrize("max_blocks", [10, 10**9])
def test_finds_every_ball(scene, spatial_dims, coordinates, max_blocks):
    s = scene(spatial_dims, coordinates)
    d = spatial_dims if coordinates else 0
    labels = cluster_embeddings(
        s.embeddings, coordinate_channels=d, foreground=s.label > 0, max_blocks=max_blocks, merge_distance=0.6
    )
    assert labels.dtype == np.int32
    assert np.array_equal(np.unique(labels), np.arange(10))
    assert np.array_equal(labels > 0, s.label > 0)
    if max_blocks == 10:  # a voxel takes the object of its block
        assert adapted_rand_error(s.label, labels)[0] < 0.005
    else:
        assert same_partition(labels, s.label)


def test_single_voxels_are_objects_where_that_is_asked():
    embeddings = np.zeros((4, 7, 8, 9), np.float32)
    lone = np.zeros((7, 8, 9), bool)
    lone[3, 2::3, 2::3] = True
    embeddings[:, lone] = 5 * np.random.default_rng(0).normal(size=(4, lone.sum()))
    for min_size, count in ((1, lone.sum()), (2, 0)):
        labels = cluster_embeddings(embeddings, background="largest", min_size=min_size)
        assert labels.max() == count
        assert ((labels > 0) == (lone & (count > 0))).all()


def test_objectness_is_the_foreground_and_weak_objects_go(scene):
    s = scene(3, True)
    objectness = np.where(s.label == 4, 0.4 * s.objectness, s.objectness)
    labels = cluster_embeddings(s.embeddings, coordinate_channels=3, objectness=objectness, objectness_threshold=0.04)
    assert labels.max() == 8
    assert (labels[s.label == 4] == 0).mean() > 0.95
    assert (labels[(s.label > 0) & (s.label != 4)] > 0).mean() > 0.95


def test_blurred_borders_and_outliers_belong_to_the_objects_around_them(scene):
    s = scene(3, noise=0.1)
    blurred = ndimage.uniform_filter(s.embeddings, (0, 3, 3, 3))
    drop = np.random.default_rng(1).random(s.label.shape) < 0.05
    blurred[:, drop] = 2 * np.random.default_rng(2).normal(size=(8, drop.sum()))
    labels = cluster_embeddings(blurred, foreground=s.label > 0, objectness=s.objectness, max_blocks=10)
    assert matched(s.label, labels) == 9
    assert adapted_rand_error(s.label, labels)[0] < 0.06


def test_a_piece_is_averaged_like_the_whole_that_it_is_of(scene):
    s = scene(3, noise=0.2)
    given = {"foreground": s.label[:12] > 0, "merge_distance": 0.6}
    pooled = cluster_embeddings(s.embeddings[:, :12], pooling=(2, 2, 2), **given)
    assert same_partition(pooled, cluster_embeddings(s.embeddings[:, :12], max_blocks=10, **given))
    with pytest.raises(SpocoError, match="pooling"):
        cluster_embeddings(s.embeddings, pooling=(1, 2, 3))


@pytest.mark.parametrize("step", [1, -1])
def test_debris_joins_the_most_similar_region_beside_it(step):
    embeddings = np.zeros((1, 3, 20), np.float32)
    embeddings[0, :, 10:] = 10
    embeddings[0, 1, 10] = 3  # between both regions, and nearer to the first
    labels = cluster_embeddings(embeddings[..., ::step].copy(), background="none", min_size=5, fill_rounds=2)[:, ::step]
    assert labels[1, 10] == labels[1, 0] != labels[1, 15]


def test_debris_is_filled_from_its_rim_inwards_and_no_further_than_asked():
    embeddings = np.zeros((1, 1, 40), np.float32)
    embeddings[0, 0, 20:] = 10
    embeddings[0, 0, 20:24] = [6, 4, 8, 3]  # four voxels like nothing around them
    labels = cluster_embeddings(embeddings, background="none", min_size=5, fill_rounds=4)[0]
    assert labels[19] != labels[30] and labels[20:24].tolist() == [labels[19]] * 2 + [labels[30]] * 2
    far = cluster_embeddings(embeddings, background="none", min_size=5, fill_rounds=1)[0]
    assert far[20] > 0 and far[23] > 0 and not far[21:23].any()


@pytest.mark.parametrize(
    ("colours", "merge_distance", "regions"),
    [
        ([0, 1.1, 0.5], 1.0, [1, 1, 1]),  # the nearest two first, whose mean is then near enough to the other one
        ([0, 0.3, 0.9], 0.65, [1, 1, 1]),  # the last is nearest to one of the nearest two, and goes along
        ([0, 0.5, 1.2], 0.65, [1, 1, 2]),
    ],
)
def test_regions_that_touch_are_joined_nearest_first(colours, merge_distance, regions):
    embeddings = np.repeat(np.array(colours, np.float32), 20)[None, None] * np.ones((1, 6, 1), np.float32)
    labels = cluster_embeddings(embeddings, background="none", merge_distance=merge_distance, split_parts=False)
    assert np.array_equal(labels, np.repeat(regions, 20)[None] * np.ones((6, 1), int))


def test_far_objects_of_one_colour_are_two(scene):
    s = scene(3)
    s.embeddings[:, s.label == 9] = s.embeddings[:, s.label == 1].mean(1, keepdims=True)
    labels = cluster_embeddings(s.embeddings, foreground=s.label > 0, merge_distance=0.6)
    assert labels.max() == 9


@pytest.mark.parametrize("planes", [11, 12])  # an odd number leaves a last slab of half a block
@pytest.mark.parametrize(("slab", "threads"), [(1, 1), (5000, 2)])
def test_labels_do_not_depend_on_slabs_and_threads(scene, monkeypatch, slab, threads, planes):
    embeddings = scene(3, noise=0.3).embeddings[:, :planes, :30, :30]
    whole = EmbeddingField.slabs
    monkeypatch.setattr(EmbeddingField, "slabs", lambda self, multiple=1, values=0: whole(self, multiple, slab))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert len(list(EmbeddingField(embeddings).slabs())) > 1
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
    broken, empty = embeddings.copy(), embeddings[0]
    broken[0, 0, 0, 0] = np.nan
    for message, arguments, keywords in [
        ("NaN", [broken], {}),
        ("one volume at a time", [embeddings[None]], {}),
        ("floating", [embeddings.astype(int)], {}),
        ("density_peaks, ", [embeddings, "watershed"], {}),
        ("merge_distance", [embeddings], {"merge_distanse": 1.0}),
        ("foreground has shape", [embeddings], {"foreground": np.ones((5, 6))}),
        ("give 0 or 3", [embeddings], {"coordinate_channels": 4}),
        ("needs an objectness", [embeddings], {"background": "objectness"}),
        ("needs the image", [embeddings], {"background": "otsu"}),
        ("needs a foreground mask", [embeddings], {"background": "foreground"}),
        ("is unknown", [embeddings], {"background": "darkest"}),
        ("teacher_embeddings have shape", [embeddings], {"teacher_embeddings": embeddings[:3]}),
        ("min_size", [embeddings], {"min_size": 0}),
        *(("objectness_threshold", [embeddings], {"objectness": empty, "objectness_threshold": t}) for t in (0, 1)),
    ]:
        with pytest.raises(SpocoError, match=message):
            cluster_embeddings(*arguments, **keywords)
