"""Images that are read region by region: OME-Zarr, plain Zarr, TIFF and NIfTI of any size."""

from __future__ import annotations

import functools
import gzip
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import nifti, tiff
from spoco_bundle.formats.files import is_zarr
from spoco_bundle.formats.geometry import UNKNOWN_UNIT, affine_from_spacing, checked_spacing, rescale_affine

__all__ = ["LazyVolume", "open_volume", "stored_size", "unpack"]


@dataclass
class LazyVolume:
    """An image on disk with its voxel grid; holds no voxels and travels to other processes.

    Attributes:
        path: the file or Zarr folder.
        shape: voxels along z, y, x or y, x.
        channels: number of channels that ``read`` returns.
        dtype: of the voxels.
        spacing: along z, y, x or y, x; None where the file does not say.
        spacing_unit: ``"micrometer"``, ``"millimeter"``, ``"nanometer"`` or ``"unknown"``.
        translation: of the first voxel, in ``spacing_unit``; zeros except for OME-Zarr.
        affine: see ``Image``.
        file_format: ``"zarr"``, ``"tiff"``, ``"imagej"``, ``"ome"`` or ``"nifti"``.
        axes: letters of the stored axes, slowest first.
        fixed: stored axes of which one index is read, by letter.
        spatial: letters of the stored spatial axes in the order z, y, x.
        chosen: the channel that ``read`` returns, all where None.
        singletons: stored dimensions of one voxel that ``axes`` leaves out.
    """

    path: str
    shape: tuple[int, ...]
    channels: int
    dtype: np.dtype
    spacing: tuple[float, ...] | None
    spacing_unit: str
    translation: tuple[float, ...]
    affine: np.ndarray
    file_format: str
    axes: str
    spatial: str
    fixed: dict[str, int] = field(default_factory=dict)
    chosen: int | None = None
    singletons: tuple[int, ...] = ()

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape, dtype=np.int64))

    def read(self, region: tuple[slice, ...]) -> np.ndarray:
        """Voxels of a region.

        Args:
            region: one slice with start and stop per axis z, y, x or y, x.

        Returns:
            (C, *region) in the file's own data type, in the byte order of this machine.

        Raises:
            SpocoError: if the file is gone or damaged.
        """
        place = dict(zip(self.spatial, region))
        index = tuple(place.get(axis, self.fixed.get(axis, slice(None))) for axis in self.axes)
        kept = [axis for axis in self.axes if axis not in self.fixed]
        try:
            changed = os.stat(self.path).st_mtime_ns
            values = np.asarray(_stored(self.path, changed, self.file_format, self.axes, self.singletons)[index])
        # decoders raise types of their own, which share no base but Exception
        except Exception as error:
            raise SpocoError(
                f"{self.path}: cannot be read ({' '.join(str(error).split())[:160]}): copy or export it again"
            ) from error
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        others = [axis for axis in kept if axis not in self.spatial]
        values = values.transpose([kept.index(axis) for axis in (*others, *self.spatial)])
        values = values.reshape(-1, *values.shape[values.ndim - len(region) :])
        return values[: self.channels] if self.chosen is None else values[self.chosen : self.chosen + 1]


def open_volume(
    path: str | Path,
    spatial_dims: int = 3,
    spacing: Sequence[float] | None = None,
    spacing_unit: str = "micrometer",
    override_spacing: bool = False,
    axes: str | None = None,
    channel: int | None = None,
    time: int | None = None,
) -> LazyVolume:
    """Opens an image for reading by region.

    Args:
        path: an OME-Zarr image or plain Zarr array (a folder), a TIFF file, or an uncompressed NIfTI file.
        spatial_dims: 3 for volumes, 2 for single images.
        spacing: spacing along z, y, x (or y, x) for files that state none.
        spacing_unit: unit of ``spacing``.
        override_spacing: take ``spacing`` even where the file states another one.
        axes: letters that replace the axes a TIFF or Zarr file states, where those are wrong or missing.
        channel: the one channel to read; all by default.
        time: the time point to read of an OME-Zarr image with several.

    Raises:
        SpocoError: if the file is missing, its axes do not fit, a time point or channel does not exist or has to be
            chosen, or the format cannot be read by region.
    """
    path = Path(path)
    if not path.exists():
        raise SpocoError(f"{path}: no such file: check the path")
    name = path.name.lower()
    if is_zarr(path):
        volume = _open_zarr(path, spatial_dims, axes, time)
    elif name.endswith(tiff.SUFFIXES):
        volume = _open_tiff(path, spatial_dims, axes)
    elif name.endswith(".nii"):
        volume = _open_nifti(path, spatial_dims)
    else:
        raise SpocoError(f"{path}: this format is read as a whole only: convert it to OME-Zarr, TIFF or NIfTI")
    if spacing is not None and (volume.spacing is None or override_spacing):
        volume.spacing = checked_spacing(spacing, spatial_dims)
        volume.spacing_unit = spacing_unit
        volume.affine = rescale_affine(volume.affine, volume.spacing)
    if channel is not None:
        if not 0 <= channel < volume.channels:
            raise SpocoError(f"{path}: channel is {channel}: the image has channels 0 to {volume.channels - 1}")
        volume.chosen, volume.channels = int(channel), 1
    return volume


