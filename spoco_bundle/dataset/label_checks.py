"""What must hold of annotations before anything is learned from them; each failure names the file and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

import cc3d
import fastremap
import numpy as np

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.label_ids import as_label_ids

# Pieces smaller than this part of the largest one are stray voxels of an annotation, no objects of their own.
_PIECE_FRACTION = 0.05
# From this many pieces on, stray or not, one id does not mean one object.
_MANY_PIECES = 10


def check_labels(
    image: np.ndarray,
    labels: np.ndarray,
    image_path: str,
    label_path: str,
    *,
    ignore_label: int | None = None,
    background_label: int | None = None,
    require_objects: bool = True,
    allow_binary: bool = False,
) -> None:
    """Checks one image with its annotation.

    Args:
        image: (C, *spatial), any type.
        labels: (1, *spatial), integers or whole floats; 0 = unlabeled.
        image_path: file of the image, for messages.
        label_path: file of the labels, for messages.
        ignore_label: id of voxels that count nowhere; may be negative.
        background_label: id of voxels known to belong to no object; may be negative.
        require_objects: refuse labels without a single object.
        allow_binary: accept one id in several separate pieces as one object.

    Raises:
        SpocoError: if shapes differ (with a word on transposed axes), values are no ids, ids are negative, there is no
            object, or the labels look like a binary mask: one id only, in two or more separate pieces of comparable
            size or in more than ten pieces of any size.
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
    objects = present[present > 0]
    if not objects.size:
        if require_objects:
            raise SpocoError(
                f"{label_path}: holds no annotated object (all voxels are 0 or special): "
                "annotate some objects or leave the file out"
            )
        return
    if objects.size == 1 and not allow_binary:
        pieces = _separate_pieces(ids == objects[0])
        if pieces > 1:
            raise SpocoError(
                f"{label_path}: one id ({objects[0]}) in {pieces} separate pieces looks like a binary mask: "
                "number the objects (for instance skimage.measure.label), or set allow_binary if it is one object"
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
    corners = np.stack(np.meshgrid(*[(0, size - 1) for size in shape], indexing="ij"), axis=-1).reshape(-1, rank)
    homogeneous = np.concatenate([corners, np.ones((len(corners), 1))], axis=1)
    distance = np.linalg.norm((homogeneous @ (image_affine - label_affine).T)[:, :rank], axis=1).max()
    voxel = np.linalg.norm(image_affine[:rank, :rank], axis=0).min()
    if distance > 0.5 * voxel:
        raise SpocoError(
            f"{label_path}: its affine puts corners {distance:g} away from those of {image_path}: resample the labels "
            "onto the image with nearest neighbour, or correct the header"
        )


def _separate_pieces(mask: np.ndarray) -> int:
    """Counts connected pieces of comparable size, or all of them if there are many."""
    pieces, count = cc3d.connected_components(mask, connectivity=26 if mask.ndim == 3 else 8, return_N=True)
    if count > _MANY_PIECES:
        return count
    sizes = np.bincount(pieces.ravel())[1:]
    return int(np.count_nonzero(sizes >= _PIECE_FRACTION * sizes.max()))


def _shape_message(image_shape: tuple[int, ...], label_shape: tuple[int, ...], image_path: str, label_path: str) -> str:
    message = f"{label_path}: shape {label_shape} differs from shape {image_shape} of {image_path}"
    if sorted(image_shape) == sorted(label_shape):
        return f"{message}, but the same sizes occur in another order: the axes are transposed, save both as z, y, x"
    return f"{message}: pair the right files, or resample the labels onto the image with nearest neighbour"
