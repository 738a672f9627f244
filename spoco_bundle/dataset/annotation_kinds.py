"""Whether a training set holds objects of which only a part is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from spoco_bundle.annotation.ledger import read_ledger


def is_partial(data: Iterable[Mapping[str, str]], annotation: str) -> bool:
    """Whether any object may be drawn in part only, told from the ledgers alone; no image is read.

    Args:
        data: items as ``build_datalist`` gives them.
        annotation: kind of the objects that nothing else is said of, see ``KINDS``.

    Raises:
        SpocoError: if a ledger cannot be read.
    """
    return annotation != "whole" or any("points" in item or _has_partial_objects(item) for item in data)


def _has_partial_objects(item: Mapping[str, str]) -> bool:
    entries = read_ledger(item["annotation"]).values() if "annotation" in item else ()
    return any(entry.checked and entry.kind != "whole" for entry in entries)
