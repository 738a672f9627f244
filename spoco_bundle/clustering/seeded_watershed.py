"""From the inside of objects to their whole extent: the borders that the objectness left out are shared out.

In tissue where every cell touches others, an objectness that is low along borders (`losses/objectness.py`, target
"interior") tells cells apart, but the membranes between them then belong to none. A seeded watershed (Vincent and
Soille, "Watersheds in digital spaces", 1991) on the objectness gives them back: objects grow into the voxels of highest
objectness first and meet where it is lowest.
"""

from __future__ import annotations

import numpy as np


def seeded_watershed(labels: np.ndarray, objectness: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Let objects grow over connected voxels (6 neighbours, 4 in an image) without a label.

    Args:
        labels: (z, y, x) int32, 0 = none.
        objectness: (z, y, x) in [0, 1].
        within: (z, y, x) bool, voxels that can be taken.

    Returns:
        (z, y, x) int32, with the ids of `labels`, none of whose voxels changes.
    """
    from skimage.segmentation import watershed

    if not labels.any():
        return labels
    return watershed(-objectness, labels, mask=within | (labels > 0)).astype(np.int32, copy=False)
