"""Which clusters are background: rules for volumes in which nobody annotated the background.

A rule looks at the clusters on a grid (all voxels, or blocks of them) and marks those that are background:

- `mask`: less than half of the cluster lies in a given foreground;
- `density`: with semi-convolutional embeddings an object's voxels vote for one centre, background voxels for their own
  positions;
- `scatter`: without coordinates, background clusters are large, and spread among the objects instead of compact, alone
  or with others of the same embedding;
- `largest`: the one largest cluster.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["background_clusters", "own_votes", "same_embedding", "vote_axes", "vote_lines"]


def background_clusters(
    rule: str,
    label: Tensor,
    count: int,
    mass: Tensor,
    inside: Tensor | None = None,
    votes: Tensor | None = None,
    alike: Tensor | None = None,
) -> Tensor:
    """Clusters that are background by a rule, (count,) bool.

    Args:
        rule: "mask" (needs `inside`), "density" (needs `votes`), "scatter", "largest" or "none".
        label: (z, y, x) cluster of every cell, 0..count-1; 0 = unassigned.
        count: number of clusters, 0 included.
        mass: (z, y, x) voxels, or weight, of every cell.
        inside: (z, y, x) the part of the mass that lies in the foreground.
        votes: (D, z, y, x) coordinate channels.
        alike: (count,) the cluster that each is one of a kind with (`same_embedding`), where clusters are connected
            pieces; used by "scatter".
    """
    if rule == "mask":
        return outside_mask(label, count, mass, inside)
    if rule == "density":
        return dense_votes(label, count, mass, votes)
    if rule == "scatter":
        found = scattered_clusters(label, count, mass)
        return found if alike is None else found | scattered_kinds(label, count, mass, alike)
    if rule == "largest":
        return largest_cluster(label, count, mass)
    return torch.zeros(count, dtype=torch.bool, device=label.device)


def cluster_sums(label: Tensor, count: int, values: Iterable[Tensor]) -> Tensor:
    """Sums (count, maps) of maps over clusters, float64; maps are taken one by one, which may come from a generator."""
    flat = label.flatten()
    columns = [torch.bincount(flat, value.flatten().double(), minlength=count) for value in values]
    return torch.stack(columns, 1)


def outside_mask(label: Tensor, count: int, mass: Tensor, inside: Tensor, fraction: float = 0.5) -> Tensor:
    """Clusters with less than `fraction` of their mass inside the foreground, (count,) bool.

    Args:
        label: (z, y, x) cluster of every cell, 0..count-1.
        count: number of clusters, 0 included.
        mass: (z, y, x) weight of every cell.
        inside: (z, y, x) the part of it that lies in the foreground.
        fraction: between 0 and 1.
    """
    total, part = cluster_sums(label, count, (mass, inside)).unbind(1)
    return part < fraction * total


def largest_cluster(label: Tensor, count: int, mass: Tensor) -> Tensor:
    """The cluster with the most voxels, (count,) bool; cluster 0 (unassigned) does not compete."""
    size = cluster_sums(label, count, (mass,))[:, 0]
    size[0] = -1
    return torch.arange(count, device=label.device) == size.argmax()


def vote_lines(votes: Tensor) -> list[tuple[int, float, float]]:
    """Straight lines of the votes over the place in the volume: what a voxel that votes for its own place says.

    Wherever a voxel votes for within its surroundings, over the whole volume the votes follow the place: their unit
    needs no knowledge of spacing and scale.

    Args:
        votes: (D, z, y, x) coordinate channels; D axes of the grid have more than one cell.

    Returns:
        (axis, slope, offset) of each channel: its votes are slope * place + offset, places in cells.
    """
    shape = votes.shape[1:]
    lines = []
    for axis, vote in zip(vote_axes(shape, len(votes)), votes, strict=False):
        place = torch.arange(shape[axis], device=votes.device, dtype=torch.float32)
        profile = vote.mean([a for a in range(3) if a != axis])
        centred = place - place.mean()
        slope = float((centred * (profile - profile.mean())).sum() / centred.square().sum())
        lines.append((axis, slope, float(profile.mean() - slope * place.mean())))
    return lines


def vote_axes(shape: Sequence[int], votes: int) -> list[int]:
    """Axes of a grid z, y, x that so many channels vote along: the last of those with more than one cell."""
    return [axis for axis in range(3) if shape[axis] > 1][-votes:]


def own_votes(lines: Sequence[tuple[int, float, float]], places: Sequence[Tensor]) -> Tensor:
    """Votes (n, D) for places z, y, x (n,), in cells, on lines as from `vote_lines`."""
    return torch.stack([slope * places[axis] + offset for axis, slope, offset in lines], 1)


def dense_votes(label: Tensor, count: int, mass: Tensor, votes: Tensor, slope: float = 0.7) -> Tensor:
    """Clusters whose voxels vote for their own positions, (count,) bool: background.

    Within a cluster the votes (coordinate channels) are regressed on the positions of its voxels, both in the votes'
    unit (`vote_lines`): the slope is 1 for background, which votes for itself, and 0 for an object, whose voxels all
    vote for its centre, whatever the noise.

    Args:
        label: (z, y, x) cluster of every cell, 0..count-1.
        count: number of clusters, 0 included.
        mass: (z, y, x) voxels per cell.
        votes: (D, z, y, x) coordinate channels; D axes of the grid have more than one cell.
        slope: least slope of a background cluster, between 0 and 1.
    """
    total = cluster_sums(label, count, (mass,))[:, 0].clamp(min=1)
    covariance = torch.zeros(count, device=label.device, dtype=torch.float64)
    variance = torch.zeros_like(covariance)
    for (axis, unit, _), vote in zip(vote_lines(votes), votes, strict=False):
        shape = [-1 if a == axis else 1 for a in range(3)]
        place = torch.arange(label.shape[axis], device=label.device, dtype=torch.float32).reshape(shape)
        place = unit * (place - place.mean()).expand(label.shape)
        vote = vote - vote.mean()
        mean_vote, mean_place, product, square = (
            column / total
            for column in cluster_sums(
                label, count, (mass * part for part in (vote, place, vote * place, place.square()))
            ).unbind(1)
        )
        covariance += product - mean_vote * mean_place
        variance += square - mean_place.square()
    return covariance > slope * variance


def same_embedding(means: Tensor, size: Tensor, distance: float, most: int = 500) -> Tensor:
    """Clusters of one kind: for every cluster the largest one, not yet of another kind, closer than `distance`.

    Args:
        means: (K, E) mean embeddings.
        size: (K,) of the clusters; 0 stays out of it, as row 0 does.
        distance: in embedding units, above 0.
        most: so many largest clusters are looked at; the others are each of their own kind.

    Returns:
        (K,) index of the largest cluster of the kind.
    """
    kind = torch.arange(len(means), device=means.device)
    order = torch.argsort(size[1:], descending=True, stable=True)[:most] + 1
    order = order[size[order] > 0]
    while len(order):
        near = (means[order] - means[order[0]]).square().sum(1) < distance**2
        kind[order[near]] = order[0]
        order = order[~near]
    return kind


def scattered_kinds(label: Tensor, count: int, mass: Tensor, alike: Tensor, least_share: float = 0.05) -> Tensor:
    """Clusters that are scattered together with others of their kind, (count,) bool.

    Background that objects divide is of several pieces; two distant objects may share an embedding, too, hence at least
    three.

    Args:
        label: (z, y, x) cluster of every cell, 0..count-1.
        count: number of clusters, 0 included.
        mass: (z, y, x) voxels per cell.
        alike: (count,) largest cluster of each one's kind.
        least_share: of the kind's mass, from which a cluster counts as a piece.
    """
    size = cluster_sums(label, count, (mass,))[:, 0]
    total = torch.zeros_like(size).index_add_(0, alike, size)
    pieces = torch.bincount(alike[size > least_share * total[alike]], minlength=count)
    return (scattered_clusters(alike[label], count, mass) & (pieces >= 3))[alike]


def scattered_clusters(
    label: Tensor, count: int, mass: Tensor, size_ratio: float = 4.0, compactness: float = 0.5, extent: float = 0.8
) -> Tensor:
    """Clusters that are much larger than the median, and scattered or spread over the whole volume, (count,) bool.

    Scattered: filling little of the ellipsoid of the same covariance, which a solid ellipsoid fills wholly. Spread:
    with a standard deviation along every axis near the volume's own. Where no cluster is so, none is background.

    Args:
        label: (z, y, x) cluster of every cell, 0..count-1.
        count: number of clusters, 0 included.
        mass: (z, y, x) voxels per cell.
        size_ratio: multiple of the median cluster's size from which a cluster can be background, above 1.
        compactness: filled fraction of the ellipsoid below which it is, between 0 and 1.
        extent: share of the volume's standard deviation, along every axis, above which it is, between 0 and 1.
    """
    axes = [axis for axis in range(3) if label.shape[axis] > 1]
    places = []
    for axis in axes:
        shape = [-1 if a == axis else 1 for a in range(3)]
        place = torch.arange(label.shape[axis], device=label.device, dtype=torch.float32).reshape(shape)
        places.append((place - place.mean()).expand(label.shape))
    pairs = [(i, j) for i in range(len(axes)) for j in range(i, len(axes))]
    moments = itertools.chain(
        (mass, torch.ones_like(mass)),
        (mass * place for place in places),
        (mass * places[i] * places[j] for i, j in pairs),
    )
    sums = cluster_sums(label, count, moments)
    size, cells = sums[:, 0], sums[:, 1]
    first = sums[:, 2 : 2 + len(axes)] / size.clamp(min=1)[:, None]
    covariance = torch.zeros(count, len(axes), len(axes), device=label.device, dtype=torch.float64)
    for (i, j), column in zip(pairs, sums[:, 2 + len(axes) :].unbind(1), strict=True):
        covariance[:, i, j] = covariance[:, j, i] = column / size.clamp(min=1) - first[:, i] * first[:, j]
    covariance += torch.eye(len(axes), device=label.device, dtype=torch.float64) / 12  # the extent of one cell
    # a solid ball of radius 1 has variance 1 / (d + 2) per axis
    unit_ball = math.pi ** (len(axes) / 2) / math.gamma(len(axes) / 2 + 1)
    ellipsoid = unit_ball * (len(axes) + 2) ** (len(axes) / 2) * torch.linalg.det(covariance).clamp(min=0).sqrt()
    present = size[1:] > 0
    if not present.any():
        return torch.zeros(count, dtype=torch.bool, device=label.device)
    median = size[1:][present].median()
    whole = torch.tensor([(label.shape[axis] ** 2) / 12 for axis in axes], device=label.device)
    spread = (covariance.diagonal(dim1=1, dim2=2) > extent**2 * whole).all(1)
    found = (size > size_ratio * median) & ((cells < compactness * ellipsoid) | spread)
    found[0] = False
    return found
