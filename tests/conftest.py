"""What all tests share: one thread each, and folders that are made once for all the workers of a run."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

# before torch loads: each worker and what it starts compute in one thread, and wait without spinning
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true"}

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_xdist_auto_num_workers() -> int:
    """As many workers as this process may use cores."""
    from spoco_bundle.core.threads import usable_cores

    return usable_cores()


@pytest.fixture(scope="session")
def bundle_root() -> Path:
    """The folder that holds configs/ and spoco_bundle/."""
    return REPOSITORY


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A folder of a name, filled by whichever worker asks for it first; tests must not write into it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def folder(name: str, fill: Callable[[Path], None]) -> Path:
        target, done = root / name, root / f"{name}.done"
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.is_file():
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir()
                fill(target)
                done.touch()
        return target

    return folder


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with real data and golden numbers, which are not part of the project."""
    folder = Path(os.environ.get("SPOCO_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "fixtures").is_dir():
        pytest.skip(f"golden numbers and real data not found at {folder}; set SPOCO_SHARED to their folder")
    return folder
