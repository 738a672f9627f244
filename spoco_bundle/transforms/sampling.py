"""Sparse supervision from dense labels: keep a fraction of the instances."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from pathlib import PurePosixPath

import fastremap
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from spoco_bundle.core.errors import SpocoError


class KeepInstanceFractiond(MapTransform):
    """Keeps a fraction of the annotated instances of a volume and sets the others to 0 (unlabeled).

    The choice depends on the seed, the file's base name without its extension, and the ids, on nothing else: it is the
    same in every epoch, process and folder, and for the same volume as TIFF and as NIfTI. A smaller fraction keeps a
    subset of what a larger one keeps. A label without a file name is keyed by the seed and its ids alone. The transform
    is deterministic, so its result may be cached.

    Args:
        keys: label keys, each (1, *spatial) of an integer dtype.
        fraction: share of the instances to keep, in [0, 1]; rounded to whole instances.
        seed: any int; another seed keeps other instances.
        minimum: least number of instances kept in a volume that has as many.
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
        name = base_name(label)
        kept = sorted(instances, key=lambda i: _lot(self.seed, name, i))[:count]
        dropped = sorted(set(instances) - set(kept))
        return label.masked_fill(torch.isin(label, torch.as_tensor(dropped, dtype=label.dtype, device=label.device)), 0)


def base_name(label: torch.Tensor) -> str:
    """File name of a MetaTensor without folder and extensions (``a/x.ome.tif`` gives ``x``); "" where it has none."""
    path = label.meta.get("filename_or_obj", "") if isinstance(label, MetaTensor) else ""
    name = PurePosixPath(str(path).replace("\\", "/")).name
    for suffix in (".gz", None, ".ome"):
        if suffix is None:
            name = name.rsplit(".", 1)[0]
        elif name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name


def _lot(seed: int, name: str, instance: int) -> bytes:
    """Draws a lot by hashing, which no version of a random number generator can change."""
    return hashlib.sha256(f"{seed}/{name}/{instance}".encode()).digest()
