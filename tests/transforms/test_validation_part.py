from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import ReadOnce
from spoco_bundle.transforms import HeldOut, ValidationPartd
from spoco_bundle.transforms.validation_part import fullest_part


def sample(shape, places, ids=None):
    """An image that counts its voxels and cubes of two voxels as objects, in voxels of 2 x 1 x 1."""
    image = torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(1, *shape)
    labels = torch.zeros(1, *shape, dtype=torch.int32)
    for number, place in zip(ids or range(1, len(places) + 1), places):
        labels[(0, *(slice(start, start + 2) for start in place))] = number
    affine = torch.diag(torch.tensor([2.0] + [1.0] * len(shape)))
    affine[:-1, -1] = 10
    meta = {"filename_or_obj": "cells_raw.tif", "length_unit": "micrometer"}
    return {key: MetaTensor(value, affine=affine, meta=meta) for key, value in (("image", image), ("label", labels))}


def test_a_small_image_stays_whole():
    whole = sample((8, 10, 10), [(1, 1, 1)])
    found = ValidationPartd(("image", "label"), 800)(whole)
    assert found["image"] is whole["image"] and found["label"] is whole["label"]


def test_the_part_holds_the_most_objects_and_lies_where_it_lay(caplog):
    alone, together = [(0, 0, 0)], [(10, 30, 30), (12, 33, 30), (12, 30, 36)]
    whole = sample((20, 40, 50), alone + together)
    with caplog.at_level(logging.INFO):
        found = ValidationPartd(("image", "label"), 2000)(whole)
    image, label = found["image"], found["label"]
    assert label.shape == image.shape and image[0].numel() <= 2000 and min(image.shape[1:]) >= 11
    assert set(np.unique(label)) == {0, 2, 3, 4} and (np.unique(label, return_counts=True)[1][1:] == 8).all()
    first = int(image[0, 0, 0, 0])
    place = np.array(np.unravel_index(first, (20, 40, 50)))
    np.testing.assert_array_equal(
        image[0], whole["image"][(0, *(slice(a, a + n) for a, n in zip(place, image.shape[1:])))]
    )
    for volume in (image, label):
        np.testing.assert_allclose(volume.affine[:-1, -1], 10 + place * [2, 1, 1])
        assert volume.meta["length_unit"] == "micrometer"
    # the whole is not kept in memory by the part
    assert image.as_tensor().untyped_storage().nbytes() == 4 * image.numel()
    assert "cells_raw.tif: only a part of 12 x 12 x 12 voxels is scored, with 3 of 4 annotated objects" in caplog.text


def test_those_count_that_validate():
    whole = sample((40, 40), [(0, 3 * number) for number in range(8)] + [(30, 30)])
    drawn = (HeldOut(ReadOnce([whole], dict), 0.25, seed) for seed in range(500))
    held_out = next(one for one in drawn if one.objects(whole["label"], "val") == [9])
    found = ValidationPartd(("image", "label"), 100, held_out)(whole)["label"]
    assert set(np.unique(found)) == {0, 9}


def test_special_ids_are_no_objects_and_without_objects_the_middle_is_looked_at():
    whole = sample((30, 30), [(0, 0), (26, 26)], ids=[65535, 3])
    found = ValidationPartd(("image", "label"), 100, background_label=65535)(whole)["label"]
    assert set(np.unique(found)) == {0, 3}
    start, held = fullest_part(np.empty((0, 2, 2), int), np.array([30, 50]), np.array([10, 10]))
    assert start.tolist() == [10, 20] and held == 0


def test_an_object_larger_than_the_part_is_looked_at_in_its_middle():
    boxes = np.array([[[0, 0], [40, 40]]])
    start, held = fullest_part(boxes, np.array([60, 60]), np.array([10, 10]))
    assert start.tolist() == [15, 15] and held == 0


def test_a_part_of_no_voxels_is_refused():
    with pytest.raises(SpocoError, match="validation_voxels is 0: give 1 or more"):
        ValidationPartd("image", 0)
