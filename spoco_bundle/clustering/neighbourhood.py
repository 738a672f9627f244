"""Cells of a grid, and what lies beside them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["neighbour_pairs", "roots", "touching", "unique_pairs"]


def neighbour_pairs(shape: tuple[int, ...]) -> Iterator[tuple[tuple, tuple]]:
    """Pairs of slices (a, b): every pair of neighbouring grid cells once, b after a in raster order."""
    for offset in itertools.product((-1, 0, 1), repeat=3):
        if offset <= (0, 0, 0) or any(abs(o) >= n for o, n in zip(offset, shape, strict=True)):
            continue
        yield (
            tuple(slice(max(0, -o), n - max(0, o)) for o, n in zip(offset, shape, strict=True)),
            tuple(slice(max(0, o), n - max(0, -o)) for o, n in zip(offset, shape, strict=True)),
        )


def touching(label: Tensor) -> Tensor:
    """Pairs (n, 2) of different labels above 0 that share a face of two cells (z, y, x), once, the smaller first."""
    found = []
    for axis in range(3):
        length = label.shape[axis] - 1
        left, right = label.narrow(axis, 0, length), label.narrow(axis, 1, length)
        edge = (left != right) & (left > 0) & (right > 0)
        found.append(torch.stack([left[edge], right[edge]], 1))
    return unique_pairs(torch.cat(found), int(label.max()) + 1)


def unique_pairs(pairs: Tensor, count: int) -> Tensor:
    """Sorted pairs (n, 2) of different ids below `count`, each once, the smaller id first."""
    low, high = pairs.min(1).values, pairs.max(1).values
    key = torch.unique((low * count + high)[low != high])
    return torch.stack([key // count, key % count], 1)


def roots(parent: Tensor) -> Tensor:
    """Root (n,) of each node of a forest, whose nodes have these parents (n,) and roots themselves."""
    while True:
        further = parent[parent]
        if torch.equal(further, parent):
            return parent
        parent = further
