import random

import numpy as np
import torch

from spoco_bundle.core.random_state import RandomState


def drawn():
    return [random.random(), np.random.randn(3).tolist(), torch.rand(3).tolist()]


def test_round_trip():
    state = RandomState().state_dict()
    first = drawn()
    RandomState().load_state_dict(state)
    assert drawn() == first
