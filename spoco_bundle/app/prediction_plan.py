"""Which images are predicted in one piece, and which block by block."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from spoco_bundle.app.config import find_config, json_content, read_configs
from spoco_bundle.app.config_checks import top_id
from spoco_bundle.blockwise.memory import available_memory, readable, whole_memory, window_voxels
from spoco_bundle.blockwise.working import readable_image
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.per_axis import per_axis
from spoco_bundle.dataset import build_datalist
from spoco_bundle.formats.files import is_zarr
from spoco_bundle.formats.geometry import checked_spacing
from spoco_bundle.formats.lazy import stored_header
from spoco_bundle.networks import load_weights

#: what is predicted in one piece, and block by block: the configs that do it, base first
WHOLE, BLOCKWISE = ("inference",), ("inference", "inference_blockwise")

logger = logging.getLogger(__name__)


def plan_predictions(
    overlays: Sequence[Path], overrides: dict[str, Any], blockwise: str, max_memory: str | None
) -> list[tuple[tuple[str, ...], list[str], dict[str, Any]]]:
    """Sorts the images of a prediction by the config that they need, and says what memory they take.

    Args:
        overlays: configs on top of either.
        overrides: ids that the user set, ``dataset_dir`` among them.
        blockwise: "auto", "True" or "False". OME-Zarr is always predicted blockwise, and so is everything where an id
            is set that only the blockwise config has.
        max_memory: see ``available_memory``.

    Returns:
        Names of the configs, paths of their images, and further overrides, for each config that is needed.

    Raises:
        SpocoError: for an unknown id, a missing image, weights that do not fit, a choice that is none of the three, or
            one that an image or another option contradicts.
    """
    choice = blockwise.lower()
    if choice not in ("auto", "true", "false"):
        raise SpocoError(f"--blockwise {blockwise}: give auto, True or False")
    given = [*overrides, *(key for overlay in overlays for key in json_content(overlay))]
    whole_ids, blockwise_ids = (json_content(find_config(base[-1])).keys() for base in (WHOLE, BLOCKWISE))
    only = [key for key in given if top_id(key) in blockwise_ids - whole_ids]
    if only and choice == "false":
        raise SpocoError(f"--{only[0]}: has an effect block by block alone: leave it or --blockwise False out")
    base = BLOCKWISE if only or choice == "true" else WHOLE
    parser = read_configs([*map(find_config, base), *overlays], overrides)
    left = available_memory(max_memory)
    endings = {name: parser.get_parsed_content(name) for name in ("image_ending", "foreground_ending")}
    items = build_datalist(overrides["dataset_dir"], "predict", **endings)
    working = parser.get_parsed_content("working_spacing")
    load_weights(working.network, parser.get_parsed_content("weights_file"))
    plans: dict[tuple[str, ...], list[str]] = {}
    whole: list[tuple[float, str]] = []
    for item in items:
        path = item["image"]
        plan = BLOCKWISE if base == BLOCKWISE or is_zarr(path) else WHOLE
        need = None
        if plan == BLOCKWISE and choice == "false":
            raise SpocoError(f"{path}: OME-Zarr is predicted block by block: leave --blockwise False out")
        if plan == WHOLE:
            # a bad image among good ones is named when its turn comes
            with contextlib.suppress(SpocoError):
                need = _need(parser, working, path, left)
        if need is not None:
            plan = BLOCKWISE if choice == "auto" and need > left else WHOLE
            if plan == WHOLE:
                whole.append((need, path))
            else:
                logger.info("%s: %s as a whole, goes block by block", path, _share(need, left))
        plans.setdefault(plan, []).append(path)
    if whole:
        need, path = max(whole)
        others = ""
        if len(whole) > 1:
            count = len(whole) - 1
            others = "; so does the other image, which is" if count == 1 else f"; so do the {count} others, which are"
            others += " no larger"
        logger.info("%s: %s as a whole, goes in one piece%s", path, _share(need, left), others)
    extra = {BLOCKWISE: {} if max_memory is None else {"max_memory": max_memory}, WHOLE: {}}
    flat = parser.get_parsed_content("spatial_dims") == 2
    on_cpu = torch.device(parser.get_parsed_content("device")).type == "cpu"
    if "processes" in given and BLOCKWISE in plans:
        raise SpocoError(
            f"--processes: {plans[BLOCKWISE][0]} goes block by block, which has --workers: predict it by itself"
        )
    if whole and flat and on_cpu and sys.platform == "linux" and "processes" not in given:
        # a flat image is too small to keep several threads busy
        extra[WHOLE]["processes"] = max(1, min(torch.get_num_threads(), int(left // max(whole)[0])))
    return [(plan, images, extra[plan]) for plan, images in plans.items()]


def _share(need: float, left: float) -> str:
    return f"about {readable(need)} of {readable(left)} free memory"


def _need(parser: Any, working: Any, path: str, memory: float) -> float | None:
    """Bytes that an image takes in one piece with so much free memory; None where its header is not read here."""
    dims, axes, spacing, assumed, embedding, objectness, channels, window, most = (
        parser.get_parsed_content(key)
        for key in (
            *("spatial_dims", "axes", "spacing", "assumed_spacing", "embedding_channels", "objectness", "channels"),
            *("window_size", "window_voxels"),
        )
    )
    stored = stored_header(path, dims, axes)
    if stored is None:
        return None
    taken = spacing or (assumed if stored.spacing is None else None)
    if taken is not None:
        stored.take_spacing(checked_spacing(taken, dims))
    seen = working.foresee(readable_image(stored, str(path), "" if spacing else stored.stated_size))
    return whole_memory(
        math.prod(seen),
        stored.channels,
        embedding + int(objectness),
        channels[0],
        window_voxels(most, memory, channels[0])
        if window is None
        else math.prod(per_axis("window_size", window, dims)),
        0 if seen == stored.shape else stored.voxels,
    )
