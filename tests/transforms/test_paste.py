from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from spoco_bundle.annotation.scope import annotation_scope
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.transforms import CropAnnotatedd, IndexInstancesd, PasteObjectsd, RelabelAndDropFragmentsd

#: id -> box of an object; the object at the border of the image is never whole in a crop with the voxels next to it
BOXES = {3: ((4, 9), (5, 12)), 70: ((30, 36), (30, 34)), 65535: ((0, 5), (30, 38))}


def sample(boxes=BOXES, kinds=None, dims=2) -> dict:
    """Objects of their own brightness, each in a rim of another, on a slope that tells where a voxel was."""
    shape = (40,) * dims
    label = torch.zeros(1, *shape, dtype=torch.int32)
    image = torch.linspace(0, 0.5, label.numel()).reshape(label.shape)
    for instance, box in boxes.items():
        box = (*((10, 14),) * (dims - 2), *box)
        image[(0, *(slice(max(a - 1, 0), b + 1) for a, b in box))] = bright(instance) + 0.5
        inside = (0, *(slice(a, b) for a, b in box))
        label[inside], image[inside] = instance, bright(instance)
    data = {"image": MetaTensor(image), "label": MetaTensor(label)}
    if kinds:
        data["scope"] = torch.from_numpy(annotation_scope(label[0].numpy(), kinds, "whole"))
    return IndexInstancesd()(data)


def bright(instance: int) -> float:
    return 10.0 + list(BOXES).index(instance)


def paste(data: dict, seed: int, most: int = 3, roi: tuple[int, ...] = (24, 24), **options) -> dict:
    keys = tuple(key for key in data if key != "instances")
    rule = PasteObjectsd(CropAnnotatedd(keys, roi_size=roi), most=most, **options)
    return rule.set_random_state(seed)(data)


@pytest.mark.parametrize("dims", [2, 3])
def test_pasted_objects_look_as_they_did_and_cover_no_other(dims):
    data, roi = sample(dims=dims), (24,) * dims
    before = {key: value.clone() for key, value in data.items()}
    pasted = {3: 0, 70: 0}
    for seed in range(60):
        scene, out = paste(data, seed, most=0, roi=roi), paste(data, seed, roi=roi)
        image, label = out["image"][0].numpy(), out["label"][0].numpy()
        kept = scene["label"][0].numpy() > 0
        assert (label[kept] == scene["label"][0].numpy()[kept]).all()
        assert (image[kept] == scene["image"][0].numpy()[kept]).all()
        covered = kept.copy()
        for number in set(np.unique(label)) - set(np.unique(scene["label"])):
            assert number > max(BOXES)
            inside = label == number
            rim = ndimage.binary_dilation(inside, np.ones((3,) * dims)) & (label == 0)
            origin = next(one for one in pasted if (image[inside] == bright(one)).all())
            assert inside.sum() == (data["label"] == origin).sum()
            assert (image[rim] > 9).all()  # nothing of what was there shows beside the object
            pasted[origin] += 1
            covered |= inside | rim
        assert (image[~covered] == scene["image"][0].numpy()[~covered]).all()
    assert min(pasted.values()) >= 10
    assert all(torch.equal(value, before[key]) for key, value in data.items())


def test_objects_drawn_in_part_are_not_pasted():
    data = sample(kinds={3: "strokes"})
    for seed in range(40):
        scene, out = paste(data, seed, most=0), paste(data, seed)
        new = out["label"] > max(BOXES)
        assert (out["image"][new] == bright(70)).all()
        assert (out["scope"][new] == -1).all()
        assert torch.equal(out["scope"][~new], scene["scope"][~new])


def test_special_labels_are_no_objects_and_may_be_covered():
    data = sample()
    data["label"][data["label"] == 0] = 9
    found = [paste(data, seed, background_label=9, ignore_label=70)["label"] for seed in range(40)]
    new = [label > max(BOXES) for label in found]
    assert sum(bool(one.any()) for one in new) >= 10
    assert all(one.sum() % (data["label"] == 3).sum() == 0 for one in new)


def test_what_is_pasted_follows_the_seed_and_is_numbered_anew():
    data = sample()
    first, again = ([paste(data, seed) for seed in range(10)] for _ in range(2))
    assert all(torch.equal(one["label"], other["label"]) for one, other in zip(first, again))
    assert len({one["label"].numpy().tobytes() for one in first}) == 10
    ids = [RelabelAndDropFragmentsd()(one)["label"].unique().tolist() for one in first]
    assert all(one == list(range(len(one))) for one in ids) and max(map(len, ids)) > 3


def test_a_negative_number_of_crops_is_refused():
    with pytest.raises(SpocoError, match="most is -1: give the number of crops whose objects are pasted, 0 for none"):
        PasteObjectsd(CropAnnotatedd(), most=-1)
