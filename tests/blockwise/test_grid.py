from __future__ import annotations

import itertools

import numpy as np
import pytest

from spoco_bundle.blockwise.grid import BlockGrid, choose_window
from spoco_bundle.core.boxes import region_shape
from spoco_bundle.core.errors import SpocoError

GRIDS = [
    BlockGrid((23, 40, 17), (8, 16, 8), (3, 5, 2), (4, 6, 5), (2, 4, 4)),
    BlockGrid((50, 33), (16, 8), (7, 2), (3, 3), (8, 8)),
    BlockGrid((5, 6, 7), (16, 16, 16), (4, 4, 4), (8, 8, 8), (1, 1, 1)),
]


@pytest.mark.parametrize("grid", GRIDS)
def test_write_regions_tile_the_volume_and_every_region_lies_in_the_next(grid):
    written = np.zeros(grid.shape, int)
    for number in range(len(grid)):
        block = grid[number]
        assert block.number == number and grid.at(block.place) == block
        written[block.write] += 1
        for inner, outer in ((block.write, block.label), (block.label, block.read)):
            assert all(o.start <= i.start < i.stop <= o.stop for i, o in zip(inner, outer))
        for axis, size in enumerate(grid.shape):
            write, label, read = block.write[axis], block.label[axis], block.read[axis]
            assert label.start <= max(0, write.start - grid.overlap[axis]) and label.start % 2 == 0
            assert label.stop >= min(size, write.stop + grid.overlap[axis])
            assert read.start % grid.multiple[axis] == 0 and read.start <= max(0, label.start - grid.halo[axis])
            assert read.stop >= min(size, label.stop + grid.halo[axis]) and 0 <= read.start < read.stop <= size
            assert read.stop == size or read.stop % grid.multiple[axis] == 0
    assert (written == 1).all()


RESAMPLED = [
    BlockGrid((23, 40, 17), (8, 16, 8), (3, 5, 2), (4, 6, 5), (2, 4, 4), (23, 29, 40)),
    BlockGrid((50, 33), (16, 8), (7, 0), (3, 3), (8, 8), (173, 101)),
    BlockGrid((500, 333), (64, 32), (17, 12), (5, 9), (8, 4), (61, 200)),
]


@pytest.mark.parametrize("grid", RESAMPLED)
def test_a_block_labels_all_that_its_voxels_are_interpolated_from_and_their_overlap(grid):
    for number in range(len(grid)):
        block = grid[number]
        for axis, (size, working) in enumerate(zip(grid.shape, grid.working)):
            write, label, read = block.write[axis], block.label[axis], block.read[axis]
            start, stop = max(0, write.start - grid.overlap[axis]), min(size, write.stop + grid.overlap[axis])
            first, last = ((voxel + 0.5) * working / size - 0.5 for voxel in (start, stop - 1))
            assert label.start <= max(0, first) and min(working - 1, last) <= label.stop - 1
            assert label.start % 2 == 0 and (label.stop % 2 == 0 or label.stop == working)
            assert label.stop - label.start <= (stop - start) * working / size + 5
            assert label.stop == working or stop < size
            assert read.start % grid.multiple[axis] == 0 and read.start <= max(0, label.start - grid.halo[axis])
            assert read.stop >= min(working, label.stop + grid.halo[axis]) and 0 <= read.start < read.stop <= working
            compared = grid.compared(block)[axis]
            assert start <= compared.start <= write.start < write.stop <= compared.stop <= stop


@pytest.mark.parametrize(
    "grid", [*GRIDS, BlockGrid((192, 320, 320), (128, 256, 256), (14, 31, 31), (20, 40, 40), (4, 8, 8))]
)
def test_no_block_is_larger_than_the_largest(grid):
    sizes = [(np.prod(region_shape(grid[n].read)), np.prod(region_shape(grid[n].label))) for n in range(len(grid))]
    largest = grid.largest()
    assert (np.prod(region_shape(largest.read)), np.prod(region_shape(largest.label))) == tuple(np.max(sizes, axis=0))


