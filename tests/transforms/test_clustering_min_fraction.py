from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from spoco_bundle.networks import Decoder
from spoco_bundle.transforms import ClusterEmbeddingsd


def smallest(spacing, scale=4.0, channels=None, network=None, **arguments) -> int:
    channels = len(spacing) if channels is None else channels
    decoder = Decoder(channels, network=network, coordinate_scale=scale)
    return ClusterEmbeddingsd(decoder=decoder, **arguments).smallest_object(spacing)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.5, 0.4), (1.0, 1.0), (0.5, 0.25)])
@pytest.mark.parametrize("scale", [3.0, 7.5])
def test_least_size_is_a_fraction_of_a_ball_of_twice_the_scale(spacing, scale):
    ball = 4 / 3 * math.pi * (2 * scale) ** 3 if len(spacing) == 3 else math.pi * (2 * scale) ** 2
    assert smallest(spacing, scale, min_fraction=0.1) == round(0.1 * ball / math.prod(spacing))


def test_the_scale_may_come_from_the_network():
    network = SimpleNamespace(coordinate_scale=2.0)
    assert smallest((1.0, 1.0), None, network=network, min_fraction=0.5) == round(0.5 * math.pi * 16)


def test_sizes_given_by_hand_win():
    assert smallest((1.0, 1.0, 1.0), min_fraction=0.1, min_size=7) == 7


def test_coarse_voxels_still_make_one_voxel():
    assert smallest((9.0, 9.0), 1.0, min_fraction=0.01) == 1


def test_the_default_holds_without_coordinates_or_fraction():
    assert smallest((1.0, 1.0)) == smallest((1.0, 1.0), channels=0, min_fraction=0.1) == 20


def test_where_the_typical_object_is_known_it_counts_with_coordinates_and_without():
    disc = math.pi * 5**2
    for channels in (0, 2):
        found = smallest((1.0, 0.5), channels=channels, object_diameter=10.0, min_fraction=0.2)
        assert found == round(0.2 * disc / 0.5)
