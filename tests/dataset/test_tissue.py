from __future__ import annotations

import functools

import numpy as np
import pytest

from spoco_bundle.dataset.synthetic import SPACING, synthetic_volume
from spoco_bundle.dataset.tissue import AnnotatedVolume, Surroundings, surroundings_auc
from support import dense_tissue


def annotated(image, label, kept, spacing=None, seed=0):
    """The volume with so many of its objects annotated."""
    ids = np.random.default_rng(seed).permutation(np.unique(label[label > 0]))[:kept]
    image = (image - image.min()) / np.ptp(image)
    return AnnotatedVolume(image[None], np.where(np.isin(label, ids), label, 0), spacing or (1.0,) * label.ndim)


@functools.cache
def tissue(dims, seed=0):
    shape, cells, kept = ((24, 64, 64), 60, 15) if dims == 3 else ((128, 128), 40, 13)
    return annotated(*dense_tissue(np.random.default_rng(seed), shape, cells), kept)


@functools.cache
def nuclei(dims, seed=0):
    image, label = synthetic_volume(np.random.default_rng(seed), (24, 80, 80))
    if dims == 3:
        return annotated(image.astype(np.float32), label.astype(np.int32), 10, SPACING)
    return annotated(image[12].astype(np.float32), label[12].astype(np.int32), 6)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_tissue_is_told_from_nuclei(dims, seed):
    assert surroundings_auc([tissue(dims, seed)]) < 0.68
    assert surroundings_auc([nuclei(dims, seed)]) > 0.8


def test_it_does_not_matter_whether_neighbours_are_annotated():
    image, label = dense_tissue(np.random.default_rng(0), (128, 128), 40)
    assert surroundings_auc([annotated(image, label, 40)]) < 0.68
    image, label = synthetic_volume(np.random.default_rng(0), (24, 80, 80))
    assert surroundings_auc([annotated(image.astype(float), label.astype(int), 999, SPACING)]) > 0.8


def test_channels_are_all_looked_at():
    volume, noise = nuclei(3), np.random.default_rng(0).normal(size=nuclei(3).image.shape)
    assert surroundings_auc([volume._replace(image=noise)]) < 0.65
    assert surroundings_auc([volume._replace(image=np.concatenate([noise, volume.image]))]) > 0.8


def test_a_drift_of_the_brightness_does_not_matter():
    for volume, dense in ((nuclei(3), False), (tissue(2), True)):
        drifting = volume._replace(image=volume.image + np.linspace(0, 2, volume.image.shape[-1]))
        assert (surroundings_auc([drifting]) < 0.72) == dense


def test_the_result_depends_on_neither_the_ids_nor_their_order():
    volume = nuclei(3)
    ids = np.unique(volume.labels[volume.labels > 0])
    others = np.zeros(ids.max() + 1, np.int32)
    others[ids] = np.random.default_rng(1).permutation(len(ids)) * 1_000_003 + 7
    found = surroundings_auc([volume])
    assert surroundings_auc([volume._replace(labels=others[volume.labels])]) == found
    assert surroundings_auc([volume._replace(labels=volume.labels.astype(np.uint16))]) == found


