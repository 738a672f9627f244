"""How large the objects of an image are in comparison with those that a network learnt."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.networks.utils import eval_mode
from scipy import ndimage
from torch import Tensor

from spoco_bundle.core.boxes import largest_box
from spoco_bundle.core.readable_image import ReadableImage
from spoco_bundle.core.resampling import read_linear, read_nearest
from spoco_bundle.dataset.object_size import ball_volume
from spoco_bundle.transforms.clustering import ClusterEmbeddingsd

#: scales to begin with, in this order, and the largest scale to look at
STARTS, GREATEST = (1.0, 0.5, 0.25, 2.0, 0.12), 3.3
#: relative deviation up to which objects count as of the learnt size
TOLERANCE = 0.2
ACCEPTED = math.log1p(TOLERANCE)
#: score from which objects are convincing, in [0, 1]; below it nothing but scale 1 is trusted
ENOUGH = 0.6
#: by how much the best score has to exceed that of scale 1
GAIN = 0.03
#: natural logarithm of the ratio up to which two scales count as one: less is not corrected
NEAR = 0.05
#: voxels of an image that are read for a look at a part of it, at most
READ = 40_000_000
#: confidence from which an object is measured; where objects below it have more than half of the voxels, none is
CONFIDENT = 0.5
#: volume of the smallest object that is found, as a share of the least one of the clustering: what is far from the
#: learnt size has to be seen in order to be measured
SMALLEST = 0.125
#: natural logarithm of the ratio of diameters at which an object counts 0.6 times
SPREAD = 0.7


class Look(NamedTuple):
    """What was seen of an image at one scale.

    Attributes:
        size: median diameter of the objects over the learnt one; NaN where too few are convincing.
        score: how convincing the objects are, in [0, 1]: mean over their voxels of the confidence, less the further an
            object is from the learnt size.
    """

    size: float
    score: float


def find_scale(
    look: Callable[[float], Look], largest: float = 1.0, least: float = 0.05, looks: int = 10
) -> float | None:
    """The scale at which an image's objects have the learnt size.

    Objects are looked for at a first scale, measured, and looked for again at the scale at which they would have the
    learnt size, until they have it and are convincing. A start from which that leads nowhere, because the score falls
    or nothing is found, is followed by the next. Of all scales looked at, that of the best score is taken, and where
    objects have about the learnt size there, corrected by what is left.

    Where scale 1 shows objects of about the learnt size it is kept, and also where they are larger, but no larger than
    the large ones of the training: it had such images too, and shrunk, small objects and outlines would be lost.

    On nuclei in 2D and 3D, enlarged and reduced up to 2.5 times, the score is highest, 0.69 to 0.83, near the scale of
    the training; in noise it stays below 0.5, and in images of what the network has not learnt mostly below 0.6, at any
    scale. Where nuclei are eight times as large, the grains inside them are of the learnt size at scale 1, with a score
    of 0.43, and near 1/8 the score is 0.83: only a start close enough to it leads there.

    Args:
        look: what is seen at a scale.
        largest: size of the training's large objects over its typical one, 1 where it is not known.
        least: the smallest scale to look at; starts below it are left out.
        looks: how often to look at most, 1 or more.

    Returns:
        The scale, the learnt size over that of the image's objects; None where none shows convincing objects, nor scale
        1 any of the learnt size.
    """

    def deviation(one: Look) -> float:
        return abs(math.log(one.size))  # NaN, which is below nothing, where nothing was found

    seen: dict[float, Look] = {}
    for start in (start for start in STARTS if start >= least):
        scale, score = start, 0.0
        while len(seen) < looks and all(abs(math.log(scale / other)) > NEAR for other in seen):
            seen[scale] = one = look(scale)
            if deviation(one) <= ACCEPTED or math.isnan(one.size) or one.score < score:
                break
            scale, score = min(max(scale / one.size, least), GREATEST), one.score
        if any(deviation(one) <= ACCEPTED and one.score >= ENOUGH for one in seen.values()):
            break
    found = {scale: one for scale, one in seen.items() if not math.isnan(one.size)}
    best = max(found, key=lambda scale: found[scale].score, default=None)
    if best is None or found[best].score < ENOUGH:
        return 1.0 if 1.0 in found and deviation(found[1.0]) <= ACCEPTED else None
    if 1.0 in found and found[best].score < found[1.0].score + GAIN and best != 1.0:
        return 1.0
    scale = best / found[best].size if NEAR < deviation(found[best]) <= ACCEPTED else best
    return 1.0 if 1.0 in found and 1 / max(largest, 1 + TOLERANCE) <= scale <= 1 + TOLERANCE else scale


class ObjectFinder:
    """Looks for objects in a part of an image, at any scale.

    Args:
        image: where it is looked, in memory or on disk, with its mask for ``clustering``.
        grid: voxels that the whole image has at scale 1, along each axis.
        spacing: of the voxels of that grid, in the unit of the network.
        diameter: of the typical object that the network learnt, in the same unit.
        network: the embedding network.
        inferer: runs it in windows.
        clustering: finds the objects.
        second_network: where ``clustering`` compares two.
        voxels: of a part that is looked at, at most; None for those of the image in 2D, from 256^2 to 512^2, and 300000
            in 3D.
    """

    def __init__(
        self,
        image: ReadableImage,
        grid: Sequence[float],
        spacing: Sequence[float],
        diameter: float,
        network: torch.nn.Module,
        inferer: Callable[..., Tensor],
        clustering: ClusterEmbeddingsd,
        second_network: torch.nn.Module | None = None,
        voxels: int | None = None,
    ):
        self.image = image
        self.grid = tuple(grid)
        self.spacing = tuple(spacing)
        self.diameter = diameter
        self.networks = [network] if second_network is None else [network, second_network]
        # what an image shows at the scale that is chosen is often all that is asked of it later
        self.look_at = getattr(inferer, "look", inferer)
        # enlarged, a small image would cost many times what its prediction does
        flat = min(max(math.prod(image.shape), 256**2), 512**2)
        self.voxels = voxels or (flat if len(self.grid) == 2 else 300_000)
        self.clustering = copy.copy(clustering)
        self.clustering.confidence, self.clustering.min_confidence = True, 0.0
        smallest = max(1, round(SMALLEST * clustering.smallest_object(self.spacing)))
        self.clustering.params = {**clustering.params, "min_size": smallest}
        self.middle = fullest(*image.sample(), image.shape)

    def __call__(self, scale: float) -> Look:
        """What is seen at a scale, the grid's voxels at scale 1 over those that are looked at."""
        grids = self.image.shape, *self._part(scale)
        part = read_linear(self.image.read, *grids)
        mask = None if self.image.mask is None else read_nearest(self.image.mask, *grids)
        outputs = []
        for network in self.networks:
            with eval_mode(network):
                device = next(network.parameters()).device
                outputs.append(self.look_at(part[None].to(device), network)[0])
        field = self.clustering.decoder.field(outputs[0], self.spacing, second=outputs[1] if outputs[1:] else None)
        labels, confidence = self.clustering.cluster(field, mask, part.to(outputs[0].device))
        return self._measured(labels.cpu().numpy(), confidence.cpu().numpy())

    def _part(self, scale: float) -> tuple[tuple[int, ...], tuple[slice, ...]]:
        """Voxels of the whole image at a scale, and the part around its fullest place that may be looked at."""
        whole = np.maximum(1, np.round(np.asarray(self.grid) * scale)).astype(int)
        most = min(self.voxels, math.ceil(READ * math.prod(whole) / math.prod(self.image.shape)))
        side = largest_box(whole, most)
        start = np.clip(np.asarray(self.middle) * whole // self.image.shape - side // 2, 0, whole - side)
        return tuple(whole.tolist()), tuple(slice(int(a), int(a + n)) for a, n in zip(start, side))

    def _measured(self, labels: np.ndarray, confidence: np.ndarray) -> Look:
        dims, count = labels.ndim, len(confidence)
        voxels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        ball = ball_volume(self.diameter / 2, dims) / math.prod(self.spacing)
        size = (np.maximum(voxels, 1) / ball) ** (1 / dims)
        fit = np.exp(-(np.log(size) ** 2) / (2 * SPREAD**2))
        score = float((voxels * confidence * fit).sum() / max(1, voxels.sum()))
        counted = confidence >= CONFIDENT
        if 2 * voxels[counted].sum() <= voxels.sum():
            return Look(math.nan, score)
        whole = counted & ~_at_border(labels, count)
        if whole.any():  # an object that is cut is at least as large as its part: small parts say nothing
            counted &= whole | (size >= np.median(size[whole]))
        return Look(float(np.median(size[counted])), score)


def fullest(values: Tensor, places: np.ndarray, shape: Sequence[int]) -> tuple[int, ...]:
    """Index of the place around which an image deviates most from its median: there objects are likely.

    Args:
        values: (C, n) float32, voxels spread over the image.
        places: (n,) their flat indices.
        shape: voxels of the image.
    """
    step = max(1, len(places) // 100_000)
    median = values[:, ::step].median(1, keepdim=True).values
    away = (values - median).abs().clamp(max=1).mean(0).numpy()
    index = np.unravel_index(places, shape)
    for cells in (16, 8, 4):  # the finest of which none was missed
        size = [min(cells, n) for n in shape]
        cell = np.ravel_multi_index([line * s // n for line, s, n in zip(index, size, shape)], size)
        count = np.bincount(cell, minlength=math.prod(size))
        if count.all():
            break
    mean = np.bincount(cell, away, minlength=len(count)) / np.maximum(count, 1)
    smooth = ndimage.uniform_filter(mean.reshape(size), [max(1, n // 3) for n in size], mode="constant")
    inside = cell == np.where(count > 0, smooth.ravel(), -1).argmax()
    return tuple(int(line[inside].mean()) for line in index)


def _at_border(labels: np.ndarray, count: int) -> np.ndarray:
    """(count,) bool, whether an object reaches the edge of the image plane: it is cut there."""
    cut = np.zeros(count + 1, bool)
    for axis in (-2, -1):
        for end in (0, -1):
            cut[np.unique(labels.take(end, axis=axis))] = True
    return cut[1:]
