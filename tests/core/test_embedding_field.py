from __future__ import annotations

import numpy as np
import pytest
import torch

from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.embedding_space import add_coordinates
from spoco_bundle.core.errors import SpocoError


@pytest.fixture(params=[(6, 7), (5, 6, 7)])
def raw(request):
    return torch.randn(4, *request.param, generator=torch.Generator().manual_seed(0))


def test_every_way_of_reading_adds_the_coordinates_of_add_coordinates(raw):
    spacing = (2.0, 0.5, 0.25)[-(raw.ndim - 1) :]
    field = EmbeddingField(raw, spacing=spacing, scale=3.0)
    placed = add_coordinates(raw[None], spacing, 3.0)[0].reshape(4, *field.shape)
    assert torch.equal(field.slab(1, 4), placed[:, 1:4])
    box = (slice(2, 5), slice(0, field.shape[1]), slice(1, 3))
    assert torch.equal(field.box(box), placed[(slice(None), *box)])
    index = torch.tensor([0, 3, 17, field.voxels - 1])
    assert torch.equal(field.take(index), placed.reshape(4, -1)[:, index].T)


def test_reading_changes_nothing_and_half_precision_is_raised(raw):
    before = raw.clone()
    EmbeddingField(raw, scale=1.0).slab(0, 3)
    assert torch.equal(raw, before)
    half = EmbeddingField(raw.half().numpy(), scale=1.0).slab(0, 3)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, EmbeddingField(raw, scale=1.0).slab(0, 3), atol=0.01, rtol=0.01)


def test_a_block_of_a_volume_has_the_coordinates_of_the_volume(raw):
    dims = raw.ndim - 1
    whole = EmbeddingField(raw, spacing=(0.5,) * dims, scale=2.0)
    block = EmbeddingField(raw[:, 2:], spacing=(0.5,) * dims, scale=2.0, origin=(2, *(0,) * (dims - 1)))
    assert torch.equal(block.slab(0, 2), whole.slab(2, 4))


def test_slabs_cover_the_first_axis_in_multiples():
    field = EmbeddingField(np.zeros((2, 9, 4, 5), np.float32))
    assert list(field.slabs(multiple=2, values=100)) == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9)]
    assert list(field.slabs()) == [(0, 9)]


@pytest.mark.parametrize(
    ("embeddings", "keywords", "words"),
    [
        (torch.zeros(1, 2, 3, 4, 5), {}, "one volume at a time"),
        (torch.zeros(2, 0, 5), {}, "empty"),
        (np.zeros((2, 4, 5), int), {}, "floating"),
        (torch.zeros(2, 4, 5), {"objectness": torch.zeros(5, 4)}, "objectness has shape"),
        (torch.zeros(1, 4, 5), {"scale": 1.0}, "cannot carry 2 coordinates"),
        (torch.zeros(2, 4, 5), {"scale": 0.0}, "scale"),
        (torch.zeros(2, 4, 5), {"scale": 1.0, "spacing": (1, 0)}, "spacing"),
        (torch.zeros(2, 4, 5), {"second": EmbeddingField(torch.zeros(2, 5, 4))}, "teacher_embeddings have shape"),
    ],
)
def test_what_does_not_fit_is_named(embeddings, keywords, words):
    with pytest.raises(SpocoError, match=words):
        EmbeddingField(embeddings, **keywords)
