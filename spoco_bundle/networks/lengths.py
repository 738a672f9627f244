"""In which lengths a network works: micrometres, pixels, or numbers without a unit; decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import MICROMETER, PIXEL, UNITLESS, in_words

#: values of the buffer ``length_unit`` of a network, from 0
_UNITS = ("", MICROMETER, PIXEL, UNITLESS)
#: ratio along an axis up to which two spacings count as alike
_ALIKE = 1.5


def with_length_unit(state: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A state dict with the entry ``length_unit``, which weights of version 0.1 lack.

    There a training spacing of exactly 1 along all axes stood for files without a known size.

    Args:
        state: of a network with the buffers of ``EmbeddingUNet``, or of anything else, which is returned as it is.
        prefix: put before its names.
    """
    name, spacing = f"{prefix}length_unit", state.get(f"{prefix}training_spacing")
    if name in state or spacing is None:
        return state
    unit = "" if not (spacing > 0).all() else PIXEL if (spacing == 1).all() else MICROMETER
    return state | {name: torch.tensor(_UNITS.index(unit))}


def learnt_lengths(network: nn.Module | None) -> tuple[tuple[float, ...] | None, str]:
    """The training spacing and its unit, ``"micrometer"``, ``"pixel"`` or ``"unknown"``; None and "" while unset."""
    spacing = getattr(network, "training_spacing", None)
    if spacing is None or not bool((spacing > 0).all()):
        return None, ""
    return tuple(float(f"{step:.7g}") for step in spacing.tolist()), _UNITS[int(network.length_unit)]


def learnt_diameter(network: nn.Module | None) -> float | None:
    """Diameter of the typical object that a network learnt, in the unit of its lengths; None where it says none.

    The coordinate scale is half the median radius.
    """
    scale = float(getattr(network, "coordinate_scale", 0.0))
    return 4 * scale if scale > 0 else None


def learn_lengths(network: nn.Module, spacing: Sequence[float], unit: str) -> None:
    """Writes the spacing of the training, in one of the three units, into the buffers of a network."""
    network.training_spacing.copy_(torch.as_tensor(spacing))
    network.length_unit.fill_(_UNITS.index(unit))


def spacing_for(
    network: nn.Module | None,
    spacing: Sequence[float] | None,
    unit: str,
    name: str = "the image",
    stated_size: str = "",
) -> tuple[tuple[float, ...] | None, str | None]:
    """The spacing with which a network sees an image, and what a person should know about it.

    Lengths are compared in one unit only. A network that learnt pixels takes the pixels of any image as those of its
    training. One that learnt micrometres takes the micrometres of the image; where the image has none, it is taken to
    have the spacing of the training. While a network has learnt nothing, the image's own lengths hold.

    Args:
        network: with the buffers of ``EmbeddingUNet``; None where there is none.
        spacing: the image's along z, y, x or y, x; None where unknown.
        unit: of ``spacing``, see ``length_unit`` of ``formats.geometry``.
        name: the file, for messages.
        stated_size: the voxel size in the words of the file, for messages.

    Returns:
        The spacing, None where it is a pixel; and one line, or None where there is nothing to say.

    Raises:
        SpocoError: if the network was trained with another number of axes.
    """
    own = None if spacing is None else tuple(spacing)
    trained, learnt = learnt_lengths(network)
    if trained is not None and own is not None and len(trained) != len(own):
        raise SpocoError(f"{name}: has {len(own)} axes where the network was trained on {len(trained)}")
    states = f"states a voxel size of {stated_size}" if stated_size else "does not say its voxel size"
    remedy = "; --spacing gives it, in micrometres"
    if trained is None:
        if unit == MICROMETER:
            return own, None
        counted = "its lengths are counted in pixels" if own is None else "its numbers are taken as they are"
        return own, f"{name}: {states}: {counted}{remedy}"
    if learnt == PIXEL:
        return trained, None
    if unit != learnt:
        return trained, f"{name}: {states}: that of the training, {in_words(trained, learnt)}, is assumed{remedy}"
    if alike_spacings(own, trained):
        return own, None
    return own, (
        f"{name}: its voxel size {in_words(own, unit)} differs from that of the training, {in_words(trained, learnt)}, "
        f"by more than {_ALIKE:g} times: objects may be missed; correct it with --spacing, or set --target_spacing"
    )


def alike_spacings(one: Sequence[float], other: Sequence[float], tolerance: float = _ALIKE) -> bool:
    """Whether two spacings in the same unit differ by no more than a ratio of ``tolerance`` along any axis."""
    return all(1 / tolerance <= a / b <= tolerance for a, b in zip(one, other, strict=True))
