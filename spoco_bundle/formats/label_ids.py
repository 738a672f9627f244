"""Label values as they are stored, turned into ids, and the grid that labels must have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spoco_bundle.core.errors import SpocoError


def check_fits(shape: Sequence[int], grid: Sequence[int], like: Path) -> None:
    """Refuses labels (*shape) that are not on the grid of their image; a stack of one slice takes a single one.

    Raises:
        SpocoError: if the two differ.
    """
    shape, grid = tuple(shape), tuple(grid)
    if grid not in (shape, (1, *shape)):
        raise SpocoError(
            f"labels of shape {shape} do not fit {like} of shape {grid}: "
            "bring them back to the grid of the source image first"
        )


def as_label_ids(array: np.ndarray, path: str) -> np.ndarray:
    """Turns stored label values into int32 ids.

    Args:
        array: any shape, integers, booleans or floats that are whole numbers.
        path: the file, for messages.

    Raises:
        SpocoError: if values are NaN, infinite, not whole, or outside int32.
    """
    if array.dtype == bool:
        return array.astype(np.int32)
    if np.issubdtype(array.dtype, np.floating):
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            raise SpocoError(f"{path}: {bad} label voxels are NaN or infinite: set unlabeled voxels to 0")
        broken = array != np.rint(array)
        if broken.any():
            raise SpocoError(
                f"{path}: label value {float(array[broken][0]):g} is no whole number, as after linear interpolation: "
                "resample labels with nearest neighbour and save integer ids"
            )
    elif not np.issubdtype(array.dtype, np.integer):
        raise SpocoError(f"{path}: label voxels are of type {array.dtype}: save integer ids")
    if array.size:
        limits = np.iinfo(np.int32)
        for value in (int(array.min()), int(array.max())):
            if not limits.min <= value <= limits.max:
                raise SpocoError(
                    f"{path}: label id {value} does not fit 32 bits (largest {limits.max}): renumber the objects"
                )
    return array.astype(np.int32)
