"""What goes block by block is decided by the voxels that the network sees."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tifffile
import zarr

from spoco_bundle.app import prediction_plan
from spoco_bundle.app.config import shipped_weights
from spoco_bundle.app.model_config import model_overlay
from spoco_bundle.app.prediction_plan import BLOCKWISE, WHOLE, plan_predictions
from spoco_bundle.core.errors import SpocoError

SHAPE = (8, 20, 24)


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Plans the prediction of a volume, where 8000 voxels fit into memory, and tells what was counted."""
    counted = []

    def whole_memory(voxels, channels, outputs, features, window, stored):
        counted.append((voxels, stored))
        return voxels

    monkeypatch.setattr(prediction_plan, "whole_memory", whole_memory)
    monkeypatch.setattr(prediction_plan, "available_memory", lambda *_: 8000)
    path = tmp_path / "cells.ome.tif"

    def plan(size=None, blockwise="auto", **overrides):
        stated = {f"PhysicalSize{axis}": step for axis, step in zip("ZYX", size or ())}
        tifffile.imwrite(path, np.zeros(SHAPE, np.uint8), ome=True, metadata={"axes": "ZYX", **stated})
        overrides = {"dataset_dir": str(path), "ckpt_dir": str(shipped_weights(3)), **overrides}
        [(configs, images, _)] = plan_predictions(model_overlay("", 3), overrides, blockwise, None)
        assert images == [str(path)]
        return configs, counted.pop() if counted else None

    return plan


@pytest.mark.parametrize(
    ("said", "configs", "counted"),
    [
        ({}, WHOLE, (3840, 0)),
        ({"size": (1.75, 0.8, 0.8)}, WHOLE, (3840, 0)),
        ({"size": (1.75, 1.6, 1.6)}, BLOCKWISE, (4 * 3840, 3840)),
        ({"size": (1.75, 0.6, 0.8)}, WHOLE, (2880, 3840)),
        ({"size": (1.75, 0.4, 0.4)}, WHOLE, (3840, 0)),  # not believed
        ({"size": (1.75, 0.4, 0.4), "spacing": [1.75, 1.6, 1.6]}, BLOCKWISE, (4 * 3840, 3840)),
        ({"diameter": 40.1740}, WHOLE, (3840 // 8, 3840)),
        ({"diameter": 10.0435}, BLOCKWISE, (8 * 3840, 3840)),
        ({"target_spacing": [1.75, 0.4, 0.4], "assumed_spacing": [1.75, 0.8, 0.8]}, BLOCKWISE, (4 * 3840, 3840)),
        ({"size": (1.75, 1.6, 1.6), "blockwise": "False"}, WHOLE, (4 * 3840, 3840)),
    ],
)
def test_the_voxels_at_the_working_resolution_are_counted(planned, said, configs, counted, caplog):
    assert planned(**said) == (configs, counted)
    assert "looked at" not in caplog.text  # that is said when it is done


def test_what_only_blocks_do_goes_block_by_block_without_counting(planned):
    assert planned(block_size=[8, 8, 8]) == (BLOCKWISE, None)
    assert planned(blockwise="True") == (BLOCKWISE, None)


def test_weights_that_are_not_there_are_named_before_the_work(planned, tmp_path):
    with pytest.raises(SpocoError, match="no such weights file"):
        planned(ckpt_dir=str(tmp_path))
    with pytest.raises(SpocoError, match="--blockwise maybe: give auto, True or False"):
        planned(blockwise="maybe")


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
@pytest.mark.parametrize(
    ("memory", "given", "chosen"),
    [
        (8 * 1024, {}, {"processes": 4}),
        (8 * 1024, {"device": "cpu"}, {"processes": 4}),
        (2.5 * 1024, {}, {"processes": 2}),
        (8 * 1024, {"processes": 3}, {}),
    ],
)
def test_flat_images_are_shared_by_as_many_processes_as_threads_and_memory_allow(
    tmp_path, monkeypatch, memory, given, chosen
):
    monkeypatch.setattr(prediction_plan, "whole_memory", lambda voxels, *_: voxels)
    monkeypatch.setattr(prediction_plan, "available_memory", lambda *_: memory)
    monkeypatch.setattr(prediction_plan.torch, "get_num_threads", lambda: 4)
    for number, rows in enumerate((16, 32, 16)):
        tifffile.imwrite(tmp_path / f"{number}.tif", np.zeros((rows, 32), np.uint8))
    overrides = {"dataset_dir": str(tmp_path), "ckpt_dir": str(shipped_weights(2)), **given}
    [(_, images, extra)] = plan_predictions(model_overlay("", 2), overrides, "auto", None)
    assert len(images) == 3 and extra == chosen
    volume = {"dataset_dir": str(tmp_path / "volume.tif"), "ckpt_dir": str(shipped_weights(3))}
    tifffile.imwrite(volume["dataset_dir"], np.zeros((4, 8, 8), np.uint8))
    assert plan_predictions(model_overlay("", 3), volume, "auto", None)[0][2] == {}


def test_contradictions_are_refused_before_anything_runs(tmp_path):
    ome_zarr, flat = tmp_path / "a.zarr", tmp_path / "b.tif"
    zarr.create_array(str(ome_zarr), data=np.zeros((20, 24), np.uint8))
    tifffile.imwrite(flat, np.zeros((20, 24), np.uint8))
    given = {"dataset_dir": [str(flat), str(ome_zarr)], "ckpt_dir": str(shipped_weights(2))}
    own = tmp_path / "own.json"
    own.write_text('{"workers": 2}')
    model = model_overlay("", 2)
    with pytest.raises(SpocoError, match=r"a\.zarr: OME-Zarr is predicted block by block: leave --blockwise False out"):
        plan_predictions(model, given, "False", None)
    with pytest.raises(SpocoError, match=r"--processes: .*a\.zarr goes block by block"):
        plan_predictions(model, {**given, "processes": 2}, "auto", None)
    given["dataset_dir"] = str(flat)
    with pytest.raises(SpocoError, match="--workers: has an effect block by block alone"):
        plan_predictions([*model, own], given, "False", None)
    assert [configs for configs, _, _ in plan_predictions([*model, own], given, "auto", None)] == [BLOCKWISE]
