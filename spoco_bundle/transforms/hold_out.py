"""Objects held out for validation, where images are too few to hold any out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.metrics.partly_labelled import ANNOTATED_SIZES
from spoco_bundle.transforms.crops import instance_table

logger = logging.getLogger(__name__)


#: entry of a label's metadata: ids of the objects that train and of those that validate
SIDES = "sides"


class DrawHeldOutd(MapTransform):
    """Draws the annotated objects of every volume that validate; ``HoldOutObjectsd`` tells them from the others.

    An object is drawn by a lot that depends on the seed and on its bounding box alone, so that it stays on its side
    when others join it or when ids change. Where the lots would leave one side without an object, the one with the
    lowest lot validates and the one with the highest trains; a single object does both. To be drawn of all objects,
    before any is taken out: what validates does not depend on what else trains.

    Args:
        keys: labels (1, *spatial) of an integer dtype, with metadata.
        fraction: expected share of the objects drawn, in (0, 1).
        seed: of the lots.
        ignore_label: id that is no object, or None.
        background_label: id that is no object, or None.

    Raises:
        SpocoError: if the fraction is out of its range.
    """

    def __init__(
        self,
        keys: KeysCollection,
        fraction: float,
        seed: int = 0,
        ignore_label: int | None = None,
        background_label: int | None = None,
    ):
        super().__init__(keys)
        if not 0 < fraction < 1:
            raise SpocoError(f"holdout_fraction: must lie between 0 and 1, got {fraction}")
        self.fraction = fraction
        self.seed = seed
        self.special = (ignore_label, background_label)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Returns a copy of the sample, with the ids of both sides in the metadata of its labels."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            label = sample[key] = sample[key].clone()
            lots = {row[0]: _lot(self.seed, row[2:]) for row in instance_table(label, *self.special).tolist()}
            ranked = sorted(lots, key=lots.get)
            count = sum(lot < self.fraction for lot in lots.values())
            count = min(max(count, 1), max(len(ranked) - 1, 1))
            label.meta[SIDES] = {"train": ranked[count:] or ranked, "val": ranked[:count]}
        return sample


class HoldOutObjectsd(MapTransform):
    """Keeps the annotated objects of every volume that train, or those that validate, as ``DrawHeldOutd`` drew them.

    The sizes of all of them go into the metadata of the labels that validate, for ``InstanceMetric``. A line names the
    first image whose only object does both.

    Args:
        keys: labels (1, *spatial) of an integer dtype, with the metadata of ``DrawHeldOutd``.
        part: "train" or "val", which objects to keep.
        hidden_label: what the voxels of the other objects become: in training the ignore label, so that it says nothing
            about the ones held out; None or 0 for unlabeled.
        ignore_label: id that is no object and stays, or None.
        background_label: id that is no object and stays, or None.

    Raises:
        SpocoError: if the part is neither of both.
    """

    def __init__(
        self,
        keys: KeysCollection,
        part: str,
        hidden_label: int | None = None,
        ignore_label: int | None = None,
        background_label: int | None = None,
    ):
        super().__init__(keys)
        if part not in ("train", "val"):
            raise SpocoError(f"part: expected 'train' or 'val', got {part!r}")
        self.part = part
        self.hidden_label = hidden_label or 0
        self.special = (ignore_label, background_label)
        self._said = False

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Returns a copy of the sample; dtype and shape of the labels stay."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            label = sample[key]
            table = instance_table(label, *self.special)
            hidden = sorted(set(table[:, 0].tolist()) - set(label.meta[SIDES][self.part]))
            if self.part == "val" and label.meta[SIDES]["val"] == label.meta[SIDES]["train"] != [] and not self._said:
                self._said = True
                logger.warning(
                    "%s: its only annotated object both trains and validates, so that its score says little of others: "
                    "annotate more than one object in an image",
                    label.meta.get("filename_or_obj", "an image"),
                )
            ids = torch.as_tensor(hidden, dtype=label.dtype, device=label.device)
            sample[key] = label.masked_fill(torch.isin(label, ids), self.hidden_label)
            # of no more use, and lists of different lengths cannot be collated
            del sample[key].meta[SIDES]
            if self.part == "val":
                sample[key].meta[ANNOTATED_SIZES] = table[:, 1]
        return sample


def _lot(seed: int, box: list[int]) -> float:
    """A number in [0, 1) by hashing, which no version of a random number generator can change."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{box}".encode()).digest()[:6], "big") / 2**48
