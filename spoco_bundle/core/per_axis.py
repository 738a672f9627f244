"""Numbers of voxels that may be given once for all axes."""

from __future__ import annotations

from collections.abc import Sequence

from spoco_bundle.core.errors import SpocoError


def per_axis(name: str, value: int | Sequence[int], dims: int, least: int = 0) -> tuple[int, ...]:
    """One whole number per axis, from one for all or a sequence.

    Args:
        name: what is given, for the message.
        value: a whole number, or one per axis in the order z, y, x (or y, x).
        dims: number of axes.
        least: smallest number that makes sense.

    Raises:
        SpocoError: if the number of axes differs, or a number is too small.
    """
    values = (value,) * dims if isinstance(value, int) else tuple(int(part) for part in value)
    if len(values) != dims or min(values) < least:
        raise SpocoError(f"{name} is {value}: give one whole number of at least {least}, or {dims} for a {dims}D image")
    return values
