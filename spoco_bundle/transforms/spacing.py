"""Resampling to a target voxel spacing, and the way back for label volumes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import fastremap
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.plain_tensors import plain
from spoco_bundle.core.resampling import resize_linear, resize_nearest, resized_shape, restore_labels
from spoco_bundle.formats.geometry import rescale_affine, voxel_spacing

GRID_SHAPE = "grid_shape"
GRID_AFFINE = "grid_affine"


class ResampleToSpacingd(MapTransform):
    """Resamples images and labels to a target spacing.

    Images are smoothed where voxels grow and interpolated linearly; labels take the nearest voxel. Of objects that are
    drawn in part, such as slices of one voxel, every voxel besides marks the one that it falls into, where no other
    object is, so that none is lost. All cover the same extent as before: the outer faces of the volume stay where they
    are, so the spacing reached is the target's up to the rounding of the shape to whole voxels, and the affine says
    exactly what it is. The original shape and affine go to the metadata for ``RestoreGridd``.

    MONAI's ``Spacingd`` is not used: in MONAI 1.6.1 it fails on samples with string entries named after the key
    (``image_path``), which MONAI Label adds, and its resampling in floating point alters label ids above 2^24.

    Args:
        keys: MetaTensors (C, *spatial).
        spacing: target per axis (z, y, x) in the unit of the image's own spacing, in pixels where it has none; 0 leaves
            an axis as it is.
        modes: "linear", "nearest", or "drawn" for labels of objects that may be drawn in part; one for all keys or one
            per key.
        annotation: how objects are drawn that the sample's ``kinds`` do not name, see ``KINDS``.
        allow_missing_keys: whether a sample without the key passes through.

    Raises:
        SpocoError: if a mode is unknown; when called, if the image has no affine, or a target does not fit its axes.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing: Sequence[float],
        modes: str | Sequence[str] = "linear",
        annotation: str = "whole",
        allow_missing_keys: bool = False,
    ):
        super().__init__(keys, allow_missing_keys)
        self.annotation = annotation
        self.modes = (modes,) * len(self.keys) if isinstance(modes, str) else tuple(modes)
        if len(self.modes) != len(self.keys) or not set(self.modes) <= {"linear", "nearest", "drawn"}:
            raise SpocoError(f"modes: one of 'linear', 'nearest' or 'drawn' for each of {self.keys}, got {modes}")
        self.spacing = tuple(float(target) for target in spacing)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Returns a copy of the sample with resampled MetaTensors: linear ones float32, nearest ones in their dtype."""
        sample = dict(data)
        for key, mode in self.key_iterator(sample, self.modes):
            volume = sample[key]
            if not isinstance(volume, MetaTensor):
                raise SpocoError(f"{key}: its voxel size is unknown: hand over a MetaTensor, as LoadVolumed makes it")
            shape = tuple(volume.shape[1:])
            target = resized_shape(shape, voxel_spacing(volume, len(shape)), self.spacing)
            sample[key] = resampled(volume, target, "nearest" if mode == "drawn" else mode)
            if mode == "drawn":
                self._mark(plain(volume)[0], plain(sample[key])[0], sample.get("kinds", {}))
        return sample

    def _mark(self, labels: torch.Tensor, resized: torch.Tensor, kinds: Mapping[int, str]) -> None:
        """Puts every voxel of partly drawn objects into the resized labels (*spatial), in place."""
        if self.annotation == "whole" and not kinds:
            return
        present = labels[labels > 0].unique().tolist()
        partly_drawn = [number for number in present if kinds.get(number, self.annotation) != "whole"]
        voxels = torch.isin(labels, torch.tensor(partly_drawn, dtype=labels.dtype)).nonzero()
        old, new = torch.tensor(labels.shape), torch.tensor(resized.shape)
        places = ((2 * voxels + 1) * new // (2 * old)).T
        free = resized[tuple(places)] == 0
        resized[tuple(places[:, free])] = labels[tuple(voxels[free].T)]


class RestoreGridd(MapTransform):
    """Brings label volumes back to the grid their image had before ``ResampleToSpacingd``, with smooth outlines.

    Embeddings are clustered on the resampled grid and only the labels come back. Where an image's objectness lies in
    ``KEY_objectness``, it is interpolated linearly and each voxel of the original grid belongs to an object where it is
    at least ``KEY_outline``; to which one, the labels around it say. So outlines are as sharp as the image, not as the
    working resolution. Without an objectness, the mask of all objects is interpolated in its place. Where there is a
    ``KEY_confidence``, objects are numbered anew in the order of their first voxels, and those that are too small for
    the original grid lose theirs. Without a resampled reference the labels stay as they are.

    Args:
        keys: label volumes (C, *spatial).
        reference: key of the image, whose metadata name the original grid.
        allow_missing_keys: whether a sample without the key passes through.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        reference: str = "image",
        allow_missing_keys: bool = False,
    ):
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
            outlines = sample.pop(f"{key}_objectness", None), sample.pop(f"{key}_outline", 0.5)
            restored = torch.stack([restore_labels(one, shape, *outlines) for one in plain(torch.as_tensor(labels))])
            confidence = sample.get(f"{key}_confidence")
            if confidence is not None:
                restored, sample[f"{key}_confidence"] = _renumbered(restored, confidence)
            sample[key] = MetaTensor(restored, affine=torch.as_tensor(meta[GRID_AFFINE]), meta=kept)
        return sample


def _renumbered(labels: torch.Tensor, confidence: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels 1..n in the order of their first voxels, and the confidence of those that are left."""
    ids, first = fastremap.unique(labels.cpu().numpy(), return_index=True)
    order = torch.from_numpy(ids[np.argsort(first)].astype(np.int64))
    order = order[order > 0]
    number = torch.zeros(len(confidence) + 1, dtype=labels.dtype, device=labels.device)
    number[order] = torch.arange(1, len(order) + 1, dtype=labels.dtype, device=labels.device)
    return number[labels.long()], confidence[(order - 1).to(confidence.device)]


def with_spacing(volume: MetaTensor, spacing: Sequence[float]) -> MetaTensor:
    """The same voxels with an affine of the same directions and origin and another spacing."""
    affine = torch.as_tensor(rescale_affine(volume.affine, spacing))
    return MetaTensor(volume.as_tensor(), meta=volume.meta | {"affine": affine})


def resampled(volume: MetaTensor, shape: tuple[int, ...], mode: str) -> MetaTensor:
    """A volume (C, *spatial) on a grid of another shape and the same extent, "linear" or "nearest".

    The shape and affine that it had go to its metadata.
    """
    old = tuple(volume.shape[1:])
    values = (resize_linear if mode == "linear" else resize_nearest)(volume.as_tensor(), shape)
    meta = volume.meta | {GRID_SHAPE: torch.tensor(old), GRID_AFFINE: volume.affine.clone()}
    return MetaTensor(values, meta=meta | {"affine": _rescaled(volume.affine, old, shape)})


def _rescaled(affine: torch.Tensor, shape: Sequence[int], target: Sequence[int]) -> torch.Tensor:
    """Affine of the same extent cut into another number of voxels."""
    step = torch.eye(len(affine), dtype=affine.dtype, device=affine.device)
    for axis, (old, new) in enumerate(zip(shape, target)):
        step[axis, axis] = old / new
        step[axis, -1] = (old / new - 1) / 2  # centre of the first new voxel, in old voxels
    return affine @ step
