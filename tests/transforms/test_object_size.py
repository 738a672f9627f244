from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from spoco_bundle.core.readable_image import ReadableImage
from spoco_bundle.networks import Decoder
from spoco_bundle.transforms import ClusterEmbeddingsd, object_size
from spoco_bundle.transforms.object_size import Look, ObjectFinder, find_scale, fullest


def eyes(true: float, least: float = 0.0, most: float = 9.0):
    """Sees objects at scales at which they are from `least` to `most` times as large as the learnt ones."""
    looked = []

    def look(scale: float) -> Look:
        looked.append(scale)
        size = scale / true
        if not least <= size <= most:
            return Look(math.nan, 0.01)
        return Look(size**0.7, 0.8 * math.exp(-(math.log(size) ** 2)))  # small ones look larger, large ones smaller

    return look, looked


@pytest.mark.parametrize("true", [0.25, 0.4, 0.5, 0.7, 1.0, 1.4, 2.0, 2.5])
def test_the_scale_is_found(true):
    look, looked = eyes(true)
    assert find_scale(look) == pytest.approx(true, rel=0.1)
    assert len(looked) <= 4 and looked[0] == 1.0


@pytest.mark.parametrize(("true", "start"), [(0.3, 0.5), (2.4, 2.0), (0.2, 0.25), (0.07, 0.12)])
def test_where_nothing_is_seen_at_scale_1_others_are_tried(true, start):
    look, looked = eyes(true, 0.7, 2.0)
    assert find_scale(look) == pytest.approx(true, rel=0.1)
    assert looked[0] == 1.0 and start in looked


def test_nothing_anywhere():
    look, looked = eyes(1.0, 5.0)
    assert find_scale(look) is None and looked == [1.0, 0.5, 0.25, 2.0, 0.12]


def test_nothing_is_looked_at_below_the_least_scale():
    look, looked = eyes(0.07, 0.7, 2.0)
    assert find_scale(look, least=0.2) is None and min(looked) == 0.25


def test_grains_of_the_learnt_size_inside_large_objects_are_not_taken_for_them():
    """What the shipped weights see of nuclei 110 pixels across."""
    seen = {
        **{1.0: Look(1.19, 0.43), 0.5: Look(1.59, 0.38), 0.5 / 1.59: Look(1.8, 0.35)},
        **{0.25: Look(1.88, 0.52), 0.25 / 1.88: Look(1.01, 0.82)},
    }
    assert find_scale(seen.__getitem__) == pytest.approx(0.133, abs=0.001)


def test_looks_are_bounded_and_the_best_one_counts():
    looked = []

    def look(scale: float) -> Look:
        looked.append(scale)
        return Look(1.5 if len(looked) % 2 else 0.6, 0.7 if len(looked) == 4 else 0.1)

    assert find_scale(look, looks=5) == looked[3]
    assert len(looked) == 5


def test_fragments_of_the_learnt_size_do_not_end_the_search():
    seen = {1.0: Look(1.0, 0.45), 0.5: Look(1.25, 0.7), 0.4: Look(1.0, 0.8)}
    assert find_scale(seen.__getitem__) == 0.4


def test_scale_1_is_left_for_a_clear_gain_only():
    seen = {1.0: Look(1.5, 0.7), 1 / 1.5: Look(1.0, 0.72)}
    assert find_scale(seen.__getitem__) == 1.0


@pytest.mark.parametrize(
    ("largest", "size", "expected"),
    [
        (1.6, 1.5, 1.0),
        (1.6, 1.7, 1 / 1.7),
        (1.6, 0.7, 1 / 0.7),
        (1.0, 1.15, 1.0),
        (1.0, 1.3, 1 / 1.3),
        (1.0, 0.85, 1.0),
    ],
)
def test_objects_from_the_learnt_size_to_the_large_ones_of_the_training_stay(largest, size, expected):
    found = find_scale(lambda scale: Look(size * scale, 0.7 if scale == 1 else 0.8), largest)
    assert found == pytest.approx(expected)


def test_objects_that_only_shrinking_shows_are_shrunk():
    seen = {1.0: Look(math.nan, 0.3), 0.5: Look(0.8, 0.7), 0.625: Look(1.0, 0.8)}
    assert find_scale(seen.__getitem__, 2.0) == 0.625


@pytest.mark.parametrize(("size", "expected"), [(1.1, 1.0), (2.0, None)])
def test_what_convinces_at_no_scale_changes_nothing(size, expected):
    assert find_scale(lambda scale: Look(size * scale, 0.5)) == expected


