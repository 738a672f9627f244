"""Resampling to a target voxel spacing, and the way back for label volumes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Resize

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import PIXEL
from spoco_bundle.core.plain_tensors import plain
from spoco_bundle.formats.files import voxel_spacing

GRID_SHAPE = "grid_shape"
GRID_AFFINE = "grid_affine"


class ResampleToSpacingd(MapTransform):
    """Resamples images and labels to a target spacing.

    Images are smoothed where voxels grow and interpolated linearly; labels take the nearest voxel. Both cover the same
    extent as before: the outer faces of the volume stay where they are, so the spacing reached is the target's up to
    the rounding of the shape to whole voxels, and the affine says exactly what it is. The original shape and affine go
    to the metadata for ``RestoreGridd``.

    MONAI's ``Spacingd`` is not used: in MONAI 1.6.1 it fails on samples with string entries named after the key
    (``image_path``), which MONAI Label adds, and its resampling in floating point alters label ids above 2^24.

    Args:
        keys: MetaTensors (C, *spatial).
        spacing: target per axis (z, y, x) in the unit of the image's own spacing; 0 leaves an axis as it is.
        modes: "linear" or "nearest", one for all keys or one per key.
        allow_missing_keys: whether a sample without the key passes through.

    Raises:
        SpocoError: if a mode is unknown or a target negative; when called, if the image has no known spacing or another
            number of axes.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing: Sequence[float],
        modes: str | Sequence[str] = "linear",
        allow_missing_keys: bool = False,
    ):
        super().__init__(keys, allow_missing_keys)
        self.modes = (modes,) * len(self.keys) if isinstance(modes, str) else tuple(modes)
        if len(self.modes) != len(self.keys) or not set(self.modes) <= {"linear", "nearest"}:
            raise SpocoError(f"modes: one of 'linear' or 'nearest' for each of {self.keys}, got {modes}")
        if any(target < 0 for target in spacing):
            raise SpocoError(f"spacing: targets are positive, or 0 to leave an axis alone, got {list(spacing)}")
        self.spacing = tuple(float(target) for target in spacing)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Returns a copy of the sample with resampled MetaTensors: linear ones float32, nearest ones in their dtype."""
        sample = dict(data)
        for key, mode in self.key_iterator(sample, self.modes):
            sample[key] = self._resample(key, sample[key], mode)
        return sample

    def _resample(self, key: Hashable, volume: torch.Tensor, mode: str) -> MetaTensor:
        dims = volume.ndim - 1
        if not isinstance(volume, MetaTensor) or volume.meta.get("length_unit") == PIXEL:
            raise SpocoError(
                f"{key}: its voxel size is unknown, so it has no target_spacing to be resampled to: give --spacing"
            )
        if len(self.spacing) != dims:
            raise SpocoError(f"spacing: {list(self.spacing)} does not fit the {dims} axes of {key!r}")
        shape = tuple(volume.shape[1:])
        target = tuple(
            max(1, round(size * now / wanted)) if wanted else size
            for size, now, wanted in zip(shape, voxel_spacing(volume, dims), self.spacing)
        )
        values = volume.as_tensor()
        if target != shape and mode == "linear":
            linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[dims]
            values = Resize(target, mode=linear, anti_aliasing=True)(values.float()).as_tensor()
        elif target != shape:
            values = resize_nearest(values, target)
        meta = {name: value for name, value in volume.meta.items() if name != "affine"}
        meta |= {GRID_SHAPE: torch.tensor(shape), GRID_AFFINE: volume.affine.clone()}
        return MetaTensor(values, affine=_rescaled(volume.affine, shape, target), meta=meta)


class RestoreGridd(MapTransform):
    """Brings label volumes back to the grid their image had before ``ResampleToSpacingd``, by nearest neighbour.

    Embeddings are clustered on the resampled grid and only the labels come back. Without a resampled reference the
    labels stay as they are.

    Args:
        keys: label volumes (C, *spatial).
        reference: key of the image, whose metadata name the original grid.
        allow_missing_keys: whether a sample without the key passes through.
    """

    def __init__(self, keys: KeysCollection = "pred", reference: str = "image", allow_missing_keys: bool = False):
        super().__init__(keys, allow_missing_keys)
        self.reference = reference

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Returns a copy of the sample with MetaTensors of the original shape and affine, in their dtype."""
        sample = dict(data)
        meta = getattr(sample[self.reference], "meta", {})
        if GRID_SHAPE not in meta:
            return sample
        shape = tuple(int(size) for size in meta[GRID_SHAPE])
        for key in self.key_iterator(sample):
            labels = sample[key]
            own = labels.meta if isinstance(labels, MetaTensor) else meta
            kept = {name: value for name, value in own.items() if name not in (GRID_SHAPE, GRID_AFFINE, "affine")}
            resized = plain(resize_nearest(torch.as_tensor(labels), shape))
            sample[key] = MetaTensor(resized, affine=torch.as_tensor(meta[GRID_AFFINE]), meta=kept)
        return sample


def resize_nearest(volume: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Resizes by the nearest voxel, exactly, for every dtype.

    Args:
        volume: (C, *spatial).
        shape: new spatial shape.

    Returns:
        (C, *shape), each voxel copied from the voxel that holds its centre.
    """
    for axis, (old, new) in enumerate(zip(volume.shape[1:], shape), start=1):
        if old != new:
            nearest = (2 * torch.arange(new, device=volume.device) + 1) * old // (2 * new)
            volume = volume.index_select(axis, nearest)
    return volume


def _rescaled(affine: torch.Tensor, shape: Sequence[int], target: Sequence[int]) -> torch.Tensor:
    """Affine of the same extent cut into another number of voxels."""
    step = torch.eye(len(affine), dtype=affine.dtype, device=affine.device)
    for axis, (old, new) in enumerate(zip(shape, target)):
        step[axis, axis] = old / new
        step[axis, -1] = (old / new - 1) / 2  # centre of the first new voxel, in old voxels
    return affine @ step
