"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


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
