"""From a label and the files beside it to ids, kinds of annotation, and how far each one reaches."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import fastremap
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from spoco_bundle.annotation.complete import read_complete
from spoco_bundle.annotation.kinds import KINDS
from spoco_bundle.annotation.ledger import read_ledger
from spoco_bundle.annotation.points import read_points
from spoco_bundle.annotation.scope import annotation_scope
from spoco_bundle.annotation.side_files import SIDE_FILES
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.geometry import voxel_spacing
from spoco_bundle.metrics.partly_labelled import SCOPE
from spoco_bundle.transforms.crops import SCOPE_KEY

logger = logging.getLogger(__name__)

KINDS_KEY = "kinds"


class ReadAnnotationd(MapTransform):
    """Reads what the files beside a label say of its objects.

    Objects that the ledger calls unchecked are hidden. Every point becomes an object of one voxel, under an id
    above all others; points in what is labeled already add nothing, and one line says how many. Where the diameter of
    the objects is known, what lies within a quarter of it around a point is taken for the object. Where annotations are
    complete, voxels without an id become known background. An image with points and no label gets a label of its own.

    Comes right after ``LoadVolumed`` and before ``CheckLabelsd``. Takes the paths of the side files (see
    ``build_datalist``) out of the sample and puts ``kinds`` into it: a dictionary from ids to one of ``KINDS``, of all
    objects that are not of the kind ``annotation``; nothing where there are none.

    Args:
        keys: the label key, (1, *spatial) int32 where the sample has a label, of the entry "image".
        annotation: kind of the objects that nothing else is said of.
        diameter: of the objects in pixels of the image plane; None where it is not known.
        background_label: id given to known background; None where 0 means background anyway.
        ignore_label: id that no point gets, or None.
        hidden_label: what the voxels of unchecked objects become: the ignore label where supervision is dense, which
            takes unlabeled voxels for background; None or 0 for unlabeled.
        axes: as given to ``LoadVolumed``.
        time: as given to ``LoadVolumed``.

    Raises:
        SpocoError: if there is no such kind; when called, if a side file cannot be read, a point lies where annotations
            are complete but in no object, or objects of a flat image are annotated in slices.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        annotation: str = "whole",
        diameter: float | None = None,
        background_label: int | None = None,
        ignore_label: int | None = None,
        hidden_label: int | None = None,
        axes: str | None = None,
        time: int | None = None,
    ) -> None:
        super().__init__(keys)
        (self.key,) = self.keys
        self.annotation = checked_kind(annotation)
        self.diameter = diameter
        self.background_label = background_label
        self.special = [label for label in (background_label, ignore_label) if label is not None]
        self.hidden_label = hidden_label or 0
        self.axes = axes
        self.time = time
        self._said: set[str] = set()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a copy of the sample with the label and its kinds."""
        sample = dict(data)
        files = {name: sample.pop(name) for name in SIDE_FILES if name in sample}
        image = sample["image"]
        if self.key not in sample and "points" in files:
            empty = torch.zeros(1, *image.shape[1:], dtype=torch.int32)
            sample[self.key] = MetaTensor(empty, meta=image.meta | {"filename_or_obj": files["points"]})
        label = sample[self.key]
        ids, kinds = self._read(label.numpy()[0], files)
        self._refuse_flat_slices(kinds, ids.ndim, files, str(image.meta["filename_or_obj"]))
        if self.diameter is not None:
            self._grow_points(ids, kinds, voxel_spacing(image, ids.ndim))
        if self.hidden_label:
            ids[(ids == 0) & (label.numpy()[0] != 0)] = self.hidden_label
        sample[self.key] = MetaTensor(torch.from_numpy(ids[None]), meta=dict(label.meta))
        if kinds:
            sample[KINDS_KEY] = kinds
        return sample

    def _read(self, drawn: np.ndarray, files: Mapping[str, str]) -> tuple[np.ndarray, dict[int, str]]:
        ledger = read_ledger(files["annotation"]) if "annotation" in files else {}
        kinds = {number: entry.kind for number, entry in ledger.items() if entry.checked}
        ids = fastremap.mask(drawn, list(ledger.keys() - kinds.keys()))
        background = np.zeros(ids.shape, dtype=bool)
        if "complete" in files and self.background_label is not None:
            # where an unchecked object was, there may well be one
            background = read_complete(files["complete"], ids.shape, self.axes, self.time) & (drawn == 0)
        if "points" in files:
            kinds |= self._add_points(ids, background, files)
        ids[background] = self.background_label or 0
        return ids, {number: kind for number, kind in kinds.items() if kind != self.annotation}

    def _add_points(self, ids: np.ndarray, background: np.ndarray, files: Mapping[str, str]) -> dict[int, str]:
        """Puts points into ``ids``, in place, and gives their kinds."""
        points = read_points(files["points"], ids.ndim, ids.shape)
        new = points[ids[tuple(points.T)] == 0]
        contradicted = new[background[tuple(new.T)]]
        if len(contradicted):
            raise SpocoError(
                f"{files['points']}: the point in voxel {', '.join(map(str, contradicted[0]))} lies in no object, but "
                f"{files['complete']} says that every object is drawn there: draw the object, or take one of both away"
            )
        if len(new) < len(points) and files["points"] not in self._said:
            self._said.add(files["points"])
            logger.info(
                "%s: %d of %d points lie in what is labeled already and add nothing",
                *(files["points"], len(points) - len(new), len(points)),
            )
        first = max(int(ids.max()), 0, *self.special) + 1
        ids[tuple(new.T)] = np.arange(first, first + len(new))
        return dict.fromkeys(range(first, first + len(new)), "points")

    def _grow_points(self, ids: np.ndarray, kinds: Mapping[int, str], spacing: Sequence[float]) -> None:
        """Gives each voxel near a point, of no other object, to the nearest one, in place."""
        present = fastremap.unique(ids[ids > 0]).tolist()
        points = fastremap.mask_except(
            ids, [i for i in present if i not in self.special and kinds.get(i, self.annotation) == "points"]
        )
        if not points.any():
            return
        steps = np.asarray(spacing) / math.sqrt(spacing[-2] * spacing[-1])
        distance, nearest = ndimage.distance_transform_edt(points == 0, sampling=steps, return_indices=True)
        near = (distance <= self.diameter / 4) & (ids == 0)
        ids[near] = points[tuple(nearest)][near]

    def _refuse_flat_slices(self, kinds: Mapping[int, str], dims: int, files: Mapping[str, str], image: str) -> None:
        if dims == 3:
            return
        if self.annotation == "slices":
            raise SpocoError(f"{image}: is a flat image, which has no slices: give --annotation whole")
        sliced = [number for number, kind in kinds.items() if kind == "slices"]
        if sliced:
            raise SpocoError(
                f"{files['annotation']}: id {sliced[0]} is of kind slices, but {image} is a flat image: write whole"
            )


class ScopeAnnotationd(MapTransform):
    """Adds how far the knowledge of each object reaches, see ``annotation_scope``, and takes ``kinds`` out.

    Deterministic: comes after all that changes ids, before the crops, which carry the scope along.

    Args:
        keys: the label key, (1, *spatial) integer ids.
        annotation: kind of the objects that ``kinds`` does not name.
        ignore_label: id that is no object, or None.
        background_label: id that is no object, or None.
        in_metadata: put it into the metadata of the label instead, for ``InstanceMetric``, and only where an object is
            not whole.

    Raises:
        SpocoError: if there is no such kind.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        annotation: str = "whole",
        ignore_label: int | None = None,
        background_label: int | None = None,
        in_metadata: bool = False,
    ) -> None:
        super().__init__(keys)
        (self.key,) = self.keys
        self.annotation = checked_kind(annotation)
        self.special = [label for label in (ignore_label, background_label) if label is not None]
        self.in_metadata = in_metadata

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a copy of the sample with the scope."""
        sample = dict(data)
        kinds = sample.pop(KINDS_KEY, {})
        label = sample[self.key]
        if self.in_metadata and not kinds and self.annotation == "whole":
            return sample
        scope = annotation_scope(fastremap.mask(label.numpy()[0], self.special), kinds, self.annotation)
        if self.in_metadata:
            sample[self.key] = MetaTensor(label.as_tensor(), meta=label.meta | {SCOPE: torch.from_numpy(scope)})
        else:
            sample[SCOPE_KEY] = MetaTensor(torch.from_numpy(scope), meta=dict(label.meta))
        return sample


def checked_kind(annotation: str) -> str:
    """The kind, if there is such a kind.

    Raises:
        SpocoError: if there is none.
    """
    if annotation not in KINDS:
        raise SpocoError(f"annotation is {annotation!r}: give one of {', '.join(KINDS)}")
    return annotation
