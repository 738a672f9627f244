import numpy as np
import pytest

from spoco_bundle.annotation.confirmed import (
    beside_confirmed,
    confirmed_labels,
    mostly_in,
    put_confirmed_over,
    same_objects,
    unchanged_objects,
)
from spoco_bundle.annotation.prediction_log import PredictionLog
from spoco_bundle.core.errors import SpocoError

BACKGROUND = 65535


@pytest.fixture
def prediction():
    labels = np.zeros((4, 12, 12), dtype=np.int32)
    labels[1:3, 1:4, 1:4] = 1
    labels[1:3, 1:4, 6:11] = 2
    labels[1:3, 6:11, 1:6] = 3
    return labels


def kept(returned, *arguments, **keywords):
    return set(np.unique(confirmed_labels(returned, *arguments, **keywords)).tolist()) - {0}


def test_an_untouched_prediction_teaches_nothing(prediction):
    assert kept(prediction, [prediction]) == set()


def test_untouched_objects_are_known_under_other_ids(prediction):
    renumbered = np.array([0, 70000, 5, 9], dtype=np.int32)[prediction]
    assert kept(renumbered, [prediction]) == set()


def test_a_drawn_object_counts_and_keeps_its_id(prediction):
    returned = prediction.copy()
    returned[3, 6:9, 8:11] = 300
    result = confirmed_labels(returned, [prediction])
    np.testing.assert_array_equal(result, np.where(returned == 300, 300, 0))


def test_every_label_is_drawn_where_nothing_was_handed_out(prediction):
    assert kept(prediction) == {1, 2, 3}


@pytest.mark.parametrize("change", ["grow", "shrink"])
def test_one_changed_voxel_is_a_correction(prediction, change):
    returned = prediction.copy()
    returned[(3, 1, 1) if change == "grow" else (1, 1, 1)] = 1 if change == "grow" else 0
    assert kept(returned, [prediction]) == {1}


def test_an_object_that_another_one_was_drawn_over_was_not_looked_at(prediction):
    returned = prediction.copy()
    returned[1:3, 3:7, 3:5] = 8  # covers parts of 1 and 3 and the space between
    assert kept(returned, [prediction]) == {8}


def test_both_halves_of_a_split_object_are_corrections(prediction):
    returned = prediction.copy()
    returned[1:3, 1:4, 8:11] = 8
    assert kept(returned, [prediction]) == {2, 8}


def test_a_merge_is_a_correction(prediction):
    returned = prediction.copy()
    returned[returned == 2] = 1
    assert kept(returned, [prediction]) == {1}


def test_a_deleted_object_says_nothing(prediction):
    returned = np.where(prediction == 2, 0, prediction)
    assert kept(returned, [prediction]) == set()


def test_an_object_of_any_earlier_prediction_is_unchecked(prediction):
    newer = np.roll(prediction, 1, axis=1)
    assert kept(prediction, [newer]) == {1, 2, 3}
    assert kept(prediction, [newer, prediction]) == set()


def test_confirming_by_id(prediction):
    assert kept(prediction, [prediction], confirmed=[2]) == {2}
    assert kept(prediction, [prediction], confirmed=[77]) == set()


def test_painted_background_gets_its_label(prediction):
    returned = prediction.copy()
    returned[0] = 9
    result = confirmed_labels(returned, [prediction], background=[9], background_label=BACKGROUND)
    np.testing.assert_array_equal(result, np.where(returned == 9, BACKGROUND, 0))


def test_an_object_with_the_id_of_the_background_gets_another(prediction):
    returned = np.where(prediction == 1, BACKGROUND, prediction)
    result = confirmed_labels(returned, background_label=BACKGROUND)
    assert BACKGROUND not in result
    assert len(np.unique(result[prediction == 1])) == 1
    assert result[prediction == 1].min() not in (0, 2, 3)


