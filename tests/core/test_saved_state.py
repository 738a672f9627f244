from __future__ import annotations

import os
import resource
from collections import OrderedDict, deque

import numpy as np
import pytest
import torch

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.saved_state import plain_state, save_state


def test_everything_loads_with_weights_only(tmp_path):
    state = {
        "array": np.arange(3),
        "number": np.float64(0.5),
        "flag": np.bool_(True),
        "ordered": OrderedDict(a=(1, 2.0)),
        "queue": deque([1]),
        "none": None,
        3: float("nan"),
    }
    save_state(plain_state(state), tmp_path / "x.pt")
    back = torch.load(tmp_path / "x.pt", weights_only=True)
    assert torch.equal(back.pop("array"), torch.arange(3))
    assert np.isnan(back.pop(3))
    assert back == {"number": 0.5, "flag": True, "ordered": {"a": (1, 2.0)}, "queue": [1], "none": None}
    with pytest.raises(TypeError, match="object"):
        plain_state({"x": object()})


@pytest.fixture
def nearly_full_disk():
    """Files of this process may not grow beyond 100 kB, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, nearly_full_disk):
    save_state({"kept": torch.ones(2)}, tmp_path / "last.pt")
    with pytest.raises(SpocoError, match="last.pt: cannot be written") as error:
        save_state({"big": torch.zeros(10**6)}, tmp_path / "last.pt")
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["last.pt"]
    assert torch.equal(torch.load(tmp_path / "last.pt", weights_only=True)["kept"], torch.ones(2))
