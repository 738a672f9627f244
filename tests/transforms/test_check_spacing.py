from __future__ import annotations

import logging

import pytest
import torch
from monai.data import MetaTensor

from spoco_bundle.formats.files import voxel_spacing
from spoco_bundle.networks import EmbeddingUNet
from spoco_bundle.transforms.check_spacing import CheckSpacingd


def image(spacing=(2.0, 0.5, 0.5), known=1, unit="micrometer") -> MetaTensor:
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([3.0, -4.0, 5.0])
    meta = {"filename_or_obj": "folder/cells.tif", "spacing_unit": unit, "spacing_known": known}
    return MetaTensor(torch.rand(1, 2, 3, 4), affine=affine, meta=meta)


@pytest.fixture(scope="module")
def network():
    network = EmbeddingUNet(channels=(2, 4), strides=(2,), kernel_sizes=(3, 3), convolutions=1, out_channels=4)
    network.training_spacing.copy_(torch.tensor([1.75, 0.8, 0.8]))
    return network


def test_unknown_spacing_takes_that_of_the_training(network, caplog):
    given = image((1.0, 1.0, 1.0), known=0, unit="unknown")
    before = given.affine.clone()
    with caplog.at_level(logging.WARNING):
        checked = CheckSpacingd("image", network)({"image": given})["image"]
    assert voxel_spacing(checked, 3) == pytest.approx((1.75, 0.8, 0.8))
    assert checked.affine[:3, 3].tolist() == [3, -4, 5] and torch.equal(checked.as_tensor(), given.as_tensor())
    assert checked.meta["spacing_known"] == 0
    assert "cells.tif" in caplog.text and "training's is assumed" in caplog.text
    assert torch.equal(given.affine, before)  # a cached sample is not written to


@pytest.mark.parametrize(
    ("target", "warned"), [((1.75, 0.8, 0.8), False), ((1.75, 0, 0.8), True), ((4.0, 0.8, 0.8), True)]
)
def test_the_spacing_after_resampling_is_what_counts(network, caplog, target, warned):
    with caplog.at_level(logging.WARNING):
        checked = CheckSpacingd("image", network, target_spacing=target)({"image": image((6.0, 0.2, 0.2))})["image"]
    assert voxel_spacing(checked, 3) == pytest.approx((6.0, 0.2, 0.2))
    assert ("cells.tif" in caplog.text) == warned


@pytest.mark.parametrize("untrained", [False, True])
def test_unknown_spacing_without_any_to_take(caplog, untrained):
    fresh = EmbeddingUNet(channels=(2, 4), strides=(2,), kernel_sizes=(3, 3), convolutions=1) if untrained else None
    with caplog.at_level(logging.WARNING):
        checked = CheckSpacingd("image", fresh)({"image": image((1.0, 1.0, 1.0), known=0, unit="unknown")})
    assert voxel_spacing(checked["image"], 3) == (1, 1, 1)
    assert "cells.tif" in caplog.text and "training's is assumed" not in caplog.text


@pytest.mark.parametrize(
    ("spacing", "warned"), [((1.75, 0.8, 0.8), False), ((2.5, 1.1, 0.6), False), ((1.75, 0.8, 1.3), True)]
)
def test_unlike_spacing_is_said_and_kept(network, caplog, spacing, warned):
    with caplog.at_level(logging.WARNING):
        checked = CheckSpacingd("image", network)({"image": image(spacing)})["image"]
    assert voxel_spacing(checked, 3) == pytest.approx(spacing)
    assert ("cells.tif" in caplog.text) == warned
