"""What a training set says of itself, measured once: dimensions, voxels, intensities, and the annotated objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import fastremap
import numpy as np
from monai.data import Dataset
from scipy.spatial import cKDTree

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import PIXEL, in_words
from spoco_bundle.core.sampling import sampled_places
from spoco_bundle.dataset.annotated_sizes import LEAST_VOXELS, annotated_sizes, equal_scales
from spoco_bundle.dataset.label_checks import object_ids
from spoco_bundle.dataset.object_size import ball_volume
from spoco_bundle.dataset.read_once import ReadOnce
from spoco_bundle.dataset.tissue import AnnotatedVolume, surroundings_auc
from spoco_bundle.formats.geometry import voxel_spacing

#: percentiles of sizes: of a small, a typical and a large object
SIZES = (5, 50, 95)
#: share of its box below which an object winds: neurons fill 0.15 to 0.17, compact objects of eleven data sets 0.28 to
#: 0.79
WINDING = 0.22


@dataclass(frozen=True)
class Profile:
    """What was measured. Axes are z, y, x or y, x; lengths are voxels of ``spacing`` unless a unit is named.

    Attributes:
        images: annotated images.
        channels: of an image.
        shape: typical number of voxels along each axis.
        spacing: typical voxel size along each axis in ``unit``, 1 where none is known.
        unit: "micrometer", "pixel" where no size is known, or "unknown" for numbers without a unit.
        intensities: of each channel the typical percentiles 1, 50 and 99.8.
        objects: annotated objects.
        kinds: how many of them are annotated in which way, see ``KINDS``.
        annotated: share of the voxels that lie in one.
        diameters: of a small, a typical and a large object (percentiles 5, 50, 95), as the ball or disc of as many
            voxels.
        extents: edges of the box of a small, a typical and a large object, each along all axes.
        elongation: the longest edge of the box over the diameter, both in units of length, of a typical object.
        fill: share of its box that a typical object fills: about 0.5 for a ball, 0.8 for a disc, little for what winds.
        neighbour: distance of the centres of two annotated neighbours over the diameter, typically; None for fewer than
            two objects in an image.
        surroundings: how well the inside of objects that wind is told from what lies around them, see
            ``surroundings_auc``; None where objects do not wind, or too few can be looked at.
        sizes_differ: whether some images show their objects at another size than the others, and are to be brought to
            that of the others, see ``equal_scales``. All lengths and shapes are those after that.
    """

    images: int
    channels: int
    shape: list[int]
    spacing: list[float]
    unit: str
    intensities: list[list[float]]
    objects: int
    kinds: dict[str, int]
    annotated: float
    diameters: list[float]
    extents: list[list[float]]
    elongation: float
    fill: float
    neighbour: float | None
    surroundings: float | None
    sizes_differ: bool = False

    @property
    def axis_diameters(self) -> np.ndarray:
        """Diameter of a typical object along each axis, in voxels: anisotropic voxels hold flat balls.

        In the image plane it is the same length along both axes: a few elongated objects lie more along one by chance.
        """
        spacing, typical = np.asarray(self.spacing), np.asarray(self.extents[1])
        lengths = typical * spacing
        lengths[-2:] = np.sqrt(lengths[-2:].prod())
        return self.diameters[1] * lengths / spacing / np.exp(np.log(typical).mean())

    def mostly(self, kind: str) -> bool:
        """Whether more than half of the objects are annotated in this way, such as "strokes"."""
        return 2 * self.kinds.get(kind, 0) > self.objects

    def at(self, target_spacing: Sequence[float] | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Typical object, large object and image along each axis, in voxels of a resolution; None for the images'."""
        now = np.asarray(self.spacing)
        wanted = now if target_spacing is None else np.asarray(target_spacing, dtype=float)
        ratio = now / np.where(wanted > 0, wanted, now)
        return self.axis_diameters * ratio, np.asarray(self.extents[2]) * ratio, np.asarray(self.shape) * ratio

    @property
    def lengths(self) -> list[float]:
        """Diameters of a small, a typical and a large object in ``unit``."""
        return [diameter * float(np.prod(self.spacing)) ** (1 / len(self.spacing)) for diameter in self.diameters]

    def lines(self) -> list[str]:
        """Five plain lines."""
        kind, ball = ("3D", "ball") if len(self.shape) == 3 else ("2D", "disc")
        size = "no known voxel size" if self.unit == PIXEL else f"voxels of {in_words(self.spacing, self.unit)}"
        small, typical, large = (f"{diameter:.0f}" for diameter in self.diameters)
        boxes = " x ".join(f"{edge:.0f}" for edge in self.extents[1])
        apart = "alone" if self.neighbour is None else f"{self.neighbour:.1f} diameters from centre to centre"
        shape = f"{self.elongation:.1f} times as long as that {ball}, fill {self.fill:.0%} of their box"
        low, high = (np.array2string(np.asarray(self.intensities)[:, column], precision=4) for column in (0, 2))
        return [
            f"{self.images} annotated {kind} image{'s' * (self.images > 1)} of about {in_words(self.shape)} voxels, "
            f"{self.channels} channel{'s' * (self.channels > 1)}, {size}",
            f"intensities from {low} to {high} (percentiles 1 and 99.8)",
            f"{self.objects} annotated objects on {self.annotated:.1%} of the voxels{_in_kinds(self.kinds)}",
            f"objects are as large as a {ball} {typical} voxels across ({small} to {large}), in a box of {boxes}",
            f"they are {shape}, and lie {apart}",
        ]


