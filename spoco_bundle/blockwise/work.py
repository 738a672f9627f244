"""The work folder of a run: what is finished, and for which settings; a killed run goes on from here."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spoco_bundle.core.atomic_files import atomic_write, disk_errors, write_json
from spoco_bundle.core.errors import SpocoError

PLAN = "plan.json"
_PER_FOLDER = 1000  # records in one folder; some file systems are slow with more


@dataclass(frozen=True)
class WorkFolder:
    """Records of finished steps, each an ``.npz`` that is there as a whole or not at all.

    Args:
        path: the folder; beside the final result, so that moving the result into place is a rename.
    """

    path: Path

    def open(self, plan: dict[str, Any]) -> None:
        """Starts the folder, or goes on with it.

        Args:
            plan: settings that the result depends on, as JSON values.

        Raises:
            SpocoError: if the folder holds a run of other settings, or cannot be written.
        """
        plan = json.loads(json.dumps(plan))
        found = self.plan()
        if found is not None and found != plan:
            other = sorted(key for key in found.keys() | plan.keys() if found.get(key) != plan.get(key))
            raise SpocoError(
                f"{self.path}: holds an unfinished run with another {', '.join(other)}: give the command of that run "
                "to finish it, or delete the folder to begin anew"
            )
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if found is None:
                write_json(self.path / PLAN, plan)

    def plan(self) -> dict[str, Any] | None:
        """The settings of the run in this folder; None where there is none."""
        try:
            return json.loads((self.path / PLAN).read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SpocoError(f"{self.path / PLAN}: cannot be read ({error}): delete {self.path}") from error

    def save(self, stage: str, number: int, **arrays: np.ndarray) -> None:
        """Records a step as finished, with what later steps need of it."""
        target = self._record(stage, number)
        with atomic_write(target) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @contextmanager
    def load(self, stage: str, number: int) -> Iterator[Any]:
        """The arrays of a finished step, each read when it is asked for."""
        with np.load(self._record(stage, number), allow_pickle=False) as arrays:
            yield arrays

    def finished(self, stage: str) -> set[int]:
        """Numbers of the finished steps of a stage."""
        return {int(file.stem) for file in (self.path / stage).glob("*/[0-9]*.npz")}

    def forget(self, stage: str) -> None:
        """Makes all steps of a stage unfinished."""
        shutil.rmtree(self.path / stage, ignore_errors=True)

    def remove(self) -> None:
        """Deletes the folder, its plan first, so that what a kill leaves is no run."""
        (self.path / PLAN).unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def _record(self, stage: str, number: int) -> Path:
        return self.path / stage / f"{number // _PER_FOLDER:05d}" / f"{number:08d}.npz"


def digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
