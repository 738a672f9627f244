"""What stands on the command line: as fire is to read it, and what it would misread."""

from __future__ import annotations

import difflib
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.names import IMAGE_SUFFIXES

# values as configs write them, which fire would take for texts
_JSON_WORDS = {"true": "True", "false": "False", "null": "None"}


def spelled_out(arguments: list[str], commands: type) -> list[str]:
    """The command line as fire is to read it: names are taken letter by letter, and no more than the command takes.

    fire would read an image named ``001`` as the number 1, ``--invert false`` as a text and ``--label_ending -label``
    as two options, take the last of an option given twice, and hand a name too many to what the command returns.

    Args:
        arguments: what stands behind ``spoco``.
        commands: class whose methods are the commands.

    Raises:
        SpocoError: if there is no such command, a command that works on one folder is given several, or an option comes
            twice or without the name it asks for.
    """
    command, *rest = arguments or ["--help"]
    command = command if command.startswith("-") else command.replace("-", "_")
    if {"-h", "--help"} & {command, *rest}:
        # fire would load it to say what docstrings say
        sys.modules.setdefault("IPython", None)
        return [*([command] if hasattr(commands, command) else []), "--", "--help"]
    if command.startswith("-"):
        return arguments
    if not hasattr(commands, command):
        known = [name for name in vars(commands) if not name.startswith("_")]
        near = difflib.get_close_matches(command, known, n=1) or [", ".join(known)]
        raise SpocoError(f"{command}: no such command; did you mean {near[0]}? `spoco --help` says what there is")
    options, takes_ids = _options_of(getattr(commands, command))
    spelled, names, value_of = [], [], ""
    given: dict[str, bool] = {}  # options, and whether they have a value
    for argument in rest:
        if value_of.endswith("_ending") and re.match("-[^-]", argument):
            spelled[-1] += f"={argument}"
            value_of = ""
            continue
        if re.match("--|-[a-zA-Z]", argument):
            word, equals, value = argument.partition("=")
            name = _full_name(word, options)
            if not takes_ids and name.removeprefix("no") not in options:
                known = ", ".join(f"--{option}" for option in options)
                raise SpocoError(f"--{name}: no such option of spoco {command}, which takes {known}")
            if name in given:
                raise SpocoError(f"--{name}: is given twice; give it once, several configs with commas between")
            given[name] = bool(equals)
            value_of = "" if equals else name
            argument = f"--{name}{equals}{_JSON_WORDS.get(value, value)}"
        elif value_of:
            given[value_of] = True
            value_of = ""
            argument = _JSON_WORDS.get(argument, argument)
        else:
            names.append(argument)
            argument = repr(argument) if command == "predict" else argument
        spelled.append(argument)
    for name, kind in options.items():
        if kind == "str" and not given.get(name, True):
            raise SpocoError(f"--{name}: names nothing; write the name behind it")
    if len(names) > 1 and command != "predict":
        raise SpocoError(
            f"{names[1]}: spoco {command} takes one name, {names[0]} here; name a folder to write to with --output"
        )
    return [command, *spelled]


def _options_of(command: Callable) -> tuple[dict[str, str], bool]:
    """The options of a command with their types as written, and whether it takes ids of a config besides."""
    parameters = inspect.signature(command).parameters.values()
    others = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    own = {one.name: one.annotation for one in parameters if one.name != "self" and one.kind not in others}
    return own, any(one.kind == inspect.Parameter.VAR_KEYWORD for one in parameters)


def _full_name(word: str, options: Iterable[str]) -> str:
    """The option or id meant: ``-o`` is the one option that begins with an o, as the help says."""
    name = word.lstrip("-").replace("-", "_")
    meant = [option for option in options if name == option[0]]
    return meant[0] if len(meant) == 1 else name


def refuse_places(overrides: dict[str, Any], **instead: str) -> None:
    """Refuses ids of places that an option of the command names."""
    for name in overrides.keys() & instead.keys():
        raise SpocoError(f"--{name}: give {instead[name]}, which this command goes by")


def check_switch(name: str, value: Any) -> None:
    """Refuses a switch that fire gave the word behind it."""
    if not isinstance(value, bool):
        raise SpocoError(f"--{name} {value}: is True or False: put it behind the names, or write --{name} True")


def check_number(name: str, value: Any, least: int, kinds: tuple[type, ...] = (int,)) -> None:
    """Refuses what is no number of these kinds, or too small a one."""
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < math.inf:
        raise SpocoError(f"--{name} {value}: give a {'' if float in kinds else 'whole '}number of at least {least}")


def check_config_file(output: str, source: str) -> None:
    """Refuses a file of settings that ``--config`` would take for the name of a shipped config.

    Raises:
        SpocoError: if it does not end with ``.json``, or is the datalist ``source`` itself.
    """
    if Path(output).resolve() == Path(source).resolve():
        raise SpocoError(f"--output {output}: would overwrite the datalist; name another file")
    if not output.endswith(".json"):
        raise SpocoError(f"--output {output}: name a file that ends with .json, such as {output.rstrip('/')}.json")


def check_folder(output: str) -> None:
    """Refuses a folder for results that is called like one of them, or cannot be written to.

    Raises:
        SpocoError: if it ends like a file and is no folder yet, or it or its parent is no folder to write to.
    """
    path = Path(output)
    if path.name.lower().endswith((*IMAGE_SUFFIXES, ".pt", ".json", ".csv", ".html")) and not path.is_dir():
        raise SpocoError(f"--output {output}: names a folder, in which files get their own names: write it without end")
    place = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise SpocoError(f"--output {output}: {place} is no folder that can be written to: choose another one")
