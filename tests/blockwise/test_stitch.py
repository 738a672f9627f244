from __future__ import annotations

import numpy as np
import pytest

from spoco_bundle.blockwise.stitch import Pieces, link_pieces, measure_pieces, merge_pieces, object_rows
from spoco_bundle.formats.objects_table import objects_table


def linked(labels, others, means=None, other_means=None, **options):
    labels, others = np.asarray(labels), np.asarray(others)
    means = np.zeros((labels.max() + 1, 2)) if means is None else np.asarray(means, float)
    other_means = np.zeros((others.max() + 1, 2)) if other_means is None else np.asarray(other_means, float)
    settings = {"least_share": 0.5, "thin_voxels": 3, "agreement_distance": 1.0, **options}
    return {tuple(pair) for pair in link_pieces(labels, others, means, other_means, **settings).tolist()}


FAR = [[0, 0], [9, 9], [18, 18]]


def test_pieces_that_cover_each_other_are_one_whatever_their_embeddings():
    assert linked([[1, 1, 1, 1, 0]], [[2, 2, 2, 2, 2]], np.zeros((2, 2)), FAR) == {(1, 2)}


def test_touching_objects_whose_borders_differ_a_little_stay_apart():
    assert linked([[1, 1, 1, 1, 2, 2, 2, 2]], [[1, 1, 1, 1, 1, 2, 2, 2]]) == {(1, 1), (2, 2)}


def test_a_thin_overlap_needs_agreement_of_the_embeddings():
    thin = [[1, 1, 0, 0]], [[1, 1, 0, 0]]
    assert linked(*thin) == {(1, 1)}
    assert linked(*thin, np.zeros((2, 2)), FAR[:2]) == set()
    assert linked(*thin, np.zeros((2, 2)), FAR[:2], thin_voxels=2) == {(1, 1)}


def test_a_part_of_a_larger_piece_needs_agreement_too():
    part = [[1, 1, 1, 1, 1, 1, 1, 1, 1]], [[1, 1, 1, 0, 0, 0, 0, 0, 0]]
    assert linked(*part) == {(1, 1)}
    assert linked(*part, np.zeros((2, 2)), FAR[:2]) == set()


def test_pieces_that_meet_nowhere():
    assert linked([[1, 1, 0, 0]], [[0, 0, 1, 1]]) == set()


@pytest.mark.parametrize("dims", [2, 3])
def test_pieces_measured_in_blocks_give_the_table_of_the_whole(dims):
    random = np.random.default_rng(3)
    shape = (12, 20, 18)[-dims:]
    whole = random.integers(0, 6, shape).astype(np.uint32)
    confidence = random.random(5)
    parts, links, offset = [], [], 0
    middle = shape[0] // 2
    for start, block in ((0, whole[:middle]), (middle, whole[middle:])):
        ids = np.unique(block)[1:]
        parts.append(measure_pieces(block, (start, *[0] * (dims - 1)), shape, confidence))
        links.append(ids - 1 + offset)
        offset += len(ids)
    owner, objects = merge_pieces(Pieces.joined(parts), np.stack(links, 1), min_size=1)
    first = [np.flatnonzero(whole.ravel() == number)[0] for number in range(1, 6)]
    rank = np.argsort(np.argsort(first)) + 1
    assert owner.tolist() == [*rank, *rank]
    table = np.concatenate([[0], rank])
    expected = objects_table(table[whole], (2.0, 0.5, 0.25)[-dims:], "micrometer", confidence[np.argsort(first)])
    found = list(object_rows(objects, (2.0, 0.5, 0.25)[-dims:], "micrometer"))
    assert len(found) == len(expected) == 5
    for ours, theirs in zip(found, expected):
        assert list(ours) == list(theirs)
        for name in ours:
            assert ours[name] == (pytest.approx(theirs[name]) if isinstance(ours[name], float) else theirs[name])


def test_chains_join_and_small_fragments_go():
    count = 5
    pieces = Pieces(
        voxels=np.array([10, 10, 10, 4, 30]),
        first=np.array([50, 40, 30, 1, 2]),
        sums=np.ones((count, 3)),
        low=np.arange(15).reshape(5, 3),
        high=np.arange(15).reshape(5, 3) + 2,
        confidence=np.array([0.0, 0.5, 1.0, 1.0, 0.25]),
    )
    owner, objects = merge_pieces(pieces, np.array([[0, 1], [2, 1]]), min_size=5)
    assert owner.tolist() == [2, 2, 2, 0, 1]
    assert objects.voxels.tolist() == [30, 30] and objects.first.tolist() == [2, 30]
    assert objects.confidence.tolist() == [0.25, 0.5]
    assert objects.low[1].tolist() == [0, 1, 2] and objects.high[1].tolist() == [8, 9, 10]


def test_pieces_count_by_their_voxels_in_the_confidence_of_their_object():
    ones = np.ones((2, 3), int)
    pieces = Pieces(np.array([30, 10]), np.array([0, 5]), 1.0 * ones, 0 * ones, ones, np.array([1.0, 0.2]))
    assert merge_pieces(pieces, np.array([[0, 1]]), min_size=1)[1].confidence.tolist() == pytest.approx([0.8])


def test_a_volume_without_objects():
    empty = measure_pieces(np.zeros((3, 4, 5), np.uint32), (0, 0, 0), (3, 4, 5))
    owner, objects = merge_pieces(Pieces.joined([empty, empty]), np.zeros((0, 2), np.int64), min_size=1)
    assert len(owner) == 0 and list(object_rows(objects, None, "unknown")) == []
