"""From the profile of a training set to the settings of its training.

Each function decides one id of ``configs/train.json`` from the profile and from the ids it depends on, which the config
names. A user who sets an id by hand therefore also moves what follows from it. ``spoco plan`` prints what was decided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spoco_bundle.blockwise.memory import readable
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import in_words
from spoco_bundle.networks.embedding_unet import receptive_radius
from spoco_bundle.networks.lengths import alike_spacings
from spoco_bundle.networks.weights import learnt_by

if TYPE_CHECKING:
    from spoco_bundle.dataset.profile import Profile

__all__ = [
    "alike_axes",
    "batch_size",
    "by_strokes",
    "channels",
    "check_plan",
    "convolutions",
    "crop_size",
    "is_dense",
    "kernel_sizes",
    "min_fraction",
    "objectness_threshold",
    "objectness_unlabeled_weight",
    "plan_lines",
    "strides",
    "training_bytes",
    "working_spacing",
]

#: voxels across a typical object, by the number of axes: what measured best in images; in volumes a crop that is
#: affordable holds several objects only if they are smaller
_ACROSS = {2: 30.0, 3: 20.0}
#: voxels of a crop and of a batch, by the number of axes: what two cores work through in about half a second
_CROP_VOXELS = {2: 2**14, 3: 2**17}
_BATCH_VOXELS = {2: 2**17, 3: 2**18}


def working_spacing(profile: Profile, weights: str | None = None, tolerance: float = 1.5) -> list[float] | None:
    """The resolution that images are brought to.

    A typical object becomes 30 voxels across, in volumes 20, and no image is enlarged. A training from weights works
    where objects are as large as those that the weights learnt, since a network knows them by their size; for that
    flat images are enlarged too.

    Args:
        profile: of the training set.
        weights: file to start from, None for a training from nothing.
        tolerance: an axis is left as it is while its objects are less than so many times as large.

    Returns:
        Voxel size along each axis in the unit of the profile; None where all images are used as they are.

    Raises:
        SpocoError: if the weights cannot be read.
    """
    if weights is not None:
        trained, unit, diameter = learnt_by(weights)
        if trained is not None and len(trained) == len(profile.spacing):  # of other axes: loading them says so
            return _as_learnt(profile, trained, unit, diameter, tolerance)
    shrink = profile.axis_diameters / _ACROSS[len(profile.shape)]
    shrink[shrink < tolerance] = 1
    if (shrink == 1).all() and not profile.sizes_differ:
        return None
    return [float(f"{step:.4g}") for step in shrink * profile.spacing]


def strides(
    profile: Profile, target_spacing: Sequence[float] | None, min_levels: int = 4, max_levels: int = 6
) -> list[list[int]]:
    """Steps down of the network: as many as it takes to see twice a large object, the finest axes first.

    An axis is halved while its voxels are no more than twice as large, measured in typical objects, as those of the
    finest axis: so flat voxels become cubes on the way down, and nothing is blurred before. Objects that are somewhat
    long along one axis, as cells of an epithelium are, are no reason to leave another axis alone.

    Args:
        profile: of the training set.
        target_spacing: the working resolution, None for that of the images.
        min_levels: of the network at least.
        max_levels: of the network at most.

    Returns:
        One int per axis for each step, (levels - 1, D).
    """
    typical, large, shape = _at(profile, target_spacing)
    # a crop is no longer than this along an axis of the finest voxels, and is to be some voxels long at every level
    shape = np.minimum(shape, 1.3 * _CROP_VOXELS[len(shape)] ** (1 / len(shape)))
    found: list[list[int]] = []
    while len(found) + 1 < max_levels:
        if len(found) + 1 >= min_levels and (np.asarray(_radius(found)) >= large).all():
            break
        halved = (typical >= typical.max() / 2) & (shape >= 8)
        if not halved.any():
            break
        found.append([2 if half else 1 for half in halved])
        typical = np.where(halved, typical / 2, typical)
        shape = np.where(halved, shape / 2, shape)
    return found or [[1] * len(shape)]


def kernel_sizes(strides: Sequence[Any], spatial_dims: int) -> list[list[int]]:
    """Kernels of each level: 3, but 1 along axes that the level's own step leaves alone, whose voxels are coarse."""
    steps = [[step] * spatial_dims if isinstance(step, int) else list(step) for step in strides]
    return [[3 if size > 1 else 1 for size in step] for step in steps] + [[3] * spatial_dims]


