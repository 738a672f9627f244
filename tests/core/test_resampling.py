from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.transforms import Resize

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.resampling import (
    read_linear,
    read_nearest,
    resize_linear,
    resize_nearest,
    resized_shape,
    restore_labels,
    restore_region,
    voxels_at_a_time,
)

GRIDS = [
    ((50, 30, 40), (25, 45, 13)),
    ((7, 9, 5), (3, 3, 20)),
    ((33, 50), (9, 70)),
    ((21, 20), (21, 8)),
]


def regions(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Two halves of a volume, and its middle."""
    cuts = [(0, -(-n // 2), n) for n in shape]
    middle = tuple(slice(n // 3, n // 3 + max(1, n // 2)) for n in shape)
    return [tuple(slice(a, b) for a, b, _ in cuts), tuple(slice(min(b, c - 1), c) for _, b, c in cuts), middle]


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_linear_resizing_is_that_of_monai(old, new):
    volume = torch.rand(2, *old, generator=torch.Generator().manual_seed(0))
    mode = {2: "bilinear", 3: "trilinear"}[len(old)]
    expected = Resize(new, mode=mode, anti_aliasing=True)(volume).as_tensor()
    torch.testing.assert_close(resize_linear(volume, new), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_a_region_equals_that_of_the_whole_and_takes_no_more_than_it_needs(old, new, monkeypatch):
    volume = torch.rand(2, *old, generator=torch.Generator().manual_seed(0))
    asked: list[tuple[slice, ...]] = []

    def read(part: tuple[slice, ...]) -> torch.Tensor:
        asked.append(part)
        return volume[(slice(None), *part)]

    for resize, read_part in ((resize_linear, read_linear), (resize_nearest, read_nearest)):
        whole = resize(volume, new)
        for region in regions(new):
            asked.clear()
            assert torch.equal(read_part(read, old, new, region), whole[(slice(None), *region)])
            assert len(asked) == 1 and math.prod(p.stop - p.start for p in asked[0]) < 0.9 * math.prod(old)
    plane = math.prod(old[1:])
    monkeypatch.setattr("spoco_bundle.core.resampling._READ", 3 * plane)
    everything = tuple(slice(0, n) for n in new)
    for resize, read_part in ((resize_linear, read_linear), (resize_nearest, read_nearest)):
        asked.clear()
        assert torch.equal(read_part(read, old, new, everything), resize(volume, new))
        assert len(asked) >= old[0] // 3 and all(part[0].stop - part[0].start <= 3 for part in asked)
    assert voxels_at_a_time(everything, old, new) == 3 * plane and voxels_at_a_time(everything, new, new) == 0


def balls(shape: tuple[int, ...], voxel: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two touching balls of radius 9, with voxels of this size: labels, and an objectness that falls softly."""
    places = torch.stack(torch.meshgrid(*((torch.arange(n) + 0.5) * voxel for n in shape), indexing="ij"))
    middles = torch.full((2, len(shape)), 20.0)
    middles[:, -1] = torch.tensor([14.0, 32.0])
    away = torch.stack([(places - m.reshape(-1, *[1] * len(shape))).square().sum(0).sqrt() for m in middles]) - 9
    labels = torch.where(away.amin(0) < 0, away.argmin(0) + 1, 0).int()
    return labels, torch.sigmoid(-away.amin(0))


@pytest.mark.parametrize("dims", [2, 3])
def test_outlines_come_back_as_sharp_as_the_image(dims):
    coarse, objectness = balls((10,) * (dims - 1) + (12,), 4.0)
    fine, _ = balls((40,) * (dims - 1) + (48,), 1.0)
    nearest = resize_nearest(coarse[None], fine.shape)[0]
    restored = restore_labels(coarse, fine.shape, objectness)
    wrong = [(found != fine).float().mean() for found in (nearest, restored, restore_labels(coarse, fine.shape))]
    assert wrong[1] < 0.6 * wrong[0] and wrong[2] < 0.9 * wrong[0]
    assert restored.dtype == torch.int32 and restored.unique().tolist() == [0, 1, 2]


def test_what_the_labels_leave_out_does_not_come_back_with_the_objectness():
    labels = torch.zeros(6, 8, dtype=torch.int32)
    labels[1:5, 1:3] = 1
    objectness = torch.full((6, 8), 0.01)
    objectness[1:5, 1:3] = objectness[1:5, 5:7] = 0.9  # the second was dropped
    objectness[2, 2] = 0.1  # a hole that the labels fill
    restored = restore_labels(labels, (18, 24), objectness)
    assert (restored[:, 12:] == 0).all() and (restored[4:14, 4:8] == 1).all()
    assert torch.equal(restored[1::3, 1::3], labels)  # centres of coarse voxels lie on those of fine ones


def test_slabs_do_not_show(monkeypatch):
    coarse, objectness = balls((10, 10, 12), 4.0)
    whole = restore_labels(coarse, (33, 47, 50), objectness)
    monkeypatch.setattr("spoco_bundle.core.resampling._SLAB", 47 * 50 * 4)
    assert torch.equal(restore_labels(coarse, (33, 47, 50), objectness), whole)


@pytest.mark.parametrize(
    ("old", "new"), [((10, 10, 12), (33, 47, 50)), ((10, 10, 12), (4, 7, 20)), ((12, 10), (31, 6))]
)
def test_a_region_of_restored_labels_equals_that_of_the_whole(old, new):
    labels, objectness = balls(old, 4.0)
    whole = restore_labels(labels, new, objectness)
    assert len(whole.unique()) == 3
    for region in regions(new):
        held = tuple(
            slice(max(0, part.start * n // m - 1), min(n, -(-part.stop * n // m) + 1))
            for part, n, m in zip(region, old, new)
        )
        found = restore_region(labels[held], held, old, new, region, objectness[held])
        assert torch.equal(found, whole[region])
    same = restore_region(labels, tuple(slice(0, n) for n in old), old, old, regions(old)[2])
    assert torch.equal(same, labels[regions(old)[2]])


def test_nearest_agrees_with_brute_force():
    rng = np.random.default_rng(0)
    values = torch.tensor(rng.integers(2**40, size=(1, 7, 5)))
    out = resize_nearest(values, (3, 11))
    for y in range(3):
        for x in range(11):
            assert out[0, y, x] == values[0, int((y + 0.5) * 7 / 3), int((x + 0.5) * 5 / 11)]


def test_the_shape_at_another_spacing():
    assert resized_shape((10, 24, 20), (2.0, 0.5, 0.5), (1.0, 1.0, 0)) == (20, 12, 20)
    assert resized_shape((3, 3), (1.0, 1.0), (10.0, 0.5)) == (1, 6)
    with pytest.raises(SpocoError, match="does not fit 2 axes"):
        resized_shape((3, 3), (1.0, 1.0), (1.0,))
    with pytest.raises(SpocoError, match="positive"):
        resized_shape((3, 3), (1.0, 1.0), (1.0, -1.0))
