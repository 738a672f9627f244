from __future__ import annotations

import sys

import pytest

from spoco_bundle.blockwise import memory
from spoco_bundle.core.errors import SpocoError
from support import run_python


@pytest.mark.parametrize(
    "text, size",
    [("4GiB", 4 * 2**30), ("4g", 4 * 2**30), ("0.5", 2**29), (2, 2 * 2**30), ("300 MB", 300 * 2**20), ("4096b", 4096)],
)
def test_a_limit_of_the_users_counts(text, size):
    assert memory.available_memory(text) == pytest.approx(min(size, memory.available_memory()), rel=0.2)


@pytest.mark.parametrize("text", ["much", "-1", "0", "4XiB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(SpocoError, match="max_memory"):
        memory.available_memory(text)


def test_the_limit_of_a_control_group_counts(monkeypatch):
    monkeypatch.setattr(memory, "_group_limits", lambda: [12345.0])
    assert memory.available_memory() == 12345.0


def test_needs_grow_with_the_volume_but_not_with_the_windows_beyond_it():
    small, large = (memory.whole_memory(size, 1, 9, 8, 10**7) for size in (10**6, 10**9))
    assert large - small > 10**9 * 9 * 4
    block = memory.block_memory((100, 200, 200), (80, 160, 160), 1, 9, 8, 10**6)
    assert memory.block_memory((100, 200, 200), (80, 160, 160), 1, 9, 8, 10**7) > block > 80 * 160 * 160 * 72


def test_needs_of_an_image_that_the_network_sees_reduced_grow_with_the_image():
    """Measured: 1.82e8 voxels seen as 6.7e6 took 3.53 GiB in one piece."""
    same = memory.whole_memory(6_732_000, 1, 9, 8, 6_732_000)
    reduced = memory.whole_memory(6_732_000, 1, 9, 8, 6_732_000, 181_764_000)
    assert 3.53 < reduced / 2**30 < 4.5 and same < reduced
    block = memory.block_memory((100, 200, 200), (80, 160, 160), 1, 9, 8, 10**6)
    assert memory.block_memory((100, 200, 200), (80, 160, 160), 1, 9, 8, 10**6, 10**8, 0) > 12 * 10**8 > block
    assert memory.block_memory((100, 200, 200), (80, 160, 160), 1, 9, 8, 10**6, 0, 10**8) > 16 * 10**8


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read the way Linux tells it")
def test_freed_pieces_are_given_back(tmp_path):
    script = """
import numpy as np, psutil
from spoco_bundle.core.memory import release_freed
def resident(): return psutil.Process().memory_info().rss / 2**20
pieces = [np.ones(1024) for _ in range(20_000)]
kept = pieces[::100]
del pieces
before = resident()
release_freed()
print(before - resident())
"""
    result = run_python(["-c", script], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) > 50  # of 156 MiB that were freed
