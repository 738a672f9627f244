from __future__ import annotations

import numpy as np
import pytest
import torch

from spoco_bundle.clustering import cluster_embeddings
from spoco_bundle.clustering.confidence import object_confidence
from spoco_bundle.clustering.voxels import Volume
from spoco_bundle.embedding_space import kernel_scale


def test_mean_kernel_value_by_hand():
    embeddings = torch.zeros(2, 4, 6)
    embeddings[0, :, :3] = torch.tensor([-0.3, 0.3])[torch.arange(4) % 2][:, None]
    labels = torch.ones(4, 1, 6, dtype=torch.int32)
    labels[:, :, 3:] = 2
    expected = np.exp(-(0.3**2) / kernel_scale(0.5, 0.5))
    found = object_confidence(Volume(embeddings), labels)
    assert found.tolist() == pytest.approx([expected, 1.0])
    objectness = torch.full((4, 1, 6), 0.5)
    assert object_confidence(Volume(embeddings), labels, objectness=objectness).tolist() == pytest.approx(
        [expected / 2, 0.5]
    )


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
    assert confidence[odd] < 0.3 < 0.9 < np.delete(confidence, odd).min()


def test_no_object_no_confidence():
    labels, confidence = cluster_embeddings(
        np.zeros((4, 5, 6), np.float32), foreground=np.zeros((5, 6)), return_confidence=True
    )
    assert labels.max() == 0 and confidence.shape == (0,)
