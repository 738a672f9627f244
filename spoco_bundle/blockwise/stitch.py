"""Objects across block borders: which pieces are one object, and what that object measures.

Every block has labelled more than it writes, so two neighbours have both labelled a shell around their common border.
A piece of one and a piece of the other are one object if they overlap there by most of what either has there. Where
that overlap is thin, or covers most of only the smaller one, their mean embeddings have to agree as well. The pieces
are the nodes and these links the edges of a graph, of which every connected component is an object (union-find).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import fastremap
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from spoco_bundle.formats.objects_table import table_lengths


@dataclass
class Pieces:
    """Measurements of labelled pieces, one row each, in voxels of the whole volume.

    Attributes:
        voxels: (n,) int64.
        first: (n,) int64, flat index of the first voxel in raster order.
        sums: (n, D) float64, sum of the voxels' indices.
        low: (n, D) int64, least index.
        high: (n, D) int64, greatest index plus 1.
        confidence: (n,) float64 in [0, 1].
    """

    voxels: np.ndarray
    first: np.ndarray
    sums: np.ndarray
    low: np.ndarray
    high: np.ndarray
    confidence: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Pieces]) -> Pieces:
        """The rows of all parts, in order."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


def measure_pieces(
    labels: np.ndarray, origin: Sequence[int], shape: Sequence[int], confidence: np.ndarray | None = None
) -> Pieces:
    """Measures the pieces of one block.

    Args:
        labels: (z, y, x) or (y, x) ids 1..n, 0 = background; every id is there.
        origin: index of the first voxel in the whole volume.
        shape: of the whole volume.
        confidence: (n,) in [0, 1]; zeros without.

    Returns:
        One row per id.
    """
    count = int(labels.max())
    measured = cc3d.statistics(labels, no_slice_conversion=True)
    ids, index = fastremap.unique(labels, return_index=True)
    start = np.unravel_index(index[ids > 0], labels.shape)
    first = np.ravel_multi_index([local + offset for local, offset in zip(start, origin)], shape)
    voxels = measured["voxel_counts"][1:].astype(np.int64)
    offset = np.asarray(origin)
    sums = (measured["centroids"][1:] + offset) * voxels[:, None]
    boxes = np.asarray(measured["bounding_boxes"][1:], np.int64).reshape(count, labels.ndim, 2)
    low, high = boxes[..., 0] + offset, boxes[..., 1] + 1 + offset
    confidence = np.zeros(count) if confidence is None else np.asarray(confidence, np.float64)
    return Pieces(voxels, first, sums, low, high, confidence)


def link_pieces(
    labels: np.ndarray,
    others: np.ndarray,
    means: np.ndarray,
    other_means: np.ndarray,
    least_share: float,
    thin_voxels: int,
    agreement_distance: float,
) -> np.ndarray:
    """Pairs of pieces of two neighbouring blocks that are one object.

    Args:
        labels: ids of one block in the shared region, 0 = background.
        others: ids of the other one there, same shape.
        means: (n + 1, E) mean embeddings of the first block's pieces, by id, with global coordinates.
        other_means: (m + 1, E) those of the other's.
        least_share: overlap over union from which two pieces are one, and overlap over the smaller piece from which
            two pieces with like embeddings are; in (0, 1].
        thin_voxels: below so many common voxels the embeddings have to agree.
        agreement_distance: embeddings closer than this are alike.

    Returns:
        (k, 2) int64 ids.
    """
    both = (labels > 0) & (others > 0)
    key = labels[both].astype(np.int64) * (len(other_means)) + others[both]
    key, common = np.unique(key, return_counts=True)
    pairs = np.stack(np.divmod(key, len(other_means)), axis=1)
    mine = np.bincount(labels.ravel(), minlength=len(means))[pairs[:, 0]]
    theirs = np.bincount(others.ravel(), minlength=len(other_means))[pairs[:, 1]]
    distance = np.linalg.norm(means[pairs[:, 0]] - other_means[pairs[:, 1]], axis=1)
    thick = (common >= least_share * (mine + theirs - common)) & (common >= thin_voxels)
    alike = (common >= least_share * np.minimum(mine, theirs)) & (distance < agreement_distance)
    return pairs[thick | alike]


def merge_pieces(pieces: Pieces, links: np.ndarray, min_size: int) -> tuple[np.ndarray, Pieces]:
    """Joins linked pieces into objects.

    Args:
        pieces: all pieces of all blocks.
        links: (k, 2) rows of ``pieces`` that are one object.
        min_size: objects of fewer voxels are dropped: fragments on which two blocks did not agree.

    Returns:
        (n,) int64, the object of every piece, 1..N in the raster order of the objects' first voxels, 0 for those
        dropped; and the measurements of the objects. The confidence is the mean over an object's voxels.
    """
    count = len(pieces.voxels)
    graph = sparse.coo_matrix((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(count, count))
    number, owner = connected_components(graph, directed=False) if count else (0, np.zeros(0, np.int64))
    voxels = np.zeros(number, np.int64)
    first = np.full(number, np.iinfo(np.int64).max)
    sums = np.zeros((number, pieces.sums.shape[1]))
    low = np.full((number, pieces.low.shape[1]), np.iinfo(np.int64).max)
    high = np.zeros((number, pieces.high.shape[1]), np.int64)
    np.add.at(voxels, owner, pieces.voxels)
    np.minimum.at(first, owner, pieces.first)
    np.add.at(sums, owner, pieces.sums)
    np.minimum.at(low, owner, pieces.low)
    np.maximum.at(high, owner, pieces.high)
    confidence = np.bincount(owner, pieces.confidence * pieces.voxels, minlength=number) / np.maximum(voxels, 1)
    kept = np.flatnonzero(voxels >= min_size)
    kept = kept[np.argsort(first[kept], kind="stable")]
    ids = np.zeros(number, np.int64)
    ids[kept] = np.arange(1, len(kept) + 1)
    return ids[owner], Pieces(voxels[kept], first[kept], sums[kept], low[kept], high[kept], confidence[kept])


def object_rows(objects: Pieces, spacing: Sequence[float] | None, unit: str, voxel_volume: float | None = None) -> Any:
    """Rows of the objects table, one by one; see ``formats.objects_table``."""
    steps, volume, unit = table_lengths(objects.low.shape[1], spacing, unit, voxel_volume)
    names = "zyx"[-len(steps) :]
    for index, voxels in enumerate(objects.voxels.tolist()):
        row: dict[str, Any] = {"id": index + 1, "voxels": voxels, "volume": float(voxels * volume)}
        for name, total, step in zip(names, objects.sums[index].tolist(), steps.tolist(), strict=True):
            row[f"centroid_{name}"] = total / voxels * step
        row["unit"] = unit
        for axis, name in enumerate(names):
            row[f"{name}_min"], row[f"{name}_max"] = int(objects.low[index, axis]), int(objects.high[index, axis])
        row["confidence"] = float(objects.confidence[index])
        yield row
