"""What a file says about its voxels, and the voxels of any region of it."""

from __future__ import annotations

import functools
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spoco_bundle.core.errors import SpocoError, in_short
from spoco_bundle.core.lengths import UNITLESS
from spoco_bundle.formats.geometry import Image, VoxelGrid


@dataclass
class LazyVolume(VoxelGrid):
    """An image on disk with its voxel grid; holds no voxels and travels to other processes.

    Attributes:
        path: the file or Zarr folder.
        axes: letters of the stored axes, slowest first.
        stored_shape: voxels along them.
        spatial: letters of the stored spatial axes in the order z, y, x or y, x.
        dtype: of the voxels.
        spacing: see ``Image``.
        file_unit: see ``Image``.
        affine: see ``Image``.
        file_format: see ``Image``.
        stated_size: see ``Image``.
        translation: of the first voxel, in the unit of ``spacing``; zeros except for OME-Zarr.
        fixed: stored axes of which one index is read, by letter.
        chosen: the channel that ``read`` returns, all where None.
        singletons: stored dimensions of one voxel that ``axes`` leaves out.
        has_alpha: whether the last colour sample is an alpha, which is left out.
        white: the value that means black where the file stores images inverted; None where it does not.
    """

    path: str
    axes: str
    stored_shape: tuple[int, ...]
    spatial: str
    dtype: np.dtype
    spacing: tuple[float, ...] | None
    file_unit: str
    affine: np.ndarray
    file_format: str
    stated_size: str = ""
    translation: tuple[float, ...] = (0.0, 0.0, 0.0)
    fixed: dict[str, int] = field(default_factory=dict)
    chosen: int | None = None
    singletons: tuple[int, ...] = ()
    has_alpha: bool = False
    white: int | None = None

    def __post_init__(self) -> None:
        self.translation = self.translation[-len(self.spatial) :]
        if self.spacing is None:
            self.file_unit = UNITLESS

    def size(self, axis: str) -> int:
        """Voxels along a stored axis; 0 where there is none of this letter."""
        return self.stored_shape[self.axes.index(axis)] if axis in self.axes else 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along z, y, x or y, x."""
        return tuple(self.size(axis) for axis in self.spatial)

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def stored_channels(self) -> int:
        """Number of channels in the file, of the time point that is read."""
        others = [axis for axis in self.axes if axis not in self.spatial and axis not in self.fixed]
        return math.prod(self.size(axis) - (axis == "S" and self.has_alpha) for axis in others)

    @property
    def channels(self) -> int:
        """Number of channels that ``read`` returns."""
        return self.stored_channels if self.chosen is None else 1

    def choose(self, channel: int | None = None, time: int | None = None) -> None:
        """Fixes the time point and the channel that are read.

        Raises:
            SpocoError: if a time point has to be chosen, or what is chosen does not exist.
        """
        steps = self.size("T")
        if time is not None and not steps:
            raise SpocoError(f"{self.path}: time is {time}, but the image has no time axis ({self.axes}): leave it out")
        if steps > 1 and time is None:
            raise SpocoError(
                f"{self.path}: has {steps} time points: choose one with --time, 0 is the first, or, if they are really "
                "slices, name the axes with --axes, such as ZYX"
            )
        if steps:
            self.fixed["T"] = int(time or 0)
            if not 0 <= self.fixed["T"] < steps:
                raise SpocoError(f"{self.path}: time is {time}: the image has time points 0 to {steps - 1}")
        if channel is not None:
            if not 0 <= channel < self.stored_channels:
                raise SpocoError(
                    f"{self.path}: channel is {channel}: the image has channels 0 to {self.stored_channels - 1}"
                )
            self.chosen = int(channel)

    def image(self, array: Any) -> Image:
        """Voxels (C, *shape) of this image with its grid."""
        grid = self.spacing, self.file_unit, self.affine
        return Image(array, *grid, self.file_format, self.axes, self.path, self.stated_size)

    def read(self, region: tuple[slice, ...]) -> np.ndarray:
        """Voxels of a region.

        Args:
            region: one slice with start and stop per axis z, y, x or y, x.

        Returns:
            (C, *region) in the file's own data type, in the byte order of this machine.

        Raises:
            SpocoError: if the file is gone or damaged.
        """
        try:
            changed = os.stat(self.path).st_mtime_ns
            stored = _stored(self.path, changed, self.file_format, self.axes, self.singletons)
            values = np.asarray(stored[self._index(region)])
        # decoders raise types of their own, which share no base but Exception
        except Exception as error:
            raise SpocoError(f"{self.path}: cannot be read ({in_short(error)}): copy or export it again") from error
        return self._arranged(values)

    def read_all(self) -> np.ndarray:
        """All voxels (C, *shape) at once, where a format has a faster or stricter way for that.

        Raises:
            SpocoError: if the file is gone or damaged.
        """
        whole = tuple(slice(0, size) for size in self.shape)
        if self.file_format == "zarr":
            return self.read(whole)
        values = _reader(self.file_format).whole(Path(self.path))
        return self._arranged(values.reshape(self.stored_shape)[self._index(whole)])

    def _index(self, region: tuple[slice, ...]) -> tuple[int | slice, ...]:
        place = dict(zip(self.spatial, region, strict=True))
        return tuple(place.get(axis, self.fixed.get(axis, slice(None))) for axis in self.axes)

    def _arranged(self, values: np.ndarray) -> np.ndarray:
        """Stored voxels, of which the fixed axes are gone, as (C, *spatial)."""
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        kept = [axis for axis in self.axes if axis not in self.fixed]
        others = [axis for axis in kept if axis not in self.spatial]
        values = values.transpose([kept.index(axis) for axis in (*others, *self.spatial)])
        if self.has_alpha:
            values = values.take(range(self.size("S") - 1), axis=others.index("S"))
        values = values.reshape(-1, *values.shape[values.ndim - len(self.spatial) :])
        values = values if self.chosen is None else values[self.chosen : self.chosen + 1]
        if self.white is None:
            return values
        return ~values if values.dtype == bool else (self.white - values.astype(np.int64)).astype(values.dtype)


def _reader(file_format: str) -> Any:
    # imported here because they describe their files as this module's class
    from spoco_bundle.formats import nifti, tiff

    return nifti if file_format == "nifti" else tiff


@functools.lru_cache(maxsize=8)
def _stored(path: str, changed: int, file_format: str, axes: str, singletons: tuple[int, ...]) -> Any:
    """What indexing reads from: an array with the stored axes; kept open until the file changes."""
    if file_format == "zarr":
        # imported here because other users need not wait for it
        from spoco_bundle.formats import ome_zarr

        return ome_zarr.open_image(Path(path), axes).array
    return _reader(file_format).stored_voxels(Path(path), singletons)
