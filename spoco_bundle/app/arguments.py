"""What stands on the command line: as fire is to read it, and what it would misread."""

from __future__ import annotations

import math
import re
import sys
from typing import Any

from spoco_bundle.core.errors import SpocoError

# values as configs write them, which fire would take for texts
_JSON_WORDS = {"true": "True", "false": "False", "null": "None"}


def spelled_out(arguments: list[str], commands: type) -> list[str]:
    """The command line as fire is to read it: names are taken letter by letter, and no more than the command takes.

    fire would read an image named ``001`` as the number 1, ``--invert false`` as a text, and hand a name too many to
    what the command returns.

    Args:
        arguments: what stands behind ``spoco``.
        commands: class whose methods are the commands.

    Raises:
        SpocoError: if a command that works on one folder is given several.
    """
    command, *rest = arguments or ["--help"]
    command = command if command.startswith("-") else command.replace("-", "_")
    if {"-h", "--help"} & {command, *rest}:
        # fire would load it to say what docstrings say
        sys.modules.setdefault("IPython", None)
        return [*([command] if hasattr(commands, command) else []), "--", "--help"]
    if not hasattr(commands, command):
        return arguments
    spelled, names, value_of = [], [], ""
    for argument in rest:
        if re.match("--|-[a-zA-Z]", argument):
            name, equals, value = argument.partition("=")
            value_of = "" if equals else name
            argument = f"{name}{equals}{_JSON_WORDS.get(value, value)}"
        elif value_of:
            value_of = ""
            argument = _JSON_WORDS.get(argument, argument)
        else:
            names.append(argument)
            argument = repr(argument) if command == "predict" else argument
        spelled.append(argument)
    if len(names) > 1 and command != "predict":
        raise SpocoError(
            f"{names[1]}: spoco {command} takes one name, {names[0]} here; name a folder to write to with --output"
        )
    return [command, *spelled]


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


def check_config_file(output: str) -> None:
    """Refuses a file of settings that ``--config`` would take for the name of a shipped config.

    Raises:
        SpocoError: if it does not end with ``.json``.
    """
    if not output.endswith(".json"):
        raise SpocoError(f"--output {output}: name a file that ends with .json, such as {output.rstrip('/')}.json")
