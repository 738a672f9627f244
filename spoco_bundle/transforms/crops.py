"""Crops of fixed size that hold annotated objects, and what to do with the objects they cut."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import fastremap
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, SpatialPad
from scipy import ndimage
from torch.nn.functional import grid_sample

from spoco_bundle.annotation.scope import WHOLE
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.plain_tensors import plain
from spoco_bundle.dataset.label_checks import object_ids

INSTANCES_KEY = "instances"
SCOPE_KEY = "scope"


def instance_table(
    label: torch.Tensor | np.ndarray, ignore_label: int | None = None, background_label: int | None = None
) -> torch.Tensor:
    """Lists the annotated objects of a label volume with their sizes and bounding boxes.

    Args:
        label: (1, *spatial) integer ids; ids below 1 and the two special ids are no objects.
        ignore_label: id of voxels that count nowhere, or None.
        background_label: id of voxels known to belong to no object, or None.

    Returns:
        (objects, 2 + 2 D) int64, in ascending order of ids: id, voxels, first voxel per axis, last voxel + 1 per axis.
    """
    ids = np.asarray(label)[0]
    special = [s for s in (ignore_label, background_label) if s is not None]
    small, originals = fastremap.renumber(object_ids(ids, special), preserve_zero=True)
    voxels = np.bincount(small.ravel())
    boxes = ndimage.find_objects(small)
    rows = [
        [original, voxels[new], *(s.start for s in boxes[new - 1]), *(s.stop for s in boxes[new - 1])]
        for original, new in sorted(originals.items())
        if new
    ]
    return torch.tensor(np.array(rows, dtype=np.int64).reshape(len(rows), 2 + 2 * ids.ndim))


class IndexInstancesd(MapTransform):
    """Stores the ``instance_table`` of a label beside it, once per volume.

    Deterministic: put it last before the random transforms, so that a cache holds its result. ``CropAnnotatedd`` uses
    it and ``RelabelAndDropFragmentsd`` takes it out again, because tables of different lengths cannot be collated.

    Args:
        keys: the label key.
        ignore_label: see ``instance_table``.
        background_label: see ``instance_table``.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        ignore_label: int | None = None,
        background_label: int | None = None,
    ):
        super().__init__(keys)
        if len(self.keys) != 1:
            raise SpocoError(f"keys: one label key is indexed, got {self.keys}")
        self.special = (ignore_label, background_label)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Returns a copy of the sample with the table added."""
        return {**data, INSTANCES_KEY: instance_table(data[self.keys[0]], *self.special)}


class CropAnnotatedd(MapTransform, Randomizable):
    """Cuts a random crop of fixed size that holds an annotated object whole, where one fits.

    With ``probability_annotated`` an object is drawn, each equally likely, and the crop uniformly among those that
    contain its bounding box; along an axis on which the object outgrows the crop, among those that contain a random
    voxel of it. Otherwise, and where nothing is annotated, the crop is uniform in the volume. A volume smaller than the
    crop is padded. Affines follow the crop and the padding.

    With ``probability_turned`` the crop is turned by a random angle in the plane of the last two axes and enlarged by a
    random factor about its middle, both at once; where axes are alike, z may take the place of y or x besides: images
    linearly, mirrored beyond their border, labels and scope by the nearest voxel, ``pad_label`` and 0 beyond it. The
    affine stays that of the plain crop, because coordinates count voxels of the grid, and a network cannot see that
    they were enlarged.

    The table of instances stays in the sample, its column of voxels lowered to what a crop of this size can show of an
    object (voxels times the share of the bounding box that fits), for ``RelabelAndDropFragmentsd``.

    Args:
        keys: what to crop, each (C, *spatial) of the same spatial shape.
        label_key: the key among them with instance ids (1, *spatial).
        roi_size: size of the crop in voxels, per axis.
        probability_annotated: share of the crops drawn around an object, in [0, 1].
        zoom: least and largest factor by which objects are enlarged, along all axes.
        probability_turned: share of the crops that are turned and enlarged, in [0, 1].
        alike_axes: whether objects look much the same along all axes, so that two in three of these crops lie on a
            side: what is annotated in slices along z then tells of the others, too.
        pad_label: id given to padded voxels of the label: the ignore label, which dense supervision asks for; None or 0
            for 0 (unlabeled).

    Raises:
        SpocoError: if the label key is not among the keys, the probability is out of range, or roi_size does not fit
            the number of axes.
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        label_key: str = "label",
        roi_size: Sequence[int] = (32, 64, 64),
        probability_annotated: float = 0.9,
        zoom: Sequence[float] = (1.0, 1.0),
        probability_turned: float = 0.0,
        alike_axes: bool = False,
        pad_label: int | None = None,
    ):
        super().__init__(keys)
        if label_key not in self.keys:
            raise SpocoError(f"label_key: {label_key!r} is not among the keys {self.keys}")
        if not 0 <= probability_annotated <= 1:
            raise SpocoError(f"probability_annotated: must lie in [0, 1], got {probability_annotated}")
        if not 0 <= probability_turned <= 1:
            raise SpocoError(f"probability_turned: must lie in [0, 1], got {probability_turned}")
        if len(zoom) != 2 or not 0 < zoom[0] <= zoom[1]:
            raise SpocoError(f"zoom: give the least and the largest factor, both above 0, got {list(zoom)}")
        if min(roi_size) < 1:
            raise SpocoError(f"roi_size: every axis needs at least 1 voxel, got {list(roi_size)}")
        self.label_key = label_key
        self.roi_size = tuple(int(size) for size in roi_size)
        self.probability_annotated = probability_annotated
        self.zoom = tuple(zoom)
        self.probability_turned = probability_turned
        self.alike_axes = alike_axes
        self.pad_image = SpatialPad(self.roi_size, mode="symmetric")
        self.pad_values = {label_key: pad_label or 0, SCOPE_KEY: 0}
        self.pad_labels = {
            key: SpatialPad(self.roi_size, mode="constant", value=value) for key, value in self.pad_values.items()
        }
        self.start: tuple[int, ...] = ()
        self.factor, self.angle, self.upright = 1.0, 0.0, 0

    def randomize(self, data: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Draws the factor, the angle and the axis that takes the place of z, and the first voxel of the crop.

        Args:
            data: the label (1, *spatial) and its table of instances.
        """
        label, table = data
        shape = label.shape[1:]
        self.factor, self.angle, self.upright = 1.0, 0.0, 0
        if self.probability_turned and self.R.random_sample() < self.probability_turned:
            self.factor = float(np.exp(self.R.uniform(*np.log(self.zoom))))
            self.angle = float(self.R.uniform(-np.pi, np.pi))
            self.upright = int(self.R.randint(len(shape))) if self.alike_axes else 0
        around_object = self.R.random_sample() < self.probability_annotated
        instance = table[self.R.randint(len(table))].tolist() if around_object and len(table) else None
        if self._is_turned:
            self.start = self._turned_start(np.asarray(label)[0], instance)
            return
        low = [0] * len(shape)
        high = [max(size - roi, 0) for size, roi in zip(shape, self.roi_size)]
        if instance is not None:
            first, stop = instance[2 : 2 + len(shape)], instance[2 + len(shape) :]
            outgrown = [b - a > roi for a, b, roi in zip(first, stop, self.roi_size)]
            if any(outgrown):
                box = tuple(slice(a, b) for a, b in zip(first, stop))
                inside = np.argwhere(np.asarray(label)[0][box] == instance[0])
                voxel = inside[self.R.randint(len(inside))] + first
                first = [int(v) if out else a for out, v, a in zip(outgrown, voxel, first)]
                stop = [int(v) + 1 if out else b for out, v, b in zip(outgrown, voxel, stop)]
            low = [min(max(b - roi, 0), h) for b, roi, h in zip(stop, self.roi_size, high)]
            high = [min(a, h) for a, h in zip(first, high)]
        self.start = tuple(int(self.R.randint(a, b + 1)) for a, b in zip(low, high))

    @property
    def _is_turned(self) -> bool:
        return self.factor != 1 or self.angle != 0 or self.upright != 0

    def _axes(self) -> np.ndarray:
        """Rotation (D, D) from the axes of the turned crop to those of the volume."""
        turn = np.eye(len(self.roi_size))
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        turn[-2:, -2:] = [[cosine, -sine], [sine, cosine]]
        order = np.arange(len(turn))
        order[[0, self.upright]] = order[[self.upright, 0]]
        return turn[:, order]

    def _turned_start(self, ids: np.ndarray, instance: Sequence[int] | None) -> tuple[int, ...]:
        """First voxel of the plain crop that has its middle in common with the turned one.

        Along its own axes it holds the object whole, or where the object outgrows it, a random voxel and nothing beside
        the object. Where that leaves a choice, it looks beyond the border as little as it can.

        Args:
            ids: label (*spatial).
            instance: row of the table of the object to be shown, or None for a crop anywhere.
        """
        shape, roi = np.array(ids.shape), np.array(self.roi_size)
        turn = self._axes()
        reach = np.abs(turn) @ roi / (2 * self.factor)
        centre = (shape - 1) / 2
        low, high = np.minimum(reach - 0.5, centre), np.maximum(shape - 0.5 - reach, centre)
        if instance is None:
            middle = self.R.uniform(low, high)
        else:
            box = tuple(map(slice, instance[2 : 2 + ids.ndim], instance[2 + ids.ndim :]))
            voxels = (np.argwhere(ids[box] == instance[0]) + instance[2 : 2 + ids.ndim]) @ turn
            first, last = voxels.min(0), voxels.max(0)
            margin = np.abs(turn).sum(0)  # half a voxel on each side, and half a one because the start is rounded
            half = roi / (2 * self.factor)
            nearest, farthest = last - half + margin / 2, first + half - margin / 2
            outgrown = nearest > farthest
            if outgrown.any():
                voxel = voxels[self.R.randint(len(voxels))]
                nearest = np.where(outgrown, np.maximum(first + half, voxel - half), nearest)
                farthest = np.where(outgrown, np.minimum(last - half, voxel + half), farthest)
                nearest, farthest = np.minimum(nearest, farthest), np.maximum(nearest, farthest)
            middle = turn @ self.R.uniform(nearest, farthest)
            middle = turn @ np.clip(np.clip(middle, low, high) @ turn, nearest, farthest)
        return tuple(int(first) for first in np.rint(middle - (roi - 1) / 2))

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Returns a copy of the sample with every key (C, *roi_size), and the table of instances."""
        sample = dict(data)
        label = sample[self.label_key]
        shape = tuple(label.shape[1:])
        if len(shape) != len(self.roi_size):
            raise SpocoError(f"roi_size: {list(self.roi_size)} does not fit a label of spatial shape {list(shape)}")
        table = sample.get(INSTANCES_KEY)
        if table is None:
            table = instance_table(label)
        self.randomize((label, table))
        places = self._places() if self._is_turned else None
        window = [slice(a, min(a + roi, n)) for a, roi, n in zip(self.start, self.roi_size, shape)]
        for key in self.key_iterator(sample):
            if tuple(sample[key].shape[1:]) != shape:
                raise SpocoError(
                    f"{key}: spatial shape {list(sample[key].shape[1:])} differs from the label's {list(shape)}"
                )
            if places is not None:
                sample[key] = self._turn(sample[key], places, self.pad_values.get(key))
                continue
            piece = cut(sample[key], window)
            if tuple(piece.shape[1:]) != self.roi_size:
                piece = self.pad_labels.get(key, self.pad_image)(piece)
            sample[key] = piece
        sample[INSTANCES_KEY] = self._visible(table)
        return sample

    def _visible(self, table: torch.Tensor) -> torch.Tensor:
        dims = len(self.roi_size)
        extent = (table[:, 2 + dims :] - table[:, 2 : 2 + dims]).double() * self.factor
        share = torch.minimum(extent, torch.tensor(self.roi_size)).div(extent).prod(dim=1)
        visible = table.clone()
        visible[:, 1] = (table[:, 1] * share * self.factor**dims).floor().long()
        return visible

    def _places(self) -> torch.Tensor:
        """Where in the volume each voxel of the turned crop lies, (D, *roi_size) in voxels."""
        axes = [(torch.arange(roi) - (roi - 1) / 2) / self.factor for roi in self.roi_size]
        offset = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        turned = torch.tensordot(torch.from_numpy(self._axes()).to(offset.dtype), offset, dims=1)
        middle = [a + (roi - 1) / 2 for a, roi in zip(self.start, self.roi_size)]
        return turned + torch.tensor(middle).reshape(-1, *[1] * len(middle))

    def _turn(self, volume: torch.Tensor, places: torch.Tensor, pad_value: int | None) -> torch.Tensor:
        """The volume (C, *spatial) at the places: linearly, mirrored beyond the border, or of labels the nearest."""
        values, size = plain(volume), torch.tensor(volume.shape[1:])
        if pad_value is not None:
            nearest = places.round().long()
            inside = torch.ones(places.shape[1:], dtype=torch.bool)
            for axis, length in zip(nearest, size.tolist()):
                inside &= (axis >= 0) & (axis < length)
                axis.clamp_(0, length - 1)
            piece = torch.where(inside, values[(slice(None), *nearest)], pad_value)
        else:
            span = (size - 1).clamp_min(1).reshape(-1, *[1] * len(size))
            grid = (2 * places / span - 1).flip(0).movedim(0, -1)[None]  # torch wants x, y, z
            if grid[(0, *np.ix_(*[[0, -1]] * len(size)))].abs().max() > 1:  # a corner lies beyond the border
                grid = 1 - ((grid + 1).remainder(4) - 2).abs()  # mirrored here: torch takes three times as long
            piece = grid_sample(values[None].float(), grid, padding_mode="border", align_corners=True)[0]
        return _placed(piece, volume, self.start)


def cut(volume: torch.Tensor, window: Sequence[slice]) -> torch.Tensor:
    """Copies a window out of (C, *spatial); a view would keep the whole volume alive and send it between processes.

    MONAI's ``SpatialCrop`` is not used, because the history of operations that it keeps costs more than the copy.
    """
    return _placed(plain(volume)[(slice(None), *window)].clone(), volume, [s.start for s in window])


def _placed(piece: torch.Tensor, volume: torch.Tensor, start: Sequence[int]) -> torch.Tensor:
    """A piece (C, *roi) that begins at a voxel of a volume, with the metadata and the affine that follow from it."""
    if not isinstance(volume, MetaTensor):
        return piece
    affine, dims = volume.affine.clone(), len(start)
    affine[:dims, -1] += affine[:dims, :dims] @ torch.tensor(start, dtype=affine.dtype)
    return MetaTensor(piece, meta=volume.meta | {"affine": affine})


class RelabelAndDropFragmentsd(MapTransform):
    """Drops what a crop left of cut objects, and numbers the remaining objects 1, 2, 3, ...

    A cut object has a false centre and teaches a false mean embedding. It is dropped where less than ``drop_cut_below``
    of what the crop could show of it is inside; the table that ``CropAnnotatedd`` left in the sample says how much that
    is, and is taken out. Without a table, nothing was cut, and ``min_voxels`` alone applies. Without a scope (see
    ``annotation_scope``) in the sample, all objects are whole.

    Args:
        keys: the label key, (1, *spatial).
        drop_cut_below: least share of an object's voxels inside, in [0, 1]; 0 keeps every cut object.
        min_voxels: least number of voxels of a whole object; of one in slices, strokes or points, one is enough.
        dropped_label: id given to the voxels of dropped objects: the ignore label, so that they count nowhere, which
            dense supervision asks for, where 0 would call them background; None or 0 for 0 (unlabeled).
        ignore_label: id that stays as it is and is given to no object, or None.
        background_label: as ``ignore_label``.

    Raises:
        SpocoError: if ``drop_cut_below`` is outside [0, 1].
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        drop_cut_below: float = 0.5,
        min_voxels: int = 1,
        dropped_label: int | None = None,
        ignore_label: int | None = None,
        background_label: int | None = None,
    ):
        super().__init__(keys)
        if not 0 <= drop_cut_below <= 1:
            raise SpocoError(f"drop_cut_below: must lie in [0, 1], got {drop_cut_below}")
        self.drop_cut_below = drop_cut_below
        self.min_voxels = min_voxels
        self.dropped_label = dropped_label or 0
        self.special = {0, ignore_label, background_label} - {None}

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Returns a copy of the sample without the table; dtype, shape and metadata of the label stay."""
        sample = dict(data)
        table = sample.pop(INSTANCES_KEY, None)
        whole = {} if table is None else dict(table[:, :2].tolist())
        for key in self.key_iterator(sample):
            sample[key] = self._relabel(sample[key], whole, sample.get(SCOPE_KEY))
        return sample

    def _relabel(self, label: torch.Tensor, whole: dict[int, int], scope: torch.Tensor | None) -> torch.Tensor:
        small, numbers = fastremap.renumber(np.asarray(label))
        voxels = np.bincount(small.ravel())
        least = np.full(len(voxels), self.min_voxels)
        if scope is not None:
            least[small[0][np.asarray(scope)[0] != WHOLE]] = 1
        renumbered = np.zeros(len(voxels), dtype=np.int64)
        number = 0
        for instance, position in sorted(numbers.items()):
            if instance in self.special:
                renumbered[position] = instance
            elif voxels[position] < max(least[position], self.drop_cut_below * whole.get(instance, 0)):
                renumbered[position] = self.dropped_label
            else:
                number += 1
                while number in self.special:
                    number += 1
                renumbered[position] = number
        result = label.clone()
        result[...] = torch.as_tensor(renumbered.take(small), device=label.device)
        return result
