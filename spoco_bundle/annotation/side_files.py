"""The files that lie beside a label and say more about its objects than ids can."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.names import IMAGE_SUFFIXES, file_suffix, image_name, is_zarr

LEDGER_ENDING = "_annotation"
POINTS_ENDING = "_points"
COMPLETE_ENDING = "_complete"
#: how side files are called after NAME, by what they are
SIDE_FILES = {"annotation": LEDGER_ENDING, "points": POINTS_ENDING, "complete": COMPLETE_ENDING}


def annotated_name(path: str | Path, image_ending: str = "_raw", label_ending: str = "_label") -> str:
    """NAME of a file ``NAME_raw.EXT``, ``NAME_label.EXT`` or ``NAME.EXT``, which its side files are called after.

    Args:
        path: a label, or an image.
        image_ending: how image names end before the suffix.
        label_ending: how label names end before the suffix.
    """
    return without_ending(image_name(path), image_ending, label_ending)


def without_ending(name: str, *endings: str) -> str:
    """A name without that of the endings which it has, the longest if it has several."""
    return name.removesuffix(max((ending for ending in (*endings, "") if name.endswith(ending)), key=len))


def beside(path: str | Path, file_ending: str, image_ending: str = "_raw", label_ending: str = "_label") -> Path:
    """The CSV file of an ending beside a label or image: ``NAME_label.EXT`` has ``NAME`` + ``file_ending`` + ``.csv``.

    Args:
        path: the label, or the image where there is no label file.
        file_ending: such as ``_points``.
        image_ending: how image names end before the suffix.
        label_ending: how label names end before the suffix.
    """
    return Path(path).with_name(f"{annotated_name(path, image_ending, label_ending)}{file_ending}.csv")


def side_files(folder: str | Path) -> dict[str, dict[str, Path]]:
    """All side files of a folder: CSV files, and masks where annotations are complete.

    Returns:
        By NAME (see ``annotated_name``), then by what they are (see ``SIDE_FILES``).

    Raises:
        SpocoError: if two files say where annotations of one NAME are complete.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(Path(folder).iterdir()):
        end = path.name.lower()
        table = end.endswith(".csv")
        if path.name.startswith(".") or not (table or end.endswith(tuple(IMAGE_SUFFIXES)) or is_zarr(path)):
            continue
        name = image_name(path)
        for key, ending in SIDE_FILES.items():
            if not name.endswith(ending) or not (table or key == "complete"):
                continue
            before = found.setdefault(name.removesuffix(ending), {}).setdefault(key, path)
            if before != path:
                raise SpocoError(
                    f"{before}: {path.name} beside it says too where annotations are complete: take one away"
                )
    return found


def refuse_strays(
    folders: Iterable[Mapping[str, Mapping[str, Path]]],
    names: Collection[str],
    others: Collection[Path],
    image_ending: str,
    *endings: str,
) -> None:
    """Refuses side files that belong to no image, which would be passed over as if nothing were annotated there.

    Args:
        folders: of each folder what ``side_files`` gives.
        names: NAMEs of the images.
        others: images and labels that are called as side files are, and are none.
        image_ending: how image names end before the suffix.
        *endings: further endings that are no part of a NAME.

    Raises:
        SpocoError: at the first one.
    """
    for name, files in (entry for folder in folders for entry in folder.items()):
        strays = [] if name in names else [file for file in files.items() if file[1] not in others]
        if strays:
            key, path = strays[0]
            meant = without_ending(name, image_ending, *endings)
            rename = f"call it {meant if meant in names else 'NAME'}{SIDE_FILES[key]}{file_suffix(path)}"
            raise SpocoError(f"{path}: belongs to no image here: {rename}, after its image, or take it away")


def files_beside(path: str | Path, image_ending: str = "_raw") -> dict[str, Path]:
    """The side files of one label or image, by what they are; none where its folder is not there.

    Args:
        path: the label, or the image where there is no label file.
        image_ending: how image names end before the suffix.

    Raises:
        SpocoError: if two files say where its annotations are complete.
    """
    folder = Path(path).parent
    return side_files(folder).get(annotated_name(path, image_ending), {}) if folder.is_dir() else {}
