import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import ReadOnce
from spoco_bundle.handlers import InstanceMetric
from spoco_bundle.transforms import HeldOut, HoldOutObjectsd, KeepInstanceFractiond


def grid_of_objects(count, name="cells_label.tif"):
    labels = torch.zeros(1, 6, 6 * count, dtype=torch.int32)
    for number in range(count):
        labels[0, 1:4, 6 * number + 1 : 6 * number + 4] = 10 + number
    return MetaTensor(labels, meta={"filename_or_obj": name})


def held_out_of(*images, fraction=0.25, **arguments):
    return HeldOut(ReadOnce([{"label": labels} for labels in images], dict), fraction, **arguments)


def split(labels, fraction=0.25, seed=0, kept=1.0, hidden_label=None, hidden_from_val=None, **special):
    """The labels that train, of which a fraction is kept, and those that validate."""
    held_out = held_out_of(labels, fraction=fraction, seed=seed, **special)
    trains = HoldOutObjectsd("label", "train", held_out, hidden_label, **special)({"label": labels})
    return {
        "train": KeepInstanceFractiond("label", kept, **special)(trains)["label"],
        "val": HoldOutObjectsd("label", "val", held_out, hidden_from_val, **special)({"label": labels})["label"],
    }


def sides(held_out, *images):
    """Of each image the objects that train, and those that validate."""
    return [tuple(set(held_out.objects(labels, part)) for part in ("train", "val")) for labels in images]


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
    for count in (1, 2):
        parts = {part: ids(labels) for part, labels in split(grid_of_objects(count)).items()}
        assert parts["train"] == parts["val"] == {10} if count == 1 else not parts["train"] & parts["val"]
    assert caplog.text.count("both trains and validates") == caplog.text.count("cells_label.tif") == 1
    assert held_out_of(grid_of_objects(1)).line().startswith("nothing is held out")


def test_the_image_with_the_single_object_is_named_beside_images_without_any(caplog):
    empty = MetaTensor(np.zeros((1, 4, 6), np.int64), meta={"filename_or_obj": "empty_label.tif"})
    held_out_of(empty, grid_of_objects(1))
    assert "cells_label.tif: its only annotated object" in caplog.text and "empty" not in caplog.text


@pytest.mark.parametrize(("images", "each"), [(2, 1), (3, 1), (8, 1), (40, 1), (2, 2), (12, 2), (12, 3)])
def test_of_images_with_few_objects_each_a_quarter_of_all_together_validates_and_never_trains(images, each, caplog):
    labels = [grid_of_objects(each, f"{number}_label.tif") for number in range(images)]
    for number, label in enumerate(labels):  # objects lie elsewhere in each
        label[0, 0, : 1 + number % 6] = 10
    held_out = held_out_of(*labels)
    drawn = sides(held_out, *labels)
    assert all(train | val == ids(label) and not train & val for (train, val), label in zip(drawn, labels))
    validates = sum(len(val) for _, val in drawn)
    assert validates == max(1, round(0.25 * images * each))
    assert held_out.line().endswith(f"of all images together: {validates} of {images * each}")
    trained = [sample["label"].meta["filename_or_obj"] for sample in held_out.training()]
    assert trained == [label.meta["filename_or_obj"] for label, (train, _) in zip(labels, drawn) if train]
    assert not caplog.text


def test_few_objects_of_one_image_change_nothing_in_images_with_enough():
    many = [grid_of_objects(count, f"{count}_label.tif") for count in (4, 7, 30)]
    single = grid_of_objects(1, "single_label.tif")
    alone, together = sides(held_out_of(*many), *many), sides(held_out_of(*many, single), *many, single)
    assert together == [*alone, ({10}, set())]


@pytest.mark.parametrize(
    ("count", "seed", "validate"),
    [
        *[(4, 0, {10, 13}), (4, 1, {13}), (4, 2, {12}), (5, 0, {10, 13}), (5, 1, {13}), (5, 2, {12})],
        *[(10, 0, {10, 13}), (10, 1, {13, 19}), (10, 2, {16})],
    ],
)
def test_of_images_with_enough_objects_the_same_validate_as_ever(count, seed, validate):
    labels = [grid_of_objects(count), grid_of_objects(2, "few_label.tif")]
    assert sides(held_out_of(*labels, seed=seed), *labels)[0][1] == validate


def test_a_label_of_which_nothing_was_drawn_stays_as_it_is():
    other = grid_of_objects(5, "other_label.tif")
    for part in ("train", "val"):
        hold_out = HoldOutObjectsd("label", part, held_out_of(grid_of_objects(5)))
        assert ids(hold_out({"label": other})["label"]) == ids(other)


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


def test_other_ids_and_further_objects_change_no_side():
    few, many = grid_of_objects(12), grid_of_objects(30)
    few_val, many_val = (ids(split(labels)["val"]) for labels in (few, many))
    assert few_val == many_val & ids(few)
    renumbered = MetaTensor(torch.where(few > 0, 100 - few, 0).to(torch.int32), meta=few.meta)
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
        held_out_of(fraction=0.0)
    with pytest.raises(SpocoError, match="'test'"):
        HoldOutObjectsd("label", "test", held_out_of(grid_of_objects(5)))