class Discs(torch.nn.Module):
    """Sees bright discs as a perfect network would: offsets to their centres, and the objectness."""

    def __init__(self, spacing: tuple[float, ...], scale: float):
        super().__init__()
        self.spacing, self.scale = spacing, scale
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        from scipy import ndimage

        assert not self.training
        label, count = ndimage.label(image[0, 0].numpy() > 0.5)
        place = np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(label.shape, self.spacing)], indexing="ij"))
        centre = np.array([[0.0] * label.ndim, *ndimage.center_of_mass(label > 0, label, range(1, count + 1))])
        offset = np.where(label > 0, np.moveaxis((centre * self.spacing)[label], -1, 0) - place, 0) / self.scale
        logit = 8 * (image[0, :1].numpy() - 0.5)
        return torch.as_tensor(np.concatenate([offset, logit])[None], dtype=torch.float32)


def in_memory(image: torch.Tensor) -> ReadableImage:
    return ReadableImage(
        "cells.tif",
        tuple(image.shape[1:]),
        *(None, "pixel", ""),
        read=lambda region: image[(slice(None), *region)],
        sample=lambda: (image.flatten(1), np.arange(image[0].numel())),
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_objects_are_measured_in_a_part_of_the_image(dims):
    spacing, diameter, true = (2.0, 1.0, 1.0)[-dims:], 12.0, 2.0
    shape, voxels = (40, 128, 128)[-dims:], {2: 9_000, 3: 300_000}[dims]
    place = np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing)], indexing="ij"))
    image = np.zeros(shape, np.float32)
    for middle in np.ndindex(*(3,) * (dims - 1), 3):
        away = np.sqrt(sum((p - 24 - 32 * m) ** 2 for p, m in zip(place, middle)))
        image[away < true * diameter / 2] = 1
    network = Discs(spacing, diameter / 4)
    network.train()
    clustering = ClusterEmbeddingsd(decoder=Decoder(dims, True, None, diameter / 4), min_fraction=0.2)
    looks = []

    def inferer(part, network):
        looks.append(part.shape)
        return network(part)

    finder = ObjectFinder(
        in_memory(torch.from_numpy(image)[None]), shape, spacing, diameter, network, inferer, clustering, voxels=voxels
    )
    assert finder(1.0).size == pytest.approx(true, rel=0.1)
    assert finder(0.5).size == pytest.approx(1.0, rel=0.15)
    assert finder(0.5).score > 1.2 * finder(1.0).score
    assert all(math.prod(part) <= 1.1 * voxels for part in looks) and network.training
    assert find_scale(finder) == find_scale(finder) == pytest.approx(1 / true, rel=0.15)
    assert "min_size" not in clustering.params


def test_the_part_lies_where_the_objects_are(monkeypatch):
    image = torch.zeros(1, 300, 400)
    image[0, 200:280, 20:90] = torch.rand(80, 70)
    clustering = ClusterEmbeddingsd(decoder=Decoder(2, True, None, 3.0))
    network = Discs((1.0, 1.0), 3.0)
    finder = ObjectFinder(in_memory(image), (300, 400), (1.0, 1.0), 12.0, network, None, clustering, voxels=10_000)
    shape, (rows, columns) = finder._part(1.0)
    assert rows.start <= 215 and rows.stop >= 265 and columns.start <= 30 and columns.stop >= 80
    assert shape == (300, 400) and rows.stop - rows.start == columns.stop - columns.start == 100
    shape, (rows, columns) = finder._part(0.5)
    assert shape == (150, 200) and rows.stop == 150 and columns.start == 0
    # of the image; shrunk to a quarter of its area it has a quarter of them
    monkeypatch.setattr(object_size, "READ", 30_000)
    _, (rows, columns) = finder._part(0.5)
    assert (rows.stop - rows.start) * (columns.stop - columns.start) == pytest.approx(7_500, rel=0.02)


@pytest.mark.parametrize("boxes", [False, True])
def test_the_fullest_place_is_found_in_a_sample(boxes):
    """In voxels spread at random, and in a few boxes far apart, of which the fullest one is meant."""
    shape, random = (2000, 3000), np.random.default_rng(0)
    if boxes:
        corners = [(y, x) for y in np.linspace(0, 1960, 4).astype(int) for x in np.linspace(0, 2960, 4).astype(int)]
        index = [
            np.concatenate([corner[axis] + random.integers(40, size=500) for corner in corners]) for axis in (0, 1)
        ]
    else:
        index = [random.integers(n, size=50_000) for n in shape]
    bright = (index[0] > 1200) & (index[0] < 1400) & (index[1] > 1900) & (index[1] < 2100)
    values = torch.from_numpy(np.where(bright, 1.0, random.normal(0, 0.01, bright.shape))[None]).float()
    y, x = fullest(values, np.ravel_multi_index(index, shape), shape)
    assert abs(y - 1326) < (15 if boxes else 300) and abs(x - 1993) < (15 if boxes else 400)
