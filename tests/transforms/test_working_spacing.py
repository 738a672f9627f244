from __future__ import annotations

import logging

import pytest
import torch
from monai.data import MetaTensor

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import voxel_spacing
from spoco_bundle.networks.lengths import learn_lengths, learnt_diameter
from spoco_bundle.transforms import ClusterEmbeddingsd, RestoreGridd, WorkingSpacingd, working_spacing
from support import small_network

TRAINED = (2.0, 0.5, 0.5)


def image(spacing=(1.0, 1.0, 1.0), unit="pixel", stated="", shape=(8, 32, 48)) -> MetaTensor:
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    meta = {"filename_or_obj": "cells.tif", "length_unit": unit, "stated_size": stated}
    return MetaTensor(torch.rand(1, *shape), affine=affine, meta=meta)


def network(learnt: str = "micrometer", trained=TRAINED, diameter: float = 6.0):
    network = small_network()
    if learnt:
        learn_lengths(network, trained, learnt)
    network.coordinate_scale.fill_(diameter / 4)
    return network


@pytest.fixture
def looked(monkeypatch):
    """The scale that a look at the image finds is put in place of the look; what it is asked is kept."""
    asked = []

    def answer(scale):
        def find_scale(finder, largest, least):
            asked.append(finder)
            finder.largest, finder.least = largest, least
            return scale

        monkeypatch.setattr(working_spacing, "find_scale", find_scale)
        return asked

    return answer


def seen(given, trained, caplog=None, **options) -> MetaTensor:
    options = {"clustering": ClusterEmbeddingsd(), "inferer": lambda *_: None} | options
    if caplog is not None:
        caplog.set_level(logging.INFO)
    return WorkingSpacingd(network=trained, **options)({"image": given})["image"]


def test_an_image_of_the_trainings_size_stays(caplog):
    given = image((2.2, 0.5, 0.45), "micrometer", "2.2 x 0.5 x 0.45 um")
    result = seen(given, network(), caplog)
    assert torch.equal(result.as_tensor(), given.as_tensor()) and "grid_shape" not in result.meta
    assert voxel_spacing(result, 3) == pytest.approx((2.2, 0.5, 0.45)) and caplog.text == ""


def test_an_image_of_another_size_is_resampled_to_that_of_the_training(caplog):
    given = image((2.0, 1.0, 1.0), "micrometer", "2 x 1 x 1 um")
    work = WorkingSpacingd(network=network())
    with caplog.at_level(logging.INFO):
        result, _ = work({"image": given})["image"], work({"image": given})
    assert result.shape == (1, 8, 64, 96) and voxel_spacing(result, 3) == pytest.approx(TRAINED)
    assert [record.message for record in caplog.records] == [
        "cells.tif: resampled from 2 x 1 x 1 um to 2 x 0.5 x 0.5 um, at which the model works"
    ]
    labels = RestoreGridd()({"image": result, "pred": torch.ones(1, 8, 64, 96).int()})["pred"]
    assert labels.shape == given.shape and torch.equal(labels.affine, given.affine)
    assert torch.equal(given.affine, image((2.0, 1.0, 1.0)).affine)  # a cached sample is not written to


def test_the_target_spacing_decides_where_it_is_given():
    given = image((2.0, 0.5, 0.5), "micrometer")
    result = seen(given, network(), target_spacing=(2.0, 1.0, 1.0))
    assert result.shape == (1, 8, 16, 24)


@pytest.mark.parametrize("size", [(0.02, 0.005, 0.005), (400.0, 352.8, 352.8)])
def test_a_size_at_which_no_object_could_be_seen_is_not_believed(caplog, looked, size):
    asked = looked(1.0)
    result = seen(image(size, "micrometer", "that"), network(), caplog)
    assert len(asked) == 1 and voxel_spacing(result, 3) == pytest.approx(TRAINED)
    assert "cells.tif: states a voxel size of that, at which" in caplog.text and "--spacing corrects it" in caplog.text


@pytest.mark.parametrize(("unit", "stated"), [("pixel", ""), ("micrometer", "2 x 0.5 x 0.5 um")])
def test_a_diameter_wins(caplog, looked, unit, stated):
    asked = looked(0.1)
    result = seen(image(TRAINED if stated else (1.0, 1.0, 1.0), unit, stated), network(), caplog, diameter=24)
    assert not asked
    assert result.shape == (1, 4, 16, 24) and voxel_spacing(result, 3) == pytest.approx(TRAINED)
    assert "objects are 24 pixels across as you say, the model learnt 12: looked at 0.5 times the size" in caplog.text


def test_a_diameter_keeps_the_ratio_of_axes_that_a_file_states():
    result = seen(image((1.0, 0.5, 0.5), "micrometer"), network(), diameter=24)
    assert result.shape == (1, 2, 16, 24)


def test_without_a_size_the_objects_decide(caplog, looked):
    asked = looked(0.5)
    result = seen(image(), network(), caplog)
    assert result.shape == (1, 4, 16, 24) and voxel_spacing(result, 3) == pytest.approx(TRAINED)
    assert asked[0].grid == (8, 32, 48) and asked[0].spacing == TRAINED and asked[0].diameter == 6
    assert asked[0].largest == 1
    assert [record.message for record in caplog.records] == [
        "cells.tif: objects are about 24 pixels across, the model learnt 12: looked at 0.5 times the size; --diameter "
        "corrects it"
    ]