def stored_size(path: str | Path, spatial_dims: int = 3, axes: str | None = None) -> tuple[int, int] | None:
    """Voxels and channels of an image, from its header; None for formats that are not read by region.

    Raises:
        SpocoError: if the file is missing or damaged, or its axes do not fit.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith(".nii.gz") and path.is_file():
        grid = nifti.read_grid(path, spatial_dims)
        return int(np.prod(grid.shape, dtype=np.int64)), grid.channels
    if path.is_file() and not name.endswith((*tiff.SUFFIXES, ".nii")):
        return None
    volume = open_volume(path, spatial_dims, axes=axes, time=0)
    return volume.voxels, volume.channels


def unpack(path: Path, target: Path) -> Path:
    """Decompresses ``NAME.nii.gz`` to ``target``, which is then readable by region; the stream never lies in memory.

    Raises:
        SpocoError: if the file is damaged. What cannot be written raises OSError.
    """
    with target.open("wb") as plain:
        try:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, plain, 1 << 20)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise SpocoError(f"{path}: is damaged or truncated ({error}): copy it again") from error
    return target


def _open_zarr(path: Path, spatial_dims: int, axes: str | None, time: int | None) -> LazyVolume:
    # imported here because other users need not wait for it
    from spoco_bundle.formats import ome_zarr

    image = ome_zarr.open_image(path, axes)
    sizes = dict(zip(image.axes, image.array.shape))
    fixed: dict[str, int] = {}
    if "t" in sizes:
        if sizes["t"] > 1 and time is None:
            raise SpocoError(f"{path}: has {sizes['t']} time points: choose one with the id time, 0 is the first")
        fixed["t"] = int(time or 0)
        if not 0 <= fixed["t"] < sizes["t"]:
            raise SpocoError(f"{path}: time is {time}: the image has time points 0 to {sizes['t'] - 1}")
    spatial = "zyx"[-spatial_dims:]
    if spatial_dims == 2 and sizes.get("z", 1) == 1 and "z" in sizes:
        fixed["z"] = 0
    missing = [letter for letter in spatial if letter not in sizes]
    if missing or (spatial_dims == 2 and sizes.get("z", 1) > 1):
        raise SpocoError(
            f"{path}: axes {image.axes} of shape {tuple(image.array.shape)} are not those of a {spatial_dims}D image: "
            "set spatial_dims (overlay 2d), or axes where the file names them wrongly"
        )
    spacing = None if image.spacing is None else tuple(image.spacing[letter] for letter in spatial)
    shape = tuple(sizes[letter] for letter in spatial)
    return LazyVolume(
        path=str(path),
        shape=shape,
        channels=sizes.get("c", 1),
        dtype=image.array.dtype,
        spacing=spacing,
        spacing_unit=image.unit if spacing else UNKNOWN_UNIT,
        translation=tuple(image.translation.get(letter, 0.0) for letter in spatial),
        affine=affine_from_spacing(spacing or (1.0,) * spatial_dims),
        file_format="zarr",
        axes=image.axes,
        spatial=spatial,
        fixed=fixed,
    )


def _open_tiff(path: Path, spatial_dims: int, axes: str | None) -> LazyVolume:
    grid = tiff.read_grid(path, spatial_dims, axes)
    sizes = dict(zip(grid.axes, grid.shape))
    channels = int(np.prod([size for axis, size in sizes.items() if axis not in grid.spatial], dtype=np.int64))
    return LazyVolume(
        path=str(path),
        shape=tuple(sizes[axis] for axis in grid.spatial),
        channels=3 if grid.has_alpha else channels,
        dtype=grid.dtype,
        spacing=grid.spacing,
        spacing_unit=grid.unit,
        translation=(0.0,) * spatial_dims,
        affine=affine_from_spacing(grid.spacing or (1.0,) * spatial_dims),
        file_format=grid.file_format,
        axes=grid.axes,
        spatial=grid.spatial,
        singletons=grid.singletons,
    )


def _open_nifti(path: Path, spatial_dims: int) -> LazyVolume:
    grid = nifti.read_grid(path, spatial_dims)
    return LazyVolume(
        path=str(path),
        shape=grid.shape,
        channels=grid.channels,
        dtype=grid.dtype,
        spacing=grid.spacing,
        spacing_unit=grid.unit,
        translation=(0.0,) * spatial_dims,
        affine=grid.affine,
        file_format="nifti",
        axes=grid.axes,
        spatial="zyx"[-spatial_dims:],
        fixed={"z": 0} if spatial_dims == 2 and "z" in grid.axes else {},
    )


@functools.lru_cache(maxsize=8)
def _stored(path: str, changed: int, file_format: str, axes: str, singletons: tuple[int, ...]) -> Any:
    """What indexing reads from: an array with the stored axes; kept open until the file changes."""
    if file_format == "zarr":
        from spoco_bundle.formats import ome_zarr

        return ome_zarr.open_image(Path(path), axes).array
    if file_format == "nifti":
        return nifti.stored_voxels(Path(path))
    return tiff.stored_voxels(Path(path), singletons)
