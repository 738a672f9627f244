from __future__ import annotations

from types import SimpleNamespace

import pytest

from spoco_bundle.blockwise import sizing
from spoco_bundle.blockwise.sizing import BlockSizing
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.inferers import HaloWindowInferer
from support import small_network


@pytest.fixture
def sized(monkeypatch):
    """Sizes blocks of an image that the network sees at another scale, with so many bytes of memory."""
    network = small_network()
    clustering = SimpleNamespace(decoder=SimpleNamespace(coordinate_channels=3, scale=2.0))

    def size(shape, working, memory=1e12, block=None, workers=1):
        monkeypatch.setattr(sizing, "available_memory", lambda *_: memory)
        own = BlockSizing(
            {"pred": network},
            HaloWindowInferer(),
            clustering,
            largest_block=(32, 64, 64),
            chunk_size=(16, 32, 32),
            overlap=None,
            overlap_diameters=1.5,
            in_channels=1,
            scheduler="threads",
            workers=workers,
            network_threads=None,
            max_memory=None,
        )
        return own, own.grid_for("cells.tif", shape, working, (1.0, 1.0, 1.0), block)

    return size


def test_a_block_is_as_large_for_the_network_at_any_scale(sized):
    shape = (200, 400, 400)
    assert sized(shape, shape)[1].block == (32, 64, 64)
    assert sized(shape, (200, 200, 200))[1].block == (32, 128, 128)
    assert sized(shape, (200, 800, 1600))[1].block == (32, 32, 32)  # a chunk at least
    assert sized(shape, (200, 200, 200), block=(16, 32, 64))[1].block == (16, 32, 64)


def test_the_overlap_is_as_long_in_objects_at_any_scale(sized):
    shape = (200, 400, 400)
    assert sized(shape, shape)[1].overlap == (12, 12, 12)
    assert sized(shape, (200, 200, 800))[1].overlap == (12, 24, 6)


def test_blocks_shrink_until_they_fit_and_below_a_chunk_chunks_with_them(sized):
    shape, working = (200, 400, 400), (200, 1200, 1200)
    before = None
    for memory in (1e12, 2.6e8, 2.45e8, 2.3e8):
        own, grid = sized(shape, working, memory)
        assert own.block_bytes(grid) <= memory
        chunks = own.chunks(grid.block)
        assert all(block % chunk == 0 for block, chunk in zip(grid.block, chunks))
        assert before is None or all(now <= then for now, then in zip(grid.block, before))
        before = grid.block
    assert before == chunks == (16, 16, 16)
    with pytest.raises(SpocoError, match=r"cells.tif: even a block of \(16, 16, 16\) voxels takes 0.2 GiB and 0.2 GiB"):
        sized(shape, working, 2.2e8)


@pytest.mark.parametrize(("memory", "block"), [(2.6e8, None), (2.45e8, None), (2e7, (64, 128, 128))])
def test_workers_share_the_memory(sized, memory, block):
    found = []
    for workers in (1, 4):
        own, grid = sized((200, 400, 400), (200, 1200, 1200), workers * memory, block, workers)
        found.append((grid, own.window(grid)))
    assert found[0] == found[1]


def test_what_another_grid_takes_is_counted(sized):
    """Labels on the finer grid of the image, and the part of it that is resampled at a time."""
    own, grid = sized((200, 800, 800), (200, 200, 200), block=(64, 256, 256))
    _, same = sized((200, 200, 200), (200, 200, 200), block=(64, 64, 64))
    assert own.block_bytes(grid) > own.block_bytes(same) + 16 * 64 * 256 * 256
