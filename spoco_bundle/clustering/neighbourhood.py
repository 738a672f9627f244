"""Cells of a grid, and what lies beside them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "Padded",
    "components",
    "cube",
    "distinct",
    "neighbour_pairs",
    "places_of",
    "roots",
    "run_starts",
    "scattered",
    "touching",
    "unique_pairs",
]


def cube(reach: int, step: int = 1) -> list[tuple[int, int, int]]:
    """Offsets z, y, x, each from -reach to reach by steps."""
    return list(itertools.product(range(-reach, reach + 1, step), repeat=3))


class Padded:
    """Values of a grid around its cells.

    Args:
        grid: (z, y, x) integers.
        reach: cells along an axis that can be looked at.
    """

    def __init__(self, grid: Tensor, reach: int) -> None:
        self.shape = grid.shape
        self.reach = reach
        self.padded = functional.pad(grid.to(torch.int32), (reach,) * 6)

    def around(self, cells: Tensor, offsets: Sequence[tuple[int, int, int]]) -> Tensor:
        """Values (offsets, n) int32 at offsets from cells (n,), given by flat index; 0 beyond the grid."""
        _, height, width = self.padded.shape
        z, y, x = (place + self.reach for place in places_of(cells, self.shape))
        start = (z * height + y) * width + x
        flat = self.padded.view(-1)
        steps = [(dz * height + dy) * width + dx for dz, dy, dx in offsets]
        return torch.stack([flat.index_select(0, start + step) for step in steps])


def places_of(cells: Tensor, shape: Sequence[int]) -> list[Tensor]:
    """Places z, y, x (n,) of cells (n,) of a grid, given by flat index."""
    return [cells // (shape[1] * shape[2]), cells // shape[2] % shape[1], cells % shape[2]]


def scattered(cells: Tensor, values: Tensor, shape: Sequence[int]) -> Tensor:
    """Grid (z, y, x) that is 0 but for the values (n,) of cells (n,)."""
    grid = torch.zeros(tuple(shape), dtype=values.dtype, device=values.device)
    grid.view(-1)[cells] = values
    return grid


def distinct(values: Tensor, most: int) -> Tensor:
    """Values above 0 of each column of (K, n), each once, the greatest first: (k, n), k up to `most`, 0 where fewer."""
    found = []
    while len(found) < most:
        greatest = values.amax(0)
        if not greatest.any():
            break
        found.append(greatest)
        values = values * (values != greatest)
    return torch.stack(found) if found else values[:0]


def neighbour_pairs(shape: tuple[int, ...]) -> Iterator[tuple[tuple, tuple]]:
    """Pairs of slices (a, b): every pair of neighbouring grid cells once, b after a in raster order."""
    for offset in itertools.product((-1, 0, 1), repeat=3):
        if offset <= (0, 0, 0) or any(abs(o) >= n for o, n in zip(offset, shape, strict=True)):
            continue
        yield (
            tuple(slice(max(0, -o), n - max(0, o)) for o, n in zip(offset, shape, strict=True)),
            tuple(slice(max(0, o), n - max(0, -o)) for o, n in zip(offset, shape, strict=True)),
        )


def touching(label: Tensor, reach: int = 1, among: Tensor | None = None) -> Tensor:
    """Pairs (n, 2) of different labels above 0 at most `reach` blocks apart along an axis, once, the smaller first.

    With `among` (K + 1,) bool only pairs of which one is among these.
    """
    count = int(label.max()) + 1
    found = []
    for axis in range(3):
        for step in range(1, reach + 1):
            length = label.shape[axis] - step
            if length > 0:
                left, right = label.narrow(axis, 0, length), label.narrow(axis, step, length)
                edge = (left != right) & (left > 0) & (right > 0)
                if among is not None:
                    edge &= among[left] | among[right]
                found.append(unique_pairs(torch.stack([left[edge], right[edge]], 1), count))
    if not found:
        return torch.zeros(0, 2, dtype=label.dtype, device=label.device)
    return unique_pairs(torch.cat(found), count)


def unique_pairs(pairs: Tensor, count: int) -> Tensor:
    """Sorted pairs (n, 2) of different ids below `count`, each once, the smaller id first."""
    low, high = pairs.min(1).values, pairs.max(1).values
    key = torch.unique((low * count + high)[low != high])
    return torch.stack([key // count, key % count], 1)


def run_starts(labels: Tensor) -> Tensor:
    """Cells (..., x) bool of which the one before along the last axis has another label, or there is none."""
    starts = torch.ones_like(labels, dtype=torch.bool)
    starts[..., 1:] = labels[..., 1:] != labels[..., :-1]
    return starts


def roots(parent: Tensor) -> Tensor:
    """Root (n,) of each node of a forest, whose nodes have these parents (n,) and roots themselves."""
    while True:
        further = parent[parent]
        if torch.equal(further, parent):
            return parent
        parent = further


def components(one: Tensor, other: Tensor, count: int) -> Tensor:
    """Smallest node (count,) that each node of a graph is connected with by its edges (one, other), each (n,) nodes.

    In every round trees of nodes are hung below the smallest tree beside them, and flattened (Shiloach and Vishkin,
    "An O(log n) parallel connectivity algorithm", Journal of Algorithms 1982).
    """
    root = torch.arange(count, device=one.device)
    while True:
        one, other = root[one], root[other]
        apart = one != other
        one, other = one[apart], other[apart]
        if len(one) == 0:
            return root
        root = roots(root.scatter_reduce(0, torch.maximum(one, other), torch.minimum(one, other), "amin"))
