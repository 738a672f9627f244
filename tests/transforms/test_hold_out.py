import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.handlers import InstanceMetric
from spoco_bundle.transforms import DrawHeldOutd, HoldOutObjectsd, KeepInstanceFractiond


def grid_of_objects(count):
    labels = torch.zeros(1, 6, 6 * count, dtype=torch.int32)
    for number in range(count):
        labels[0, 1:4, 6 * number + 1 : 6 * number + 4] = 10 + number
    return MetaTensor(labels)


def split(labels, fraction=0.25, seed=0, kept=1.0, hidden_label=None, hidden_from_val=None, **special):
    """The labels that train, of which a fraction is kept, and those that validate."""
    drawn = DrawHeldOutd("label", fraction, seed, **special)({"label": labels})
    trains = HoldOutObjectsd("label", "train", hidden_label, **special)(drawn)
    return {
        "train": KeepInstanceFractiond("label", kept, **special)(trains)["label"],
        "val": HoldOutObjectsd("label", "val", hidden_from_val, **special)(drawn)["label"],
    }


def ids(labels):
    return set(np.unique(labels).tolist()) - {0, -1}


@pytest.mark.parametrize("count", [2, 3, 5, 40])
@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.99])
def test_every_object_is_on_one_side_and_both_have_some(count, fraction):
    labels = grid_of_objects(count)
    parts = split(labels, fraction)
    train, val = ids(parts["train"]), ids(parts["val"])
    assert train | val == ids(labels)
    assert not train & val
    assert train and val


def test_the_share_is_that_asked_for():
    assert 30 <= len(ids(split(grid_of_objects(200), 0.25)["val"])) <= 70


def test_a_single_object_trains_and_validates_which_is_said_once(caplog):
    hold_out = {part: HoldOutObjectsd("label", part) for part in ("train", "val")}
    for count in (1, 1, 2):
        labels = grid_of_objects(count)
        labels.meta["filename_or_obj"] = "cells_label.tif"
        drawn = DrawHeldOutd("label", 0.25)({"label": labels})
        parts = {part: ids(hold_out[part](drawn)["label"]) for part in hold_out}
        assert parts["train"] == parts["val"] == {10} if count == 1 else not parts["train"] & parts["val"]
    assert caplog.text.count("both trains and validates") == caplog.text.count("cells_label.tif") == 1


def test_an_image_without_an_object_has_none_on_either_side():
    parts = split(torch.zeros_like(grid_of_objects(1)))
    assert ids(parts["train"]) == ids(parts["val"]) == set()


@pytest.mark.parametrize("count", [2, 4, 12])
def test_what_validates_never_trains_however_few_are_kept(count):
    labels = grid_of_objects(count)
    held_out = ids(split(labels)["val"])
    for kept in (0.75, 0.5, 0.25, 0.1):
        parts = split(labels, kept=kept)
        assert ids(parts["val"]) == held_out and ids(parts["train"]) and not ids(parts["train"]) & held_out


def test_the_lots_are_drawn_without_a_trace_in_the_given_labels():
    labels = grid_of_objects(3)
    parts = split(labels)
    assert "sides" not in labels.meta and "sides" not in parts["train"].meta


def test_other_ids_and_further_objects_change_no_side():
    few, many = grid_of_objects(12), grid_of_objects(30)
    few_val, many_val = (ids(split(labels)["val"]) for labels in (few, many))
    assert few_val == many_val & ids(few)
    renumbered = MetaTensor(torch.where(few > 0, 100 - few, 0).to(torch.int32))
    assert ids(split(renumbered)["val"]) == {100 - i for i in few_val}


def test_seeds_draw_other_objects():
    labels = grid_of_objects(30)
    assert ids(split(labels, seed=0)["val"]) != ids(split(labels, seed=1)["val"])


def test_what_is_held_out_is_hidden_and_special_ids_stay():
    labels = grid_of_objects(8)
    labels[0, 5, 0], labels[0, 5, 1] = -1, 65535
    parts = split(labels, hidden_label=-1, ignore_label=-1, background_label=65535)
    held_out = torch.isin(labels, torch.tensor(sorted(ids(parts["val"]) - {65535}), dtype=torch.int32))
    assert (parts["train"][held_out] == -1).all()
    for part in parts.values():
        assert part[0, 5, 0] == -1 and part[0, 5, 1] == 65535


def test_plausible_sizes_come_from_all_objects():
    labels = grid_of_objects(3)
    labels[0, 2:, :12] = 0
    labels[0, :, 12:] = 12  # twelve times as large as the others
    val = next(val for seed in range(50) if ids(val := split(labels, seed=seed)["val"]) and 12 not in ids(val))
    metric = InstanceMetric(partly_labelled=True)
    metric([labels], [val])
    assert metric.scores()["plausible_volume"] == 1
    metric.reset()
    metric([labels], [val.as_tensor()])
    assert metric.scores()["plausible_volume"] < 1


def test_objects_that_train_count_nowhere_in_a_complete_truth():
    labels = grid_of_objects(8)
    metric = InstanceMetric(ignore_label=-1)
    metric([labels], [split(labels, hidden_from_val=-1, ignore_label=-1)["val"]])
    scores = metric.scores()
    assert scores["ap_50"] == 1 and 0 < scores["true_objects"] == scores["objects"] < 8


def test_bad_arguments_are_named():
    with pytest.raises(SpocoError, match="holdout_fraction"):
        DrawHeldOutd("label", 0.0)
    with pytest.raises(SpocoError, match="'test'"):
        HoldOutObjectsd("label", "test")
