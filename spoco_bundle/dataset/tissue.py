"""Whether what lies around annotated objects looks like their inside, as in tissue without gaps.

Around a cell of a dense tissue lie the insides of other cells; around an object elsewhere lies background, and now and
then another one. A classifier that knows of a voxel the intensity and the steepness of the image on a few scales learns
to tell the inside of annotated objects from what lies around them, and is judged on objects that it has not seen. It
ranks an object's voxels against those around the same object only, so drifts of brightness and contrast hardly matter.
What lies around counts whether it is annotated or not, so it hardly matters how many of the objects are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import fastremap
import numpy as np
from scipy import ndimage
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from spoco_bundle.dataset.object_size import ball_radius

# Gaussians are cut off at so many of their widths
_TRUNCATE = 3.0


class AnnotatedVolume(NamedTuple):
    """A volume or an image in which some objects are annotated.

    Attributes:
        image: (C, *spatial), of about the same range in every volume.
        labels: (*spatial) ints; 0 = unlabeled, ids above it are objects.
        spacing: voxel size per axis, in any unit.
    """

    image: np.ndarray
    labels: np.ndarray
    spacing: Sequence[float]


@dataclass(frozen=True)
class Surroundings:
    """What is looked at of an object; lengths are multiples of the smallest voxel edge.

    Attributes:
        gap: distance from the object at which its surroundings begin; nearer, its border blurs into them.
        reach: distance at which they end, in radii of the ball or disc that has the object's volume.
        min_reach: distance at which they end at least.
        window_voxels: volume, or area, of the cube or square about a random place on the object's border, outside of
            which nothing is looked at, so that a large object takes no more time than others.
        min_voxels: voxels that an object must have inside, and around it, to be looked at; 1 or more.
        min_share: share of the voxels around it, from 0 to 1, that must have none of the ids that are no objects: where
            nearly everything but other objects is ignored, these say nothing of what is between.
        max_voxels: voxels drawn inside, and around it, at most.
        scales: widths of the Gaussians that the image is smoothed with.
    """

    gap: float = 2.0
    reach: float = 1.0
    min_reach: float = 4.0
    window_voxels: int = 64**3
    min_voxels: int = 30
    min_share: float = 0.5
    max_voxels: int = 150
    scales: Sequence[float] = (0.7, 1.3, 2.2, 4.0)

    def width(self, volume: float, dims: int) -> float:
        """Distance at which the surroundings of an object of so many cubes (or squares) of the smallest edge end."""
        return max(self.reach * float(ball_radius(volume, dims)), self.min_reach)


_USUAL = Surroundings()


def surroundings_auc(
    volumes: Sequence[AnnotatedVolume],
    no_objects: Collection[int] = (),
    look: Surroundings = _USUAL,
    *,
    max_objects: int = 60,
    min_objects: int = 4,
    seed: int = 0,
) -> float | None:
    """How well the inside of annotated objects is told from what lies around them.

    Args:
        volumes: a sequence, which may read them one by one; each is asked for once. Which ids their objects have does
            not matter.
        no_objects: ids that are no objects, such as known background; their voxels belong to no surroundings either.
        look: what is looked at of an object.
        max_objects: objects looked at, spread evenly over the volumes and drawn at random in each, at least one.
        min_objects: objects below which nothing is said; 2 or more.
        seed: of all draws.

    Returns:
        Area under the curve of the receiver operating characteristic, mean over the objects: 0.5 where nothing tells
        inside and surroundings apart, 1 where they never look alike. None if too few objects can be looked at.
    """
    features, inside, objects = [], [], []
    for index in range(len(volumes)):
        generator = np.random.default_rng([seed, index])
        count = max(1, max_objects // len(volumes))
        for within, around in _drawn_features(volumes[index], no_objects, look, count, generator):
            objects.append(np.full(len(within) + len(around), len(objects)))
            inside.append(np.repeat([True, False], [len(within), len(around)]))
            features += [within, around]
    if len(objects) < min_objects:
        return None
    x, y, groups = (np.concatenate(parts) for parts in (features, inside, objects))
    classifier = HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=8, early_stopping=False, random_state=seed)
    # the voxels of an object stay together: none is judged by a classifier that has seen others of its object
    folding = GroupKFold(min(5, len(objects)))
    scores = cross_val_predict(classifier, x, y, groups=groups, cv=folding, method="decision_function")
    return float(np.mean([roc_auc_score(y[groups == one], scores[groups == one]) for one in range(len(objects))]))


def _drawn_features(
    volume: AnnotatedVolume,
    no_objects: Collection[int],
    look: Surroundings,
    count: int,
    generator: np.random.Generator,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features (voxels, F) of random voxels inside and around so many random objects."""
    image, labels, spacing = volume
    per_edge = min(spacing) / np.asarray(spacing, dtype=float)  # voxels along each axis
    marked = np.maximum(fastremap.mask(np.ascontiguousarray(labels), list(no_objects)), 0)
    # numbers in the order in which the objects appear, so that the draws do not depend on their ids
    numbered, _ = fastremap.renumber(marked, in_place=False)
    boxes = ndimage.find_objects(numbered)
    for index in generator.permutation(len(boxes))[:count]:
        number, box = index + 1, boxes[index]
        places = np.argwhere(numbered[box] == number)
        place = _border(numbered, generator.choice(places) + [side.start for side in box], generator)
        width = look.width(len(places) / math.prod(per_edge), labels.ndim)
        crop, core = _cut(box, place, per_edge, width, look, labels.shape)
        distance = ndimage.distance_transform_edt(numbered[crop] != number, sampling=1 / per_edge)[core]
        shell = (distance > look.gap) & (distance <= width)
        around = shell & ~np.isin(labels[crop][core], list(no_objects))
        parts = [distance == 0, around]
        needed = max(look.min_voxels, look.min_share * np.count_nonzero(shell))
        if np.count_nonzero(parts[0]) < look.min_voxels or np.count_nonzero(around) < needed:
            continue
        found = _features(image[(slice(None), *crop)], per_edge, look.scales)[(slice(None), *core)]
        drawn = [generator.permutation(np.flatnonzero(part))[: look.max_voxels] for part in parts]
        within, around = (found.reshape(len(found), -1)[:, voxels].T for voxels in drawn)
        yield within, around


