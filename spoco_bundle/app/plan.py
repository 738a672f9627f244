"""From the profile of a training set to the settings of its training.

Each function decides one id of ``configs/train.json`` from the profile and from the ids it depends on, which the config
names. A user who sets an id by hand therefore also moves what follows from it. ``spoco plan`` prints what was decided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spoco_bundle.networks.embedding_unet import receptive_radius
from spoco_bundle.networks.lengths import alike_spacings
from spoco_bundle.networks.weights import learnt_by

if TYPE_CHECKING:
    from spoco_bundle.dataset.profile import Profile

#: voxels across a typical object, by the number of axes: what measured best in images; in volumes a crop that is
#: affordable holds several objects only if they are smaller
_ACROSS = {2: 30.0, 3: 20.0}
#: voxels of a crop and of a batch, by the number of axes: what two cores work through in about half a second
_CROP_VOXELS = {2: 2**14, 3: 2**17}
_BATCH_VOXELS = {2: 2**17, 3: 2**18}
#: voxels of an image that are validated on, by the number of axes: more take minutes and gigabytes each time
_VALIDATION_VOXELS = {2: 2**22, 3: 2**24}


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
    typical, large, shape = profile.at(target_spacing)
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
    typical, large, shape = profile.at(target_spacing)
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


def pasted_crops(profile: Profile, dense: bool = False, enough: int = 50) -> int:
    """Crops whose objects are pasted into another crop of their image, at most: see ``PasteObjectsd``.

    A few outlined objects of flat images are seen in many places then, touching others, and less is learnt by heart.
    Of more objects, and in volumes, it measured no better.

    Args:
        profile: of the training set.
        dense: see ``is_dense``.
        enough: annotated objects from which on none is pasted.
    """
    few = len(profile.shape) == 2 and profile.objects < enough
    return 4 if few and profile.mostly("whole") and not dense else 0


def validation_voxels(spatial_dims: int) -> int:
    """Voxels of the part of a larger image that is validated on."""
    return _VALIDATION_VOXELS[spatial_dims]


def is_dense(
    profile: Profile,
    tissue: str = "auto",
    with_background: bool = False,
    alike: float = 0.72,
) -> bool:
    """Whether objects wind through a tissue without gaps, as neurons do: they look like what lies around them.

    A centre means little for such objects, and the unlabeled space around them is no background. Compact cells of a
    tissue are found better as objects with gaps are, though they may look like what lies around them too.

    Args:
        profile: of the training set.
        tissue: "dense" or "gaps" says it, "auto" goes by the profile.
        with_background: whether background is annotated, or the weights to start from know it.
        alike: ``Profile.surroundings`` below which objects look like what lies around them; it is measured of objects
            that wind.
    """
    if tissue != "auto":
        return tissue == "dense"
    return not with_background and profile.surroundings is not None and profile.surroundings < alike


def objectness_unlabeled_relative(profile: Profile, dense: bool = False, complete: bool = False) -> bool:
    """Whether the weight of unlabeled voxels is relative to how many of them look like annotated ones.

    So it is where no shell of background is laid around objects. Around a stroke its object goes on. In volumes people
    annotate few of many objects, and around a cell of a tissue lie its neighbours: a shell would teach that their
    borders are none of theirs, and where there is background, it is learnt without one. In flat images a shell outlines
    better, and keeps a few objects from being learnt by heart. Points have no shell, and do better with a fixed weight.

    Args:
        profile: of the training set.
        dense: see ``is_dense``; unlabeled voxels do not count there.
        complete: whether every object is annotated, and all else known to be background: then nothing is unlabeled.
    """
    drawn_in_volumes = len(profile.shape) == 3 and not profile.mostly("points")
    return not dense and not complete and (drawn_in_volumes or profile.mostly("strokes"))


def objectness_unlabeled_weight(profile: Profile, dense: bool, relative: bool) -> float:
    """Weight of unlabeled voxels, which the objectness takes for background.

    Outlines say where objects end, and a small weight keeps objects that nobody annotated. In flat images a full weight
    outlines better, but a few objects would be learnt by heart, and all others taken for background. Points in volumes
    keep the small weight: with a large one the objectness learns to keep to the middle of objects.

    Args:
        profile: of the training set.
        dense: see ``is_dense``; the space around such objects is no background.
        relative: see ``objectness_unlabeled_relative``.
    """
    if dense:
        return 0.0
    if relative:
        return 0.25
    return 1.0 if _many_in_flat_images(profile) else 0.3


def objectness_threshold(profile: Profile, dense: bool, relative: bool) -> float:
    """Objectness from which on a voxel belongs to an object.

    Where no shell of background bounds objects, the objectness falls off slowly, and outlines at the usual threshold
    are too wide, unless unlabeled voxels count fully. Measured in volumes: 0.65 is best for clicks and 0.6 for strokes,
    both for nuclei and for packed cells; outlines are read at 0.6 too. Of whole packed cells a lower one is better
    where all are annotated (0.4: AP50 0.87, 0.6: 0.83), a higher one where a twentieth is (0.7: 0.68, 0.6: 0.61).

    Args:
        profile: of the training set.
        dense: see ``is_dense``; the objectness of such objects is high inside, and low at their borders.
        relative: see ``objectness_unlabeled_relative``.
    """
    if dense:
        return 0.8
    if relative:
        return 0.6
    return 0.65 if profile.mostly("points") and not _many_in_flat_images(profile) else 0.4


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


def _radius(steps: Sequence[Sequence[int]]) -> tuple[int, ...]:
    dims = len(steps[0])
    return receptive_radius(steps, kernel_sizes(steps, dims), convolutions(steps))
