"""Puts a copy of the bundle's code into the style of the MONAI model zoo, and checks it as the zoo does.

The project itself is formatted by ruff. In the zoo the package counts as a third party, black ignores trailing commas,
and flake8 runs with four plugins, so the same code is laid out a little differently there: isort, black and two mending
rules of ruff change the copy, never what it does. The settings are those of the zoo's ``setup.cfg``, ``pyproject.toml``
and ``runtests.sh``; they are given on the command line, so that no file of this project has a say.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

#: modules of the extra `zoo`; without a plugin flake8 would find less than the zoo's, and say nothing
TOOLS = ("ruff", "isort", "black", "flake8", "bugbear", "flake8_comprehensions", "flake8_executable", "pep8ext_naming")
#: what the zoo asks for that neither isort nor black mends: `strict` in every zip, `dict.fromkeys`
MENDED = "B905,C420"

ISORT = ["isort", "--profile", "black", "--line-length", "120", "--project", "models", "--settings-path", "."]
BLACK = ["black", "--line-length", "120", "--skip-magic-trailing-comma", "--config", os.devnull]
BLACK += [part for version in ("py37", "py38", "py39") for part in ("--target-version", version)]
FLAKE8 = ["flake8", "--isolated", "--max-line-length", "120", "--select", "B,C,E,F,N,P,T4,W,B9"]
FLAKE8 += ["--ignore", "E203,E501,E741,W503,W504,C408,N812,B023"]
FLAKE8 += ["--per-file-ignores", "__init__.py:F401 __main__.py:F401"]


def require_tools() -> None:
    """Ends the program where a tool is missing."""
    missing = [name for name in TOOLS if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f'{", ".join(missing)}: not installed; run `pip install -e ".[zoo]"`, or give --quick')


def restyle(folder: Path, files: list[Path]) -> None:
    """Formats files in place.

    Args:
        folder: laid out as the zoo's repository, with `models` and `ci`.
        files: paths relative to it.
    """
    for tool in (
        ["ruff", "check", "--isolated", "--quiet", "--select", MENDED, "--fix", "--unsafe-fixes"],
        ISORT,
        BLACK,
    ):
        problem = _run(folder, tool, files)
        if problem:
            sys.exit(f"{tool[0]}: {problem}")


def findings(folder: Path, files: list[Path]) -> dict[str, str]:
    """What isort, black and flake8 find in files, an empty text where that is nothing."""
    tools = {"isort": [*ISORT, "--check-only"], "black": [*BLACK, "--check"], "flake8": FLAKE8}
    return {name: _run(folder, tool, files) for name, tool in tools.items()}


def _run(folder: Path, tool: list[str], files: list[Path]) -> str:
    command = [sys.executable, "-m", *tool, *map(str, files)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    said = (done.stdout + done.stderr).strip().splitlines()[-20:]
    return "\n".join(said) or f"ended with {done.returncode}, and said nothing"
