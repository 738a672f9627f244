"""The server's own virtual environment, which is chosen before anything is downloaded."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spoco_bundle.app.config import config_folder
from spoco_bundle.core.errors import SpocoError

CONSTRAINTS = Path(__file__).with_name("constraints.txt")


def build_environment(folder: Path) -> Path:
    """Builds the server's own virtual environment where there is none yet: some 4 GB, a few minutes.

    MONAI Label needs older packages than the bundle, so the two cannot share one environment.

    Args:
        folder: of the environment.

    Returns:
        Its Python.

    Raises:
        SpocoError: if the folder holds other things, no torchvision fits torch, or an installation fails.
    """
    python = folder.absolute() / "bin" / "python"
    done = folder / "complete"
    wanted = CONSTRAINTS.read_text()
    if done.is_file() and done.read_text() == wanted:
        return python
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise SpocoError(f"--environment {folder}: holds other things; name a new folder, or one built here before")
    print(f"building the server's environment in {folder}: some 4 GB, a few minutes", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    source = config_folder().parent
    bundle = ["--editable", str(source)] if (source / "pyproject.toml").is_file() else ["spoco-bundle"]
    torch = torch_with_torchvision(python)
    for what in (
        ["setuptools", "wheel", *torch],
        # its build looks for the installed torch, and for a CUDA compiler unless told not to
        ["--no-build-isolation", "sam2"],
        # what was chosen is named again, or a later step could replace it
        [*bundle, *torch, "monailabel"],
    ):
        command = [*_pip_install(python), *what]
        if subprocess.run(command, env={**os.environ, "SAM2_BUILD_CUDA": "0"}, check=False).returncode:
            raise SpocoError(f"{folder}: installing {' '.join(what)} failed, see the lines above; run it again")
    done.write_text(wanted)
    return python


def torch_with_torchvision(python: Path) -> list[str]:
    """What to ask pip for, so that torch and torchvision are of one build; nothing is downloaded for the answer.

    A torchvision of another build than its torch cannot be imported. Where pip would take torch from one place (a CPU
    build from a local folder or a company's index) and torchvision from another, both are asked for by their plain
    versions, which come from one place.

    Args:
        python: of the environment.

    Raises:
        SpocoError: if neither way gives two that fit.
    """
    pinned = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line)
    ways = [["torch", "torchvision"], [f"{name}==={pinned[name]}" for name in ("torch", "torchvision")]]
    for way in ways:
        command = [*_pip_install(python), *"--dry-run --ignore-installed --report - --no-deps".split(), *way]
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if found.returncode == 0 and are_of_one_build(json.loads(found.stdout)):
            return way
    raise SpocoError(
        f"no torchvision {pinned['torchvision']} fits the torch {pinned['torch']} that pip finds here, so the server "
        "would not start: let pip look where both of one build are (PIP_EXTRA_INDEX_URL), and run it again"
    )


def are_of_one_build(report: Mapping[str, Any]) -> bool:
    """Whether pip's report names a torch and a torchvision with the same local version, such as ``+cpu`` or none."""
    versions = {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in report["install"]}
    return versions["torch"].partition("+")[2] == versions["torchvision"].partition("+")[2]


def _pip_install(python: Path) -> list[str]:
    return [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS)]