def measure_profile(
    volumes: ReadOnce,
    annotation: str = "whole",
    diameter: float | None = None,
    ignore_label: int | None = None,
    background_label: int | None = None,
    equal_sizes: bool | Literal["auto"] = False,
) -> Profile:
    """Measures the annotated images of a training; each is read once, and kept for the training.

    Args:
        volumes: samples with ``image`` (C, *spatial) and ``label`` (1, *spatial), MetaTensors, and, where objects are
            annotated in another way than ``annotation``, ``kinds``, a dict of ids.
        annotation: how objects are annotated, see ``KINDS``.
        diameter: of the objects in pixels of the image plane, where it is known; points do not say it.
        ignore_label: id of voxels that count nowhere.
        background_label: id of voxels known to belong to no object.
        equal_sizes: whether images of unknown voxel size are brought to one size of objects, see ``equal_scales``.

    Raises:
        SpocoError: if there is no annotated object of usable size, the images differ in their channels, or
            ``equal_sizes`` is True where they state their voxel size.
    """
    special = [label for label in (ignore_label, background_label) if label is not None]
    images = [_measure_image(volumes.look(number), annotation, diameter, special) for number in range(len(volumes))]
    counted = sum((one.kinds for one in images), Counter())
    _refuse(images, counted, equal_sizes)
    dims, unit = len(images[0].shape), images[0].unit
    scales = equal_scales([one.objects[:, 0] for one in images], dims, equal_sizes if unit == PIXEL else False)
    found = np.concatenate([scale * one.objects for scale, one in zip(scales, images, strict=True)])
    # what the image's border cuts is smaller than it is
    whole = np.concatenate([one.inside for one in images])
    found = found[whole] if 2 * np.count_nonzero(whole) >= len(whole) else found
    diameters, edges = found[:, 0], found[:, 1:]
    sizes = np.percentile(found, SIZES, axis=0)
    neighbours = np.concatenate([scale * one.neighbours for scale, one in zip(scales, images, strict=True)])
    spacing = np.median([one.spacing for one in images], axis=0)
    edge = spacing.prod() ** (1 / dims)
    fill = float(np.median(ball_volume(diameters / 2, dims) / edges.prod(1)))
    intensities = [one.intensities for one in images]
    return Profile(
        images=len(images),
        channels=images[0].channels,
        shape=np.median(scales[:, None] * [one.shape for one in images], axis=0).astype(int).tolist(),
        spacing=[float(f"{step:.7g}") for step in spacing],
        unit=unit,
        intensities=np.median(intensities, axis=0).tolist(),
        objects=counted.total(),
        kinds=dict(counted),
        annotated=float(np.mean([one.annotated for one in images])),
        diameters=(sizes[:, 0] / edge).tolist(),
        extents=(sizes[:, 1:] / spacing).tolist(),
        elongation=float(np.median(edges.max(1) / diameters)),
        fill=fill,
        neighbour=float(np.median(neighbours) / sizes[1, 0]) if len(neighbours) else None,
        surroundings=surroundings_auc(_spread(volumes, intensities, annotation), special) if fill < WINDING else None,
        sizes_differ=bool((scales != 1).any()),
    )


@dataclass(frozen=True)
class _AnnotatedImage:
    """What one annotated image says of itself; lengths in ``unit``.

    Attributes:
        file: its name.
        channels: their number.
        shape: voxels along each axis.
        spacing: of its voxels.
        unit: of lengths.
        intensities: percentiles of each channel.
        annotated: share of its voxels that lie in an object.
        kinds: how many objects are annotated in which way.
        objects: diameter and edges of the box of each object that says its size, (objects, 1 + axes).
        inside: which of them do not touch the image's border.
        neighbours: distance of each object's centre to that of the nearest other one.
    """

    file: str
    channels: int
    shape: np.ndarray
    spacing: np.ndarray
    unit: str
    intensities: list[list[float]]
    annotated: float
    kinds: Counter
    objects: np.ndarray
    inside: np.ndarray
    neighbours: np.ndarray


