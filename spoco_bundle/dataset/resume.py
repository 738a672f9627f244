"""Going on with an interrupted prediction: which images have their results already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spoco_bundle.dataset.datalist import image_name

TABLE_ENDING = "_objects"


def unfinished(items: Sequence[dict[str, str]], output_dir: str | Path, skip: bool = False) -> Sequence[dict[str, str]]:
    """The images of a prediction that are still to be segmented.

    The table of objects is written last and taken away first, so that an image with a table has all its results.

    Args:
        items: dictionaries with ``image``, a path.
        output_dir: folder of the results.
        skip: whether to leave out what is finished there; otherwise all images are returned.
    """
    if not skip:
        return items
    folder = Path(output_dir)
    return [item for item in items if not (folder / f"{image_name(item['image'])}{TABLE_ENDING}.csv").is_file()]
