from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import tifffile
import torch

from spoco_bundle.blockwise import fitting, predictor
from spoco_bundle.blockwise.predictor import BlockwisePredictor
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.inferers import HaloWindowInferer
from spoco_bundle.networks import Decoder, EmbeddingUNet
from spoco_bundle.networks.lengths import learn_lengths
from spoco_bundle.transforms import ClusterEmbeddingsd, NormalizePercentiled, WorkingSpacingd
from support import small_network


@pytest.fixture
def image(tmp_path) -> Path:
    tifffile.imwrite(tmp_path / "cells.tif", np.random.default_rng(0).integers(0, 255, (90, 120)).astype(np.uint8))
    return tmp_path / "cells.tif"


def made(image: Path, output: Path, **working) -> BlockwisePredictor:
    """A predictor with a network that has learnt nothing but that objects are 12 pixels across."""
    torch.manual_seed(0)
    network = small_network(2)
    learn_lengths(network, (1.0, 1.0), "pixel")
    network.coordinate_scale.fill_(3.0)
    torch.save(network.state_dict(), output.parent / "model.pt")
    clustering = ClusterEmbeddingsd(decoder=Decoder(2, True, network), extent_threshold=0.7)
    return BlockwisePredictor(
        [{"image": str(image)}],
        output,
        network,
        output.parent / "model.pt",
        HaloWindowInferer(halo=2),
        clustering,
        NormalizePercentiled("image"),
        WorkingSpacingd(network=network, **working),
        spatial_dims=2,
        block_size=48,
        largest_block=4096,
        chunk_size=16,
        progress=False,
    )


