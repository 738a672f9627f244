"""Objects held out for validation, where images are too few to hold any out."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.metrics.partly_labelled import ANNOTATED_SIZES
from spoco_bundle.transforms.crops import instance_table


class HoldOutObjectsd(MapTransform):
    """Splits the annotated objects of every volume: some train, the others validate.

    An object is held out by a lot that depends on the seed and on its bounding box alone, so that it stays on its side
    when others join it or when ids change. Where the lots would leave one side without an object, the one with the
    lowest lot validates and the one with the highest trains; a single object does both. The sizes of all of them go
    into the metadata of the labels that validate, for ``InstanceMetric``.

    Args:
        keys: labels (1, *spatial) of an integer dtype.
        fraction: expected share of the objects held out, in (0, 1).
        part: "train" or "val", which objects to keep.
        seed: of the lots.
        hidden_label: what the voxels of the other objects become: in training the ignore label, so that it says nothing
            about the ones held out; None or 0 for unlabeled.
        ignore_label: id that is no object and stays, or None.
        background_label: id that is no object and stays, or None.

    Raises:
        SpocoError: if an argument is out of its range.
    """

    def __init__(
        self,
        keys: KeysCollection,
        fraction: float,
        part: str,
        seed: int = 0,
        hidden_label: int | None = None,
        ignore_label: int | None = None,
        background_label: int | None = None,
    ):
        super().__init__(keys)
        if not 0 < fraction < 1:
            raise SpocoError(f"holdout_fraction: must lie between 0 and 1, got {fraction}")
        if part not in ("train", "val"):
            raise SpocoError(f"part: expected 'train' or 'val', got {part!r}")
        self.fraction = fraction
        self.part = part
        self.seed = seed
        self.hidden_label = hidden_label or 0
        self.special = (ignore_label, background_label)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Returns a copy of the sample; dtype, shape and metadata of the labels stay."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            label = sample[key]
            table = instance_table(label, *self.special)
            lots = {row[0]: _lot(self.seed, row[2:]) for row in table.tolist()}
            held_out = {number for number, lot in lots.items() if lot < self.fraction}
            if len(lots) > 1:
                held_out = held_out or {min(lots, key=lots.get)}
                held_out -= {max(lots, key=lots.get)} if len(held_out) == len(lots) else set()
                hidden = held_out if self.part == "train" else lots.keys() - held_out
                ids = torch.as_tensor(sorted(hidden), dtype=label.dtype, device=label.device)
                sample[key] = label.masked_fill(torch.isin(label, ids), self.hidden_label)
            if self.part == "val" and isinstance(sample[key], MetaTensor):
                sample[key].meta[ANNOTATED_SIZES] = table[:, 1]
        return sample


def _lot(seed: int, box: list[int]) -> float:
    """A number in [0, 1) by hashing, which no version of a random number generator can change."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{box}".encode()).digest()[:6], "big") / 2**48
