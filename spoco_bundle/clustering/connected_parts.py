"""Connected parts of a label map, on the device that it is on."""

from __future__ import annotations

import cc3d
import torch
from torch import Tensor

from spoco_bundle.clustering.neighbourhood import components, neighbour_pairs, run_starts

__all__ = ["connected_parts"]


def connected_parts(labels: Tensor) -> Tensor:
    """Number (z, y, x) int32 of the part that each voxel of a label map (z, y, x) int32 is in; 26 neighbours.

    Parts of a label above 0 are numbered from 1 in the order in which they first appear; 0 stays 0. The same on every
    device: on the CPU by connected-components-3d, elsewhere by `joined_runs`.
    """
    if labels.device.type == "cpu":
        parts = cc3d.connected_components(labels.contiguous().numpy(), connectivity=26)
        return torch.from_numpy(parts.astype("int32", copy=False))
    return joined_runs(labels)


def joined_runs(labels: Tensor) -> Tensor:
    """`connected_parts` by joining runs of voxels of one label along x, which are far fewer than the voxels."""
    starts = run_starts(labels)
    run = (torch.cumsum(starts.flatten(), 0, dtype=torch.int32) - 1).view_as(labels)
    pairs = []
    for a, b in neighbour_pairs(labels.shape):
        # of two runs that touch at many voxels the first pair is enough
        touch = (labels[a] == labels[b]) & (labels[a] > 0) & (starts[a] | starts[b])
        pairs.append(torch.stack([run[a][touch], run[b][touch]]))
    first = torch.nonzero(starts.flatten()).squeeze(1)
    counts = labels.flatten()[first] > 0
    one, other = torch.cat(pairs, 1).long() if pairs else torch.zeros(2, 0, dtype=torch.long, device=labels.device)
    root = components(one, other, len(first))
    # the root is the first run of its part
    number = torch.cumsum(counts & (root == torch.arange(len(root), device=root.device)), 0, dtype=torch.int32)
    return (number[root] * counts).index_select(0, run.flatten()).view_as(labels)
