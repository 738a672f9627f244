"""What is planned, held against the images and the memory before a training begins, and told in a few lines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spoco_bundle.blockwise.memory import readable
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import in_words

if TYPE_CHECKING:
    from spoco_bundle.dataset.profile import Profile


def check_plan(profile: Profile, ids: Mapping[str, Any], memory: float = math.inf) -> None:
    """Refuses a training that cannot work.

    Args:
        profile: of the training set.
        ids: values of the ids that ``plan.py`` decides, as they came out.
        memory: bytes that are free for the training.

    Raises:
        SpocoError: if the images have other channels or axes than the settings, typical objects do not fit into them
            or are too small at the working resolution, or a batch does not fit into the memory.
    """
    target_spacing, crop_size, in_channels = (ids[key] for key in ("target_spacing", "crop_size", "in_channels"))
    if in_channels != profile.channels:
        one = f"choose one of 0 to {profile.channels - 1} with --channel, or " if in_channels == 1 else ""
        many = f"{profile.channels} channel{'s' * (profile.channels > 1)}"
        raise SpocoError(
            f"in_channels is {in_channels}, the images have {many}: {one}leave --in_channels "
            "or the weights to start from out"
        )
    typical, _, shape = profile.at(target_spacing)
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
        ids: values of the ids that ``plan.py`` decides.
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
        ids: values of the ids that ``plan.py`` decides.
    """
    typical, large, _ = profile.at(ids["target_spacing"])
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
    tissue = "dense: objects are told apart by their borders" if ids["dense"] else "with gaps: objects have a centre"
    tissue += f", fill {profile.fill:.0%} of their box"
    if profile.surroundings is not None:
        tissue += f", and are told from what lies around them in {100 * profile.surroundings:.0f} of 100 comparisons"
    crop = " x ".join(map(str, ids["crop_size"]))
    room, count = float(f"{math.prod(ids['crop_size']) / typical.prod():.2g}"), ids["batch_size"]
    pasted = ids.get("pasted_crops")
    return [
        f"working resolution {resolution}",
        f"network of {len(ids['channels'])} levels, strides {' x '.join(str(int(step)) for step in steps)} in all: "
        f"a large object is {biggest} voxels long",
        f"{count} crop{'s' * (count > 1)} of {crop} voxels at a time: each has room for {room:g} typical objects",
        *([f"objects pasted into each crop: those of up to {pasted} others of its image"] if pasted else []),
        f"tissue {tissue}",
    ]
