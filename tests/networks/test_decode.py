from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.networks import Decoder


def test_a_volume_and_a_batch_get_the_same_coordinates_and_the_objectness_apart():
    output = torch.randn(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    decoder = Decoder(3, objectness=True, network=SimpleNamespace(coordinate_scale=torch.tensor(2.0)))
    field = decoder.field(output, (2.0, 1.0, 0.5), second=output + 1)
    placed = decoder.place(output[None], (2.0, 1.0, 0.5))[0]
    assert torch.equal(field.slab(0, 3), placed[:-1])
    assert torch.equal(field.objectness, output[-1].sigmoid())
    assert torch.equal(placed[-1], output[-1])
    assert torch.equal(field.second.slab(0, 3)[3], output[3] + 1)


def test_without_coordinates_nothing_is_added_and_no_scale_is_needed():
    output = torch.randn(2, 4, 6)
    decoder = Decoder()
    assert torch.equal(decoder.field(output, (3.0, 3.0)).slab(0, 4)[:, :, 0], output)
    assert torch.equal(decoder.place(output[None], (3.0, 3.0))[0], output)


def test_a_scale_of_its_own_wins_over_the_networks():
    network = SimpleNamespace(coordinate_scale=2.0)
    assert Decoder(2, network=network).scale == 2.0
    assert Decoder(2, network=network, coordinate_scale=5.0).scale == 5.0


@pytest.mark.parametrize(
    ("decoder", "words"),
    [
        (Decoder(2), "neither the network's weights nor"),
        (Decoder(2, network=SimpleNamespace(coordinate_scale=0.0)), "neither"),
        (Decoder(3, coordinate_scale=1.0), "give 0 or 2"),
    ],
)
def test_what_is_missing_is_named(decoder, words):
    with pytest.raises(SpocoError, match=words):
        decoder.field(torch.zeros(4, 5, 6), (1.0, 1.0))
