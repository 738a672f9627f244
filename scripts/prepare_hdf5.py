"""Volumes in HDF5 files, for `prepare_data.py`."""

from __future__ import annotations

import contextlib
import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from prepared import Example, write_data_set

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.geometry import checked_spacing


def hdf5(
    output: Path,
    train: Sequence[Sequence[str]],
    val: Sequence[Sequence[str]],
    split: Sequence[Sequence[str]],
    val_fraction: float,
    spacing: Sequence[float] | None,
) -> Counter:
    """Volumes in HDF5 files: pairs of `path.h5:dataset`, of the image and of the labels, as PlantSeg and MitoEM have.

    A path may be a pattern; the files of both patterns are then paired in the order of their names. The spacing is what
    the image's attribute `element_size_um` (z, y, x) says, or that of the labels.

    Args:
        output: folder to make.
        train: pairs for train.
        val: pairs for val.
        split: pairs of which the first planes go to train and the last ones to val.
        val_fraction: share of the planes of `split` that goes to val.
        spacing: micrometres (z, y, x) in place of what the files say.
    """
    jobs = [("train", *pair) for given in train for pair in _hdf5_pairs(*given)]
    jobs += [("val", *pair) for given in val for pair in _hdf5_pairs(*given)]
    jobs += [(part, *pair) for given in split for pair in _hdf5_pairs(*given) for part in ("split train", "split val")]
    if not jobs:
        raise SpocoError("no volume is named: give --train with --val, or --split, each an image and its labels")

    def examples() -> Iterator[Example]:
        for part, image, label in jobs:
            with _Dataset(image) as voxels, _Dataset(label) as ids:
                if voxels.shape != ids.shape:
                    raise SpocoError(
                        f"{label}: shape {ids.shape} differs from shape {voxels.shape} of {image}: name the labels of "
                        "this image"
                    )
                cut = round((1 - val_fraction) * voxels.shape[0])
                first, last = {"split train": (0, cut), "split val": (cut, None)}.get(part, (0, None))
                if part.startswith("split") and not 0 < cut < voxels.shape[0]:
                    raise SpocoError(
                        f"{image}: {voxels.shape[0]} planes cannot be split with --val-fraction {val_fraction:g}: give "
                        "another fraction"
                    )
                yield Example(
                    part.removeprefix("split "),
                    Path(image.rpartition(":")[0]).stem,
                    _storable(voxels.planes(first, last)),
                    ids.planes(first, last),
                    (image, label),
                    spacing=checked_spacing(spacing, 3) if spacing else voxels.spacing or ids.spacing,
                )

    with contextlib.closing(examples()) as found:  # closes the files of one that is refused
        return write_data_set(output, found, len(jobs))


class _Dataset:
    """A three-dimensional dataset of an HDF5 file, open while the context lasts.

    Args:
        address: `path.h5:dataset`.
    """

    def __init__(self, address: str) -> None:
        try:
            import h5py  # an optional dependency
        except ImportError as error:
            raise SpocoError("h5py is missing: pip install 'spoco-bundle[hdf5]'") from error
        self.address = address
        path, _, name = address.rpartition(":")
        try:
            self.file = h5py.File(path, "r")
        except OSError as error:
            raise SpocoError(f"{path}: cannot be read as HDF5 ({error}): check the path and the file") from error
        there: dict[str, tuple[int, ...]] = {}
        self.file.visititems(lambda key, value: there.update({key: value.shape} if hasattr(value, "shape") else {}))
        if name.strip("/") not in there:
            self.file.close()
            listed = ", ".join(f"{key} {shape}" for key, shape in sorted(there.items())) or "none"
            raise SpocoError(f"{path}: has no dataset {name!r}: name one of those that are there: {listed}")
        self.stored: Any = self.file[name]
        self.leading = tuple(0 for _ in self.stored.shape[:-3])  # a channel axis of one
        self.shape = tuple(int(size) for size in self.stored.shape[-3:])
        if len(self.shape) != 3 or any(size != 1 for size in self.stored.shape[:-3]):
            self.file.close()
            raise SpocoError(f"{address}: shape {self.stored.shape} is not (z, y, x): name a dataset of one volume")

    def __enter__(self) -> _Dataset:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Micrometres (z, y, x) where the file says so."""
        size = self.stored.attrs.get("element_size_um")
        return None if size is None else checked_spacing(size, 3, f"{self.address}: element_size_um")

    def planes(self, first: int, last: int | None) -> np.ndarray:
        """Planes from `first` up to `last`, (z, y, x)."""
        return self.stored[(*self.leading, slice(first, last))]


def _hdf5_pairs(image: str, label: str) -> list[tuple[str, str]]:
    """Addresses of images and labels that two addresses, perhaps patterns, name."""
    found = []
    for address in (image, label):
        path, colon, name = address.rpartition(":")
        if not colon or not path:
            raise SpocoError(f"{address}: names no dataset: give path.h5:dataset, such as volume.h5:raw")
        files = sorted(glob.glob(path))
        if not files:
            raise SpocoError(f"{path}: no such file: check the path")
        found.append([f"{file}:{name}" for file in files])
    if len(found[0]) != len(found[1]):
        raise SpocoError(
            f"{image} names {len(found[0])} files and {label} names {len(found[1])}: give patterns with one file of "
            "labels for each image"
        )
    return list(zip(*found, strict=True))


def _storable(image: np.ndarray) -> np.ndarray:
    """The image in a type that is read everywhere."""
    return image if image.dtype in (np.uint8, np.uint16, np.float32) else image.astype(np.float32)
