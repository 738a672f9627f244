from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from spoco_bundle.clustering import cluster_embeddings, confidence
from spoco_bundle.clustering.confidence import border_contrast, object_confidence
from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.embedding_space import kernel_scale

FAR = 50.0


def confidence_of(embeddings, labels, objectness=None, teacher=None):
    """Confidences of objects (z, y, x) in embeddings (E, *spatial)."""
    shaped = None if objectness is None else objectness.reshape(embeddings.shape[1:])
    second = None if teacher is None else EmbeddingField(teacher)
    return object_confidence(EmbeddingField(embeddings, objectness=shaped, second=second), labels)


def two_squares(gap: int):
    """Objects of 6 x 6 voxels far apart in the embedding space, in a background that is far from both."""
    embeddings = torch.full((1, 20, 30), FAR)
    labels = torch.zeros(20, 1, 30, dtype=torch.int32)
    for number, x in enumerate((5, 11 + gap)):
        embeddings[0, 7:13, x : x + 6] = -FAR * number
        labels[7:13, 0, x : x + 6] = number + 1
    return embeddings, labels


def two_cells(membrane: float = 0.0):
    """Cells of 6 x 6 voxels side by side in a background of objectness 0, with what it is where they touch."""
    embeddings, labels = two_squares(gap=0)
    objectness = torch.where(labels > 0, 0.9, 0.0)
    objectness[7:13, 0, 10:12] = membrane
    return embeddings, labels, objectness


def contrast_by_voxels(labels, objectness, count: int) -> np.ndarray:
    """The contrast of every object, one voxel and one neighbour after the other."""
    contrast = []
    for number in range(1, count + 1):
        inside = [place for place in np.ndindex(labels.shape) if labels[place] == number]
        faces = [
            min(objectness[place], objectness[beside])
            for place in inside
            for axis, step in itertools.product(range(3), (-1, 1))
            if 0 <= (beside := tuple(np.add(place, step * np.eye(3, dtype=int)[axis])))[axis] < labels.shape[axis]
            and labels[beside] != number
        ]
        fall = np.mean([objectness[place] for place in inside]) - (np.mean(faces) if faces else 0)
        contrast.append(max(fall, 0))
    return np.array(contrast)


def test_a_lone_object_of_one_embedding_is_certain():
    embeddings, labels = two_squares(gap=6)
    assert confidence_of(embeddings, labels).tolist() == pytest.approx([1, 1])
    sure = (labels > 0).float()
    assert confidence_of(embeddings, labels, sure).tolist() == pytest.approx([1, 1])


def test_coherence_by_hand():
    embeddings, labels = two_squares(gap=6)
    embeddings[0, 7:13:2, 5:11] += 0.3
    embeddings[0, 8:13:2, 5:11] -= 0.3
    kernel = np.exp(-(0.3**2) / kernel_scale(0.5, 0.5))  # of every voxel
    assert confidence_of(embeddings, labels).tolist() == pytest.approx([kernel**0.5, 1])


def test_half_an_object_is_less_coherent():
    embeddings, labels = two_squares(gap=6)
    labels[7:13, 0, 8:11] = 0  # its other half lies within the two voxels around it, but for one column of three
    assert confidence_of(embeddings, labels).tolist() == pytest.approx([(3 / 5) ** 0.5, 1])


def test_coherence_and_contrast_by_hand():
    embeddings, labels = two_squares(gap=6)
    objectness = torch.where(labels == 1, 0.9, 0.1)
    objectness[labels == 2] = 0.5
    # the coherence is the mean objectness, and the border has that of the background
    expected = [((0.9 + 0.8) / 2) ** 0.5, ((0.5 + 0.4) / 2) ** 0.5]
    assert confidence_of(embeddings, labels, objectness).tolist() == pytest.approx(expected)


def test_an_object_no_likelier_than_its_border_has_no_contrast():
    embeddings, labels = two_squares(gap=6)
    flat = torch.full(labels.shape, 0.6)
    assert border_contrast(labels, flat, 2).tolist() == [0, 0]
    assert confidence_of(embeddings, labels, flat).tolist() == pytest.approx([0.3**0.5] * 2)


