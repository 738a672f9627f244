"""What a network says of one volume: embeddings with coordinates, objectness and voxel size, read slab by slab."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from spoco_bundle.core.embedding_space import coordinate_lines
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.plain_tensors import plain

SLAB_VALUES = 1 << 21  # float32 values that one slab may hold: 8 MiB


class EmbeddingField:
    """Embeddings (E, y, x) or (E, z, y, x) of a volume, and what belongs to them.

    Coordinates of semi-convolutional embeddings are added wherever embeddings are read, never to the whole of them: a
    volume is neither copied nor changed, and may be a memory-mapped file. Inside, every volume has three spatial axes:
    an image (y, x) becomes (y, 1, x), so that slabs exist in 2D as well.

    Args:
        embeddings: floating NumPy array or tensor on any device, coordinates not added unless `scale` is None.
        objectness: (*spatial) or (1, *spatial) probabilities in [0, 1] that a voxel belongs to an object.
        spacing: voxel size along z, y, x (or y, x), in micrometres, or pixels where no size is known; 1 by default.
        scale: length that is 1 in the embedding space, in the unit of `spacing`; None where nothing is to be added.
        origin: index of the first voxel in the whole volume, in voxels; 0 by default.
        second: the embeddings of a second network, of the same shape, where agreement of two is asked for.

    Attributes:
        spatial: voxels per axis as given.
        shape: voxels along three axes.
        channels: number E of embedding channels.
        device: where the embeddings are.
        objectness: (z, y, x) float32 tensor on the device, or None.

    Raises:
        SpocoError: embeddings neither 2D nor 3D, empty or not of a floating type, or a part that does not fit them.

    Example:
        >>> field = EmbeddingField(torch.zeros(8, 16, 32, 32), spacing=(2.0, 0.5, 0.5), scale=4.0)
        >>> field.slab(0, 4).shape
        torch.Size([8, 4, 32, 32])
    """

    def __init__(
        self,
        embeddings: np.ndarray | Tensor,
        *,
        objectness: np.ndarray | Tensor | None = None,
        spacing: Sequence[float] | None = None,
        scale: float | None = None,
        origin: Sequence[float] | None = None,
        second: EmbeddingField | None = None,
    ) -> None:
        if embeddings.ndim not in (3, 4):
            raise SpocoError(
                f"embeddings have shape {tuple(embeddings.shape)}: give (E, y, x) or (E, z, y, x), one volume at a time"
            )
        if min(embeddings.shape) == 0:
            raise SpocoError(f"embeddings have shape {tuple(embeddings.shape)}: no axis may be empty")
        is_tensor = torch.is_tensor(embeddings)
        if not (embeddings.is_floating_point() if is_tensor else np.issubdtype(embeddings.dtype, np.floating)):
            raise SpocoError(f"embeddings are of type {embeddings.dtype}: give floating-point numbers")
        embeddings = plain(embeddings).detach() if is_tensor else embeddings
        self.source = embeddings if embeddings.ndim == 4 else embeddings[:, :, None]
        self.device = embeddings.device if is_tensor else torch.device("cpu")
        self.channels = int(embeddings.shape[0])
        self.spatial = tuple(int(n) for n in embeddings.shape[1:])
        self.shape = tuple(int(n) for n in self.source.shape[1:])
        self.spacing = (1.0,) * len(self.spatial) if spacing is None else tuple(float(step) for step in spacing)
        self._lines: list[tuple[int, Tensor]] = []
        if scale is not None:
            if self.channels < len(self.spatial):
                raise SpocoError(
                    f"{self.channels} embedding channels cannot carry {len(self.spatial)} coordinates; use more"
                )
            lines = coordinate_lines(self.spatial, self.spacing, scale, origin, self.device)
            self._lines = list(zip((0, 1, 2) if len(lines) == 3 else (0, 2), lines, strict=True))
        self.objectness = None if objectness is None else self.grid(objectness, "objectness", torch.float32)
        if second is not None and (second.channels, second.spatial) != (self.channels, self.spatial):
            raise SpocoError(
                f"teacher_embeddings have shape {(second.channels, *second.spatial)}: they must match the embeddings' "
                f"{(self.channels, *self.spatial)}"
            )
        self.second = second

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape))

    def grid(self, values: np.ndarray | Tensor, name: str, dtype: torch.dtype) -> Tensor:
        """A map (*spatial) or (1, *spatial) of the volume as a tensor (z, y, x) on the device of the embeddings."""
        values = plain(values)
        if tuple(values.shape) == (1, *self.spatial):
            values = values[0]
        if tuple(values.shape) != self.spatial:
            raise SpocoError(f"{name} has shape {tuple(values.shape)}: it must match the embeddings' {self.spatial}")
        return torch.as_tensor(values).detach().to(device=self.device, dtype=dtype).reshape(self.shape)

    def box(self, region: tuple[slice, slice, slice]) -> Tensor:
        """Embeddings (E, z, y, x) float32, coordinates added, of a box of the three axes; slices without steps."""
        part = self.source[(slice(None), *region)]
        if torch.is_tensor(part):
            part = part.to(torch.float32, copy=bool(self._lines))
        else:
            part = torch.from_numpy(np.array(part, dtype=np.float32))
        for channel, (axis, line) in enumerate(self._lines):
            part[channel] += line[region[axis]].reshape([-1 if a == axis else 1 for a in range(3)])
        return part

    def slab(self, start: int, stop: int) -> Tensor:
        """Embeddings (E, stop - start, y, x) float32, coordinates added, of planes of the first axis."""
        return self.box((slice(start, stop), slice(None), slice(None)))

    def slabs(self, multiple: int = 1, values: int | None = None) -> Iterator[tuple[int, int]]:
        """Ranges (start, stop) that cover the first axis; all but the last are multiples of `multiple` long."""
        row = self.channels * self.shape[1] * self.shape[2]
        step = max(1, (values or SLAB_VALUES) // (row * multiple)) * multiple
        for start in range(0, self.shape[0], step):
            yield start, min(start + step, self.shape[0])

    def take(self, index: Tensor) -> Tensor:
        """Embeddings (N, E) float32 of the voxels with these flat indices (ascending), read slab by slab.

        Raises:
            SpocoError: if embeddings, of whatever voxel, are not finite.
        """
        plane = self.shape[1] * self.shape[2]
        rows = torch.empty(len(index), self.channels, device=self.device)
        for start, stop in self.slabs():
            part = self.slab(start, stop).reshape(self.channels, -1)
            check_finite(part)
            first, last = torch.searchsorted(index, torch.tensor([start * plane, stop * plane], device=self.device))
            if last > first:
                rows[first:last] = part[:, index[first:last] - start * plane].T
        return rows

    def shaped_like_input(self, labels: Tensor) -> np.ndarray | Tensor:
        """Labels (z, y, x) as (*spatial): a tensor on the input's device, or an array where an array was given."""
        labels = labels.reshape(self.spatial)
        return labels if torch.is_tensor(self.source) else labels.numpy()


def check_finite(vectors: Tensor) -> None:
    """Refuses embeddings that are NaN or infinite, of background, too: where nothing is finite, all is background."""
    if not torch.isfinite(vectors.sum()):
        raise SpocoError("embeddings hold NaN or infinite values: check the network's weights and its input")
