from __future__ import annotations

import logging

import pytest
import torch
from monai.data import MetaTensor

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import voxel_spacing
from spoco_bundle.networks.lengths import learn_lengths
from spoco_bundle.transforms.check_spacing import CheckSpacingd
from support import small_network


def image(spacing=(2.0, 0.5, 0.5), unit="micrometer", stated="", name="cells.tif") -> MetaTensor:
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([3.0, -4.0, 5.0])
    meta = {"filename_or_obj": f"folder/{name}", "length_unit": unit, "stated_size": stated}
    return MetaTensor(torch.rand(1, 2, 3, 4), affine=affine, meta=meta)


def network(learnt: str = ""):
    network = small_network()
    if learnt:
        learn_lengths(network, (1.0, 1.0, 1.0) if learnt == "pixel" else (1.75, 0.8, 0.8), learnt)
    return network


def checked(given, learnt, caplog) -> tuple[tuple[float, ...], str]:
    with caplog.at_level(logging.WARNING):
        result = CheckSpacingd("image", network(learnt))({"image": given})["image"]
    return voxel_spacing(result, 3), caplog.text


def test_unknown_size_takes_that_of_the_training(caplog):
    given = image((1.0, 1.0, 1.0), unit="pixel")
    before = given.affine.clone()
    check = CheckSpacingd("image", network("micrometer"))
    with caplog.at_level(logging.WARNING):
        result, _ = check({"image": given})["image"], check({"image": given})
    assert voxel_spacing(result, 3) == pytest.approx((1.75, 0.8, 0.8))
    assert result.affine[:3, 3].tolist() == [3, -4, 5] and torch.equal(result.as_tensor(), given.as_tensor())
    assert [record.message for record in caplog.records] == [
        "folder/cells.tif: does not say its voxel size: that of the training, 1.75 x 0.8 x 0.8 um, is assumed; "
        "--spacing gives it, in micrometres"
    ]
    assert torch.equal(given.affine, before)  # a cached sample is not written to


def test_numbers_without_a_unit_are_not_taken_for_micrometres_and_are_named(caplog):
    given = image((0.002, 0.001, 0.001), unit="unknown", stated="0.002 x 0.001 x 0.001 (no unit)")
    spacing, text = checked(given, "micrometer", caplog)
    assert spacing == pytest.approx((1.75, 0.8, 0.8))
    assert "states a voxel size of 0.002 x 0.001 x 0.001 (no unit)" in text


def test_numbers_without_a_unit_meet_a_network_that_learnt_such(caplog):
    assert checked(image((1.75, 0.8, 0.9), unit="unknown"), "unknown", caplog) == ((1.75, 0.8, 0.9), "")
    assert checked(image((4.0, 2.0, 2.0)), "unknown", caplog)[0] == pytest.approx((1.75, 0.8, 0.8))


@pytest.mark.parametrize(("unit", "spacing"), [("micrometer", (2.0, 0.5, 0.5)), ("unknown", (9.0, 9.0, 9.0))])
def test_a_network_that_learnt_pixels_sees_pixels_in_any_file(caplog, unit, spacing):
    assert checked(image(spacing, unit=unit), "pixel", caplog) == ((1.0, 1.0, 1.0), "")


@pytest.mark.parametrize("untrained", [False, True])
def test_while_nothing_is_learnt_the_lengths_of_the_image_hold(caplog, untrained):
    check = CheckSpacingd("image", network() if untrained else None)
    with caplog.at_level(logging.WARNING):
        result = check({"image": image((1.0, 1.0, 1.0), unit="pixel")})["image"]
    assert voxel_spacing(result, 3) == (1, 1, 1)
    assert "counted in pixels" in caplog.text


def test_images_to_learn_from_state_one_kind_of_length():
    check = CheckSpacingd("image")
    check({"image": image(name="a.tif")})
    with pytest.raises(SpocoError, match=r"b\.tif: states no voxel size, .*a\.tif states a voxel size.*--spacing"):
        check({"image": image(unit="pixel", name="b.tif")})


@pytest.mark.parametrize(
    ("spacing", "warned"), [((1.75, 0.8, 0.8), False), ((2.5, 1.1, 0.6), False), ((1.75, 0.8, 1.3), True)]
)
def test_unlike_spacing_is_said_and_kept(caplog, spacing, warned):
    seen, text = checked(image(spacing), "micrometer", caplog)
    assert seen == pytest.approx(spacing)
    assert ("cells.tif" in text) == warned
