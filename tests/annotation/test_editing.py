"""Decisions about predicted objects: what each changes, that it can be taken back, and where objects are divided."""

from itertools import count

import numpy as np
import pytest
from scipy import ndimage

from spoco_bundle.annotation import editing
from spoco_bundle.annotation.editing import least_certain, pieces, split_by_seeds


@pytest.fixture
def labels():
    """What is checked, with 3 drawn over a part of 5, and what is not: 5, 6 and 7."""
    checked, unchecked = np.zeros((2, 4, 10), np.int32), np.zeros((2, 4, 10), np.int32)
    unchecked[:, 1:3, 1:4], unchecked[:, 1:3, 4:6], unchecked[0, 0, 8:] = 5, 6, 7
    checked[:, 2, 1:3] = 3
    return checked, unchecked


def applied(edit, labels):
    checked, unchecked = (array.copy() for array in labels)
    edit.apply(checked, unchecked)
    return checked, unchecked


def test_an_accepted_object_keeps_its_number_and_leaves_what_is_drawn(labels):
    checked, unchecked = applied(editing.accept(*labels, [5, 7]), labels)
    np.testing.assert_array_equal(checked, np.where(labels[0] > 0, labels[0], np.where(labels[1] == 6, 0, labels[1])))
    np.testing.assert_array_equal(unchecked, np.where(labels[1] == 6, 6, 0))


def test_a_deleted_object_is_gone(labels):
    checked, unchecked = applied(editing.delete(*labels, [6]), labels)
    np.testing.assert_array_equal(checked, labels[0])
    np.testing.assert_array_equal(unchecked, np.where(labels[1] == 6, 0, labels[1]))


def test_merged_objects_have_the_lowest_number(labels):
    checked, unchecked = applied(editing.merge(*labels, [6, 5]), labels)
    np.testing.assert_array_equal(checked, labels[0])
    np.testing.assert_array_equal(unchecked, np.where(labels[1] == 6, 5, labels[1]))


def test_an_object_in_pieces_is_split_into_them_and_the_largest_keeps_its_number(labels):
    labels[1][1, 0, 8] = 6
    edit = editing.split(*labels, 6, iter([20]))
    _, unchecked = applied(edit, labels)
    assert np.argwhere(unchecked == 20).tolist() == [[1, 0, 8]]
    np.testing.assert_array_equal((unchecked == 6) | (unchecked == 20), labels[1] == 6)
    assert editing.split(*labels, 7, count(20)) is None, "it is in one piece"
    assert editing.split(*labels, 99, count(20)) is None, "there is no such object"


@pytest.mark.parametrize("edit", ["accept", "delete", "merge"])
def test_every_decision_can_be_taken_back_but_for_what_was_painted_since(labels, edit):
    change = getattr(editing, edit)(*labels, [5, 6])
    changed = applied(change, labels)
    for before, after in zip(labels, applied(change.back(), changed)):
        np.testing.assert_array_equal(before, after)
    changed[0][0, 1, 1:6] = 9
    back = applied(change.back(), changed)
    np.testing.assert_array_equal(back[0], np.where(changed[0] == 9, 9, labels[0]))
    np.testing.assert_array_equal(back[1], labels[1])


def test_the_region_is_the_box_of_what_changes(labels):
    assert editing.delete(*labels, [6]).region == (slice(0, 2), slice(1, 3), slice(4, 6))


@pytest.mark.parametrize("dims", [2, 3])
def test_seeds_divide_two_balls_where_they_touch(dims):
    grid = np.indices((23,) * (dims - 1) + (41,)).astype(float)
    first, second = (np.array([11.0] * (dims - 1) + [along]) for along in (11, 28))

    def distance(middle):
        return np.sqrt(((grid - middle.reshape(-1, *[1] * dims)) ** 2).sum(0))

    inside = np.minimum(distance(first), distance(second)) <= 10
    # seeds away from the middles, one of them outside of the object and one twice
    seeds = np.round(np.array([first + 4, second - 4, first * 0, second - 4])).astype(int)
    parts = split_by_seeds(inside, seeds)
    np.testing.assert_array_equal(parts > 0, inside)
    # the neck lies half way between the middles
    expected = np.where(inside, np.where(grid[-1] < 19.5, 1, 2), 0)
    assert (parts != expected).sum() < 0.04 * inside.sum()


def test_the_neck_is_sought_in_lengths_not_in_voxels():
    # three chambers; one neck is 5 voxels high, the other one 3 voxels wide
    inside = np.zeros((26, 26), bool)
    inside[:11, :11], inside[:11, 15:], inside[15:, 15:] = True, True, True
    inside[3:8, 11:15], inside[11:15, 19:22] = True, True
    seeds = np.array([[5, 5], [20, 20]])
    assert (split_by_seeds(inside, seeds)[:11, 15:] == 1).all()
    assert (split_by_seeds(inside, seeds, spacing=(1.0, 4.0))[:11, 15:] == 2).all()


def test_a_piece_without_a_seed_goes_to_the_part_next_to_it():
    inside = np.zeros((3, 20), bool)
    inside[:, :4], inside[:, 5:9], inside[:, 12:19] = True, True, True
    parts = split_by_seeds(inside, np.array([[1, 1], [1, 15]]))
    assert set(parts[:, 5:9].ravel()) == {1} and set(parts[:, 12:19].ravel()) == {2}
    assert not split_by_seeds(inside, np.zeros((0, 2))).any()


def test_pieces_that_meet_at_a_corner_are_one():
    inside = np.zeros((3, 4, 4), bool)
    inside[0, 0, 0], inside[1, 1, 1], inside[1, 3, 3] = True, True, True
    found = pieces(inside)
    assert found[0, 0, 0] == found[1, 1, 1] != found[1, 3, 3] and found.max() == 2


def test_split_numbers_largest_part_first_whatever_the_order_of_seeds(labels):
    unchecked = np.zeros((5, 30), np.int32)
    unchecked[:, :8], unchecked[2, 8:12], unchecked[:, 12:28] = 4, 4, 4
    checked = np.zeros_like(unchecked)
    edit = editing.split(checked, unchecked, 4, iter([11]), np.array([[2, 3], [2, 20]]))
    _, divided = applied(edit, (checked, unchecked))
    assert (divided[:, 14:28] == 4).all() and (divided[:, :7] == 11).all()
    sizes = ndimage.sum_labels(divided > 0, divided, [4, 11])
    assert sizes.sum() == (unchecked > 0).sum() and sizes[0] > sizes[1]


def test_the_least_certain_object_comes_first_and_unknown_ones_last():
    confidence = {4: 0.9, 2: None, 7: 0.1, 5: 0.1, 1: None}
    order, at = [], None
    for _ in confidence:
        at = least_certain(confidence, at)
        order.append(at)
    assert order == [5, 7, 4, 1, 2]
    assert least_certain(confidence, 2) == 5, "it begins anew"
    assert least_certain(confidence, 99) == 5, "what is gone is followed by the first"
    assert least_certain({}) is None
