"""How much memory there is, and how much a prediction needs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress

import psutil

from spoco_bundle.core.control_groups import control_groups
from spoco_bundle.core.errors import SpocoError

GIB = 2**30
# Measured with scripts/benchmark_blockwise.py; see docs/measurements/large_volumes.md.
PROCESS = 0.7 * GIB  # Python, torch and MONAI before they do anything
WINDOW_FEATURE_BYTES = 52  # a window's activations, per voxel and feature channel of the full resolution
CLUSTER_BYTES = 40  # labels, masks and connected parts, per voxel
RESTORE_BYTES = 16  # labels on the image's grid where the network worked on another, per voxel of the image
CLUSTER_SLABS = 0.2 * GIB  # embeddings that the clustering looks at together
_SUFFIXES = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def available_memory(max_memory: str | float | None = None) -> float:
    """Bytes that this process may take: the least of free memory, limits of the process and its control groups.

    Args:
        max_memory: a limit of the user's, such as ``"4GiB"`` or ``"500MB"``; a plain number counts GiB. None sets none.

    Raises:
        SpocoError: if the limit is no size.
    """
    limits = [psutil.virtual_memory().available, *_group_limits()]
    process = psutil.Process()
    if hasattr(psutil, "RLIMIT_AS"):
        used = process.memory_info()
        for kind, taken in ((psutil.RLIMIT_AS, used.vms), (psutil.RLIMIT_DATA, used.data)):
            soft = process.rlimit(kind)[0]
            if soft != psutil.RLIM_INFINITY:
                limits.append(soft - taken)
    if max_memory is not None:
        limits.append(_size(max_memory))
    return float(max(0, min(limits)))


def window_voxels(most: float, memory: float, features: int) -> float:
    """Voxels of a window of the network: at most `most`, and no more than half of the memory (bytes) allows.

    Args:
        most: voxels.
        memory: that is free.
        features: feature channels of the network at full resolution.
    """
    return min(most, memory / 2 / (WINDOW_FEATURE_BYTES * features))


def whole_memory(voxels: int, channels: int, outputs: int, features: int, window: int, stored: int = 0) -> float:
    """Bytes that predicting a volume in one piece takes.

    Args:
        voxels: of the volume, as the network sees it.
        channels: of the image.
        outputs: channels of the network's output.
        features: feature channels of the network at full resolution.
        window: voxels of a window of the network.
        stored: voxels of the image that it is resampled from, 0 where it is the same.
    """
    image, output = 4 * channels * voxels, 4 * outputs * voxels
    # the image as read, as float32, and normalised
    network = 3 * image + output + WINDOW_FEATURE_BYTES * features * min(voxels, window)
    clustering = image + 2 * output + CLUSTER_BYTES * voxels + CLUSTER_SLABS
    resampling = image + 3 * 4 * channels * stored
    restoring = image + output + RESTORE_BYTES * stored
    return PROCESS + max(network, clustering, resampling, restoring)


def block_memory(
    read: Sequence[int],
    label: Sequence[int],
    channels: int,
    outputs: int,
    features: int,
    window: int,
    resampled: int = 0,
    restored: int = 0,
) -> float:
    """Bytes that one worker takes for a block, on top of its process.

    Args:
        read: shape of the region that the network sees.
        label: shape of the region that is clustered.
        channels: of the image.
        outputs: channels of the network's output.
        features: feature channels of the network at full resolution.
        window: voxels of a window of the network.
        resampled: voxels of the image that are resampled at a time; 0 where the network sees the image's own.
        restored: voxels of the image that get labels; 0 where the network sees the image's own.
    """
    seen, labelled = math.prod(read), math.prod(label)
    reading = 3 * 4 * channels * (seen + resampled)
    network = 3 * 4 * channels * seen + 4 * outputs * labelled + WINDOW_FEATURE_BYTES * features * min(seen, window)
    clustering = 2 * 4 * outputs * labelled + CLUSTER_BYTES * labelled + CLUSTER_SLABS
    return max(reading, network, clustering + RESTORE_BYTES * restored)


def readable(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / GIB:.1f} GiB"


def _size(text: str | float) -> float:
    match = re.fullmatch(r"\s*([0-9.]+)\s*([a-z]?)i?b?\s*", str(text).lower())
    try:
        number, unit = float(match.group(1)), match.group(2)  # type: ignore[union-attr]
        size = number * (_SUFFIXES[unit] if unit or "b" in str(text).lower() else GIB)
    except (AttributeError, ValueError, KeyError):
        size = 0.0
    if size <= 0:
        raise SpocoError(f"max_memory is {text}: give a size such as 4GiB or 500MB")
    return size


def _group_limits() -> list[float]:
    """What the control groups of this process leave, where they limit it."""
    found = []
    for folder in control_groups("memory"):
        for names in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            with suppress(OSError):
                limit, used = ((folder / name).read_text().strip() for name in names)
                if limit != "max" and float(limit) < 2**60:
                    found.append(float(limit) - float(used))
    return found
