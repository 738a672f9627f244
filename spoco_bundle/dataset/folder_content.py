"""What a folder holds besides the images that are read, in words."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from pathlib import Path

from spoco_bundle.formats.names import image_name

logger = logging.getLogger(__name__)

#: how the pictures are called after an image that `spoco evaluate` and `spoco report` leave, maybe beside it
PICTURE_ENDINGS = ("_overview", "_report")

# images of other programs, which are named where they are passed over, since their owner expects a result
_OTHER_IMAGES = tuple(
    ".czi .lsm .lif .nd2 .oib .oif .vsi .ims .h5 .hdf5 .n5 .svs .scn .mrc .dv .ics .gif .jp2 .npy .npz .zip".split()
)


def _other_images(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(_OTHER_IMAGES))


def say_passed_over(folder: Path) -> None:
    """Names the files of other programs' formats in one line, where there are any."""
    others = _other_images(folder)
    if others:
        logger.warning(
            "%s: passes over %s (%s), of formats that are not read here: export to OME-TIFF",
            *(folder, f"{len(others)} file{'s' * (len(others) > 1)}", ", ".join(others[:5])),
        )


def held(folder: Path) -> str:
    """What a folder without the expected images holds instead, as the part of a sentence."""
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders = [path.name for path in inside if path.is_dir()]
    others = _other_images(folder)
    if others:
        return f", but files of other formats ({', '.join(others[:5])}), to be exported to OME-TIFF first"
    if folders:
        return f", but the folders {', '.join(folders[:5])}"
    return f", but {', '.join(path.name for path in inside[:5])}" if inside else ", nor anything else"


def alike(folder: Path, name: str, taken: Collection[Path]) -> str:
    """Other files of an image's name, as the part of a sentence, and what to do with them if each holds one object.

    Args:
        folder: where a label of the image is missed.
        name: of the image.
        taken: files of the folder that are known to be an image, or the label of another one.
    """
    others = sorted(path.name for path in folder.iterdir() if path.name.startswith(name) and path not in taken)
    numbered = [other for other in others if re.fullmatch(rf"{re.escape(name)}[ ._-]\D*\d+", image_name(other))]
    merge = ": where each holds one object, merge them into one label image in which each object has its own number"
    return f", only {', '.join(others[:5])}{merge if len(numbered) > 1 else ''}" if others else ""
