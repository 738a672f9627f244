"""A label with its ledger on the disk: what a person vouches for, and beside it what nobody has checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import fastremap
import numpy as np

from spoco_bundle.annotation.ledger import Entry, ledger_path, read_ledger, write_ledger
from spoco_bundle.formats.files import write_instances


def told_apart(labels: np.ndarray, entries: Mapping[int, Entry]) -> tuple[np.ndarray, np.ndarray]:
    """The checked objects of a label, and the unchecked ones, (*spatial) each; background is with the checked ones."""
    unchecked = [number for number, entry in entries.items() if not entry.checked]
    return fastremap.mask(labels, unchecked), fastremap.mask_except(labels, unchecked)


def write_kept(label: Path, labels: np.ndarray, entries: Mapping[int, Entry], like: str | Path) -> list[Path]:
    """Writes a label and its ledger.

    The ledger comes first, and names objects that are gone until the label is written: whenever the process is killed,
    no object that nobody has checked is taken for a checked one.

    Args:
        label: the label file.
        labels: (*spatial) non-negative ids.
        entries: of all objects in it.
        like: an image of the grid and format of the label.

    Returns:
        Both files.

    Raises:
        SpocoError: if one cannot be written.
    """
    ledger = ledger_path(label)
    gone = {number: Entry(entry.kind, checked=False) for number, entry in read_ledger(ledger).items()}
    write_ledger(ledger, {**gone, **entries})
    write_instances(label, labels, like)
    if gone.keys() - entries.keys():
        write_ledger(ledger, entries)
    return [label, ledger]
