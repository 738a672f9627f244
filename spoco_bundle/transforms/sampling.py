"""Sparse supervision from dense labels: keep a fraction of the instances."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping

import fastremap
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.names import image_name


class KeepInstanceFractiond(MapTransform):
    """Keeps a fraction of the annotated instances of a volume and hides the others.

    The choice depends on the seed, the file's base name without its extension, and the ids, on nothing else: it is the
    same in every epoch, process and folder, and for the same volume as TIFF and as NIfTI. A smaller fraction keeps a
    subset of what a larger one keeps. A label without a file name is keyed by the seed and its ids alone. The transform
    is deterministic, so its result may be cached.

    Args:
        keys: label keys, each (1, *spatial) of an integer dtype.
        fraction: share of the instances to keep, in [0, 1]; rounded to whole instances.
        seed: any int; another seed keeps other instances.
        minimum: least number of instances kept in a volume that has as many.
        hidden_label: what the voxels of the other instances become: the ignore label where supervision is dense, which
            takes unlabeled voxels for background; None or 0 for unlabeled.
        ignore_label: id that is no instance and is always kept, or None.
        background_label: id that is no instance and is always kept, or None.
        allow_missing_keys: whether a sample without the key passes through.

    Raises:
        SpocoError: if the fraction is outside [0, 1].
    """

    def __init__(
        self,
        keys: KeysCollection,
        fraction: float = 1.0,
        seed: int = 0,
        minimum: int = 1,
        hidden_label: int | None = None,
        ignore_label: int | None = None,
        background_label: int | None = None,
        allow_missing_keys: bool = False,
    ):
        super().__init__(keys, allow_missing_keys)
        if not 0 <= fraction <= 1:
            raise SpocoError(f"fraction: must lie in [0, 1], got {fraction}")
        self.fraction = fraction
        self.seed = seed
        self.minimum = minimum
        self.hidden_label = hidden_label or 0
        self.special = {0, ignore_label, background_label} - {None}

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Returns a copy of the sample with thinned-out labels; dtype, shape and metadata stay."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = self._thin_out(sample[key])
        return sample

    def _thin_out(self, label: torch.Tensor) -> torch.Tensor:
        if self.fraction == 1:
            return label
        ids = fastremap.unique(np.asarray(label)).tolist()
        instances = [i for i in ids if i not in self.special]
        count = min(len(instances), max(self.minimum, round(self.fraction * len(instances))))
        path = label.meta.get("filename_or_obj", "") if isinstance(label, MetaTensor) else ""
        name = image_name(str(path).replace("\\", "/"))
        kept = sorted(instances, key=lambda i: _lot(self.seed, name, i))[:count]
        dropped = sorted(set(instances) - set(kept))
        hidden = torch.isin(label, torch.as_tensor(dropped, dtype=label.dtype, device=label.device))
        return label.masked_fill(hidden, self.hidden_label)


def _lot(seed: int, name: str, instance: int) -> bytes:
    """Draws a lot by hashing, which no version of a random number generator can change."""
    return hashlib.sha256(f"{seed}/{name}/{instance}".encode()).digest()
