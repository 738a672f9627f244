"""Modes of centre votes: the default for semi-convolutional embeddings, linear in the number of voxels.

The first D channels of a semi-convolutional embedding (Novotny et al., ECCV 2018) are the voxel's position plus an
offset that the network learnt, in units of the coordinate scale: every voxel votes for a centre, and the voxels of an
object vote for the same one. So objects are the modes of a histogram of D axes, whatever the number of channels:

1. `vote_histogram`: votes of the foreground, weighted by the objectness, on a grid of small bins, smoothed;
2. `find_peaks`: its local maxima with enough votes, the higher one of two that are closer than `merge_distance`;
3. `mode_embeddings`: the mean embedding, over all channels, of the voxels that vote for a peak;
4. every voxel goes to the nearest of the modes around its own vote, over all channels;
5. `largest_parts`: a mode is one object, so of its connected parts only the one with most of its votes is kept.

A voxel of a blurred border votes somewhere between two objects; it has no cut-off to miss and joins the nearer one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cc3d
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional

from spoco_bundle.clustering.voxels import Volume
from spoco_bundle.errors import SpocoError

__all__ = ["center_votes"]

ROWS = 1 << 18  # voxels compared with their candidate modes at a time
STRAY_VOTES = 5e-4  # share of the votes on either end of an axis that may lie outside the histogram
SMALL_BINS = 1 << 22  # a histogram up to this holds all votes, stray or not
MAX_BINS = 1 << 27  # a histogram beyond this says that the coordinates are not in units of the objects' size


@dataclass
class VoteGrid:
    """Histogram of votes.

    Attributes:
        origin: (D,) position of the first bin, in embedding units.
        bin_width: width of a bin, in embedding units.
        shape: bins per axis.
        votes: (bins,) smoothed mass of votes: those within about one `smoothing` of the bin.
        voted: (bins,) bool, whether any voxel votes here.
    """

    origin: Tensor
    bin_width: float
    shape: tuple[int, ...]
    votes: Tensor
    voted: Tensor

    def index(self, votes: Tensor) -> tuple[Tensor, Tensor]:
        """Flat bin of each vote (N, D), the nearest one for those outside, and whether it lies inside (N,)."""
        position = ((votes - self.origin) / self.bin_width).round().long()
        inside = torch.ones(len(votes), dtype=torch.bool, device=votes.device)
        flat = torch.zeros(len(votes), dtype=torch.long, device=votes.device)
        for axis, size in enumerate(self.shape):
            inside &= (position[:, axis] >= 0) & (position[:, axis] < size)
            flat = flat * size + position[:, axis].clamp(0, size - 1)
        return flat, inside

    def position(self, flat: Tensor) -> Tensor:
        """Centres (N, D) of flat bins, in embedding units."""
        axes = []
        for size in reversed(self.shape):
            axes.append(flat % size)
            flat = flat // size
        return torch.stack(axes[::-1], dim=1) * self.bin_width + self.origin


def center_votes(
    volume: Volume,
    *,
    foreground: Tensor | None = None,
    objectness: Tensor | None = None,
    coordinate_channels: int = 0,
    background: str = "none",
    merge_distance: float = 1.5,
    min_votes: float = 40.0,
    bin_width: float = 0.4,
    smoothing: float = 0.25,
    candidates: int = 4,
) -> Tensor:
    """Cluster a volume; see the module's text for the steps.

    Args:
        volume: the embeddings, coordinates added.
        foreground: (z, y, x) bool, voxels that belong to objects; every one of them is assigned.
        objectness: (z, y, x) float in [0, 1], weight of a voxel's vote.
        coordinate_channels: number D of leading channels that vote for the object's centre, 2 or 3.
        background: "mask" (outside `foreground`), "density" (voxels that vote where fewer than `min_votes` do) or
            "none".
        merge_distance: centres closer than this are one object, in embedding units (coordinate scales), above 0.
        min_votes: least mass of votes at the centre of an object, in voxels, above 0.
        bin_width: of the histogram, in embedding units, above 0.
        smoothing: standard deviation of the Gaussian that smooths it, in embedding units, above 0.
        candidates: modes that a voxel chooses between, those nearest to its vote, 1 or more.

    Returns:
        labels (z, y, x) int32, 0 = background, not yet consecutive.

    Raises:
        SpocoError: without coordinate channels, for a background rule that needs none, or for values out of range.
    """
    if coordinate_channels == 0:
        raise SpocoError(
            "center_votes needs coordinate channels, and coordinate_channels is 0: choose the method density_peaks"
        )
    if background not in ("mask", "density", "none"):
        raise SpocoError(
            f"center_votes knows no background rule {background!r}: choose objectness, foreground, intensity, density "
            "or none"
        )
    for name, value in {
        "merge_distance": merge_distance,
        "min_votes": min_votes,
        "bin_width": bin_width,
        "smoothing": smoothing,
        "candidates": candidates,
    }.items():
        if not value > 0:
            raise SpocoError(f"{name} is {value}: give a number above 0")
    labels = torch.zeros(volume.voxels, dtype=torch.int32, device=volume.device)
    if foreground is not None and not foreground.any():
        return labels.reshape(volume.shape)
    grid = vote_histogram(volume, foreground, objectness, coordinate_channels, bin_width, smoothing)
    peaks = find_peaks(grid, merge_distance, min_votes)
    if len(peaks) == 0:
        return labels.reshape(volume.shape)
    nearest = nearest_peaks(grid, peaks, candidates)
    reach = 1.5 * smoothing + bin_width
    modes = mode_embeddings(volume, foreground, objectness, grid, peaks, nearest, reach)
    voting = torch.zeros(volume.voxels, dtype=torch.bool, device=volume.device)
    for index, rows, _ in voxel_rows(volume, foreground, None):
        votes = rows[:, :coordinate_channels]
        bins, _ = grid.index(votes)
        choice = nearest[bins]
        distance = (rows[:, None] - modes[choice]).square_().sum(2)
        mine = choice.gather(1, distance.argmin(1, keepdim=True))[:, 0]
        voting[index] = (votes - modes[mine, :coordinate_channels]).square_().sum(1) <= reach**2
        mine = mine.int() + 1
        labels[index] = mine * (grid.votes[bins] >= min_votes) if background == "density" else mine
    kept = largest_parts(labels.reshape(volume.shape).cpu().numpy(), voting.reshape(volume.shape).cpu().numpy())
    return torch.from_numpy(kept).to(volume.device)


def voxel_rows(
    volume: Volume, foreground: Tensor | None, objectness: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Foreground voxels in raster order: flat indices (N,), embeddings (N, E) float32, weights (N,)."""
    plane = volume.shape[1] * volume.shape[2]
    for start, stop in volume.slabs():
        rows = volume.slab(start, stop).reshape(volume.channels, -1)
        index = torch.arange(start * plane, stop * plane, device=volume.device)
        if foreground is not None:
            inside = foreground[start:stop].reshape(-1)
            index = index[inside]
        for part in index.split(ROWS):
            chosen = rows[:, part - start * plane].T.contiguous()
            weight = torch.ones(len(part), device=volume.device)
            if objectness is not None:
                weight = objectness.reshape(-1)[part]
            yield part, chosen, weight


