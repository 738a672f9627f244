"""The embedding of a few slices of an image, in colours."""

from __future__ import annotations

import math

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from PIL import Image as Picture

from spoco_bundle.dataset.foreground_path import foreground_path
from spoco_bundle.formats import Image, voxel_spacing
from spoco_bundle.formats.geometry import rescale_affine
from spoco_bundle.report.pictures import embedding_colours, fullest_plane, gray, intensity_limits
from spoco_bundle.transforms.spacing import resampled
from spoco_bundle.transforms.working_spacing import in_memory

#: voxels that the network sees for one image: some ten seconds on one core, and less than 1 GB
MOST_VOXELS = 1_500_000
#: voxels along the shorter side of a part of a slice; one that would have to be smaller is left out
LEAST_SIDE = 96


def embedding_planes(
    volume: Image, labels: np.ndarray, parser: ConfigParser, most_voxels: int = MOST_VOXELS
) -> dict[int, tuple[int, np.ndarray]]:
    """Colours of the embedding in the fullest slice across each axis, computed from slabs just thick enough.

    Of a large image there is the middle of a slice only, with the image in gray around it, and perhaps none across
    axes for which no room is left.

    Args:
        volume: the image.
        labels: (*spatial) the instances found.
        parser: of the prediction, its network with the weights that predicted.
        most_voxels: that the network sees in all.

    Returns:
        axis -> (index, (rows, columns, 3) in [0, 1]); axis 0 and index 0 of a single image.
    """
    network, load, normalize, working_spacing = (
        parser.get_parsed_content(key) for key in ("network", "load", "normalize", "working_spacing")
    )
    ending, image_ending = (parser.get_parsed_content(key) for key in ("foreground_ending", "image_ending"))
    masked = {"foreground": foreground_path(volume.path, ending, image_ending)} if ending else {}
    sample = normalize(load({"image": volume, **masked}))
    whole = sample["image"]
    seen = working_spacing.decide(in_memory(whole, sample.get("foreground")))
    affine = whole.affine if seen.spacing is None else rescale_affine(whole.affine, seen.spacing)
    limits = intensity_limits(volume.array)
    planes, left = {}, most_voxels
    for axis in range(3) if labels.ndim == 3 else (None,):
        index = 0 if axis is None else fullest_plane(labels, axis)
        region = _region(labels.shape, axis, index, network, left)
        if region is None:
            continue
        part = whole.as_tensor()[(slice(None), *region)]
        left -= part[0].numel()
        image = MetaTensor(part, affine=affine)
        shape = [max(1, round(n * new / old)) for n, new, old in zip(part.shape[1:], seen.shape, labels.shape)]
        if shape != [*part.shape[1:]]:
            image = resampled(image, shape, "linear")
        place = None if axis is None else (index - region[axis].start) * image.shape[axis + 1] // part.shape[axis + 1]
        colours = _colours(image, axis, place, parser)
        window = tuple(piece for other, piece in enumerate(region) if other != axis)
        cut = volume.array if axis is None else volume.array.take(index, axis=axis + 1)
        shown = gray(cut, limits)
        rows, columns = shown[window].shape[:2]
        picture = Picture.fromarray((255 * colours).round().astype(np.uint8)).resize(
            (columns, rows), Picture.Resampling.BOX
        )
        shown[window] = np.asarray(picture, dtype=np.float32) / 255
        planes[0 if axis is None else axis] = (index, shown)
    return planes


def _region(
    shape: tuple[int, ...], axis: int | None, index: int, network: torch.nn.Module, voxels: int
) -> tuple[slice, ...] | None:
    """The slab around a slice, narrowed to the middle where it has too many voxels; None where little would be left."""
    region = [slice(0, size) for size in shape]
    if axis is not None:
        stride, reach = network.total_stride[axis], network.receptive_radius[axis]
        region[axis] = slice(max(0, index - reach) // stride * stride, min(shape[axis], index + reach + 1))
    thick = 1 if axis is None else region[axis].stop - region[axis].start
    sides = [other for other in range(len(shape)) if other != axis]
    share = math.sqrt(min(1.0, voxels / thick / math.prod(shape[side] for side in sides)))
    if share < 1 and min(share * shape[side] for side in sides) < LEAST_SIDE:
        return None
    for side in sides:
        length = max(1, int(share * shape[side]))
        start = (shape[side] - length) // 2
        region[side] = slice(start, start + length)
    return tuple(region)


def _colours(image: MetaTensor, axis: int | None, place: int | None, parser: ConfigParser) -> np.ndarray:
    network, inferer, device, decoder = (
        parser.get_parsed_content(key) for key in ("network", "inferer", "device", "decoder")
    )
    with torch.no_grad():
        output = inferer(image[None].as_tensor().to(device), network)[0].cpu()
    field = decoder.field(output, voxel_spacing(image, image.ndim - 1))
    return embedding_colours(field, axis, place or 0)
