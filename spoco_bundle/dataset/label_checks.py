"""What must hold of annotations before anything is learned from them; each failure names the file and the remedy."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cc3d
import fastremap
import numpy as np

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.partial_objects import look_at_objects
from spoco_bundle.formats.label_ids import as_label_ids

# Pieces smaller than this part of the largest one are stray voxels of an annotation, no objects of their own.
_PIECE_FRACTION = 0.05
# From this many pieces on, stray or not, one id does not mean one object.
_MANY_PIECES = 10
# Up to this part of the whole objects may look like slices or strokes; more are said.
_FEW_PARTS = 0.25


class MeasuredObject(NamedTuple):
    """One id: its connected pieces (pieces,) voxels and (pieces, D) boxes, first voxel and last + 1, largest first."""

    id: int
    voxels: np.ndarray
    first: np.ndarray
    stop: np.ndarray

    @property
    def extent(self) -> np.ndarray:
        """Voxels of the box around all pieces, per axis."""
        return self.stop.max(0) - self.first.min(0)

    @property
    def parts(self) -> int:
        """Pieces of comparable size, or all of them if there are many."""
        if len(self.voxels) > _MANY_PIECES:
            return len(self.voxels)
        return int(np.count_nonzero(self.voxels >= _PIECE_FRACTION * self.voxels[0]))

    @property
    def is_stacked(self) -> bool:
        """Whether its pieces are slices along an axis: thinner there than long, and no two side by side."""
        thick = self.stop - self.first
        order = self.first.argsort(axis=0)
        first, stop = np.take_along_axis(self.first, order, 0), np.take_along_axis(self.stop, order, 0)
        return bool(((first[1:] >= stop[:-1]).all(0) & (2 * thick < thick.max(1, keepdims=True)).all(0)).any())

    @property
    def is_scattered(self) -> bool:
        """Whether there are two pieces of about one size, farther apart than the larger is long.

        What something in front of an object leaves of it lies closer together, or is a small rest.
        """
        alike = np.flatnonzero(2 * self.voxels >= self.voxels[0])[1:]
        gaps = np.maximum(self.first[alike] - self.stop[0], self.first[0] - self.stop[alike]).clip(0)
        return bool((np.linalg.norm(gaps, axis=1) > (self.stop[0] - self.first[0]).max()).any())


class _Doubt(NamedTuple):
    words: str
    refused: bool


def check_labels(
    image: np.ndarray,
    labels: np.ndarray,
    image_path: str,
    label_path: str,
    *,
    annotation: str = "whole",
    kinds: Mapping[int, str] | None = None,
    ignore_label: int | None = None,
    background_label: int | None = None,
    require_objects: bool = True,
    allow_binary: bool = False,
    allow_thin: bool = False,
    min_voxels: int = 8,
) -> list[str]:
    """Checks one image with its annotation, every id by itself, in one pass over the labels.

    Objects that are annotated as whole are asked to be of some size, in one piece, and to end where the image says so;
    others may look as they like.

    Args:
        image: (C, *spatial), any type.
        labels: (1, *spatial), integers or whole floats; 0 = unlabeled.
        image_path: file of the image, for messages.
        label_path: file of the labels, for messages.
        annotation: kind of the objects that ``kinds`` does not name, see ``KINDS``.
        kinds: of the others, by id; None if there are none.
        ignore_label: id of voxels that count nowhere; may be negative.
        background_label: id of voxels known to belong to no object; may be negative.
        require_objects: refuse labels without a single object.
        allow_binary: accept ids in several separate pieces as one object each.
        allow_thin: accept objects that look like slices or strokes as whole.
        min_voxels: whole objects with fewer voxels teach nothing.

    Returns:
        What is doubtful, each a line with the remedy.

    Raises:
        SpocoError: if shapes differ (with a word on transposed axes), values are no ids, ids are negative, there is no
            object, or what is annotated as whole objects is something else: a binary mask or classes (most of it has
            an id with several pieces), an id of the background, slices of objects, strokes in them, or points.
    """
    if image.shape[1:] != labels.shape[1:]:
        raise SpocoError(_shape_message(image.shape[1:], labels.shape[1:], image_path, label_path))
    ids = as_label_ids(np.asarray(labels[0]), label_path)
    special = [label for label in (ignore_label, background_label) if label is not None]
    present = fastremap.unique(ids)
    present = present[~np.isin(present, special)]
    if present.size and present[0] < 0:
        raise SpocoError(
            f"{label_path}: label id {present[0]} is negative: use 0 for unlabeled voxels and positive ids "
            "for objects, or declare it as ignore_label or background_label"
        )
    if not (present > 0).any():
        if require_objects:
            raise SpocoError(
                f"{label_path}: holds no annotated object (all voxels are 0 or special): "
                "annotate some objects or leave the file out"
            )
        return []
    marked = np.where(np.isin(ids, special), 0, ids) if special else ids
    objects = [found for found in measured_objects(marked) if (kinds or {}).get(found.id, annotation) == "whole"]
    if not objects:
        return []
    checks = [_points(objects, min_voxels)]
    is_mask = len(objects) == 1 and not objects[0].is_stacked
    if not allow_thin and not is_mask:
        large = [found for found in objects if found.voxels.sum() >= min_voxels]
        checks.append(_parts(look_at_objects(image, marked, large)))
    if not allow_binary:
        checks += [
            _classes(objects, ids.size),
            _background(objects, ids.shape, bool((ids == 0).any())),
            _twice(objects),
        ]
    doubts = [doubt for doubt in checks if doubt is not None]
    for doubt in doubts:
        if doubt.refused:
            raise SpocoError(f"{label_path}: {doubt.words}")
    return [f"{label_path}: {doubt.words}" for doubt in doubts]


def object_ids(labels: np.ndarray, special: Sequence[int]) -> np.ndarray:
    """The labels (*spatial) of objects alone, 0 for what is none: ids below 1, and special ones."""
    return np.where((labels < 1) | np.isin(labels, special), 0, labels)


def measured_objects(ids: np.ndarray) -> list[MeasuredObject]:
    """Every object of a label volume (*spatial), 0 for what is none, with its pieces."""
    pieces, count = cc3d.connected_components(ids, connectivity=26 if ids.ndim == 3 else 8, return_N=True)
    measured = cc3d.statistics(pieces, no_slice_conversion=True)
    voxels = measured["voxel_counts"].astype(np.int64)
    boxes = np.asarray(measured["bounding_boxes"], dtype=np.int64).reshape(count + 1, -1, 2)
    owner = fastremap.component_map(pieces, ids)
    found: dict[int, list[int]] = {}
    for piece in np.argsort(-voxels[1:], kind="stable") + 1:
        found.setdefault(int(owner[piece]), []).append(int(piece))
    return [
        MeasuredObject(number, voxels[rows], boxes[rows, :, 0], boxes[rows, :, 1] + 1)
        for number, rows in sorted(found.items())
    ]


def _points(objects: Sequence[MeasuredObject], min_voxels: int) -> _Doubt | None:
    """Objects too small to learn from, such as clicks on centres."""
    small = [found.id for found in objects if found.voxels.sum() < min_voxels]
    if 2 * len(small) <= len(objects):
        return None
    return _Doubt(
        f"{len(small)} of {len(objects)} objects have fewer than {min_voxels} voxels (id {small[0]} first), which "
        "looks like points: annotate with --annotation points or NAME_points.csv",
        refused=len(small) == len(objects),
    )


def _parts(looks: Mapping[int, str]) -> _Doubt | None:
    """Objects of which only slices, or strokes in them, seem to be drawn."""
    partial = {number: kind for number, kind in looks.items() if kind != "whole"}
    if len(partial) <= _FEW_PARTS * len(looks):
        return None
    kind = Counter(partial.values()).most_common(1)[0][0]
    most = 2 * len(partial) > len(looks)
    remedy = f"add --annotation {kind}" if most else f"give them the kind {kind} in NAME_annotation.csv"
    unfilled = " (strokes if they are not filled in their slices)" if kind == "slices" else ""
    return _Doubt(
        f"{len(partial)} of {len(looks)} objects (id {min(partial)} first) are thin, and the image goes on beyond "
        f"them, which looks like {kind}: {remedy}{unfilled}, or set check#allow_thin if they are whole",
        refused=most,
    )


def _classes(objects: Sequence[MeasuredObject], voxels: int) -> _Doubt | None:
    """Ids that name kinds of objects, or all that is foreground."""
    counted = [o for o in objects if 2 * o.voxels.sum() <= voxels] or objects
    several = [o for o in counted if o.parts > 1]
    if 2 * len(several) < len(counted):
        return None
    most = max(several, key=lambda o: o.parts)
    looks = "a binary mask" if len(objects) == 1 else "classes"
    ids = "one id" if len(objects) == 1 else f"{len(several)} of {len(objects)} ids lie in several places, one of them"
    return _Doubt(
        f"{ids} ({most.id}) in {most.parts} separate pieces looks like {looks}: number the objects (for instance "
        "skimage.measure.label), or set check#allow_binary if each is one object",
        refused=True,
    )


def _background(objects: Sequence[MeasuredObject], shape: Sequence[int], is_partial: bool) -> _Doubt | None:
    """An id of all that is no object."""
    largest = max(objects, key=lambda o: o.voxels.sum())
    share = largest.voxels.sum() / np.prod(shape)
    if share <= 0.5 or len(objects) < 2:
        return None
    everywhere = (largest.first.min(0) == 0).all() and (largest.stop.max(0) == shape).all()
    return _Doubt(
        f"id {largest.id} fills {100 * share:.0f}% of the image: if it is the background, give --background_label "
        f"{largest.id}, or set it to 0 where not every object is annotated; if it is an object, set check#allow_binary",
        refused=bool(everywhere) and not is_partial,
    )


def _twice(objects: Sequence[MeasuredObject]) -> _Doubt | None:
    """An id that two objects have."""
    found = [o for o in objects if o.is_scattered]
    if not found:
        return None
    others = f" (and {len(found) - 1} more ids)" if len(found) > 1 else ""
    return _Doubt(
        f"id {found[0].id}{others} lies in {found[0].parts} places far apart, and is learnt as one object: give each "
        "object an id of its own",
        refused=False,
    )


def check_same_grid(
    image_affine: np.ndarray, label_affine: np.ndarray, shape: Sequence[int], image_path: str, label_path: str
) -> None:
    """Refuses labels which lie elsewhere in the world than their image, although the shapes agree.

    Where either file has no geometry (an identity affine, as array libraries write) there is nothing to compare.

    Args:
        image_affine: (D + 1, D + 1), index to world.
        label_affine: (D + 1, D + 1), index to world.
        shape: voxels along each axis.
        image_path: file of the image, for messages.
        label_path: file of the labels, for messages.

    Raises:
        SpocoError: if a corner of the volume lies more than half a voxel apart.
    """
    rank = len(shape)
    plain = np.eye(rank + 1)[:, [*reversed(range(rank)), rank]]
    if any(np.allclose(np.abs(affine), plain) for affine in (image_affine, label_affine)):
        return
    corners = np.array(list(itertools.product(*((0, size - 1) for size in shape), (1,))))
    distance = np.linalg.norm((corners @ (image_affine - label_affine).T)[:, :rank], axis=1).max()
    voxel = np.linalg.norm(image_affine[:rank, :rank], axis=0).min()
    if distance > 0.5 * voxel:
        raise SpocoError(
            f"{label_path}: its affine puts corners {distance:g} away from those of {image_path}: resample the labels "
            "onto the image with nearest neighbour, or correct the header"
        )


def _shape_message(image_shape: tuple[int, ...], label_shape: tuple[int, ...], image_path: str, label_path: str) -> str:
    message = f"{label_path}: shape {label_shape} differs from shape {image_shape} of {image_path}"
    if sorted(image_shape) == sorted(label_shape):
        return f"{message}, but the same sizes occur in another order: the axes are transposed, save both as z, y, x"
    return f"{message}: pair the right files, or resample the labels onto the image with nearest neighbour"
