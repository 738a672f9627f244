"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
START = time.monotonic()


def pytest_runtest_setup(item) -> None:
    """Skips the slow tests that no longer fit into SPOCO_TEST_MINUTES, so that a run on a slow machine still ends."""
    minutes = float(os.environ.get("SPOCO_TEST_MINUTES", "inf"))
    if item.get_closest_marker("slow") and time.monotonic() - START > 60 * minutes:
        pytest.skip(f"the {minutes:g} minutes of SPOCO_TEST_MINUTES are spent")


@pytest.fixture(scope="session")
def bundle_root() -> Path:
    """The folder that holds configs/ and spoco_bundle/."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with real data and golden numbers, which are not part of the project."""
    folder = Path(os.environ.get("SPOCO_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "fixtures").is_dir():
        pytest.skip(f"golden numbers and real data not found at {folder}; set SPOCO_SHARED to their folder")
    return folder