def test_what_was_confirmed_before_stays_so_without_a_name(prediction):
    before = np.where(prediction == 1, 40, 0)
    before[0] = BACKGROUND
    shown, kinds = put_confirmed_over(prediction, before, BACKGROUND)
    assert list(kinds.values()) == ["object", "object", "confirmed", "background"]
    unchecked = np.where(shown <= 2, shown, 0)
    result = confirmed_labels(shown, [unchecked, prediction], before, background_label=BACKGROUND)
    np.testing.assert_array_equal(result != 0, before != 0)
    np.testing.assert_array_equal(result == BACKGROUND, before == BACKGROUND)


def test_confirmed_objects_replace_what_they_cover(prediction):
    before = np.zeros_like(prediction)
    before[1:3, 1:3, 1:5] = 40  # two of three rows of object 1
    before[1:3, 9:12, 1:6] = 41  # two of five rows of object 3
    shown, kinds = put_confirmed_over(prediction, before, BACKGROUND)
    assert kinds == {1: "object", 2: "object", 3: "confirmed", 4: "confirmed"}
    np.testing.assert_array_equal(shown == 3, before == 40)
    np.testing.assert_array_equal(shown == 2, (prediction == 3) & (before == 0))
    assert not shown[1:3, 3, 1:4].any(), "what is left of an object that is mostly covered goes with it"
    assert set(np.unique(shown)) == {0, 1, 2, 3, 4}


def test_same_objects_needs_every_voxel(prediction):
    other = np.array([0, 11, 12, 13])[prediction]
    other[1, 1, 6] = 0
    assert same_objects(prediction, other) == {1: 11, 3: 13}
    assert unchanged_objects(prediction, other) == {1, 3}


def test_what_nobody_has_checked_goes_beside_what_is_confirmed(prediction):
    returned = np.where(prediction == 3, BACKGROUND, prediction)
    returned[3, 6:9, 8:11] = 300
    confirmed = confirmed_labels(returned, [prediction], confirmed=[1], background_label=BACKGROUND)
    labels, unchecked = beside_confirmed(returned, confirmed, BACKGROUND)
    np.testing.assert_array_equal(np.isin(labels, [1, 300]), np.isin(returned, [1, 300]))
    assert len(unchecked) == 2 and BACKGROUND not in labels, "an object is not taken for known background"
    assert {int(labels[prediction == number][0]) for number in (2, 3)} == unchecked
    np.testing.assert_array_equal(labels > 0, returned > 0)


def test_known_background_stays_beside_the_unchecked_objects(prediction):
    returned = prediction.copy()
    returned[0], returned[3, 6:9, 8:11] = 9, 300
    confirmed = confirmed_labels(returned, [prediction], background=[9], background_label=BACKGROUND)
    labels, unchecked = beside_confirmed(returned, confirmed, BACKGROUND)
    assert unchecked == {1, 2, 3} and (labels[0] == BACKGROUND).all()


def test_an_object_is_mostly_in_the_one_that_shares_most_with_it():
    previous = np.array([0, 5, 5, 5, 7, 7, 0, 8])
    labels = np.array([2, 2, 2, 2, 2, 3, 3, 0])
    assert mostly_in(labels, previous) == {2: 5, 3: 7}
    assert mostly_in(labels, np.zeros_like(labels)) == {}


def test_predictions_are_kept_once_per_content_and_image(prediction, tmp_path):
    store = PredictionLog(tmp_path)
    store.keep("a", prediction)
    store.keep("a", prediction.astype(np.int64))
    store.keep("a", prediction + 1)
    store.keep("b", prediction)
    assert len(store.predictions("a", prediction.shape)) == 2
    np.testing.assert_array_equal(store.predictions("b", prediction.shape)[0], prediction)
    assert store.predictions("c", prediction.shape) == []


def test_predictions_for_another_image_of_the_same_name_do_not_count(prediction, tmp_path):
    store = PredictionLog(tmp_path)
    store.keep("a", prediction[:2])
    assert store.predictions("a", prediction.shape) == []


def test_a_damaged_prediction_is_named(prediction, tmp_path):
    store = PredictionLog(tmp_path)
    store.keep("a", prediction)
    file = next((tmp_path / "a").iterdir())
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(SpocoError, match=file.name):
        store.predictions("a", prediction.shape)
