from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    Flip,
    RandAdjustContrast,
    RandFlipd,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandRotate90d,
    RandScaleIntensity,
    RandShiftIntensity,
    Zoom,
)

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.transforms import TwoViewsd


def augmentations() -> list:
    return [
        RandGaussianSmooth(prob=0.5),
        RandAdjustContrast(prob=0.5, gamma=(0.7, 1.4)),
        RandScaleIntensity(factors=0.2, prob=1.0),
        RandShiftIntensity(offsets=0.1, prob=1.0),
        RandGaussianNoise(prob=1.0, std=0.1),
    ]


def image(shape=(1, 4, 8, 6)) -> MetaTensor:
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return MetaTensor(values, affine=torch.diag(torch.tensor([2.0, 0.5, 0.7, 1.0], dtype=torch.float64)))


def test_same_seed_same_views_and_the_two_differ():
    pipeline = Compose([TwoViewsd(student=augmentations())])
    runs = []
    for seed in (3, 3, 4):
        pipeline.set_random_state(seed)
        runs.append(pipeline({"image": image()}))
    for key in ("image", "teacher_view"):
        assert torch.equal(runs[0][key], runs[1][key])
        assert not torch.equal(runs[0][key], runs[2][key])
        assert not torch.equal(runs[0][key], image())
    assert not torch.equal(runs[0]["image"], runs[0]["teacher_view"])


def test_random_state_does_not_depend_on_earlier_calls():
    pipeline = Compose([TwoViewsd(student=augmentations(), teacher=augmentations()[:2])])
    pipeline.set_random_state(8)
    fresh = pipeline({"image": image()})["teacher_view"]
    pipeline({"image": image()})
    pipeline.set_random_state(8)
    assert torch.equal(pipeline({"image": image()})["teacher_view"], fresh)


def test_views_share_the_geometry():
    spatial = [
        RandFlipd(("image", "label"), prob=0.5, spatial_axis=0),
        RandRotate90d(("image", "label"), prob=1.0, max_k=1, spatial_axes=(1, 2)),
    ]
    pipeline = Compose([*spatial, TwoViewsd(student=[RandShiftIntensity(offsets=0.5, prob=1.0)])])
    pipeline.set_random_state(0)
    out = pipeline({"image": image(), "label": (image() * 100).int()})
    moved = image().rot90(1, (2, 3))
    moved = moved if torch.equal(out["label"].as_tensor(), (moved * 100).int().as_tensor()) else moved.flip(1)
    assert torch.equal(out["label"].as_tensor(), (moved * 100).int().as_tensor())
    for key in ("image", "teacher_view"):
        assert torch.allclose(out[key].as_tensor() - out[key].mean(), moved.as_tensor() - moved.mean(), atol=1e-5)
        assert torch.equal(out[key].affine, out["label"].affine)


def test_input_is_left_alone_and_no_augmentation_means_two_copies():
    data = {"image": image()}
    before = data["image"].clone()
    out = TwoViewsd()(data)
    assert torch.equal(out["image"], before) and torch.equal(out["teacher_view"], before)
    out["teacher_view"] += 1
    assert torch.equal(out["image"], before) and torch.equal(data["image"], before)


def test_where_nothing_compares_views_there_is_one_and_it_is_the_same():
    seeded = [Compose([TwoViewsd(teacher_key=key, student=augmentations())]) for key in ("teacher_view", None)]
    both, one = (pipeline.set_random_state(3)({"image": image()}) for pipeline in seeded)
    assert sorted(one) == ["image"] and torch.equal(one["image"], both["image"])


@pytest.mark.parametrize("spatial", [Flip(0), Zoom(0.5, keep_size=False)])
def test_spatial_transforms_are_refused(spatial):
    with pytest.raises(SpocoError, match="geometry"):
        TwoViewsd(student=[], teacher=[spatial])({"image": image()})