def convolutions(strides: Sequence[Any]) -> list[int]:
    """Convolutions of each level: one at the full resolution, where they take most of the time, two below."""
    return [1] + [2] * len(strides)


def channels(strides: Sequence[Any], spatial_dims: int) -> list[int]:
    """Features of each level: they double from 8 (in 2D 16) to 64."""
    first = 16 if spatial_dims == 2 else 8
    return [min(64, first * 2**level) for level in range(len(strides) + 1)]


def crop_size(profile: Profile, target_spacing: Sequence[float] | None, strides: Sequence[Any]) -> list[int]:
    """Voxels of a training crop: several objects, a large one whole where that is affordable, square in y, x.

    Args:
        profile: of the training set.
        target_spacing: the working resolution, None for that of the images.
        strides: of the network, of whose product the crop is a multiple along each axis.

    Returns:
        Voxels along each axis.
    """
    typical, large, shape = _at(profile, target_spacing)
    dims = len(shape)
    for sizes in (typical, large, shape):
        sizes[-2:] = np.exp(np.log(sizes[-2:]).mean())
    total = np.ones(dims)
    for step in strides:
        total *= step
    usual, most = _CROP_VOXELS[dims], _BATCH_VOXELS[dims]
    fitting = 1.5 * large
    side = typical * (usual / typical.prod()) ** (1 / dims)
    if fitting.prod() <= most:
        side = np.maximum(side, fitting)
        side *= min(1, (most / side.prod()) ** (1 / dims))
    side = np.minimum(side, shape)
    if side.prod() < usual:  # what one axis cannot take goes to the others
        free = side < shape
        side[free] *= (usual / side.prod()) ** (1 / max(1, np.count_nonzero(free)))
        side = np.minimum(side, shape)
    return [int(max(1, round(size / step)) * step) for size, step in zip(side, total)]


def alike_axes(strides: Sequence[Any], spatial_dims: int) -> bool:
    """Whether objects look much the same along all axes of a volume, so that the network steps alike along them."""
    return spatial_dims == 3 and bool(np.ptp(np.broadcast_to(strides[0], spatial_dims)) == 0)


def batch_size(crop_size: Sequence[int]) -> int:
    """Crops of a batch: as many as make up its voxels."""
    return max(1, round(_BATCH_VOXELS[len(crop_size)] / math.prod(crop_size)))


def is_dense(profile: Profile, tissue: str = "auto", alike: float = 0.72, winding: float = 0.22) -> bool:
    """Whether objects wind through a tissue without gaps, as neurons do: they look like what lies around them.

    A centre means little for such objects, and the unlabeled space around them is no background. Compact cells of a
    tissue are found better as objects with gaps are, though they may look like what lies around them too.

    Args:
        profile: of the training set.
        tissue: "dense" or "gaps" says it, "auto" goes by the profile.
        alike: ``Profile.surroundings`` below which objects look like what lies around them.
        winding: ``Profile.fill`` below which objects wind. Measured: 0.15 to 0.17 for neurons, 0.28 to 0.79 for eleven
            data sets of compact objects.
    """
    if tissue != "auto":
        return tissue == "dense"
    return profile.surroundings is not None and profile.surroundings < alike and profile.fill < winding


def objectness_unlabeled_weight(profile: Profile, dense: bool) -> float:
    """Weight of unlabeled voxels, which the objectness takes for background.

    Outlines say where objects end, and a small weight keeps objects that nobody annotated. In flat images a full weight
    outlines better, but a few objects would be learnt by heart, and all others taken for background. Where outlines are
    drawn in slices, only unlabeled voxels of these slices count, and more of them lie in objects that are drawn. Of
    strokes nothing else says where an object ends, so the weight is relative (``objectness_unlabeled_relative``).
    Points in volumes keep the small weight: with a large one the objectness learns to keep to the middle of objects.

    Args:
        profile: of the training set.
        dense: see ``is_dense``; the space around such objects is no background.
    """
    if dense:
        return 0.0
    if by_strokes(profile):
        return 0.25
    if _mostly(profile, "slices"):
        return 0.5
    return 1.0 if _many_in_flat_images(profile) else 0.3


def by_strokes(profile: Profile) -> bool:
    """Whether most objects are annotated by strokes."""
    return _mostly(profile, "strokes")