def test_a_seed_gives_one_result_and_another_seed_much_the_same():
    found = [surroundings_auc([tissue(2)], seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert found[0] == pytest.approx(found[2], abs=0.1)


def test_too_few_objects_say_nothing():
    image, label = dense_tissue(np.random.default_rng(0), (128, 128), 40)
    volumes = [annotated(image, label, 2), annotated(image, label, 2, seed=1)]
    assert surroundings_auc(volumes[:1]) is None
    assert surroundings_auc(volumes) is not None  # objects of all volumes count
    assert surroundings_auc(volumes, min_objects=5) is None
    assert surroundings_auc([volumes[0]._replace(labels=np.zeros_like(label))]) is None
    assert surroundings_auc(volumes, look=Surroundings(min_voxels=100_000)) is None


def discs(image_of):
    """Four discs of radius 10 far from each other, in an image made of the distance to the nearest centre."""
    labels, nearest = np.zeros((160, 160), np.int32), np.full((160, 160), np.inf)
    for number, centre in enumerate([(40, 40), (40, 120), (120, 40), (120, 120)], start=1):
        distance = np.hypot(*(np.indices(labels.shape) - np.reshape(centre, (2, 1, 1))))
        labels[distance <= 10] = number
        nearest = np.minimum(nearest, distance)
    noise = np.random.default_rng(0).normal(0, 0.05, labels.shape)
    return AnnotatedVolume((image_of(nearest) + noise)[None], labels, (1.0, 1.0)), nearest


def test_voxels_known_to_be_no_object_are_no_surroundings():
    # the surroundings are bright on their inner half, dark as the discs themselves on their outer half
    volume, nearest = discs(lambda distance: (distance > 13) & (distance < 20))
    look = Surroundings(scales=(0.7,), reach=2.7)
    found = surroundings_auc([volume], look=look)
    for special in (-1, 65535):
        labels = np.where((nearest > 13) & (nearest < 22), special, volume.labels)
        assert surroundings_auc([volume._replace(labels=labels)], {special}, look) < min(0.6, found - 0.08)


def test_surroundings_of_which_most_are_ignored_say_nothing():
    # touching nuclei, all else ignored: each has nothing but others around it
    image, label = synthetic_volume(np.random.default_rng(0), (24, 80, 80))
    volume, look = annotated(image.astype(float), label.astype(int), 999, SPACING), Surroundings(min_share=0.0)
    labels = np.where(volume.labels > 0, volume.labels, -1)
    assert surroundings_auc([volume._replace(labels=labels)], {-1}) is None
    assert surroundings_auc([volume._replace(labels=labels)], {-1}, look) < 0.5
    assert surroundings_auc([volume], {0}) is None


def test_known_background_is_no_object():
    volume, _ = discs(lambda distance: distance < 10)
    labels = volume.labels.copy()
    labels[labels == 4] = 65535
    assert surroundings_auc([volume._replace(labels=labels)], {65535}) is None
    assert surroundings_auc([volume._replace(labels=labels)], {65535}, min_objects=3) > 0.9


def test_surroundings_begin_behind_the_gap_and_end_at_their_reach():
    volume, _ = discs(lambda distance: (distance > 22) & (distance < 30))
    fine = {"scales": (0.7,), "max_voxels": 600}
    near = surroundings_auc([volume], look=Surroundings(gap=0.0, reach=0.9, **fine))
    far = surroundings_auc([volume], look=Surroundings(gap=12.0, reach=2.0, **fine))
    assert near < 0.6 and far > 0.9


def test_a_large_object_is_looked_at_within_a_window():
    image, label = dense_tissue(np.random.default_rng(0), (200, 200), 8)
    volume, asked = annotated(image, label, 4), []

    class Watched(np.ndarray):
        def __getitem__(self, key):
            asked.append(key)
            return np.asarray(self)[key]

    watched = volume._replace(image=volume.image.view(Watched))
    assert surroundings_auc([watched], look=Surroundings(window_voxels=400)) is not None
    assert len(asked) == 4
    assert max(side.stop - side.start for key in asked for side in key[1:]) <= 20 + 1 + 2 * 12


def test_objects_are_spread_over_the_volumes_each_read_once():
    asked = []

    class Volumes:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            asked.append(index)
            return tissue(2, index)

    assert surroundings_auc(Volumes(), max_objects=9, min_objects=9) is not None
    assert asked == [0, 1, 2]
    assert surroundings_auc(Volumes(), max_objects=9, min_objects=10) is None


def test_flat_voxels_and_single_slices_are_no_trouble():
    image, label = dense_tissue(np.random.default_rng(0), (128, 128), 40)
    flat = annotated(image[None], label[None], 13, (5.0, 0.5, 0.5))
    assert surroundings_auc([flat]) < 0.72
