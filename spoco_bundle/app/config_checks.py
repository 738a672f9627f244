"""Checks of config ids before anything runs: names that exist, values that ``schema.json`` allows."""

from __future__ import annotations

import difflib
import inspect
import json
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import TYPE_CHECKING, Any

from jsonschema import Draft7Validator, FormatChecker
from jsonschema.validators import extend

from spoco_bundle.core.errors import SpocoError, report_last_on_stderr

if TYPE_CHECKING:
    from jsonschema.protocols import Validator
    from monai.bundle import ConfigParser

#: ids of a run that name files and folders
PLACES = ("bundle_root", "dataset_dir", "ckpt_dir", "output_dir")

#: all ids whose value is a path or a list of paths
PATHS = frozenset({*PLACES, "checkpoint_dir", "output", "pretrained", "pretrained_student", "resume", "tuned_file"})

#: ids whose value is a part of the names of files
ENDINGS = ("image_ending", "label_ending", "foreground_ending")

#: what commands take besides ids
OPTIONS = ("output", "model", "config", "resume", "blockwise", "max_memory", "minutes")

_REFERENCE = re.compile(r"[@%](\w+(?:(?:#|::)\w+)*)")


def config_folder() -> Path:
    """The folder of the JSON configs: of the bundle folder this package lies in, else of the installed package."""
    package = Path(__file__).resolve().parent.parent
    beside = package.parent / "configs"
    return beside if (beside / "train.json").is_file() else package / "configs"


def levels(key: str) -> tuple[str, ...]:
    """The levels of a key such as ``clustering#method``, also with ``::``."""
    return tuple(key.replace("::", "#").split("#"))


def top_id(key: str) -> str:
    """The id at the top level that a key lies in."""
    return levels(key)[0]


def shipped_configs() -> list[Path]:
    """The configs that come with the bundle."""
    return sorted(file for file in config_folder().glob("*.json") if file.stem != "metadata")


def is_expression(value: Any) -> bool:
    """Whether a value is an expression or a reference of MONAI's config language."""
    return isinstance(value, str) and value.startswith(("$", "@", "%"))


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
    for name in config:
        top = top_id(name)
        if top not in known:
            meant = {*known, *OPTIONS} if where == "--" else known
            raise SpocoError(f"{where}{name}: no such id{nearest(top, meant, where)}")
    _check_values(config, where)


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
    _check_values(config, where)
    minutes, tuning = (config.get(name) for name in ("minutes", "tune_minutes"))
    if _is_number(minutes) and _is_number(tuning) and tuning >= minutes:
        raise SpocoError(f"{where}tune_minutes: {tuning} of {minutes} minutes leave no time to train; give less")


def _check_values(config: Mapping[str, Any], where: str) -> None:
    """Refuses plain values that ``schema.json`` does not allow, the first in the order of the config."""
    plain = {name: _as_json(value) for name, value in config.items() if not _is_left_to_monai(value)}
    wrong = {str(error.path[0]): error for error in reversed(list(_validator().iter_errors(plain))) if error.path}
    for name in plain:
        if name in wrong:
            schema = wrong[name].schema
            words = schema.get("description") or _validator().schema["properties"][name]["description"]
            raise SpocoError(f"{where}{name}: {config[name]!r} does not fit; give {words}")


@cache
def _validator() -> Validator:
    """Checks plain values by ``schema.json``, where 1.0 is no whole number and infinity no number."""
    schema = json.loads(Path(__file__).with_name("schema.json").read_text(encoding="utf-8"))
    types = Draft7Validator.TYPE_CHECKER.redefine_many(
        {"integer": lambda _, value: _is_whole(value), "number": lambda _, value: _is_number(value)}
    )
    formats = FormatChecker(formats=())
    formats.checks("device")(_is_device)
    formats.checks("normalization")(_is_norm)
    return extend(Draft7Validator, type_checker=types)(schema, format_checker=formats)


def _as_json(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [_as_json(item) for item in value] if _is_list(value) else value


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

    To be called from the list that MONAI runs, since MONAI adds unknown ids silently. From here on, errors that the
    user can mend end with their own line.

    Raises:
        SpocoError: as ``check_ids``; or for a path in which MONAI has turned ``#`` into ``::``.
    """
    report_last_on_stderr()
    config = running_parser().get()
    check_ids(config, shipped_ids() | referred_ids(config), "--")
    check_together(config, "--")
    check_components(config, "--")
    for name in sorted(PATHS & config.keys()):
        for path in config[name] if _is_list(config[name]) else [config[name]]:
            if "::" in str(path) and not _is_left_to_monai(path):
                raise SpocoError(f"--{name}: {path!r}: no path can hold # or :: here: rename it, or use `spoco`")


def running_parser() -> ConfigParser:
    """The parser of the config that MONAI is running, to be called from the list that it runs."""
    from monai.bundle import ConfigParser

    # MONAI hands its config to nothing that it runs: references give single ids, macros a copy that is run once more
    callers = (info.frame.f_locals.get("self") for info in inspect.stack(0))
    return next(caller for caller in callers if isinstance(caller, ConfigParser))


def nearest(name: str, known: Iterable[str], where: str = "--") -> str:
    """The end of a message about an unknown id: the one that was likely meant."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {where if where[0] in '-@' else ''}{near[0]}?" if near else "; see configs/ for the ids"


@cache
def _arguments(target: Any) -> frozenset[str] | None:
    """Names that a component takes; None where it takes any, or cannot be told."""
    if not isinstance(target, str) or is_expression(target):
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
def shipped_ids() -> frozenset[str]:
    """Ids at the top level of all shipped configs, and MONAI's own."""
    contents = (json.loads(file.read_text(encoding="utf-8")) for file in shipped_configs())
    return frozenset({"_meta_", "finalize"}.union(*(map(top_id, content) for content in contents)))


def code_in(config: Any) -> Iterator[str]:
    """All that runs anything in a config: the targets of components, expressions and references."""
    if isinstance(config, Mapping):
        if config.get("_target_"):
            yield str(config["_target_"])
        for value in config.values():
            yield from code_in(value)
    elif _is_list(config):
        for value in config:
            yield from code_in(value)
    elif is_expression(config):
        yield config


def references(config: Any) -> Iterator[tuple[str, ...]]:
    """The levels of all places that something in a config refers to."""
    return (levels(place) for text in code_in(config) for place in _REFERENCE.findall(text))


def referred_ids(config: Any) -> set[str]:
    """Ids at the top level that something in a config refers to."""
    return {place[0] for place in references(config)}


def _is_left_to_monai(value: Any) -> bool:
    return isinstance(value, Mapping) or is_expression(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _is_norm(value: Any) -> bool:
    from monai.networks.layers.factories import Norm

    name = value[0] if _is_list(value) and value else value
    return value is None or isinstance(name, str) and name.upper() in Norm.names


def _is_device(value: Any) -> bool:
    import torch

    try:
        torch.empty(0, device=value)
    except (RuntimeError, AssertionError, TypeError):
        return False
    return True
