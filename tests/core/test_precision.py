"""bfloat16 is used where it is native, and not where PyTorch goes wrong with it."""

from __future__ import annotations

import pytest
import torch

from spoco_bundle.core import precision
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.precision import uses_bfloat16

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def native(monkeypatch):
    monkeypatch.setattr(precision, "_has_native_bfloat16", lambda device: True)


def test_not_for_learning_from_volumes_that_shrink_to_two_planes():
    default, cubic = (4, 8, 8), (16, 16, 16)
    # the last one is of a network that does not tell its strides
    for shape, stride in [
        ((8, 24, 24), default),
        ((8, 120, 120), default),
        ((4, 64, 64), default),
        ((32,) * 3, cubic),
        ((8, 120, 120), ()),
    ]:
        assert not uses_bfloat16("auto", CPU, shape, stride, learns=True)
        assert uses_bfloat16("auto", GPU, shape, stride, learns=True) and uses_bfloat16("auto", CPU, shape, stride)
    for shape, stride in [
        ((9, 24, 24), default),
        ((48,) * 3, cubic),
        ((8, 16, 16), (2, 8, 8)),
        ((12, 120, 120), ()),
        ((8, 120), ()),
        ((8, 120), (8, 8)),
        ((), ()),
    ]:
        assert uses_bfloat16("auto", CPU, shape, stride, learns=True)
        assert uses_bfloat16("bfloat16", CPU, shape, stride, learns=True)
    for stride in ((), default):
        with pytest.raises(SpocoError, match="with 8 x 96 x 96 voxels: give --precision auto"):
            uses_bfloat16("bfloat16", CPU, (8, 96, 96), stride, learns=True)


def test_not_where_rows_shrink_to_one_voxel():
    assert not uses_bfloat16("auto", CPU, (9, 34, 2), (1, 2, 2)) and uses_bfloat16("auto", GPU, (9, 34, 2), (1, 2, 2))
    for shape, stride in [((9, 2, 34), (1, 2, 2)), ((9, 34, 4), (1, 2, 2)), ((9, 34, 1), (1, 2, 1)), ((9, 2), (2, 2))]:
        assert uses_bfloat16("auto", CPU, shape, stride) and uses_bfloat16("bfloat16", CPU, shape, stride)
    with pytest.raises(SpocoError, match="with 9 x 34 x 2 voxels: give --precision auto"):
        uses_bfloat16("bfloat16", CPU, (9, 34, 2), (1, 2, 2))
