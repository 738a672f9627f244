from __future__ import annotations

import doctest
import shutil

import numpy as np
import pytest
import tifffile
from scipy import ndimage

import spoco_bundle
from spoco_bundle import segment, train
from spoco_bundle.app import segmentation
from spoco_bundle.app.config import find_config, run_configs, shipped_weights
from spoco_bundle.app.model_config import model_overlay
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.saved_state import save_state
from spoco_bundle.formats import read_image
from spoco_bundle.networks.weights import load_tensors


@pytest.fixture(scope="module")
def cells():
    y, x = np.mgrid[:96, :128]
    image = np.random.default_rng(0).normal(12, 2, (96, 128))
    for row in (24, 70):
        for column in (24, 64, 104):
            image += 120 / (1 + np.exp(np.hypot(y - row, x - column) - 9))
    return np.clip(image, 0, 255).astype(np.uint8)


def test_the_examples_in_the_docstrings_run():
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for thing in (segment, spoco_bundle.train):
        for example in finder.find(thing, thing.__name__, globs={}, module=segmentation):
            example.globs[thing.__name__] = thing
            assert runner.run(example).failed == 0
    assert runner.summarize().attempted >= 3


def test_an_array_gives_what_the_file_of_it_gives_and_spoco_predict_writes(cells, tmp_path):
    tifffile.imwrite(tmp_path / "cells.tif", cells, photometric="minisblack")
    from_array, from_file = segment(cells), segment(tmp_path / "cells.tif")
    assert from_array.labels.max() == len(from_array.objects) == len(from_array.confidence) == 6
    assert np.array_equal(from_array.labels, from_file.labels)
    overrides = {
        "dataset_dir": str(tmp_path / "cells.tif"),
        "output_dir": str(tmp_path / "out"),
        "ckpt_dir": str(shipped_weights(2)),
    }
    run_configs([find_config("inference"), *model_overlay("", 2)], overrides, "infer")
    written = read_image(tmp_path / "out" / "cells_instances.tif", "label", 2).array[0]
    assert np.array_equal(written, from_array.labels)


def test_axes_say_where_the_channels_are(cells):
    last = segment(np.stack([cells], -1), axes="YXC")
    assert np.array_equal(last.labels, segment(cells[None], axes="CYX").labels)
    assert np.array_equal(last.labels, segment(cells).labels)


@pytest.mark.parametrize("zoom", [0.5, 2.0])
def test_an_image_of_another_magnification_gives_the_same_objects(cells, zoom, caplog):
    usual = segment(cells).labels
    zoomed = ndimage.zoom(cells.astype(float), zoom, order=1)
    with caplog.at_level("INFO"):
        found = segment(zoomed)
    assert found.labels.shape == zoomed.shape and len(found.objects) == 6
    assert "times the size; --diameter corrects it" in caplog.text
    given = segment(zoomed, diameter=18 * zoom)
    assert len(given.objects) == 6
    share = np.bincount(found.labels.ravel() > 0)[1] / found.labels.size
    assert share == pytest.approx((usual > 0).mean(), rel=0.2)


def test_a_diameter_is_in_pixels_and_wins_over_a_size(cells):
    by_hand = segment(cells, diameter=20)
    assert len(by_hand.objects) == 6
    assert np.array_equal(by_hand.labels, segment(cells, spacing=(0.3, 0.3), diameter=20).labels)
    with pytest.raises(SpocoError, match="diameter"):
        segment(cells, diameter=-3)


def test_ids_are_options(cells):
    assert segment(cells, min_fraction=5).labels.max() == 0


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (np.zeros(5), {}, "give \\(y, x\\) or \\(z, y, x\\)"),
        (np.zeros((4, 5, 3)), {"axes": "YX"}, "axes"),
        (np.ones((32, 32, 3)), {}, "axes='YXC' if its last axis is channels or colours"),
        (np.ones((1, 32, 32)), {}, "'CYX' if its first is channels"),
        (np.ones((0, 32)), {}, "holds no voxel"),
        (np.eye(32) * 1j, {}, "complex"),
        (np.array([["a", "b"]]), {}, "voxels are of type"),
        (np.eye(32), {"model": shipped_weights(3)}, "array: has 2 spatial axes, the model is for 3"),
        (np.random.default_rng(0).random((8, 32, 32)), {"model": shipped_weights(2)}, "3 spatial axes, .* for 2"),
        (np.ones((32, 32)), {}, "empty"),
        (np.eye(32), {"model": "nowhere"}, "holds no model.pt"),
        (np.eye(32), {"spacing": (1.0, -1.0)}, "spacing"),
        (np.eye(32), {"objectnes": 1}, "did you mean"),
        (np.eye(32), {"agreement": True}, "agreement: is for `spoco predict`"),
        (np.eye(32), {"foreground_ending": "_fg"}, "foreground_ending: is for `spoco predict`"),
        (np.eye(32), {"skip_finished": True}, "skip_finished: has no effect"),
        (np.eye(32), {"processes": 2}, "processes: has no effect"),
    ],
)
def test_bad_input_is_named(image, options, words):
    with pytest.raises(SpocoError, match=words):
        segment(image, **options)


def test_unknown_names_of_the_package_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        spoco_bundle.segmnt  # noqa: B018
    assert {"segment", "train", "SpocoLoss"} <= set(dir(spoco_bundle))


def test_weights_that_were_trained_anew_are_read_anew(cells, tmp_path):
    shutil.copytree(shipped_weights(2), tmp_path / "model")
    assert segment(cells, model=tmp_path / "model").labels.max() == 6
    state = load_tensors(tmp_path / "model" / "model.pt")
    save_state({name: value * (value.ndim < 2) for name, value in state.items()}, tmp_path / "model" / "model.pt")
    assert segment(cells, model=tmp_path / "model").labels.max() != 6


def test_numbers_of_other_libraries_are_numbers(cells):
    found = segment(cells, diameter=np.int64(20), min_fraction=np.float32(0.25), window_size=np.array([128, 128]))
    assert np.array_equal(found.labels, segment(cells, diameter=20, min_fraction=0.25, window_size=[128, 128]).labels)
    with pytest.raises(SpocoError, match="max_epochs: 0 does not fit"):
        train("nowhere", max_epochs=np.int64(0))
