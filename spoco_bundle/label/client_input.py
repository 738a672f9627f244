"""What clients may ask for, in which words: names of images, and the parameters of each kind of work.

Only what is named here reaches MONAI Label. It would merge everything else into what it runs: into a configuration,
where a text that begins with ``$`` is code, or into the environment of a process.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from spoco_bundle.core.errors import SpocoError

logger = logging.getLogger(__name__)

#: ends of names of images and labels that are read and written
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".ome.tif", ".tif", ".tiff", ".png", ".jpg")
LONGEST_NAME = 200


def check_name(kind: str, name: Any) -> str:
    """A name of an image or a tag that leads to no other folder.

    Args:
        kind: what it names, for the message.
        name: as a client sent it.

    Returns:
        The name.

    Raises:
        SpocoError: if it is no text, empty, hidden, too long, or holds a slash, a backslash or a control character.
    """
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
        raise SpocoError(f"{kind} {str(name)[:60]!r}: give a name of 1 to {LONGEST_NAME} characters")
    if name.startswith(".") or re.search(r"[/\\\x00-\x1f\x7f]", name):
        raise SpocoError(f"{kind} {name!r}: give a plain name, no path: without slashes, not beginning with a dot")
    return name


def is_inside(folder: str | Path, path: str | Path) -> bool:
    """Whether a path lies in a folder once all links on the way are followed."""
    return Path(path).resolve().is_relative_to(Path(folder).resolve())


def _device(key: str, name: Any) -> str:
    """A device that this machine has.

    ``cuda`` without a number passes on a machine without a GPU, where MONAI Label computes on the CPU instead: it is
    what clients ask for unless they are told otherwise.
    """
    if isinstance(name, list) and name:  # clients send the list that they were offered
        name = name[0]
    count = torch.cuda.device_count()
    have = ", ".join(["cpu", *(f"cuda:{number}" for number in range(count))])
    if name in (torch.cuda.get_device_name(number) for number in range(count)):
        return name
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise SpocoError(f"{key} {name!r}: is none; choose one of {have}") from error
    known = {"cpu": True, "cuda": device.index is None or device.index < count}
    if not known.get(device.type, device.type == "mps" and torch.backends.mps.is_available()):
        raise SpocoError(f"{key} {name!r}: this machine has none such; choose one of {have}")
    return str(device)


def _checked(asked: Mapping[str, Any], kinds: Mapping[str, Callable[[str, Any], Any]], work: str) -> dict[str, Any]:
    """The known parameters of what a client asks for; one with a value that it cannot have raises SpocoError."""
    others = sorted(str(key)[:60] for key in asked if key not in kinds)
    if others:
        logger.warning("parameters of %s that are not used here: %s", work, ", ".join(others))
    return {key: check(key, asked[key]) for key, check in kinds.items() if asked.get(key) is not None}


def _yes_or_no(key: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise SpocoError(f"{key} {str(value)[:60]!r}: give true or false")


def _number(least: int, most: int) -> Callable[[str, Any], int]:
    def check(key: str, value: Any) -> int:
        if not isinstance(value, bool) and re.fullmatch(r"\d{1,9}", str(value)) and least <= int(value) <= most:
            return int(value)
        raise SpocoError(f"{key} {str(value)[:60]!r}: give a whole number from {least} to {most:,}")

    return check


def _one_of(*values: str) -> Callable[[str, Any], str]:
    def check(key: str, value: Any) -> str:
        if value in values:
            return value
        raise SpocoError(f"{key} {str(value)[:60]!r}: give one of {', '.join(values)}")

    return check


def _gpus(key: str, value: Any) -> str:
    if re.fullmatch(r"all|\d+(,\d+)*", str(value)):
        return str(value)
    raise SpocoError(f"{key} {str(value)[:60]!r}: give all, or numbers with commas between")


def _text(key: str, value: Any) -> str:
    return str(value)[:LONGEST_NAME]


_TYPES = ("uint8", "uint16", "uint32", "int16", "int32", "float32")
_TRAINING: dict[str, Callable[[str, Any], Any]] = {
    "max_epochs": _number(1, 1_000_000),
    "pretrained": _yes_or_no,
    "device": _device,
    "multi_gpu": _yes_or_no,
    "force_multi_gpu": _yes_or_no,
    "gpus": _gpus,
}
_INFERENCE: dict[str, Callable[[str, Any], Any]] = {
    "device": _device,
    "result_extension": _one_of(*SUFFIXES),
    "result_dtype": _one_of(*_TYPES),
    "result_compress": _yes_or_no,
    "show_confirmed": _yes_or_no,
    "save_label": _yes_or_no,
    "label_tag": check_name,
}
_SEVERAL_IMAGES: dict[str, Callable[[str, Any], Any]] = {
    "device": _device,
    "multi_gpu": _yes_or_no,
    "gpus": _gpus,
    "save_label": _yes_or_no,
    "label_tag": check_name,
    "max_workers": _number(0, 64),
    "max_batch_size": _number(0, 1_000_000),
}
_PROPOSAL: dict[str, Callable[[str, Any], Any]] = {
    "count": _number(1, 1000),
    "max_images": _number(1, 100_000),
    "device": _device,
    "client_id": _text,
}

#: what a client asks for to its known parameters, checked; image and model of a prediction are not among them
training_request = partial(_checked, kinds=_TRAINING, work="a training")
inference_request = partial(_checked, kinds=_INFERENCE, work="a prediction")
several_images_request = partial(_checked, kinds=_SEVERAL_IMAGES, work="predictions")
proposal_request = partial(_checked, kinds=_PROPOSAL, work="active learning")