def vote_histogram(
    volume: Volume,
    foreground: Tensor | None,
    objectness: Tensor | None,
    coordinate_channels: int,
    bin_width: float,
    smoothing: float,
) -> VoteGrid:
    """Smoothed histogram of the weighted votes; stray votes do not stretch it beyond a small one.

    Raises:
        SpocoError: embeddings that are not finite, or coordinates that would need a histogram beyond reason.
    """
    sample, ends = [], []
    for _, rows, _ in voxel_rows(volume, foreground, None):
        if not torch.isfinite(rows).all():
            raise SpocoError("embeddings hold NaN or infinite values: check the network's weights and its input")
        votes = rows[:, :coordinate_channels]
        sample.append(votes[:: max(1, len(votes) // 4096)])
        ends += [votes.amin(0), votes.amax(0)] if len(votes) else []
    ordered = torch.cat(sample).sort(dim=0).values
    stray = int(STRAY_VOTES * len(ordered))
    margin = 4 * (bin_width + smoothing)
    every = torch.stack(ends).sort(dim=0).values
    # all votes if that is affordable: a lone object far from a crowd has few of them and is no stray
    for first, last in ((every[0], every[-1]), (ordered[stray], ordered[len(ordered) - 1 - stray])):
        origin = first - margin
        extent = last + margin - origin
        shape = tuple(int(n) for n in (extent / bin_width).ceil().long() + 1)
        if math.prod(shape) <= SMALL_BINS:
            break
    if math.prod(shape) > MAX_BINS:
        raise SpocoError(
            f"centre votes spread over {tuple(round(float(x)) for x in extent)} coordinate scales: coordinate_scale "
            "must be near the objects' radius, in the unit of the image's spacing; check both"
        )
    bins = math.prod(shape)
    mass = torch.zeros(bins, dtype=torch.float64, device=volume.device)
    grid = VoteGrid(origin, bin_width, shape, mass, torch.zeros(bins, dtype=torch.bool, device=volume.device))
    for _, rows, weight in voxel_rows(volume, foreground, objectness):
        index, inside = grid.index(rows[:, :coordinate_channels])
        grid.voted[index] = True
        mass += torch.bincount(index[inside], weight[inside].double(), minlength=bins)
    grid.votes = smooth(mass.float().reshape(shape), smoothing / bin_width).reshape(-1)
    return grid


def smooth(mass: Tensor, sigma: float) -> Tensor:
    """Sum of the mass around each bin, weighted by a Gaussian of height 1; sigma in bins."""
    reach = max(1, math.ceil(3 * sigma))
    steps = torch.arange(-reach, reach + 1, device=mass.device, dtype=mass.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    for axis in range(mass.ndim):
        lines = mass.movedim(axis, -1)
        flat = functional.conv1d(lines.reshape(-1, 1, lines.shape[-1]), kernel[None, None], padding=reach)
        mass = flat.reshape(lines.shape).movedim(-1, axis)
    return mass


def find_peaks(grid: VoteGrid, merge_distance: float, min_votes: float) -> Tensor:
    """Flat bins (K,) of the centres, highest first: maxima with enough votes and no higher one within the distance."""
    votes = grid.votes.reshape(grid.shape)
    dims = votes.ndim
    reach = max(1, int(merge_distance / grid.bin_width / math.sqrt(dims)))
    pool = functional.max_pool3d if dims == 3 else functional.max_pool2d
    highest = pool(votes[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0]
    peaks = ((votes == highest) & (votes >= min_votes)).reshape(-1).nonzero()[:, 0]
    peaks = peaks[grid.votes[peaks].argsort(descending=True, stable=True)]
    position = grid.position(peaks).cpu().numpy()
    kept = np.ones(len(peaks), dtype=bool)
    neighbours = cKDTree(position).query_ball_point(position, merge_distance) if len(peaks) else []
    for rank, near in enumerate(neighbours):
        if kept[rank]:
            kept[[other for other in near if other > rank]] = False
    return peaks[torch.from_numpy(kept).to(peaks.device)]


def nearest_peaks(grid: VoteGrid, peaks: Tensor, candidates: int) -> Tensor:
    """Numbers (bins, candidates) of the peaks nearest to each bin that has votes; 0 elsewhere."""
    count = min(candidates, len(peaks))
    voted = grid.voted.nonzero()[:, 0]
    tree = cKDTree(grid.position(peaks).cpu().numpy())
    _, found = tree.query(grid.position(voted).cpu().numpy(), k=list(range(1, count + 1)), workers=-1)
    nearest = torch.zeros(len(grid.voted), count, dtype=torch.long, device=peaks.device)
    nearest[voted] = torch.from_numpy(found).to(peaks.device)
    return nearest


def mode_embeddings(
    volume: Volume,
    foreground: Tensor | None,
    objectness: Tensor | None,
    grid: VoteGrid,
    peaks: Tensor,
    nearest: Tensor,
    reach: float,
) -> Tensor:
    """Weighted mean embeddings (K, E) of the voxels that vote within `reach` of each peak."""
    centres = grid.position(peaks)
    dims = centres.shape[1]
    sums = torch.zeros(len(peaks), volume.channels + 1, dtype=torch.float64, device=volume.device)
    for _, rows, weight in voxel_rows(volume, foreground, objectness):
        votes = rows[:, :dims]
        bins, inside = grid.index(votes)
        peak = nearest[bins, 0]
        near = inside & ((votes - centres[peak]).square().sum(1) <= reach**2)
        weighted = torch.cat([rows[near], torch.ones_like(rows[near, :1])], 1) * (weight[near, None] + 1e-6)
        sums.index_add_(0, peak[near], weighted.double())
    return (sums[:, :-1] / sums[:, -1:]).float()


def largest_parts(labels: np.ndarray, voting: np.ndarray) -> np.ndarray:
    """Labels (z, y, x) int32 with one connected part (26 neighbours) of each id, the others 0.

    It is the part with the most voxels in `voting` (z, y, x) bool, those that vote for the centre of their object, and
    the largest of equal ones. Debris that votes nowhere joins the object beside it, and may be larger.
    """
    parts = cc3d.connected_components(labels, connectivity=26)
    sizes = np.bincount(parts.ravel())
    votes = np.bincount(parts[voting], minlength=len(sizes))
    owner = np.zeros(len(sizes), dtype=labels.dtype)
    owner[parts.ravel()] = labels.ravel()
    best_last = np.lexsort((sizes, votes, owner))
    last_of_owner = np.append(owner[best_last][1:] != owner[best_last][:-1], True)
    kept = np.zeros_like(owner)
    winners = best_last[last_of_owner]
    kept[winners] = owner[winners]
    return kept[parts]