def test_objects_that_fill_the_volume_are_told_apart_by_membranes():
    embeddings = torch.zeros(1, 9, 9)
    labels = torch.arange(9, dtype=torch.int32).reshape(3, 1, 3).repeat_interleave(3, 0).repeat_interleave(3, 2) + 1
    embeddings[0] = FAR * labels[:, 0]
    membranes = torch.zeros(9, 1, 9)
    membranes[1::3, :, 1::3] = 1
    assert border_contrast(labels, torch.ones(labels.shape), 9).tolist() == [0] * 9
    # one voxel of nine is inside, and none at a border
    assert border_contrast(labels, membranes, 9).tolist() == pytest.approx([1 / 9] * 9)
    found = confidence_of(embeddings, labels, torch.ones(labels.shape))
    assert found.tolist() == pytest.approx([0.5**0.5] * 9)


def test_an_object_without_a_border_has_nothing_to_doubt_there():
    everything = torch.ones(3, 1, 4, dtype=torch.int32)
    assert border_contrast(everything, torch.full((3, 1, 4), 0.4), 1).tolist() == pytest.approx([0.4])


@pytest.mark.parametrize("slab", [1, 70, 1 << 20])
@pytest.mark.parametrize("shape", [(7, 1, 9), (5, 6, 7), (1, 1, 1), (1, 8, 1)])
def test_contrast_against_a_loop_over_voxels(shape, slab, monkeypatch):
    monkeypatch.setattr(confidence, "SLAB", slab)
    random = np.random.default_rng(0)
    for coarse in (1, 3):
        labels = random.integers(0, 4, [-(-extent // coarse) for extent in shape], dtype=np.int32)
        for axis in range(3):
            labels = labels.repeat(coarse, axis)
        labels = labels[tuple(slice(extent) for extent in shape)]
        numbers, labels = np.unique(labels, return_inverse=True)
        labels = labels.reshape(shape).astype(np.int32) + int(numbers[0] > 0)
        objectness = random.random(shape, dtype=np.float32)
        objectness[labels == 1] **= 0.25  # an object with contrast
        found = border_contrast(torch.from_numpy(labels), torch.from_numpy(objectness), int(labels.max()))
        np.testing.assert_allclose(found.numpy(), contrast_by_voxels(labels, objectness, int(labels.max())), atol=1e-6)


def test_the_halves_of_a_false_split_score_below_two_cells():
    embeddings, labels, objectness = two_cells()
    cells = confidence_of(embeddings, labels, objectness)
    # 5 of 6 columns are inside, and every face has background or membrane on one side
    assert border_contrast(labels, objectness, 2).tolist() == pytest.approx([0.75] * 2)
    embeddings, labels, objectness = two_cells(membrane=0.9)
    embeddings[labels[:, 0][None] > 0] = 0  # one cell, cut in halves: 6 of 24 faces of each lie inside of it
    assert border_contrast(labels, objectness, 2).tolist() == pytest.approx([0.9 * 18 / 24] * 2)
    halves = confidence_of(embeddings, labels, objectness)
    whole = confidence_of(embeddings, (labels > 0).int(), objectness)
    assert halves.max() < cells.min() - 0.03 and halves.max() < whole.min() - 0.1


@pytest.mark.parametrize("apart", [1.0, 4.0])
def test_a_merge_across_a_membrane_scores_below_each_of_its_cells(apart):
    embeddings, labels, objectness = two_cells()
    embeddings[0][labels[:, 0] == 1], embeddings[0][labels[:, 0] == 2] = 0, apart
    cells = confidence_of(embeddings, labels, objectness)
    merge = confidence_of(embeddings, (labels > 0).int(), objectness)
    # the contrast is that of its cells, and every voxel is half of the way to the other cell away from the mean
    kernel = np.exp(-((apart / 2) ** 2) / kernel_scale(0.5, 0.5))
    assert merge.item() == pytest.approx((0.75 * (1 + kernel) / 2) ** 0.5)
    assert merge.item() < cells.min() - 0.05


def test_ids_flips_and_background_around_change_nothing(scene):
    s = scene(3)
    labels, objectness = torch.from_numpy(s.label).int(), torch.from_numpy(s.objectness)
    noise = 0.03 * labels * torch.randn(2, *s.embeddings.shape, generator=torch.Generator().manual_seed(0))
    embeddings, teacher = torch.from_numpy(s.embeddings) + noise
    labels[:, :2], labels[:, -2:], labels[..., :2], labels[..., -2:] = 0, 0, 0, 0
    labels[:2], labels[-2:] = 0, 0
    count = int(labels.max())

    def found(*sides, order=None):
        """Confidences with the axes flipped, and the ids in another order."""
        ids = labels if order is None else order[labels.long()].int()
        flipped = [part.flip([axis - 3 for axis in sides]) for part in (embeddings, teacher, ids, objectness)]
        return confidence_of(flipped[0], flipped[2], flipped[3], flipped[1])

    expected = found()
    assert expected.std() > 0.03 and ((0 < expected) & (expected < 1)).all()
    for sides in ((0,), (1,), (2,), (0, 1, 2)):
        torch.testing.assert_close(found(*sides), expected)
    order = torch.cat([torch.zeros(1), 1 + torch.randperm(count, generator=torch.Generator().manual_seed(1))]).long()
    torch.testing.assert_close(found(order=order)[order[1:] - 1], expected)

    padded = confidence_of(
        pad(embeddings, (3,) * 6, value=FAR),
        pad(labels, (3,) * 6),
        pad(objectness, (3,) * 6),
        pad(teacher, (3,) * 6, value=FAR),
    )
    torch.testing.assert_close(padded, expected)


@pytest.mark.parametrize("shape", [(6, 7), (5, 6, 7)])
@pytest.mark.parametrize("with_objectness", [False, True])
@pytest.mark.parametrize("with_teacher", [False, True])
def test_confidences_lie_between_0_and_1(shape, with_objectness, with_teacher):
    random = torch.Generator().manual_seed(0)
    embeddings, teacher = (torch.randn(3, *shape, generator=random) for _ in range(2))
    field = EmbeddingField(embeddings)
    labels = torch.zeros(field.shape, dtype=torch.int32)
    labels[0, :, :3], labels[3, 0, 3], labels[-1, -1, -1], labels[4, 0] = 1, 2, 3, 4  # at borders, and of one voxel
    objectness = torch.rand(shape, generator=random) if with_objectness else None
    found = confidence_of(embeddings, labels, objectness, teacher if with_teacher else None)
    assert found.shape == (4,) and found.dtype == torch.float32
    assert ((found >= 0) & (found <= 1)).all()


def test_a_large_object_is_looked_at_in_steps():
    embeddings, labels = torch.full((1, 130, 130, 130), FAR), torch.zeros(130, 130, 130, dtype=torch.int32)
    embeddings[0, 10:120, 10:120, 10:120] = 0
    labels[10:120, 10:120, 10:120] = 1
    labels[125:128, 125, 125] = 2  # finer than a step would be
    embeddings[0, 125:128, 125, 125] = -FAR
    assert confidence_of(embeddings, labels).tolist() == pytest.approx([1, 1])


def test_a_teacher_that_disagrees_lowers_the_confidence(scene):
    s = scene(3)
    teacher = s.embeddings.copy()
    teacher[:, s.label == 5] += np.random.default_rng(0).normal(size=(8, (s.label == 5).sum()))
    labels, confidence = cluster_embeddings(
        s.embeddings, teacher_embeddings=teacher, foreground=s.label > 0, return_confidence=True
    )
    assert confidence.dtype == np.float32 and confidence.shape == (9,)
    odd = np.bincount(labels[s.label == 5]).argmax() - 1
    assert confidence.argmin() == odd
    assert confidence[odd] < np.delete(confidence, odd).min() - 0.2


def test_no_object_no_confidence():
    labels, confidence = cluster_embeddings(
        np.zeros((4, 5, 6), np.float32), foreground=np.zeros((5, 6)), return_confidence=True
    )
    assert labels.max() == 0 and confidence.shape == (0,)


def test_a_kernel_that_is_given_is_that_of_the_confidence(scene):
    s = scene(3, noise=0.3)
    given = {"objectness": s.objectness, "return_confidence": True}
    labels, usual = cluster_embeddings(s.embeddings, **given)
    for name, value in (("delta_var", 2.0), ("kernel_threshold", 0.9)):
        labels, found = cluster_embeddings(s.embeddings, **given, **{name: value})
        field = EmbeddingField(s.embeddings, objectness=s.objectness)
        expected = object_confidence(field, torch.from_numpy(labels), **{name: value})
        assert found == pytest.approx(expected.numpy()) and found.mean() > usual.mean() + 0.01


def test_a_large_object_of_an_image_is_looked_at_in_more_steps(monkeypatch):
    embeddings, labels = two_squares(gap=2)
    monkeypatch.setattr(confidence, "MAX_BOX", 25)
    seen = []
    monkeypatch.setattr(confidence, "soft_mask", lambda squared, **_: seen.append(len(squared)) or squared)
    confidence_of(embeddings, labels)
    assert seen == [2 * 5 * 5]  # of two boxes of 10 x 10
