"""TIFF in: plain, ImageJ and OME, with the axes and the physical spacing that the file states."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import UNITLESS
from spoco_bundle.formats.geometry import affine_from_spacing
from spoco_bundle.formats.stored import LazyVolume
from spoco_bundle.formats.tiff_header import open_tiff, read_layout, spatial_axes

SUFFIXES = (".tif", ".tiff", ".btf")
_ALPHA = ((tifffile.EXTRASAMPLE.ASSOCALPHA,), (tifffile.EXTRASAMPLE.UNASSALPHA,))


def describe(path: Path, spatial_dims: int, axes: str | None = None, is_label: bool = False) -> LazyVolume:
    """Reads the header of one TIFF file.

    Spacing comes from OME physical sizes, from ImageJ's calibration (also where tifffile stored the same entries in a
    plain file), or is unknown: the resolution of a plain file is that of a print. Colour samples and channels become
    channels; a last sample that the file calls alpha is left out. Where 0 is white, values are turned round.

    Args:
        path: the file, compressed or not.
        spatial_dims: 3 takes stacks (an axis Z, or one unnamed series of pages), 2 takes single images.
        axes: letters that replace the axes of the file, one per dimension, for files whose axes are wrong, such as
            ``"ZYX"`` for slices stored as channels.
        is_label: the values are ids, whatever colour they are shown in.

    Raises:
        SpocoError: if the file is damaged, its axes do not make a 2D or 3D image, or its values are no intensities.
    """
    with open_tiff(path) as tif:
        layout = read_layout(path, tif, axes)
        spatial = spatial_axes(path, layout, spatial_dims)
        page = tif.series[0].keyframe
        white = None if is_label else _white(path, page)
        if is_label and page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            raise SpocoError(f"{path}: says that 0 is white (MinIsWhite), so ids are unclear: save it with 0 as black")
        dtype = tif.series[0].dtype
    spacing = layout.spacing(spatial_dims)
    return LazyVolume(
        path=str(path),
        axes=layout.axes,
        stored_shape=layout.shape,
        spatial=spatial,
        dtype=dtype,
        spacing=spacing,
        file_unit=layout.unit.name if layout.unit else UNITLESS,
        affine=affine_from_spacing(spacing or (1.0,) * spatial_dims),
        file_format=layout.kind if layout.kind in ("imagej", "ome") else "tiff",
        stated_size=layout.stated_size(spatial_dims),
        singletons=layout.singletons,
        has_alpha="S" in layout.axes and page.extrasamples[-1:] in _ALPHA,
        white=white,
    )


def _white(path: Path, page: tifffile.TiffPage) -> int | None:
    """The highest value where 0 is white; None where 0 is black.

    A colour table that grows brighter with the value, as microscopes store one, only tells how to show intensities.
    """
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        if not np.issubdtype(page.dtype, np.unsignedinteger) and page.dtype != bool:
            raise SpocoError(
                f"{path}: says that 0 is white (MinIsWhite) of {page.dtype} values: save it with 0 as black"
            )
        return 2**page.bitspersample - 1
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
        brightness = np.asarray(page.colormap, dtype=np.int64).sum(0)
        if (np.diff(brightness) < 0).any():
            raise SpocoError(
                f"{path}: holds numbers of colours in a table, not intensities: save the image as grey values or as RGB"
            )
    return None


def whole(path: Path) -> np.ndarray:
    """All voxels as stored, dimensions of one voxel included.

    Raises:
        SpocoError: if the file is damaged.
    """
    with open_tiff(path) as tif:
        return tif.series[0].asarray()


def stored_voxels(path: Path, singletons: tuple[int, ...]) -> Any:
    """Voxels that are read as they are indexed, with the stored axes but for the dimensions ``singletons``."""
    # imported here because other users need not wait for it
    import zarr

    tif = tifffile.TiffFile(path)
    series = tif.series[0]
    if series.dataoffset is not None and series.keyframe.is_memmappable:
        stored: Any = _Mapped(path, series.dataoffset, tif.byteorder + series.dtype.char, tuple(series.shape))
        tif.close()
    else:
        # of a pyramid, the full resolution alone is an array
        stored = zarr.open_array(series.aszarr(level=0), mode="r")
    return _Squeezed(stored, singletons)


@dataclass
class _Mapped:
    """Uncompressed voxels in one run; mapped anew for every read, so that none stays in memory."""

    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    def __getitem__(self, index: tuple[Any, ...]) -> np.ndarray:
        return np.array(np.memmap(self.path, self.dtype, "r", self.offset, self.shape)[index])


@dataclass
class _Squeezed:
    """An array without some of its dimensions of one voxel."""

    stored: Any
    singletons: tuple[int, ...]

    def __getitem__(self, index: tuple[Any, ...]) -> np.ndarray:
        rest = iter(index)
        dimensions = range(len(index) + len(self.singletons))
        return self.stored[tuple(0 if number in self.singletons else next(rest) for number in dimensions)]
