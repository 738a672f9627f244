"""Checks of config ids before anything runs: names that exist, values of the right type and in range."""

from __future__ import annotations

import difflib
import inspect
import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser
from monai.networks.layers.factories import Norm

from spoco_bundle.core.errors import SpocoError, report_last_on_stderr
from spoco_bundle.losses.objectness import OBJECTNESS_TARGETS

_REFERENCE = re.compile(r"[@%](\w+)")


class Rule(NamedTuple):
    """What a value has to be, in words and as a test; ``optional`` allows null."""

    words: str
    holds: Callable[[Any], bool]
    optional: bool = False


def config_folder() -> Path:
    """The folder of the JSON configs: of the bundle folder this package lies in, else of the installed package."""
    package = Path(__file__).resolve().parent.parent
    beside = package.parent / "configs"
    return beside if (beside / "train.json").is_file() else package / "configs"


def whole(low: int, high: float = math.inf, optional: bool = False) -> Rule:
    """A whole number from ``low`` to ``high``."""
    words = f"a whole number of at least {low}" if high == math.inf else f"a whole number from {low} to {high}"
    return Rule(words, lambda value: _is_whole(value) and low <= value <= high, optional)


def number(words: str, holds: Callable[[float], bool], optional: bool = False) -> Rule:
    """A finite number for which something holds."""
    return Rule(words, lambda value: _is_number(value) and holds(value), optional)


def choice(*names: str) -> Rule:
    """One of a few names."""
    return Rule("one of " + ", ".join(names), lambda value: value in names)


def numbers(words: str, one: Rule, single: bool = False, optional: bool = False) -> Rule:
    """A list of numbers for each of which a rule holds; ``single`` allows one number in place of the list."""

    def holds(value: Any) -> bool:
        return single and one.holds(value) or _is_list(value) and all(one.holds(item) for item in value)

    return Rule(words, holds, optional)


_SIZES = numbers("a list of whole numbers of at least 1, one per axis", whole(1))
_LENGTHS = numbers("a list of positive numbers in the order z, y, x", number("", lambda v: v > 0), optional=True)
_BLOCKS = numbers("whole numbers of at least 1, one per axis or one for all", whole(1), single=True)
_POSITIVE = number("a number above 0", lambda value: value > 0)
_TEXT = Rule("a text", lambda value: isinstance(value, str))
_PATH = Rule("a path", lambda value: _is_path(value) and bool(str(value)))

#: rules of the ids whose range cannot be told from their default
RULES: dict[str, Rule] = {
    "dataset_dir": Rule(
        "a path, or a list of paths for prediction", lambda v: bool(v) and (_is_list(v) or _is_text(v))
    ),
    "ckpt_dir": _PATH,
    "checkpoint_dir": _PATH,
    "output_dir": _PATH,
    "image_ending": _TEXT,
    "label_ending": _TEXT,
    "foreground_ending": _TEXT._replace(optional=True),
    "seed": whole(0, 2**31 - 1),
    "spatial_dims": Rule("2 or 3", lambda value: _is_whole(value) and value in (2, 3)),
    "in_channels": whole(1),
    "axes": _TEXT._replace(words="letters such as ZYX", optional=True),
    "spacing": _LENGTHS,
    "target_spacing": _LENGTHS,
    "supervision": choice("sparse", "dense"),
    "background_label": Rule("a whole number", lambda value: _is_whole(value), optional=True),
    "ignore_label": Rule("a whole number", lambda value: _is_whole(value), optional=True),
    "keep_fraction": number("a number above 0, at most 1", lambda value: 0 < value <= 1),
    "keep_seed": whole(0, 2**31 - 1),
    "holdout_fraction": number("a number between 0 and 1", lambda value: 0 < value < 1, optional=True),
    "embedding_channels": whole(1),
    "coordinate_channels": Rule("0 or the number of spatial dimensions", lambda v: _is_whole(v) and v in (0, 2, 3)),
    "coordinate_scale": _POSITIVE._replace(optional=True),
    "coordinate_radii": _POSITIVE,
    "objectness_unlabeled_weight": number("a number of at least 0", lambda value: value >= 0),
    "objectness_shell": whole(0),
    "objectness_target": choice(*OBJECTNESS_TARGETS),
    "channels": numbers("a list of whole numbers of at least 1, one per level", whole(1)),
    "strides": numbers("a list with one whole number or one list of them per step down", Rule("", lambda v: _steps(v))),
    "kernel_sizes": numbers("a list with one odd number or one list of them per level", Rule("", lambda v: _odd(v))),
    "convolutions": numbers("a whole number of at least 1, or a list of them", whole(1), single=True),
    "norm": Rule("the name of a normalization such as batch or instance", lambda v: _is_norm(v), True),
    "device": Rule("a device that this machine has, such as cpu or cuda:0", lambda v: _is_device(v)),
    "dropout": number("a number of at least 0, below 1", lambda value: 0 <= value < 1),
    "crop_size": _SIZES,
    "batch_size": whole(1),
    "num_workers": whole(0),
    "cache_rate": number("a number from 0 to 1", lambda value: 0 <= value <= 1),
    "iterations_per_epoch": whole(1),
    "max_epochs": whole(1),
    "learning_rate": _POSITIVE,
    "weight_decay": number("a number of at least 0", lambda value: value >= 0),
    "momentum": number("a number of at least 0, below 1", lambda value: 0 <= value < 1),
    "max_grad_norm": _POSITIVE._replace(optional=True),
    "precision": choice("auto", "float32", "bfloat16"),
    "val_interval": whole(1),
    "validate_with": choice("teacher", "student"),
    "partly_labelled": Rule("true or false", lambda value: isinstance(value, bool)),
    "early_stopping_epochs": whole(1, optional=True),
    "objectness_threshold": number("a number between 0 and 1", lambda value: 0 < value < 1),
    "extent_threshold": number("a number from 0 to 1", lambda value: 0 <= value <= 1, optional=True),
    "min_fraction": number("a number of at least 0", lambda value: value >= 0, optional=True),
    "window_size": _BLOCKS._replace(optional=True),
    "window_halo": numbers(
        "whole numbers of at least 0, one per axis or one for all", whole(0), single=True, optional=True
    ),
    "pretrained": _PATH._replace(optional=True),
    "pretrained_student": _PATH._replace(optional=True),
    "resume": Rule(
        "true or false, or for training also last, previous or the path of a checkpoint",
        lambda value: isinstance(value, (bool, str)),
    ),
    "checkpoint_interval": whole(0),
    "weights": choice("teacher", "student"),
    "output": _PATH._replace(optional=True),
    "channel": whole(0, optional=True),
    "time": whole(0, optional=True),
    "block_size": _BLOCKS._replace(optional=True),
    "largest_block": _BLOCKS,
    "chunk_size": _BLOCKS,
    "overlap": numbers(
        "whole numbers of at least 0, one per axis or one for all", whole(0), single=True, optional=True
    ),
    "overlap_diameters": number("a number of at least 0", lambda value: value >= 0),
    "stitch_share": number("a number above 0, at most 1", lambda value: 0 < value <= 1),
    "stitch_voxels": whole(0, optional=True),
    "stitch_distance": number("a number of at least 0", lambda value: value >= 0),
    "window_voxels": whole(1),
    "coarsest_level": whole(1),
    "sample_voxels": whole(1),
    "scheduler": Rule("threads, processes, or the address of a Dask scheduler", lambda v: bool(v) and _is_text(v)),
    "workers": whole(1),
    "network_threads": whole(1, optional=True),
    "retries": whole(0),
    "max_memory": Rule("a size such as 4GiB", lambda v: _is_text(v) or _is_number(v) and v > 0, optional=True),
}


