from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread
from skimage.segmentation import find_boundaries

from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.report.pictures import (
    embedding_colours,
    gray,
    instance_overlay,
    label_colours,
    overview_picture,
)


def scene(shape, channels=1, ids=(3, 8)):
    generator = np.random.default_rng(0)
    labels = np.zeros(shape, np.int32)
    half = shape[-1] // 2
    labels[..., 2:-2, 1 : half - 1] = ids[0]
    labels[..., 3:-3, half + 1 : -1] = ids[1]
    image = (labels > 0) * 100 + generator.normal(scale=9, size=(channels, *shape))
    return image.astype(np.float32), labels


def panels(picture) -> int:
    """Number of stretches of columns that hold something other than white."""
    inked = (picture[..., :3] < 0.99).any(axis=(0, 2)).astype(int)
    return int((np.diff(np.concatenate([[0], inked])) == 1).sum())


@pytest.mark.parametrize(
    ("shape", "channels", "truth", "embeddings", "columns"),
    [
        ((20, 30), 1, True, True, 4),
        ((20, 30), 3, False, False, 2),
        ((6, 20, 30), 1, True, True, 4),
        ((6, 20, 30), 2, False, True, 3),
        ((6, 20, 30), 1, True, False, 3),
    ],
)
def test_overview_has_a_panel_for_all_that_is_given(tmp_path, shape, channels, truth, embeddings, columns):
    image, labels = scene(shape, channels)
    vectors = np.random.default_rng(1).normal(size=(5, *shape)).astype(np.float32)
    field = EmbeddingField(vectors) if embeddings else None
    path = tmp_path / "overview.png"
    overview_picture(path, image, labels, labels if truth else None, field, (2.0, 0.5, 0.5)[-len(shape) :], "cells")
    picture = imread(path)
    below_titles = picture[int(0.9 * 110) :]
    assert panels(below_titles) == columns
    assert abs(picture.shape[1] - columns * 3.2 * 110) < 5
    assert picture.shape[0] > (3 if len(shape) == 3 else 1) * 3.2 * 110


def test_nothing_found_and_a_constant_image(tmp_path):
    nothing = np.zeros((5, 8, 9), np.int32)
    overview_picture(
        tmp_path / "a.png", np.full((1, 5, 8, 9), 7.0), nothing, nothing, EmbeddingField(np.ones((4, 5, 8, 9)))
    )
    assert imread(tmp_path / "a.png").ndim == 3


def test_planes_go_through_the_labelled_region(tmp_path):
    image, labels = scene((9, 12, 14), 3)
    labels[:6] = 0
    labels[7, 3, :] = 1  # the fullest slice
    image[:] = 0
    image[0, 7, :, :7] = 1
    overview_picture(tmp_path / "a.png", image, labels)
    above = imread(tmp_path / "a.png")[: int(1.1 * 3.2 * 110), : int(3.2 * 110)]
    assert ((above[..., 0] > 0.9) & (above[..., 1] < 0.1)).mean() > 0.2  # red is in slice 7 alone


def test_an_id_keeps_its_colour():
    _, labels = scene((20, 30))
    one, other = label_colours(labels), label_colours(np.where(labels == 3, 3, labels * 50))
    assert np.array_equal(one[labels == 3], other[labels == 3])
    assert not one[labels == 0].any() and one[labels > 0].max(axis=-1).min() > 0.5
    assert not label_colours(np.array([[-1, 0]])).any()
    first = label_colours(np.arange(1, 13))
    apart = np.abs(first[:, None] - first[None]).max(-1) + np.eye(12)
    assert apart.min() > 0.05 and np.abs(np.diff(first, axis=0)).max(-1).min() > 0.2


def test_overlay_tints_objects_alone():
    image, labels = scene((20, 30))
    shown, plain, colours = instance_overlay(image, labels, alpha=0.25), gray(image), label_colours(labels)
    edge = find_boundaries(labels, mode="inner")
    inner = (labels > 0) & ~edge
    assert np.allclose(shown[labels == 0], plain[labels == 0])
    assert np.allclose(shown[edge], colours[edge])
    assert np.allclose(shown[inner], 0.75 * plain[inner] + 0.25 * colours[inner])


@pytest.mark.parametrize("channels", [1, 2, 3, 7])
def test_embedding_colours_tell_clusters_apart(channels):
    _, labels = scene((20, 30))
    codes = np.random.default_rng(2).normal(size=(9, channels)) + 3 * np.arange(9)[:, None]
    colours = embedding_colours(EmbeddingField(np.moveaxis(codes[labels], -1, 0)))
    assert colours.shape == (20, 30, 3) and colours.min() >= 0 and colours.max() <= 1
    means = np.stack([colours[labels == number].mean(0) for number in (0, 3, 8)])
    assert min(np.abs(means[i] - means[j]).max() for i in range(3) for j in range(i)) > 0.05
    assert not colours[..., channels:].any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_plane_has_the_colours_that_it_has_in_the_whole(axis):
    embeddings = np.random.default_rng(0).normal(size=(5, 4, 6, 7)).astype(np.float32)
    field = EmbeddingField(embeddings, objectness=np.random.default_rng(1).random((4, 6, 7)))
    plane = embedding_colours(field, axis, 2)
    np.testing.assert_allclose(plane, embedding_colours(field).take(2, axis), atol=1e-6)


def test_constant_embeddings_and_images_are_black():
    assert not embedding_colours(EmbeddingField(np.full((4, 5, 6), 3.0))).any()
    assert not gray(np.full((1, 5, 6), 3.0)).any()


def test_gray_values_and_rgb():
    image, _ = scene((20, 30), 3)
    shown = gray(image * [[[1.0]], [[0.5]], [[0.1]]] - 5)
    assert shown.shape == (20, 30, 3) and shown.min() == 0 and shown.max() == 1
    assert shown[..., 0].mean() > shown[..., 1].mean() > shown[..., 2].mean()
    single = gray(image[:1])
    assert (single[..., 0] == single[..., 2]).all() and single.max() == 1
