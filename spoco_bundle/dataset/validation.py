"""What validates a training: images of their own, or objects held out of those that train."""

from __future__ import annotations

from pathlib import Path

from spoco_bundle.dataset.datalist import JSON_KEYS, PAIR_FOLDERS, json_lists


def validation_split(source: str | Path) -> str:
    """The split that validates a training: ``"val"`` where there is one, else ``"train"``, with objects held out.

    Args:
        source: a folder or a datalist, see ``build_datalist``, which says whether the split is in order.

    Raises:
        SpocoError: if a datalist cannot be read.
    """
    path = Path(source)
    if path.suffix == ".json":
        lists = json_lists(path)
        found = any(lists.get(key) for key in JSON_KEYS["val"])
    else:
        pairs = [(path / f"images{end}", path / f"labels{end}") for end in PAIR_FOLDERS["val"]]
        found = (path / "val").is_dir() or any(images.is_dir() and labels.is_dir() for images, labels in pairs)
    return "val" if found else "train"
