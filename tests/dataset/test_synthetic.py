from __future__ import annotations

import numpy as np
import pytest

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.object_size import ball_radius
from spoco_bundle.dataset.synthetic import SPACING, make_synthetic_sample, synthetic_volume
from spoco_bundle.formats.files import read_image
from spoco_bundle.metrics import instance_scores
from spoco_bundle.report.classical import otsu_watershed

SMALL = (10, 32, 32)


def test_files_are_readable_and_state_the_spacing(tmp_path):
    sample = make_synthetic_sample(tmp_path, 3, train_volumes=1, train_shape=SMALL, val_shape=SMALL)
    assert len(sample["train"]) == 1 and len(sample["val"]) == 2
    for pair in sample["train"] + sample["val"]:
        image, label = read_image(pair["image"]), read_image(pair["label"], "label")
        for volume in (image, label):
            assert volume.spacing == pytest.approx(SPACING) and volume.file_unit == "micrometer"
            assert volume.spatial_shape == SMALL
        assert np.array_equal(np.unique(label.array), np.arange(label.array.max() + 1))
    again = make_synthetic_sample(tmp_path / "again", 3, train_volumes=1, train_shape=SMALL, val_shape=SMALL)
    for one, other in zip(sample["val"], again["val"]):
        for key in ("image", "label"):
            assert np.array_equal(read_image(one[key], key).array, read_image(other[key], key).array)


def test_the_seed_decides():
    one, other, third = (synthetic_volume(np.random.default_rng(seed), SMALL) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other))
    assert not np.array_equal(one[0], third[0]) and not np.array_equal(one[1], third[1])


@pytest.mark.parametrize("seed", [0, 1])
def test_nuclei_are_of_plausible_size_and_too_crowded_for_a_threshold(seed):
    image, label = synthetic_volume(np.random.default_rng(seed), (24, 96, 96))
    assert np.array_equal(np.unique(label), np.arange(label.max() + 1)) and label.max() > 20
    volumes = np.bincount(label.ravel())[1:] * np.prod(SPACING)
    assert 3.0 < ball_radius(np.median(volumes), 3) < 5.5
    assert instance_scores(label.astype(int), otsu_watershed(image, SPACING))["ap_50"] <= 0.5


@pytest.mark.parametrize(
    "arguments", [{"shape": (7, 32, 32)}, {"shape": (32, 32)}, {"shape": SMALL, "spacing": (1.0, 0.0, 1.0)}]
)
def test_sizes_that_make_no_volume_are_refused(arguments):
    with pytest.raises(SpocoError, match="shape|spacing"):
        synthetic_volume(np.random.default_rng(0), **arguments)