def objectness_threshold(profile: Profile, dense: bool) -> float:
    """Objectness from which on a voxel belongs to an object.

    Around a click or a stroke nothing says where its object ends, so that the objectness falls off slowly, and outlines
    at the usual threshold are too wide, unless unlabeled voxels count fully. Measured in volumes: 0.65 for clicks and
    0.6 for strokes are best both for nuclei and for packed cells.

    Args:
        profile: of the training set.
        dense: see ``is_dense``; the objectness of such objects is high inside, and low at their borders.
    """
    if dense:
        return 0.8
    if by_strokes(profile):
        return 0.6
    return 0.65 if _mostly(profile, "points") and not _many_in_flat_images(profile) else 0.4


def min_fraction(profile: Profile, dense: bool, enough: int = 20) -> float:
    """Size of the smallest object that is kept, as a share of a typical one: of what is smaller most are specks.

    Where people annotate smaller objects than the usual share, these are kept too. In dense tissue nearly all are: the
    place of one that is not kept would go to its neighbour.

    Args:
        profile: of the training set.
        dense: see ``is_dense``.
        enough: of fewer objects the small one (percentile 5) is a single object, and says nothing.
    """
    if dense:
        return 0.02
    dims = len(profile.shape)
    usual = 0.15 if dims == 2 else 0.1
    small, typical, _ = profile.diameters
    return usual if profile.objects < enough else min(usual, float(f"{(small / typical) ** dims:.2g}"))


def check_plan(profile: Profile, ids: Mapping[str, Any], memory: float = math.inf) -> None:
    """Refuses a training that cannot work.

    Args:
        profile: of the training set.
        ids: values of the ids that this module decides, as they came out.
        memory: bytes that are free for the training.

    Raises:
        SpocoError: if the images have other channels or axes than the settings, typical objects do not fit into them
            or are too small at the working resolution, or a batch does not fit into the memory.
    """
    target_spacing, crop_size, in_channels = (ids[key] for key in ("target_spacing", "crop_size", "in_channels"))
    if in_channels != profile.channels:
        one = f"choose one of 0 to {profile.channels - 1} with --channel, or " if in_channels == 1 else ""
        many = f"{profile.channels} channel{'s' * (profile.channels > 1)}"
        raise SpocoError(f"in_channels is {in_channels}, the images have {many}: {one}leave --in_channels out")
    typical, _, shape = _at(profile, target_spacing)
    if ids["coordinate_channels"] not in (0, len(shape)):
        raise SpocoError(f"coordinate_channels is {ids['coordinate_channels']}: give 0 or {len(shape)}, one per axis")
    for key in ("strides", "kernel_sizes"):
        for level in ids[key]:
            if np.size(level) not in (1, len(shape)):
                raise SpocoError(f"{key}: {level} does not fit: give one number, or {len(shape)}, one per axis")
    if len(crop_size) != len(shape):
        raise SpocoError(f"crop_size is {list(crop_size)}: give {len(shape)} numbers, one per axis of the images")
    cut = np.asarray(profile.extents[1]) > 0.9 * np.asarray(profile.shape)
    if cut.sum() > len(shape) - 2 and profile.objects > 1:
        raise SpocoError(
            f"a typical object is {in_words([round(e) for e in profile.extents[1]], 'voxels')} in images of "
            f"{in_words(profile.shape, 'voxels')}: no image shows a whole one: give images of a larger "
            "field of view, or number the objects apart"
        )
    if profile.sizes_differ and target_spacing is None:
        raise SpocoError(
            "images show their objects at different sizes, and are brought to one: leave --target_spacing out, give "
            "one, or add --equal_sizes False"
        )
    if typical.min() < 1:
        raise SpocoError(
            f"at a working resolution of {in_words(target_spacing or profile.spacing, profile.unit)} a typical object "
            f"is {in_words([float(f'{d:.2g}') for d in typical], 'voxels')}: set a finer --target_spacing"
        )
    need = training_bytes(ids)
    if need > memory:
        raise SpocoError(
            f"{ids['batch_size']} crops of {' x '.join(map(str, crop_size))} voxels take about {readable(need)} in "
            f"training, {readable(memory)} are free: give a smaller --crop_size or --batch_size, or a coarser "
            "--target_spacing"
        )


