"""The textbook method without any training, to compare with: Otsu threshold and distance-transform watershed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_objects
from skimage.segmentation import watershed

from spoco_bundle.core.errors import SpocoError


def otsu_watershed(
    image: np.ndarray,
    spacing: Sequence[float] | None = None,
    smoothing: float = 1.5,
    seed_radius: float = 4.0,
    min_voxels: int = 30,
) -> np.ndarray:
    """Bright objects by one global threshold, cut apart at the necks of their distance transform.

    Args:
        image: (*spatial), 2D or 3D, objects brighter than the background.
        spacing: physical size of a voxel along each axis; 1 everywhere if not given.
        smoothing: sigma of the Gaussian filter before the threshold, in voxels of every axis; the distance transform
            is smoothed with a sigma of 1.
        seed_radius: a seed is the largest distance within this physical radius.
        min_voxels: smaller foreground parts are dropped.

    Returns:
        (*spatial) int32, 0 = background, ids consecutive.

    Raises:
        SpocoError: the image has one value only, or `spacing` does not fit it.
    """
    image = np.asarray(image, dtype=np.float32)
    size = np.ones(image.ndim) if spacing is None else np.asarray(spacing, dtype=float)
    if size.shape != (image.ndim,) or not np.all(size > 0):
        raise SpocoError(f"spacing is {spacing} for an image with {image.ndim} axes; give one positive number per axis")
    if image.min() == image.max():
        raise SpocoError(f"image has the value {image.flat[0]} everywhere; nothing can be segmented in it")

    smooth = ndimage.gaussian_filter(image, smoothing)
    foreground = remove_small_objects(smooth > threshold_otsu(smooth), max_size=max(min_voxels - 1, 0))
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(foreground, sampling=size), 1.0)
    reach = np.minimum(np.floor(seed_radius / size), np.subtract(image.shape, 1)).astype(int)  # not beyond the image
    offsets = np.indices(2 * reach + 1) - reach.reshape(-1, *[1] * image.ndim)
    ball = np.sum((offsets * size.reshape(-1, *[1] * image.ndim)) ** 2, axis=0) <= seed_radius**2
    seeds = (depth == ndimage.maximum_filter(depth, footprint=ball)) & foreground
    seeds = ndimage.label(seeds, np.ones([3] * image.ndim))[0]  # a flat top is one seed
    return watershed(-depth, seeds, mask=foreground).astype(np.int32)
