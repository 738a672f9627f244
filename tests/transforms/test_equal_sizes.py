from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from spoco_bundle.formats import voxel_spacing
from spoco_bundle.transforms import EqualSizesd, ResampleToSpacingd


def discs(diameter: float, count: int = 4, unit: str = "pixel") -> dict:
    """An image that shows discs so many pixels across, and its labels."""
    y, x = np.mgrid[: round(2 * diameter), : round(2 * diameter * count)]
    label = np.zeros(y.shape, np.int32)
    for number in range(count):
        label[np.hypot(y - diameter, x - (2 * number + 1) * diameter) < diameter / 2] = number + 1
    meta = {"filename_or_obj": "a", "length_unit": unit}
    affine = torch.eye(3, dtype=torch.float64)
    image = MetaTensor(torch.from_numpy(label > 0).float()[None], affine=affine, meta=meta)
    return {"image": image, "label": MetaTensor(torch.from_numpy(label)[None], affine=affine, meta=meta)}


def brought(sample: dict, **options) -> dict:
    """The sample after all that a training does for its resolution, with objects 20 pixels across as usual."""
    steps = [
        EqualSizesd(("image", "label"), 20.0, **options),
        ResampleToSpacingd(("image", "label"), (1, 1), ("linear", "drawn")),
    ]
    return Compose(steps)(sample)


@pytest.mark.parametrize("diameter", [9, 48])
def test_objects_of_another_size_become_as_large_as_usual(diameter):
    result = brought(discs(diameter))
    areas = np.bincount(np.asarray(result["label"]).ravel())[1:]
    assert np.sqrt(4 * areas / np.pi) == pytest.approx(20, rel=0.05)
    assert voxel_spacing(result["image"], 2) == pytest.approx((1, 1), rel=0.05)
    assert result["image"].shape == result["label"].shape
    shown, labelled = np.asarray(result["image"])[0] > 0.5, np.asarray(result["label"])[0] > 0
    assert np.mean(shown != labelled) < 0.03


def test_a_few_specks_enlarge_an_image_tenfold_at_most():
    sample = discs(3.5)
    assert np.prod(brought(sample)["image"].shape) == pytest.approx(10 * np.prod(sample["image"].shape), rel=0.15)


@pytest.mark.parametrize(
    ("sample", "options"),
    [
        (discs(24), {}),  # nearly as large
        (discs(48, count=2), {}),  # two objects may be two large ones
        (discs(48, unit="micrometer"), {}),  # states its size
        (discs(48), {"ignore_label": 1, "background_label": 2}),  # two objects, and what is none
    ],
)
def test_other_images_stay_as_they_are(sample, options):
    result = EqualSizesd(("image", "label"), 20.0, **options)(sample)
    assert torch.equal(result["image"].affine, torch.eye(3, dtype=torch.float64))
    assert brought(sample, **options)["image"].shape == sample["image"].shape
