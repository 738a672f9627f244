"""The line before a long work: what will be done, with how much data, on which device."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import ignite.distributed as idist
import torch

from spoco_bundle.core.errors import user_error
from spoco_bundle.formats.lazy import stored_header

logger = logging.getLogger(__name__)


def log_summary(
    work: str,
    images: Mapping[str, Sequence[Mapping[str, str]]],
    device: torch.device | str,
    plan: Mapping[str, object] | None = None,
    spatial_dims: int = 3,
    axes: str | None = None,
) -> None:
    """Logs one line, on rank 0 only.

    Args:
        work: what will be done, such as "training".
        images: purpose, such as "to learn from", to items with ``image``.
        device: where the network runs.
        plan: what else is known of the extent, unit to number, such as ``{"epochs": 30}``; None is left out.
        spatial_dims: 2 or 3.
        axes: order of the axes where the files do not say, see ``read_image``.
    """
    if idist.get_rank() != 0:
        return
    counted = [_counted(purpose, items, spatial_dims, axes) for purpose, items in images.items()]
    steps = "".join(f", {number} {unit}" for unit, number in (plan or {}).items() if number is not None)
    logger.info("%s on %s%s: %s", work, device_in_words(device), steps, "; ".join(counted))


def device_in_words(device: torch.device | str) -> str:
    """A device as a person knows it: the name of the GPU, or the CPU with its number of threads."""
    device = torch.device(device)
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    threads = torch.get_num_threads()
    return f"{device} ({threads} thread{'s' * (threads > 1)})" if device.type == "cpu" else str(device)


def _counted(purpose: str, items: Sequence[Mapping[str, str]], spatial_dims: int, axes: str | None) -> str:
    voxels = 0
    for item in items:
        try:
            stored = stored_header(item["image"], spatial_dims, axes)
        except Exception as error:
            # what the user has to mend the work itself names, and goes on with the others
            if user_error(error) is None:
                raise
            continue
        voxels += stored.voxels if stored else 0
    told = f"{len(items)} image{'s' * (len(items) != 1)} {purpose}".strip()
    return told + (f" ({voxels:,} voxels)" if voxels else "")
