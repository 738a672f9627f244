"""Voxel access: slabs of a large embedding volume as float32, without ever copying the whole of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.plain_tensors import plain

__all__ = ["Volume"]

SLAB_VALUES = 1 << 21  # float32 values that one slab may hold: 8 MiB


class Volume:
    """Embeddings (E, y, x) or (E, z, y, x), array or tensor, read slab by slab along the first spatial axis.

    Inside, every volume has three spatial axes: an image (y, x) becomes (y, 1, x), so that slabs exist in 2D as well.

    Args:
        embeddings: floating NumPy array (memory-mapped or not) or tensor on any device.

    Raises:
        SpocoError: neither 2D nor 3D, empty, or not of a floating type.
    """

    def __init__(self, embeddings: np.ndarray | torch.Tensor) -> None:
        if embeddings.ndim not in (3, 4):
            raise SpocoError(
                f"embeddings have shape {tuple(embeddings.shape)}: give (E, y, x) or (E, z, y, x), one volume at a time"
            )
        if min(embeddings.shape) == 0:
            raise SpocoError(f"embeddings have shape {tuple(embeddings.shape)}: no axis may be empty")
        is_tensor = torch.is_tensor(embeddings)
        if not (embeddings.is_floating_point() if is_tensor else np.issubdtype(embeddings.dtype, np.floating)):
            raise SpocoError(f"embeddings are of type {embeddings.dtype}: give floating-point numbers")
        embeddings = plain(embeddings)
        self.source = embeddings.detach() if is_tensor else embeddings
        self.device = embeddings.device if is_tensor else torch.device("cpu")
        self.channels = int(embeddings.shape[0])
        self.spatial = tuple(int(n) for n in embeddings.shape[1:])
        self.shape = self.spatial if len(self.spatial) == 3 else (self.spatial[0], 1, self.spatial[1])

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape))

    def grid(self, values: np.ndarray | torch.Tensor, name: str, dtype: torch.dtype) -> torch.Tensor:
        """A companion map (*spatial) or (1, *spatial) as a tensor of the internal shape, on the volume's device."""
        values = plain(values)
        if tuple(values.shape) == (1, *self.spatial):
            values = values[0]
        if tuple(values.shape) != self.spatial:
            raise SpocoError(f"{name} has shape {tuple(values.shape)}: it must match the embeddings' {self.spatial}")
        return torch.as_tensor(values).detach().to(device=self.device, dtype=dtype).reshape(self.shape)

    def slab(self, start: int, stop: int) -> torch.Tensor:
        """Rows start..stop-1 of the first spatial axis, (E, stop - start, y, x) float32."""
        part = self.source[:, start:stop]
        if torch.is_tensor(part):
            part = part.float()
        else:
            part = torch.from_numpy(np.require(part, dtype=np.float32, requirements=["W"]))
        return part.reshape(self.channels, stop - start, *self.shape[1:])

    def box(self, region: tuple[slice, slice, slice]) -> torch.Tensor:
        """Embeddings (E, z, y, x) float32 of a box of the internal shape."""
        region = region if len(self.spatial) == 3 else (region[0], region[2])
        part = self.source[(slice(None), *region)]
        part = part.float() if torch.is_tensor(part) else torch.from_numpy(np.array(part, dtype=np.float32))
        return part if part.ndim == 4 else part.unsqueeze(2)

    def at(self, z: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Embeddings (..., E) float32 of single voxels at places (...) of the internal shape."""
        where = (z, y, x) if len(self.spatial) == 3 else (z, x)
        if torch.is_tensor(self.source):
            part = self.source[(slice(None), *where)].float()
        else:
            part = torch.from_numpy(
                self.source[(slice(None), *(w.numpy() for w in where))].astype(np.float32, copy=False)
            )
        return part.movedim(0, -1).contiguous()

    def slabs(self, multiple: int = 1, values: int = SLAB_VALUES) -> Iterator[tuple[int, int]]:
        """Ranges (start, stop) that cover the first axis; all but the last are multiples of `multiple` long."""
        row = self.channels * self.shape[1] * self.shape[2]
        step = max(1, values // (row * multiple)) * multiple
        for start in range(0, self.shape[0], step):
            yield start, min(start + step, self.shape[0])

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """Embeddings (N, E) float32 of the voxels with these flat indices (ascending), read slab by slab."""
        plane = self.shape[1] * self.shape[2]
        rows = torch.empty(len(index), self.channels, device=self.device)
        for start, stop in self.slabs():
            first, last = torch.searchsorted(index, torch.tensor([start * plane, stop * plane], device=self.device))
            if last > first:
                part = self.slab(start, stop).reshape(self.channels, -1)
                rows[first:last] = part[:, index[first:last] - start * plane].T
        return rows

    def shaped_like_input(self, labels: torch.Tensor) -> np.ndarray | torch.Tensor:
        """Labels in the internal shape as (*spatial): a tensor on the input's device, or an array for an array."""
        labels = labels.reshape(self.spatial)
        return labels if torch.is_tensor(self.source) else labels.numpy()