@pytest.mark.parametrize("grid", RESAMPLED)
def test_no_block_reads_more_than_the_largest_where_blocks_differ_by_rounding(grid):
    sizes = [region_shape(grid[number].read) for number in range(len(grid))]
    assert region_shape(grid.largest().read) == tuple(np.max(sizes, axis=0))


@pytest.mark.parametrize("grid", GRIDS)
def test_touching_blocks_meet_exactly_once(grid):
    met = set()
    for number in range(len(grid)):
        for step, other in grid.neighbours(grid[number]):
            assert tuple(np.subtract(other.place, grid[number].place)) == step
            met.add(frozenset((number, other.number)))
    expected = {
        frozenset((grid.at(a).number, grid.at(b).number))
        for a, b in itertools.combinations(itertools.product(*map(range, grid.counts)), 2)
        if max(abs(i - j) for i, j in zip(a, b)) == 1
    }
    assert met == expected
    assert sum(len(list(grid.neighbours(grid[number]))) for number in range(len(grid))) == len(expected)


@pytest.mark.parametrize("grid", GRIDS[:2])
def test_shared_regions_were_labelled_by_both_and_lie_in_the_recorded_slabs(grid):
    for number in range(len(grid)):
        block = grid[number]
        for step, other in grid.neighbours(block):
            shared = grid.shared(block, step)
            axis = next(axis for axis, move in enumerate(step) if move)
            for one, side in ((block, step[axis]), (other, -step[axis])):
                slab = grid.slabs(one)[axis, side]
                for part, slab_part, label in zip(shared, slab, one.label):
                    assert label.start <= slab_part.start <= part.start < part.stop <= slab_part.stop <= label.stop
            # on both sides of the border
            assert all(
                part.start < max(a.start, b.start) < part.stop
                for part, a, b, move in zip(shared, block.write, other.write, step)
                if move
            )


def test_two_blocks_are_compared_over_half_the_overlap_on_each_side():
    grid = BlockGrid((64, 64), (16, 16), (6, 0), (0, 0), (1, 1))
    assert grid.reach() == (3, 0) and grid.shared(grid.at((1, 1)), (1, 0)) == (slice(29, 35), slice(16, 32))


def test_the_window_with_the_least_arithmetic_covers_the_block():
    grid = BlockGrid((1000, 1000, 1000), (128, 256, 256), (14, 30, 30), (20, 40, 40), (4, 8, 8))
    block = grid.at((3, 2, 2))
    costs = {}
    for most in (1_000_000, 3_000_000, 7_000_000, 10**9):
        window = choose_window(region_shape(block.label), region_shape(block.read), grid.halo, grid.multiple, most)
        assert np.prod(window) <= most and all(w % m == 0 for w, m in zip(window, grid.multiple))
        cores = [w if w >= n else w - 2 * h for w, h, n in zip(window, grid.halo, region_shape(block.read))]
        counts = [-(-n // core) for n, core in zip(region_shape(block.label), cores)]
        costs[most] = np.prod(window) * np.prod(counts)
    assert list(costs.values()) == sorted(costs.values(), reverse=True)
    assert costs[10**9] <= 1.1 * np.prod(region_shape(block.read))
    assert costs[7_000_000] <= 7 * np.prod(region_shape(block.write))
    # the smallest that there is, where the limit is below it
    assert choose_window(region_shape(block.label), region_shape(block.read), grid.halo, grid.multiple, 1) == (
        56,
        112,
        112,
    )


def test_what_is_no_grid_is_refused():
    with pytest.raises(SpocoError, match="overlap"):
        BlockGrid((8, 8), (4, 4), (-1, 2), (0, 0), (1, 1))
    with pytest.raises(SpocoError, match="working"):
        BlockGrid((8, 8), (4, 4), (1, 2), (0, 0), (1, 1), (8,))
    with pytest.raises(IndexError):
        GRIDS[0][len(GRIDS[0])]