def _measure_image(
    sample: dict[str, Any], annotation: str, diameter: float | None, special: Sequence[int]
) -> _AnnotatedImage:
    image, labels = sample["image"], np.asarray(sample["label"])[0]
    spacing, shape = np.asarray(voxel_spacing(image, labels.ndim)), np.asarray(labels.shape)
    ids = object_ids(labels, special)
    objects = annotated_sizes(ids, sample.get("kinds", {}), annotation, spacing, diameter)
    sized = [one for one in objects if one.diameter is not None]
    centres = [(one.first + one.stop) / 2 * spacing for one in objects]
    return _AnnotatedImage(
        file=str(image.meta["filename_or_obj"]),
        channels=image.shape[0],
        shape=shape,
        spacing=spacing,
        unit=str(image.meta["length_unit"]),
        intensities=_percentiles(np.asarray(image)),
        annotated=np.count_nonzero(ids) / ids.size,
        kinds=Counter(one.kind for one in objects),
        objects=np.array([[one.diameter, *one.edges] for one in sized]).reshape(-1, 1 + labels.ndim),
        inside=np.array([(one.first > 0).all() and (one.stop < shape).all() for one in sized], dtype=bool),
        neighbours=cKDTree(centres).query(centres, k=2)[0][:, 1] if len(centres) > 1 else np.empty(0),
    )


def _refuse(images: Sequence[_AnnotatedImage], kinds: Counter, equal_sizes: bool | Literal["auto"]) -> None:
    """Raises where nothing can be learnt of these images together."""
    sized = any(len(one.objects) for one in images)
    if not sized and kinds["points"]:
        raise SpocoError(
            f"{kinds['points']} objects are annotated, by points alone, which do not say how large they are: give "
            "--diameter, how many pixels an object is across, or outline a few"
        )
    if not sized:
        raise SpocoError(
            f"no annotated object of {LEAST_VOXELS} voxels or more in {len(images)} images: annotate some; the "
            "first label is that of " + (images[0].file if images else "no image")
        )
    first = images[0]
    other = next((one for one in images if one.channels != first.channels), None)
    if other is not None:
        raise SpocoError(
            f"{other.file}: has {other.channels} channel{'s' * (other.channels > 1)} where {first.file} has "
            f"{first.channels}: take one that all have, such as --channel 0, or train apart"
        )
    if equal_sizes is True and first.unit != PIXEL:
        raise SpocoError(
            f"equal_sizes is True, and the images state their voxel size in {first.unit}s, which brings them to one "
            "resolution: leave it out"
        )


def _in_kinds(kinds: dict[str, int]) -> str:
    if not kinds.keys() - {"whole"}:
        return ""
    words = {"whole": "whole", "slices": "in slices", "strokes": "by strokes", "points": "by points"}
    return ": " + ", ".join(f"{count} {words[kind]}" for kind, count in sorted(kinds.items()))


def _spread(volumes: ReadOnce, intensities: Sequence[list[list[float]]], annotation: str) -> Dataset:
    """A few of the volumes, spread over the list, as ``surroundings_auc`` takes them, with their whole objects."""

    def look(number: int) -> AnnotatedVolume:
        sample = volumes.look(number)
        image, label = np.asarray(sample["image"]), np.asarray(sample["label"])[0]
        kinds = sample.get("kinds", {})
        ids = fastremap.unique(label[label > 0]).tolist()
        label = fastremap.mask(label, [number for number in ids if kinds.get(number, annotation) != "whole"])
        low, _, high = np.asarray(intensities[number]).T.reshape(3, -1, *[1] * label.ndim)
        return AnnotatedVolume(
            (image - low) / np.maximum(high - low, 1e-6), label, voxel_spacing(sample["image"], label.ndim)
        )

    last = len(volumes) - 1
    return Dataset(np.unique(np.linspace(0, last, min(6, last + 1)).round().astype(int)).tolist(), look)


def _percentiles(image: np.ndarray) -> list[list[float]]:
    """Percentiles 1, 50 and 99.8 of each channel (C, *spatial), of a subsample of a large image."""
    flat = image.reshape(len(image), -1)
    places = sampled_places(flat.shape[1])
    return np.percentile(flat if places is None else flat[:, places], (1, 50, 99.8), axis=1).T.tolist()
