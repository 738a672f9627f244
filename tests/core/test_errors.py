from __future__ import annotations

import os

import pytest
from torch.multiprocessing import Process
from torch.utils.data import DataLoader

from spoco_bundle.core.errors import user_error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BrokenPipeError(32, "Broken pipe"), "[Errno 32] Broken pipe"),
        (ConnectionRefusedError(111, "Connection refused"), "[Errno 111] Connection refused"),
    ],
)
def test_a_loader_worker_that_dies_while_it_is_started_is_said(error, reason, monkeypatch):
    def broken(*_):
        raise error

    monkeypatch.setattr(Process, "_Popen", staticmethod(broken))
    with pytest.raises(type(error)) as raised:
        iter(DataLoader([1, 2], num_workers=1))
    assert str(user_error(raised.value)).startswith(f"num_workers: a data-loader worker died ({reason})")


def test_any_other_broken_pipe_is_left_as_it_is():
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(BrokenPipeError) as raised:
        os.write(writing, b"nobody reads")
    os.close(writing)
    assert user_error(raised.value) is None