def training_bytes(ids: Mapping[str, Any]) -> float:
    """What a batch takes in training at least: features, their normalised copies and embeddings, all with gradients.

    Args:
        ids: values of the ids that this module decides.
    """
    dims = len(ids["crop_size"])
    per_voxel, share = 40.0 * ids["embedding_channels"], 1.0
    repeats = np.broadcast_to(ids["convolutions"], len(ids["channels"]))
    for level, (width, count) in enumerate(zip(ids["channels"], repeats)):
        if level:
            share /= math.prod(np.broadcast_to(ids["strides"][level - 1], dims).tolist())
        per_voxel += share * 4 * width * (6 * int(count) + 2)
    return per_voxel * math.prod(ids["crop_size"]) * ids["batch_size"]


def plan_lines(profile: Profile, ids: Mapping[str, Any]) -> list[str]:
    """What was decided and why, one line each.

    Args:
        profile: of the training set.
        ids: values of the ids that this module decides.
    """
    typical, large, _ = _at(profile, ids["target_spacing"])
    across, biggest = round(float(typical[-2:].mean())), round(float(large.max()))
    spacing = ids["target_spacing"]
    if spacing is None:
        resolution = f"as the images: objects are {across} voxels across in the plane"
    else:
        words = in_words([float(f"{step:.3g}") for step in spacing], profile.unit)
        resolution = f"{words}: objects become {across} voxels across in the plane"
    if profile.sizes_differ:
        resolution += ", also in images that show them larger or smaller"
    steps = np.prod(np.asarray([np.broadcast_to(step, len(profile.shape)) for step in ids["strides"]]), axis=0)
    looks = "" if profile.surroundings is None else f" ({profile.surroundings:.2f} of 1)"
    tissue = (
        f"dense: objects wind, and look like what lies around them{looks}, so their borders tell them apart"
        if ids["dense"]
        else f"with gaps: objects have a centre, and are told from what lies around them{looks}"
    )
    crop = " x ".join(map(str, ids["crop_size"]))
    room = float(f"{math.prod(ids['crop_size']) / typical.prod():.2g}")
    return [
        f"working resolution {resolution}",
        f"network of {len(ids['channels'])} levels, strides {' x '.join(str(int(step)) for step in steps)} in all: "
        f"a large object is {biggest} voxels long",
        f"{ids['batch_size']} crops of {crop} voxels at a time: each has room for {room:g} typical objects",
        f"tissue {tissue}",
    ]


def _as_learnt(
    profile: Profile, trained: Sequence[float], unit: str, diameter: float | None, tolerance: float
) -> list[float] | None:
    """See ``working_spacing``. Where objects have the learnt size in micrometres, the stated voxel sizes decide."""
    own, learnt = np.asarray(profile.spacing), np.asarray(trained)
    if unit == profile.unit:
        ratio = 1.0 if diameter is None else profile.lengths[1] / diameter
        same = 1 / tolerance <= ratio <= tolerance
        wanted, tolerance = (learnt, 1.25) if same else (ratio * learnt, tolerance)
    else:  # nothing but voxels can be compared
        voxel = float(np.prod(learnt)) ** (1 / len(learnt))
        wanted = own if diameter is None else own * profile.diameters[1] * voxel / diameter
    if len(own) == 3:  # enlarged, a volume would take many times the memory
        wanted = np.maximum(wanted, own)
    return None if alike_spacings(own, wanted, tolerance) else [float(f"{step:.4g}") for step in wanted]


def _many_in_flat_images(profile: Profile, enough: int = 20) -> bool:
    """Whether unlabeled voxels may count fully as background: in flat images with so many annotated objects."""
    return len(profile.shape) == 2 and profile.objects >= enough


def _mostly(profile: Profile, kind: str) -> bool:
    """Whether more than half of the objects are annotated in this way."""
    return 2 * profile.kinds.get(kind, 0) > profile.objects


def _at(profile: Profile, target_spacing: Sequence[float] | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Typical object, large object and image along each axis, in voxels of the working resolution."""
    now = np.asarray(profile.spacing)
    wanted = now if target_spacing is None else np.asarray(target_spacing, dtype=float)
    ratio = now / np.where(wanted > 0, wanted, now)
    return profile.axis_diameters * ratio, np.asarray(profile.extents[2]) * ratio, np.asarray(profile.shape) * ratio


def _radius(steps: Sequence[Sequence[int]]) -> tuple[int, ...]:
    dims = len(steps[0])
    return receptive_radius(steps, kernel_sizes(steps, dims), convolutions(steps))
