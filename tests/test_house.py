"""The house: a room imports only from below, the ground floor knows nothing of MONAI, no name stands for two things."""

from __future__ import annotations

import ast
import subprocess
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "spoco_bundle"
#: rooms from the ground up; those of one floor may import one another as the second list says
FLOORS = [
    {"core"},
    {"formats"},
    {"annotation"},
    {"losses", "clustering", "metrics", "networks"},
    {"dataset"},
    {"blockwise", "report"},
    {"transforms", "handlers", "engines", "inferers"},
    {"app"},
    {"cli", "napari", "label"},
]
#: rooms of one floor that use another one
NEIGHBOURS = {
    ("handlers", "transforms"),
    ("cli", "label"),
    ("napari", "cli"),
    ("napari", "label"),
}
WITHOUT_MONAI = ("core", "losses", "clustering", "metrics")
FILES = sorted(PACKAGE.rglob("*.py"))
#: what lies at the top of the repository
TOP = {".ci", ".gitignore", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md", "configs"}
TOP |= {"constraints.txt", "docs", "metadata.json", "models", "pyproject.toml", "scripts", "spoco_bundle", "tests"}


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports(file: Path) -> list[str]:
    """Modules that a file imports, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_room_imports_only_from_below(file):
    parts = file.relative_to(PACKAGE).parts
    own = parts[0].removesuffix(".py")
    if own == "__init__":
        return  # the public door
    floor = next(number for number, rooms in enumerate(FLOORS) if own in rooms)
    below = set().union(*FLOORS[:floor]) | {own} | {other for one, other in NEIGHBOURS if one == own}
    for module in imports(file):
        if module.startswith("spoco_bundle.") and module not in ("spoco_bundle.__version__",):
            assert room_of(module) in below, f"{module} is not below {own}"


@pytest.mark.parametrize("room", WITHOUT_MONAI)
def test_the_ground_floor_does_not_know_monai(room):
    for file in (PACKAGE / room).rglob("*.py"):
        assert not [module for module in imports(file) if module.split(".")[0] in ("monai", "ignite")], file


def test_no_file_is_longer_than_four_hundred_lines():
    lengths = {str(file.relative_to(PACKAGE)): len(file.read_text().splitlines()) for file in FILES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_two_classes_have_one_name():
    names = Counter(
        node.name
        for file in FILES
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_nothing_else_lies_at_the_top():
    listed = subprocess.run(["git", "ls-files"], cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git repository: what is committed cannot be listed")
    assert {name.split("/")[0] for name in listed.stdout.splitlines()} == TOP
