"""An image as it is prepared for `spoco train`, how it is written, and how the pictures of data sets are read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from spoco_bundle.core.atomic_files import atomic_folder
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.progress import Progress
from spoco_bundle.dataset import check_labels
from spoco_bundle.formats import write_instances
from spoco_bundle.formats.label_ids import as_label_ids
from spoco_bundle.formats.tiff_writing import write_image


@dataclass
class Example:
    """One image with its annotation, as it is to be written.

    Attributes:
        split: "train", "val" or "test".
        name: of the files, without ending.
        image: (z, y, x) or (y, x), with a last axis of three samples where ``colour``.
        labels: (z, y, x) or (y, x) integer ids; 0 = nothing annotated.
        sources: files of the image and the labels, for messages.
        foreground: as the labels, above 0 where objects may be; None where there is none.
        spacing: micrometres along the spatial axes; None where unknown.
        colour: whether the image is RGB.
    """

    split: str
    name: str
    image: np.ndarray
    labels: np.ndarray
    sources: tuple[str, str]
    foreground: np.ndarray | None = None
    spacing: Sequence[float] | None = None
    colour: bool = False


def write_data_set(output: Path, examples: Iterable[Example], total: int, ignore_label: int | None = None) -> Counter:
    """Writes all examples; images without an annotated object are left out, since nothing can be learned from them.

    Args:
        output: folder to make.
        examples: the images.
        total: number of examples that come, for the progress.
        ignore_label: id that is no object.

    Returns:
        Images and objects written per split, and what was left out.

    Raises:
        SpocoError: if the folder exists, an example does not fit together, or a split would be empty; then no folder is
            left behind.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise SpocoError(f"{output}: exists already: remove it or name another folder")
    counts: Counter = Counter()
    with atomic_folder(output) as folder, Progress("images", total) as progress:
        for example in examples:
            counts.update(_write_example(folder, example, ignore_label))
            progress.update()
        for split in ("train", "val"):
            if not counts[f"{split} images"]:
                raise SpocoError(
                    f"{output}: no image with an annotated object is left for {split}: name more images, or give "
                    "another share or part of them to val"
                )
    return counts


def _write_example(folder: Path, example: Example, ignore_label: int | None) -> dict[str, int]:
    """Checks and writes one image; what is to be counted of it."""
    image, labels = example.image, as_label_ids(example.labels, example.sources[1])
    channels = np.moveaxis(image, -1, 0) if example.colour else image[None]
    options = {"ignore_label": ignore_label, "require_objects": False, "allow_binary": True, "allow_thin": True}
    check_labels(channels, labels[None], *example.sources, **options)
    if example.foreground is not None and example.foreground.shape != labels.shape:
        raise SpocoError(
            f"{example.sources[0]}: its foreground has shape {example.foreground.shape}, the labels {labels.shape}: "
            "unpack the data set again"
        )
    objects = np.setdiff1d(labels, [0] if ignore_label is None else [0, ignore_label]).size
    if not objects:
        return {"images left out, without an annotated object": 1}
    raw = folder / example.split / f"{example.name}_raw.tif"
    if raw.exists():
        raise SpocoError(f"{example.sources[0]}: another image is named {example.name} too: rename one of them")
    raw.parent.mkdir(parents=True, exist_ok=True)
    write_image(raw, image, example.spacing, colour=example.colour)
    write_instances(raw.with_name(f"{example.name}_label.tif"), labels, like=raw)
    if example.foreground is not None:
        write_instances(raw.with_name(f"{example.name}_fg.tif"), (example.foreground > 0).astype(np.uint8), like=raw)
    return {f"{example.split} images": 1, f"{example.split} objects": objects}


def held_out(names: Iterable[str], fraction: float, seed: int) -> set[str]:
    """Draws a share of the names by lot: the same for the same seed, whatever the machine; at least one."""
    drawn = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    return set(drawn[: max(1, round(fraction * len(drawn)))])


def read_picture(path: Path) -> np.ndarray:
    """Reads intensities: (y, x) or (y, x, 3); a palette is resolved, an alpha channel left out."""
    picture = _open_picture(path)
    if picture.mode in ("P", "PA", "RGBA", "CMYK", "YCbCr"):
        picture = picture.convert("RGB")
    return np.asarray(picture.convert("L") if picture.mode in ("1", "LA") else picture)


def read_ids(path: Path) -> np.ndarray:
    """Reads ids (y, x): the stored numbers, whatever colours a palette gives them."""
    ids = np.asarray(_open_picture(path))
    if ids.ndim == 3:
        if (ids[..., :3] != ids[..., :1]).any():
            raise SpocoError(f"{path}: is a colour picture where ids are expected: save one number per pixel")
        ids = ids[..., 0]
    return ids


def _open_picture(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
    except FileNotFoundError as error:
        raise SpocoError(f"{path}: is missing: unpack the data set again, or take its image out") from error
    except (OSError, ValueError, SyntaxError) as error:  # Pillow reports damaged PNG files by any of these
        raise SpocoError(f"{path}: cannot be read as a picture ({error}): unpack the data set again") from error
    return picture


def files_in(folder: Path, pattern: str, remedy: str) -> list[Path]:
    """Files of a folder, in the order of their names; an error with a remedy where there are none."""
    files = sorted(folder.glob(pattern))
    if not files:
        raise SpocoError(f"{folder}: holds no {pattern}: {remedy}")
    return files
