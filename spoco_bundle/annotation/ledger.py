"""The ledger of a label: of which kind each object is, and whether a person has checked it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spoco_bundle.annotation.kinds import KINDS
from spoco_bundle.annotation.side_files import LEDGER_ENDING, beside
from spoco_bundle.annotation.tables import Row, read_table
from spoco_bundle.core.atomic_files import write_table
from spoco_bundle.core.errors import SpocoError

COLUMNS = ("id", "kind", "state")
STATES = {"checked": True, "unchecked": False}


@dataclass(frozen=True)
class Entry:
    """What the ledger says of one object.

    Args:
        kind: one of ``KINDS``.
        checked: whether a person has looked at it; what a model predicted and nobody checked teaches nothing.

    Raises:
        ValueError: if there is no such kind.
    """

    kind: str
    checked: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}: give one of {', '.join(KINDS)}")


def ledger_path(path: str | Path, image_ending: str = "_raw", label_ending: str = "_label") -> Path:
    """The ledger ``NAME_annotation.csv``, which may not exist; arguments as for ``beside``."""
    return beside(path, LEDGER_ENDING, image_ending, label_ending)


def read_ledger(path: str | Path) -> dict[int, Entry]:
    """Reads a ledger, a CSV file with the columns ``id``, ``kind`` and ``state``.

    Args:
        path: see ``ledger_path``.

    Returns:
        Entries by object id, in the order of the file; none if there is no such file.

    Raises:
        SpocoError: if a column is missing, an id is no id or comes twice, or there is no such kind or state.
    """
    path = Path(path)
    if not path.exists():
        return {}
    columns, rows = read_table(path)
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        raise SpocoError(
            f"{path}: has no column {missing[0]!r} but {', '.join(columns)}: give it the header {','.join(COLUMNS)}"
        )
    entries: dict[int, Entry] = {}
    lines: dict[int, int] = {}
    for row in rows:
        number = _id(row)
        if number in entries:
            raise row.error(f"id {number} has row {lines[number]} already: leave one of them")
        entries[number] = Entry(_word(row, "kind", KINDS), STATES[_word(row, "state", tuple(STATES))])
        lines[number] = row.line
    return entries


def write_ledger(path: str | Path, entries: Mapping[int, Entry]) -> Path:
    """Writes a ledger, rows in the order of ids, beside its place and then moved into it.

    Args:
        path: see ``ledger_path``; missing folders are made.
        entries: by object id, 1 or larger.

    Returns:
        The path written.

    Raises:
        SpocoError: if the file cannot be written.
        ValueError: if an id is below 1.
    """
    if min(entries, default=1) < 1:
        raise ValueError(f"id {min(entries)} is no object: ids begin at 1")
    states = {checked: word for word, checked in STATES.items()}
    return write_table(
        path, COLUMNS, [(number, entry.kind, states[entry.checked]) for number, entry in sorted(entries.items())]
    )


def _id(row: Row) -> int:
    number = row.whole_number("id")
    largest = np.iinfo(np.int32).max
    if not 1 <= number <= largest:
        raise row.error(f"id {number} is no object: ids go from 1 to {largest}")
    return number


def _word(row: Row, column: str, known: tuple[str, ...]) -> str:
    word = row.values[column].lower()
    if word not in known:
        raise row.error(f"{column} is {row.values[column]!r}: write one of {', '.join(known)}")
    return word
