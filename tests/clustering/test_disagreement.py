import numpy as np
import torch

from spoco_bundle.clustering.disagreement import disagreement_map, most_disputed
from spoco_bundle.core.embedding_field import EmbeddingField


def disagreement(one, other, one_objectness=None, other_objectness=None):
    """Of the embeddings and the objectness of two networks."""
    return disagreement_map(
        EmbeddingField(one, objectness=one_objectness, second=EmbeddingField(other, objectness=other_objectness))
    )


def test_equal_networks_agree_everywhere():
    embeddings = torch.rand(4, 5, 6, 7)
    objectness = torch.rand(5, 6, 7)
    assert disagreement(embeddings, embeddings, objectness, objectness).max() == 0


def test_background_embeddings_do_not_count_and_objectness_does():
    torch.manual_seed(0)
    student, teacher = torch.rand(2, 4, 8, 8) * 10
    nothing = torch.zeros(8, 8)
    assert disagreement(student, teacher, nothing, nothing).max() == 0
    seen = nothing.clone()
    seen[2, 3] = 1
    for objectness in ((seen, nothing), (nothing, seen)):
        disputed = disagreement(student, student, *objectness)
        assert disputed[2, 3] == 1 and disputed.sum() == 1
    assert disagreement(student, teacher, seen, seen)[2, 3] > 0.9
    assert disagreement(student, teacher).shape == (8, 8)


def test_embeddings_count_by_the_larger_objectness():
    one, other = torch.zeros(2, 2, 2), torch.full((2, 2, 2), 9.0)
    for seen in (0.4, 1.0):
        disputed = disagreement(one, other, torch.full((2, 2), seen), torch.zeros(2, 2))
        torch.testing.assert_close(disputed, torch.full((2, 2), 2 * seen))


def disputed_volume():
    disputed = np.zeros((10, 40, 40), dtype=np.float32)
    disputed[4:6, 8:12, 8:12] = 1
    disputed[4:6, 28:32, 28:32] = 2
    return disputed


def test_the_most_disputed_place_comes_first_and_places_lie_apart():
    places = most_disputed(disputed_volume(), np.ones((10, 40, 40), bool), (2.0, 1.0, 1.0), 2.0, count=2)
    (first, high), (second, low) = places
    assert np.abs(np.array(first) - (4.5, 29.5, 29.5)).max() <= 1
    assert np.abs(np.array(second) - (4.5, 9.5, 9.5)).max() <= 1
    assert high > low > 0


def test_places_lie_among_the_candidates():
    candidates = np.ones((10, 40, 40), bool)
    candidates[:, 24:36, 24:36] = False
    place = most_disputed(disputed_volume(), candidates, (2.0, 1.0, 1.0), 2.0)[0][0]
    assert np.abs(np.array(place) - (4.5, 9.5, 9.5)).max() <= 1
    assert most_disputed(disputed_volume(), np.zeros((10, 40, 40), bool), (2.0, 1.0, 1.0), 2.0, count=3) == []


def test_one_loud_voxel_does_not_outweigh_an_object():
    disputed = disputed_volume()
    disputed[8, 2, 38] = 4
    place = most_disputed(disputed, np.ones(disputed.shape, bool), (2.0, 1.0, 1.0), 2.0)[0][0]
    assert np.abs(np.array(place) - (4.5, 29.5, 29.5)).max() <= 1
