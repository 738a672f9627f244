from __future__ import annotations

import pytest

from spoco_bundle.app.config import find_config, read_configs
from spoco_bundle.app.model_config import model_overlay
from spoco_bundle.core.errors import SpocoError


def read(command, **overrides):
    train, evaluate, inference = map(find_config, ("train", "evaluate", "inference"))
    files = {"train": [train], "evaluate": [train, *model_overlay(""), evaluate], "predict": [inference]}
    return read_configs(files[command], overrides)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_epochs", 3),
        ("learning_rate", 0.1),
        ("loss#delta_var", 0.4),
        ("validate_with", "student"),
        ("val_interval", 2),
    ],
)
def test_what_only_training_uses_is_refused_in_an_evaluation(name, value):
    read("train", **{name: value})
    with pytest.raises(SpocoError, match=f"--{name}: has no effect in this command"):
        read("evaluate", **{name: value})


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"objectness": False, "objectness_target": "interior"}, "--objectness_target: .* where objectness is False"),
        ({"objectness": False, "objectness_shell": 2}, "--objectness_shell: has no effect"),
        ({"coordinate_channels": 0, "coordinate_scale": 4.0}, "where coordinate_channels is 0"),
        ({"coordinate_radii": 0.7, "coordinate_scale": 4.0}, "where coordinate_scale is given"),
        ({"min_fraction": 0.1, "clustering#min_size": 30}, "--min_fraction: .* where clustering#min_size is given"),
        ({"merge_distance": 2.0, "clustering#method": "hdbscan"}, "--merge_distance: .*another than density_peaks"),
        ({"objectness_threshold": 0.5, "clustering#background": "otsu"}, "--objectness_threshold: .*than auto"),
        ({"minutes": 30, "val_interval": 2}, "--val_interval: has no effect with minutes"),
        ({"minutes": 30, "lr_scheduler#pct_start": 0.3}, "--lr_scheduler#pct_start: has no effect with minutes"),
        ({"loss#max_anchors": 8}, "--loss#max_anchors: .* give --loss#consistency_weight 1 too"),
        ({"loss#max_anchors": 8, "loss#consistency_weight": 0}, "without the consistency term"),
    ],
)
def test_what_another_id_makes_meaningless_is_refused(overrides, said):
    with pytest.raises(SpocoError, match=said):
        read("train", **overrides)


@pytest.mark.parametrize("other", [{"loss#consistency_weight": 1}, {"coordinate_channels": 0}])
def test_ids_of_the_consistency_term_are_taken_where_it_counts(other):
    read("train", **{"loss#max_anchors": 8}, **other)


@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
def test_ids_with_an_effect_are_taken(command):
    shared = {
        "embedding_channels": 6,
        "network_def#dropout": 0.1,
        "clustering#method": "mean_shift",
        "bundle_root": ".",
    }
    read(command, window_size=[8, 8, 8], objectness_threshold=0.3, device="cpu", dataset_dir="x", **shared)
    own = {
        "train": {"train#trainer#max_epochs": 3, "optimizer#lr": 0.1, "checkpoint_dir": "x", "keep_seed": 1},
        "evaluate": {"weights": "student", "agreement": True, "keep_fraction": 0.5, "holdout_fraction": 0.2},
        "predict": {"skip_finished": True, "save_embedding": True, "preprocessing#transforms#0#ckpt_dir": "x"},
    }[command]
    if command == "evaluate":
        with pytest.raises(SpocoError, match="keep_fraction: has no effect"):
            read(command, keep_fraction=own.pop("keep_fraction"))
    read(command, **own)


def test_agreement_needs_two_networks():
    with pytest.raises(SpocoError, match="--agreement: compares two networks"):
        read("train", agreement=True)
    read("predict", agreement=True)
