from __future__ import annotations

import numpy as np
import pytest
import torch

from spoco_bundle.clustering import cluster_embeddings
from spoco_bundle.clustering.confidence import object_confidence
from spoco_bundle.clustering.voxels import Volume
from spoco_bundle.embedding_space import kernel_scale

FAR = 50.0


def two_squares(gap: int):
    """Objects of 6 x 6 voxels far apart in the embedding space, in a background that is far from both."""
    embeddings = torch.full((1, 20, 30), FAR)
    labels = torch.zeros(20, 1, 30, dtype=torch.int32)
    for number, x in enumerate((5, 11 + gap)):
        embeddings[0, 7:13, x : x + 6] = -FAR * number
        labels[7:13, 0, x : x + 6] = number + 1
    return embeddings, labels


def test_a_lone_object_of_one_embedding_is_certain():
    embeddings, labels = two_squares(gap=6)
    assert object_confidence(Volume(embeddings), labels).tolist() == pytest.approx([1, 1])


def test_coherence_by_hand():
    embeddings, labels = two_squares(gap=6)
    embeddings[0, 7:13:2, 5:11] += 0.3
    embeddings[0, 8:13:2, 5:11] -= 0.3
    kernel = np.exp(-(0.3**2) / kernel_scale(0.5, 0.5))
    # coherence is the mean kernel value, the border is free: the geometric mean of the two
    assert object_confidence(Volume(embeddings), labels).tolist() == pytest.approx([kernel**0.5, 1])


def test_half_an_object_is_less_coherent():
    embeddings, labels = two_squares(gap=6)
    labels[7:13, 0, 8:11] = 0  # its other half lies within the two voxels around it, but for one column of three
    first, second = object_confidence(Volume(embeddings), labels)
    assert first == pytest.approx((3 / 5) ** 0.5) and second == pytest.approx(1)


def test_a_shared_border_lowers_the_confidence():
    embeddings, labels = two_squares(gap=0)
    # 10 x 10 voxels less 6 x 6 lie around each, 2 x 10 of which the other could hold and 2 x 6 it does
    assert object_confidence(Volume(embeddings), labels).tolist() == pytest.approx([(1 - 0.5 * 12 / 64) ** 0.5] * 2)


def test_objects_that_fill_the_volume_can_be_trusted():
    embeddings = torch.zeros(1, 9, 9)
    labels = torch.arange(9, dtype=torch.int32).reshape(3, 1, 3).repeat_interleave(3, 0).repeat_interleave(3, 2) + 1
    embeddings[0] = FAR * labels[:, 0]
    found = object_confidence(Volume(embeddings), labels, objectness=torch.ones(labels.shape))
    assert found.tolist() == pytest.approx([0.5 ** (1 / 3)] * 9)


def test_contrast_by_hand():
    embeddings, labels = two_squares(gap=6)
    objectness = torch.where(labels == 1, 0.9, 0.1)
    objectness[labels == 2] = 0.5
    expected = [(0.9 * 0.8) ** (1 / 3), (0.5 * 0.4) ** (1 / 3)]  # coherence is the mean objectness, the border is free
    assert object_confidence(Volume(embeddings), labels, objectness=objectness).tolist() == pytest.approx(expected)


def test_an_object_no_likelier_than_its_surroundings_has_none():
    embeddings, labels = two_squares(gap=6)
    flat = torch.full(labels.shape, 0.6)
    assert object_confidence(Volume(embeddings), labels, objectness=flat).tolist() == [0, 0]


def test_a_large_object_is_looked_at_in_steps():
    embeddings, labels = torch.full((1, 130, 130, 130), FAR), torch.zeros(130, 130, 130, dtype=torch.int32)
    embeddings[0, 10:120, 10:120, 10:120] = 0
    labels[10:120, 10:120, 10:120] = 1
    labels[125:128, 125, 125] = 2  # finer than a step would be
    embeddings[0, 125:128, 125, 125] = -FAR
    assert object_confidence(Volume(embeddings), labels).tolist() == pytest.approx([1, 1])


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