def top_id(key: str) -> str:
    """The id at the top level that a key such as ``clustering#method`` (or with ``::``) lies in."""
    return key.replace("::", "#").split("#")[0]


def check_ids(config: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuses ids that are not known, and plain values that cannot be right.

    Expressions and references (``$...``, ``@...``, ``%...``) and components are left to MONAI.

    Args:
        config: id to value; ``#`` in an id goes one level down.
        known: ids that exist at the top level.
        where: put before the id in messages: ``--`` for the command line, or a file and a colon.

    Raises:
        SpocoError: at the first wrong id; the message names the nearest one, or what the value should be.
    """
    for name, value in config.items():
        top = top_id(name)
        if top not in known:
            raise SpocoError(f"{where}{name}: no such id{nearest(top, known, where)}")
        rule = RULES.get(name) or _rule_of(_defaults().get(name))
        if rule is None or _is_left_to_monai(value) or value is None and rule.optional:
            continue
        if not rule.holds(value):
            raise SpocoError(f"{where}{name}: {value!r} does not fit; give {rule.words}")


def check_together(config: Mapping[str, Any], where: str) -> None:
    """Refuses references to nothing, and lists that do not have one number per spatial axis.

    Args:
        config: the merged config, defaults included.
        where: put before ids in messages, as in ``check_ids``.

    Raises:
        SpocoError: at the first that does not fit.
    """
    for name, value in config.items():
        missing = sorted(referred_ids(value) - set(config))
        if missing:
            raise SpocoError(
                f"{where}{name}: refers to @{missing[0]}, which is no id{nearest(missing[0], config, '@')}"
            )
    if config.get("pretrained_student") is not None and config.get("pretrained") is None:
        raise SpocoError(
            f"{where}pretrained_student: is for a teacher that goes on too; give {where}pretrained as well"
        )
    axes = config.get("spatial_dims")
    if _is_left_to_monai(axes):
        return
    for name in (
        *("crop_size", "window_size", "window_halo", "spacing", "target_spacing"),
        *("block_size", "largest_block", "chunk_size", "overlap"),
    ):
        if _is_list(config.get(name)) and len(config[name]) != axes:
            raise SpocoError(f"{where}{name}: {config[name]!r} does not fit; give {axes} numbers, one per axis")
    channels = config.get("coordinate_channels", 0)
    if not _is_left_to_monai(channels) and channels not in (0, axes):
        raise SpocoError(f"{where}coordinate_channels: {channels} does not fit; give 0 or {axes}, one per axis")


def check_components(config: Any, where: str, place: str = "") -> None:
    """Refuses arguments that a component does not take.

    Args:
        config: a config, or what stands at ``place`` in it.
        where: put before ids in messages, as in ``check_ids``.
        place: id of ``config``, levels joined by ``#``.

    Raises:
        SpocoError: at the first such argument; the message names the nearest one that is taken.
    """
    if isinstance(config, Mapping):
        taken = _arguments(config.get("_target_"))
        for name, value in config.items():
            inner = f"{place}#{name}" if place else str(name)
            if taken is not None and name not in taken and not name.startswith("_"):
                raise SpocoError(
                    f"{where}{inner}: {config['_target_']} takes no {name}{nearest(name, taken, f'{where}{place}#')}"
                )
            check_components(value, where, inner)
    elif _is_list(config):
        for index, value in enumerate(config):
            check_components(value, where, f"{place}#{index}")


def check_running_config() -> None:
    """Checks the ids of the config that MONAI is running, overrides of the command line included.

    To be called from the list that MONAI runs: MONAI adds unknown ids silently, and hands nobody the config, so it is
    taken from the parser up the stack. From here on, errors that the user can mend end with their own line.

    Raises:
        SpocoError: as ``check_ids``.
    """
    report_last_on_stderr()
    parser = running_parser()
    if parser is not None:
        config = parser.get()
        check_ids(config, shipped_ids() | referred_ids(config), "--")
        check_together(config, "--")
        check_components(config, "--")


def running_parser() -> ConfigParser | None:
    """The parser up the stack, where MONAI runs a config that this is called from."""
    frame = inspect.currentframe()
    while frame is not None:
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            return parser
        frame = frame.f_back
    return None


def nearest(name: str, known: Iterable[str], where: str = "--") -> str:
    """The end of a message about an unknown id: the one that was likely meant."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {where if where[0] in '-@' else ''}{near[0]}?" if near else "; see configs/ for the ids"


@cache
def _arguments(target: Any) -> frozenset[str] | None:
    """Names that a component takes; None where it takes any, or cannot be told."""
    if not isinstance(target, str) or target[:1] in ("$", "@", "%"):
        return None
    modules = ("", "monai.transforms.", "monai.data.", "monai.engines.", "monai.handlers.", "monai.inferers.")
    try:
        found = next((part for part in (locate(module + target) for module in modules) if callable(part)), None)
        parameters = inspect.signature(found).parameters.values() if found is not None else ()
    except (TypeError, ValueError, ErrorDuringImport):  # built in, without a signature; MONAI says what is wrong
        return None
    if found is None or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)