def _border(numbered: np.ndarray, place: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Where one leaves the object of a voxel, straight along a random axis; the voxel itself where one never does.

    A large object would fill the window about most of its voxels.
    """
    number = numbered[tuple(place)]
    for way in generator.permutation(2 * numbered.ndim):
        axis, step = way // 2, 1 - 2 * (way % 2)
        line = numbered[tuple(slice(None) if other == axis else at for other, at in enumerate(place))]
        left = np.flatnonzero(line[place[axis] :: step] != number)
        if len(left):
            return place + np.eye(numbered.ndim, dtype=int)[axis] * step * left[0]
    return place


def _cut(
    box: tuple[slice, ...],
    place: np.ndarray,
    per_edge: np.ndarray,
    width: float,
    look: Surroundings,
    shape: tuple[int, ...],
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of a volume to compute on, and within it the part in which nothing beyond its rim is missed."""
    crop, core = [], []
    for side, middle, step, size in zip(box, place, per_edge, shape):
        ring, half = math.ceil(width * step), math.ceil(look.window_voxels ** (1 / len(shape)) / 2 * step)
        margin = math.ceil(max(_TRUNCATE * max(look.scales), look.gap) * step)
        start, stop = max(0, side.start - ring, middle - half), min(size, side.stop + ring, middle + half + 1)
        crop.append(slice(max(0, start - margin), min(size, stop + margin)))
        core.append(slice(start - crop[-1].start, stop - crop[-1].start))
    return tuple(crop), tuple(core)


def _features(image: np.ndarray, per_edge: np.ndarray, scales: Sequence[float]) -> np.ndarray:
    """Smoothed intensity and its steepness on each scale, (2 * scales * C, *spatial), of an image (C, *spatial)."""
    found = []
    for channel in image.astype(np.float32):
        for scale in scales:
            smooth = ndimage.gaussian_filter(channel, scale * per_edge, truncate=_TRUNCATE)
            along = [axis for axis, size in enumerate(smooth.shape) if size > 1]
            slopes = [np.gradient(smooth, axis=axis) * per_edge[axis] for axis in along]
            found += [smooth, np.sqrt(sum((slope**2 for slope in slopes), start=np.zeros_like(smooth)))]
    return np.stack(found)
