"""Which voxels of a crop an object's annotation speaks of.

A whole object is drawn in all its voxels: of every voxel its annotation says whether it belongs to the object. That of
a slices object says so in the planes in which it is outlined, that of an object of strokes or points only where it is
painted. The known region K_k of object k holds

    the voxels of all annotated objects and the known background,
    the unlabeled voxels of the planes in which k is outlined,
    all voxels, if k is whole.

What lies in K_k without being labeled k does not belong to k; of voxels outside nothing is known. Every sum of the loss
over voxels that are not of object k runs over K_k, so what an annotation does not say gives exactly no gradient.

It is read from the scope of the crop, (A, *spatial) integers, see `annotation_scope`: a voxel of a whole object holds
`WHOLE`; of an object of strokes or points 0; of a slices object, in each channel, the number of the plane through it in
which the object is outlined, else 0; and any other voxel the number of the plane through it in which some object is,
else 0. The planes of an object are those that its voxels in the crop name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from spoco_bundle.annotation.scope import WHOLE
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.losses.sweep import chunks


@dataclass(frozen=True)
class KnownRegion:
    """The known regions of a crop's objects, among the rows outside all of them; rows inside are always known.

    Attributes:
        planes: (A, outside) int32, the plane of each row in each channel.
        holders: (A, N, C) bool, whether object k knows what lies in plane n of channel a.
    """

    planes: Tensor
    holders: Tensor

    def rows(self, part: slice, objects: Tensor | slice) -> Tensor:
        """(n, C) bool: which of these rows outside all objects are known for which objects."""
        held = (
            holders[:, objects].index_select(0, planes[part])
            for planes, holders in zip(self.planes, self.holders, strict=True)
        )
        return reduce(torch.logical_or, held)

    def sizes(self) -> Tensor:
        """(C,) known rows of each object outside all objects."""
        objects = self.holders.shape[2]
        sizes = self.planes.new_zeros(objects, dtype=torch.int64)
        for part in chunks(self.planes.T, objects):
            sizes += self.rows(part, slice(None)).sum(0)
        return sizes


def known_region(scope: Tensor, owner: Tensor, objects: int, unlabeled: int) -> KnownRegion | None:
    """Known regions from the scope of a crop.

    Args:
        scope: (A, V) integers, see the module's text, in the order of a `SortedCrop`.
        owner: (V - outside,) object of each row from `outside` on.
        objects: number of objects C.
        unlabeled: number of rows without a label, which come first; those up to `outside` are known background.

    Returns:
        The regions; None if all objects are whole.

    Raises:
        SpocoError: when the scope holds a number below `WHOLE`.
    """
    if not objects:
        return None
    lowest, highest = (int(end) for end in scope.aminmax())
    if lowest < WHOLE:
        raise SpocoError(f"scope holds {lowest}; give {WHOLE} in whole objects, else 0 or the number of a plane")
    outside = scope.shape[1] - len(owner)
    channels = torch.arange(len(scope), device=scope.device)[:, None]
    holders = torch.zeros(len(scope), highest + 2, objects, dtype=torch.bool, device=scope.device)
    # the last plane, where the index of whole objects leads too, is what every object knows
    holders[channels, scope[:, outside:].long(), owner] = True
    whole = holders[:, WHOLE].any(0)
    if whole.all():
        return None
    holders[:, 0] = False
    holders[:, WHOLE] = True
    holders[:, :, whole] = True
    planes = scope[:, :outside].to(torch.int32).clamp_min_(0)
    planes[:, unlabeled:] = highest + 1
    return KnownRegion(planes, holders)