def test_the_job_works_at_the_size_that_is_asked_for(image, tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr(predictor, "segment", lambda job, *_, **options: jobs.append((job, options)))
    monkeypatch.setattr(predictor, "write_instances", lambda *_: tmp_path / "out.partial" / "x")
    monkeypatch.setattr(predictor.os, "replace", lambda *_: None)
    for diameter in (24, None):
        made(image, tmp_path / "out", diameter=diameter).predict(image, MagicMock())
    (half, options), (whole, others) = jobs
    assert half.grid.shape == whole.grid.shape == whole.grid.working == (90, 120) and half.grid.working == (45, 60)
    assert half.spacing == whole.spacing == (1, 1)  # in pixels of the training
    assert half.embedder.image.shape == (45, 60) and half.clustering.outline == 0.7
    # the overlap, in voxels of the image, is as long in typical objects
    assert whole.grid.overlap == (18, 18) and half.grid.overlap == (36, 36)
    # fragments are as small in comparison with the objects
    assert half.thin_voxels == options["min_size"] == 4 * others["min_size"] == 4 * whole.thin_voxels


def test_an_unfinished_run_is_the_run_of_one_size(image, tmp_path, monkeypatch):
    monkeypatch.setattr(predictor, "segment", MagicMock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        made(image, tmp_path / "out", diameter=24).predict(image, MagicMock())
    plan = json.loads((tmp_path / "out" / "cells_instances.tif.partial" / "plan.json").read_text())
    assert plan["diameter"] == 24 and plan["fit"]["shape"] == [45, 60] and plan["fit"]["spacing"] == [0.5, 0.5]
    for other, named in (
        ({"diameter": 12}, "diameter"),
        ({}, "diameter"),
        ({"diameter": 24, "target_spacing": (1.0, 1.0)}, "target_spacing"),
    ):
        with pytest.raises(SpocoError, match=f"unfinished run with another {named}: "):
            made(image, tmp_path / "out", **other).predict(image, MagicMock())
    other = made(image, tmp_path / "out", diameter=24)
    source = other.open_source(image, None)
    source.stored_shape = (45, 60)
    with pytest.raises(SpocoError, match="unfinished run with another .*image_state"):
        other.plan(image, source, predictor.WorkFolder(tmp_path / "out" / "cells_instances.tif.partial"))
    again = made(image, tmp_path / "out", diameter=24)
    monkeypatch.setattr(again.working, "decide", lambda *_: pytest.fail("it was decided before"))
    monkeypatch.setattr(fitting, "sample_voxels", lambda *_: pytest.fail("it was fitted before"))
    with pytest.raises(KeyboardInterrupt):
        again.predict(image, MagicMock())


def finer(blocks):
    network = EmbeddingUNet(
        spatial_dims=2, channels=(2, 4), strides=(2,), kernel_sizes=(3, 3), convolutions=2, out_channels=4
    )
    network.coordinate_scale.fill_(3.0)
    blocks.networks["pred"] = network


@pytest.mark.parametrize(
    ("named", "change"),
    [
        ("weights", lambda blocks: blocks.weights[0].write_bytes(blocks.weights[0].read_bytes() + b" ")),
        ("normalize", lambda blocks: setattr(blocks.normalize, "upper", 90.0)),
        ("clustering", lambda blocks: blocks.clustering.params.update(merge_distance=0.7)),
        ("network", finer),
        ("block_size", lambda blocks: setattr(blocks, "block_size", (32, 32))),
        ("stitching", lambda blocks: blocks.stitching.update(least_share=0.4)),
    ],
)
def test_an_unfinished_run_does_not_go_on_with_other_settings(image, tmp_path, monkeypatch, named, change):
    monkeypatch.setattr(predictor, "segment", MagicMock(side_effect=ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        made(image, tmp_path / "out", diameter=24).predict(image, MagicMock())
    other = made(image, tmp_path / "out", diameter=24)
    change(other)
    with pytest.raises(SpocoError, match=f"unfinished run with another {named}"):
        other.predict(image, MagicMock())


def test_the_objects_decide_as_in_one_piece(image, tmp_path, monkeypatch):
    """The look at the image on disk sees what a look at the image in memory sees."""
    from spoco_bundle.transforms import LoadVolumed, working_spacing

    looked = []

    def find_scale(finder, *limits):
        shape, region = finder._part(0.5)
        looked.append((finder.middle, finder.grid, finder.spacing, finder.diameter, limits, finder.image.read(region)))
        return 0.5

    monkeypatch.setattr(working_spacing, "find_scale", find_scale)
    blocks = made(image, tmp_path / "out")
    working = blocks.working
    working.clustering, working.inferer = blocks.clustering, blocks.inferer
    source = blocks.open_source(image, None)
    fitted = blocks.fit(image, source, None)
    sample = NormalizePercentiled("image")(LoadVolumed("image", spatial_dims=2)({"image": image}))
    seen = working(sample)["image"]
    assert tuple(seen.shape[1:]) == tuple(fitted["shape"]) == (45, 60)
    assert len(looked) == 2 and looked[0][:5] == looked[1][:5]
    torch.testing.assert_close(looked[0][5], looked[1][5], rtol=0, atol=1e-6)


def test_a_size_that_the_weights_do_not_know_is_refused(image, tmp_path):
    blocks = made(image, tmp_path / "out", diameter=24)
    blocks.networks["pred"].coordinate_scale.fill_(0.0)
    with pytest.raises(SpocoError, match="give --object_diameter too"):
        blocks.predict(image, MagicMock())
    assert not list(tmp_path.glob("out/*.partial/plan.json"))


def test_an_assumed_size_is_taken_where_the_file_states_none(image, tmp_path, caplog):
    caplog.set_level("INFO")
    blocks = made(image, tmp_path / "out", assumed_spacing=(0.5, 0.25))
    source = blocks.open_source(image, None)
    assert source.spacing == (0.5, 0.25) and source.file_unit == "micrometer"
    assert "does not say its voxel size: 0.5 x 0.25 um, as where the model learned, is assumed" in caplog.text


@pytest.mark.parametrize(("objectness", "background"), [(False, "auto"), (True, "largest")])
def test_a_background_that_is_another_in_every_block_is_refused(image, tmp_path, objectness, background):
    blocks = made(image, tmp_path / "out")
    blocks.clustering.decoder.objectness, blocks.clustering.params["background"] = objectness, background
    with pytest.raises(SpocoError, match="the largest cluster .*none or otsu, or --blockwise False"):
        blocks.predict(image, MagicMock())
    assert not list(tmp_path.glob("out/*.partial/plan.json"))
    blocks.clustering.params["background"] = "none"
    assert blocks.plan(image, blocks.open_source(image, None), MagicMock(plan=dict)).grid.shape == (90, 120)


def test_workers_are_started_once_for_all_images(image, tmp_path, monkeypatch):
    clients = []

    def started(*_):
        clients.append(MagicMock())
        return nullcontext(clients[-1])

    monkeypatch.setattr(predictor, "dask_client", started)
    blocks = made(image, tmp_path / "out")
    blocks.images *= 3
    monkeypatch.setattr(blocks, "predict", lambda path, client: client.predict(path))
    blocks.run()
    assert len(clients) == 1 and clients[0].predict.call_count == 3
    blocks.images = []
    blocks.run()
    assert len(clients) == 1