def test_sizes_are_said_in_plain_figures(caplog, looked):
    looked(0.1)
    seen(image(), network(), caplog)
    assert "objects are about 120 pixels across, the model learnt 12: looked at 0.1 times the size" in caplog.text


def test_how_large_the_large_objects_of_the_training_were_is_passed_on(looked):
    asked = looked(1.0)
    seen(image(), network(), large_diameter=9.0)
    assert asked[0].largest == 1.5


def test_an_image_is_shrunk_no_further_than_to_one_object(looked):
    asked = looked(1.0)
    given = image()
    seen(given, network())
    across = min(given.shape[-2:]) * TRAINED[-1]
    assert asked[0].least == pytest.approx(6.0 / across)


def test_large_objects_below_typical_ones_are_refused():
    with pytest.raises(SpocoError, match="large_diameter: 5 is less than the 6 of a typical object"):
        seen(image(), network(), large_diameter=5.0)


def test_objects_as_large_as_the_trainings_change_nothing(caplog, looked):
    looked(1.0)
    given = image()
    result = seen(given, network(), caplog)
    assert torch.equal(result.as_tensor(), given.as_tensor()) and voxel_spacing(result, 3) == TRAINED
    assert "does not say its voxel size: that of the training" in caplog.text


def test_no_objects_at_any_size_is_said(caplog, looked):
    looked(None)
    result = seen(image(), network("pixel", (1.0, 1.0, 1.0), 12.0), caplog)
    assert voxel_spacing(result, 3) == (1, 1, 1)
    assert "cells.tif: no scale shows objects such as the model learnt" in caplog.text


def test_a_working_resolution_in_pixels(looked):
    asked = looked(1.0)
    trained = network("pixel", (1.0, 2.0, 2.0), 24.0)
    for options in ({"target_spacing": (1.0, 2.0, 2.0)}, {}):
        result = seen(image(), trained, **options)
        assert result.shape == (1, 8, 16, 24) and voxel_spacing(result, 3) == (1, 2, 2)
        assert asked[-1].grid == (8, 16, 24)
    looked(2.0)
    assert seen(image(), trained).shape == (1, 16, 32, 48)
    assert seen(image(), trained, diameter=12).shape == (1, 16, 32, 48)
    assert seen(image((2.0, 0.5, 0.5), "micrometer"), trained, diameter=12).shape == (1, 16, 32, 48)


def test_an_assumed_size_is_none_that_an_image_states(looked):
    asked = looked(2.0)
    result = seen(image(TRAINED, "micrometer"), network(), assumed_spacing=TRAINED)
    assert len(asked) == 1 and result.shape == (1, 16, 64, 96)


def test_masks_are_resampled_with_the_image():
    given = image((2.0, 1.0, 1.0), "micrometer")
    mask = MetaTensor(torch.arange(8 * 32 * 48).reshape(1, 8, 32, 48) % 2, affine=given.affine)
    result = WorkingSpacingd(network=network(), foreground_key="mask")({"image": given, "mask": mask})
    assert result["mask"].shape == (1, 8, 64, 96) and result["mask"].dtype == torch.int64
    assert torch.equal(result["mask"].affine, result["image"].affine)


def test_while_nothing_is_learnt_the_lengths_of_the_image_hold(caplog, looked):
    asked = looked(2.0)
    assert voxel_spacing(seen(image(), network(""), caplog), 3) == (1, 1, 1)
    assert not asked and "counted in pixels" in caplog.text
    with pytest.raises(SpocoError, match="give --object_diameter too"):
        seen(image(), network(""), diameter=10)


def test_weights_without_an_object_size_need_one_for_a_diameter(looked):
    asked = looked(2.0)
    trained = network(diameter=0.0)
    assert learnt_diameter(trained) is None
    assert seen(image(), trained).shape == (1, 8, 32, 48) and not asked
    with pytest.raises(SpocoError, match="give --object_diameter too"):
        seen(image(), trained, diameter=24)
    assert seen(image(), trained, diameter=24, object_diameter=6.0).shape == (1, 4, 16, 24)


def test_what_would_not_fit_into_memory_is_refused(monkeypatch):
    free = [2.17e8]
    monkeypatch.setattr(working_spacing, "available_memory", lambda: free[0])
    with pytest.raises(SpocoError, match=r"cells\.tif: becomes 8 x 64 x 96 voxels .*--spacing or --diameter"):
        seen(image((2.0, 1.0, 1.0), "micrometer"), network())
    seen(image((2.0, 0.25, 0.25), "micrometer"), network())
    free[0] = 2.1e8
    with pytest.raises(
        SpocoError, match=r"cells\.tif: has 8 x 32 x 48 voxels, .*--blockwise True, .*--validation_voxels 2048$"
    ):
        seen(image(), network(""))


def test_a_tolerance_is_at_least_1():
    with pytest.raises(SpocoError, match="a ratio of at least 1"):
        WorkingSpacingd(network=network(), tolerance=0.5)