@cache
def _defaults() -> dict[str, Any]:
    """Plain values of the shipped configs."""
    found: dict[str, Any] = {}
    for name in ("train", "inference", "inference_blockwise"):
        content = json.loads((config_folder() / f"{name}.json").read_text(encoding="utf-8"))
        found |= {key: value for key, value in content.items() if not _is_left_to_monai(value)}
    return found


@cache
def shipped_ids() -> frozenset[str]:
    """Ids at the top level of all shipped configs, and MONAI's own."""
    names = {"_meta_", "finalize"}
    for file in config_folder().glob("*.json"):
        if file.stem != "metadata":
            names |= {key.split("#")[0] for key in json.loads(file.read_text(encoding="utf-8"))}
    return frozenset(names)


def _rule_of(default: Any) -> Rule | None:
    """The type of a plain default."""
    if isinstance(default, bool):
        return Rule("true or false", lambda value: isinstance(value, bool))
    if isinstance(default, int):
        return Rule("a whole number", _is_whole)
    if isinstance(default, float):
        return Rule("a number", _is_number)
    if isinstance(default, str):
        return _TEXT
    if isinstance(default, list):
        return Rule("a list", _is_list)
    return None


def referred_ids(config: Any) -> set[str]:
    """Ids at the top level that something in a config refers to."""
    if isinstance(config, Mapping):
        return set().union(*(referred_ids(value) for value in config.values()))
    if _is_list(config):
        return set().union(*(referred_ids(value) for value in config))
    if isinstance(config, str) and config[:1] in ("$", "@", "%"):
        return set(_REFERENCE.findall(config))
    return set()


def _is_left_to_monai(value: Any) -> bool:
    return isinstance(value, Mapping) or isinstance(value, str) and value[:1] in ("$", "@", "%")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_norm(value: Any) -> bool:
    name = value[0] if _is_list(value) and value else value
    return isinstance(name, str) and name.upper() in Norm.names


def _is_device(value: Any) -> bool:
    try:
        torch.empty(0, device=value)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError):
        return False
    return True


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _steps(value: Any) -> bool:
    return _is_whole(value) and value >= 1 or _is_list(value) and bool(value) and all(_steps(step) for step in value)


def _odd(value: Any) -> bool:
    return (
        _is_whole(value)
        and value % 2 == 1
        and value > 0
        or (_is_list(value) and bool(value) and all(_odd(size) for size in value))
    )
