"""Objects held out for validation, where images are too few to hold any out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch.utils.data import Subset

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.read_once import ReadOnce
from spoco_bundle.metrics.partly_labelled import ANNOTATED_SIZES
from spoco_bundle.transforms.crops import instance_table

logger = logging.getLogger(__name__)


class HeldOut:
    """Which annotated objects of a training validate, and which train: no object does both.

    An object is drawn by a lot that depends on the seed and on its bounding box alone, so that it stays on its side
    when others join it or when ids change. Where the lots would leave one side of an image without an object, the one
    with the lowest lot validates and the one with the highest trains. Images with less than one object to be drawn of
    each are drawn from together, so that all objects of an image may validate. To be drawn of all objects, before any
    is taken out: what validates does not depend on what else trains. Of a single object nothing can be held out: it
    does both, and a line says so.

    Args:
        volumes: samples of the training with ``label``, a MetaTensor that names its file.
        fraction: expected share of the objects drawn, in (0, 1).
        seed: of the lots.
        ignore_label: id that is no object, or None.
        background_label: id that is no object, or None.

    Raises:
        SpocoError: if the fraction is out of its range.
    """

    def __init__(
        self,
        volumes: ReadOnce,
        fraction: float,
        seed: int = 0,
        ignore_label: int | None = None,
        background_label: int | None = None,
    ):
        if not 0 < fraction < 1:
            raise SpocoError(f"holdout_fraction: must lie between 0 and 1, got {fraction}")
        self.volumes = volumes
        self.fraction = fraction
        self._numbers: dict[str, int] = {}
        self._sides: dict[str, list[list[int]]] = {"val": [], "train": []}
        few: dict[tuple[int, int], float] = {}
        for number in range(len(volumes)):
            label = volumes.look(number)["label"]
            table = instance_table(label, ignore_label, background_label).tolist()
            lots = {row[0]: _lot(seed, row[2:]) for row in table}
            if fraction * len(lots) < 1:
                few |= {(number, one): lot for one, lot in lots.items()}
                lots = {}
            drawn = _divided(lots, sum(lot < fraction for lot in lots.values()))
            for part, objects in zip(self._sides, drawn, strict=True):
                self._sides[part].append(objects)
            self._numbers[str(label.meta["filename_or_obj"])] = number
        self.together, others = bool(few), any(self._sides["train"])
        self.single = len(few) == 1 and not others
        drawn, left = _divided(few, round(fraction * len(few)), least=0 if others else 1)
        for part, objects in (("val", drawn), ("train", drawn if self.single else left)):
            for number, one in objects:
                self._sides[part][number].append(one)
        if self.single:
            logger.warning(
                "%s: its only annotated object both trains and validates, so that its score says little of others: "
                "annotate more than one object",
                list(self._numbers)[next(iter(few))[0]],
            )

    def training(self) -> Sequence[dict[str, Any]]:
        """The samples of which an object trains."""
        return Subset(self.volumes, [number for number, objects in enumerate(self._sides["train"]) if objects])

    def objects(self, label: torch.Tensor, part: str) -> list[int] | None:
        """Ids of the objects in a label that are on one side, "train" or "val"; None where no lots were drawn."""
        number = self._numbers.get(str(label.meta.get("filename_or_obj")))
        return None if number is None else self._sides[part][number]

    def line(self) -> str:
        """What is held out, for a person."""
        if self.single:
            return "nothing is held out to validate on, since there is a single annotated object"
        drawn, others = (sum(map(len, side)) for side in self._sides.values())
        together = f"of all images together: {drawn} of {drawn + others}"
        which = together if self.together else "at least one of each image"
        return f"{self.fraction:.0%} of the annotated objects are held out to validate on, {which}"


class HoldOutObjectsd(MapTransform):
    """Keeps the annotated objects of every volume that train, or those that validate.

    The sizes of all of them go into the metadata of the labels that validate, for ``InstanceMetric``. A label of which
    nothing was drawn stays as it is.

    Args:
        keys: labels (1, *spatial) of an integer dtype, MetaTensors that name their file.
        part: "train" or "val", which objects to keep.
        held_out: on which side each object is.
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
        held_out: HeldOut,
        hidden_label: int | None = None,
        ignore_label: int | None = None,
        background_label: int | None = None,
    ):
        super().__init__(keys)
        if part not in ("train", "val"):
            raise SpocoError(f"part: expected 'train' or 'val', got {part!r}")
        self.part = part
        self.held_out = held_out
        self.hidden_label = hidden_label or 0
        self.special = (ignore_label, background_label)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Returns a copy of the sample; dtype and shape of the labels stay."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            label = sample[key]
            kept = self.held_out.objects(label, self.part)
            if kept is None:
                continue
            table = instance_table(label, *self.special)
            hidden = sorted(set(table[:, 0].tolist()) - set(kept))
            ids = torch.as_tensor(hidden, dtype=label.dtype, device=label.device)
            sample[key] = label.masked_fill(torch.isin(label, ids), self.hidden_label)
            if self.part == "val":
                sample[key].meta[ANNOTATED_SIZES] = table[:, 1]
        return sample


def _divided(lots: Mapping[Any, float], count: int, least: int = 1) -> tuple[list[Any], list[Any]]:
    """So many objects of the lowest lots, and the others; on either side at least so many, if there are."""
    ranked = sorted(lots, key=lots.get)
    count = min(max(count, least), max(len(ranked) - least, least))
    return ranked[:count], ranked[count:]


def _lot(seed: int, box: list[int]) -> float:
    """A number in [0, 1) by hashing, which no version of a random number generator can change."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{box}".encode()).digest()[:6], "big") / 2**48
