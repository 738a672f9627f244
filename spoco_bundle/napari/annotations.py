"""What a person has said of an image and what nobody has checked yet: the files beside its label, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import fastremap
import numpy as np

from spoco_bundle.annotation.kept import told_apart, write_kept
from spoco_bundle.annotation.kinds import KINDS
from spoco_bundle.annotation.ledger import Entry, ledger_path, read_ledger
from spoco_bundle.annotation.points import points_path, read_points, write_points
from spoco_bundle.annotation.rectangles import keep_rectangles, read_rectangles
from spoco_bundle.annotation.side_files import annotated_name
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.datalist import IMAGE_FOLDER, IMAGE_SUFFIXES, LABEL_FOLDERS, image_name
from spoco_bundle.formats import file_suffix, read_image, result_suffix
from spoco_bundle.formats.label_ids import as_label_ids
from spoco_bundle.napari.labels import as_ids, ids_of

_IN_WORDS = {"slices": "in slices", "strokes": "by strokes", "points": "by points"}
#: by which a folder is known that a MONAI Label server has served
SERVED = "datastore_v2.json"


@dataclass
class Annotations:
    """All that is known of the objects of an image.

    Attributes:
        checked: (*spatial) ids of what a person drew or accepted, ``BACKGROUND`` = no object, 0 = unknown.
        unchecked: (*spatial) ids of what nobody has checked, none of which occurs in ``checked``; None for nothing.
        kinds: how objects are annotated that are not of the kind ``default``, by id.
        default: one of ``KINDS``.
        points: (points, D) voxels, each in an object of its own; None for none.
        rectangles: (4, D) corners in voxels of each region in which every object is drawn.
    """

    checked: np.ndarray
    unchecked: np.ndarray | None = None
    kinds: Mapping[int, str] = field(default_factory=dict)
    default: str = KINDS[0]
    points: np.ndarray | None = None
    rectangles: Sequence[np.ndarray] = ()

    def __post_init__(self) -> None:
        if self.points is None:
            self.points = np.zeros((0, self.checked.ndim))

    def contents(self) -> Contents:
        """What is to be written now; takes its time for a large volume."""
        labels = self.checked
        if self.unchecked is not None:
            # whoever painted with the number of an unchecked object has drawn another one
            unchecked = fastremap.mask(self.unchecked, sorted(ids_of(self.checked) & ids_of(self.unchecked)))
            labels = np.where(self.checked != 0, self.checked, unchecked)
        # after the labels: an object that is split, or taken back, meanwhile is then not taken for a checked one
        present, checked = ids_of(labels), ids_of(self.checked)
        entries = {
            number: Entry(self.kinds.get(number, self.default)) if number in checked else Entry("whole", checked=False)
            for number in sorted(present)
        }
        return Contents(labels, entries, self.points, self.rectangles)


@dataclass
class Contents:
    """What the files beside the label of an image hold.

    Attributes:
        labels: (*spatial) ids of all objects, ``BACKGROUND`` = no object, 0 = unknown.
        entries: the ledger of all of them.
        points: (points, D) voxels.
        rectangles: see ``Annotations``.
    """

    labels: np.ndarray
    entries: Mapping[int, Entry]
    points: np.ndarray
    rectangles: Sequence[np.ndarray]

    @property
    def teaches(self) -> bool:
        """Whether there is an object to learn from."""
        return len(self.points) > 0 or any(entry.checked for entry in self.entries.values())

    def in_words(self) -> str:
        """How much is annotated."""
        kinds = Counter(entry.kind for entry in self.entries.values() if entry.checked)
        special = ", ".join(f"{kinds[kind]} {words}" for kind, words in _IN_WORDS.items() if kinds[kind])
        counted = {"object": kinds.total(), "point": len(self.points), "complete region": len(self.rectangles)}
        objects, *others = (f"<b>{count}</b> {thing}{'s' * (count != 1)}" for thing, count in counted.items())
        shown = [words for words, count in zip(others, list(counted.values())[1:]) if count]
        return ", ".join([f"{objects} annotated" + (f" ({special})" if special else ""), *shown])


def label_file(image: Path) -> Path:
    """Where the label of an image is, or will be: ``NAME_label.EXT`` beside it.

    In a folder that a MONAI Label server serves it is ``labels/final/NAME.EXT``, for ``images/NAME.EXT`` beside a
    folder ``labels`` it is ``labels/NAME.EXT``, and so for ``imagesTr``. A label that is there may be in another format
    than the image.
    """
    folder = image.parent
    others = (folder.with_name(folder.name.replace(IMAGE_FOLDER, other, 1)) for other in LABEL_FOLDERS)
    labels = next(filter(Path.is_dir, others), folder)
    place = folder / f"{annotated_name(image)}_label"
    if (folder / SERVED).is_file():
        place = folder / "labels" / "final" / image_name(image)
    elif folder.name.startswith(IMAGE_FOLDER) and labels != folder:
        place = labels / image_name(image).removesuffix("_0000")
    suffix = result_suffix(image)
    forms = [place.with_name(place.name + other) for other in (suffix, *IMAGE_SUFFIXES, ".ome.zarr")]
    return next((path for path in forms if path.exists() and result_suffix(path) == file_suffix(path)), forms[0])


def read_annotations(label: Path, shape: Sequence[int]) -> Annotations:
    """Reads what lies beside the place of a label.

    Args:
        label: the label file, which may not exist.
        shape: voxels of the image along each axis.

    Raises:
        SpocoError: if a file cannot be read or belongs to another image.
    """
    labels, ledger = np.zeros(shape, np.int32), read_ledger(ledger_path(label))
    if label.exists():
        labels = read_labels(label, shape)
    checked, unchecked = told_apart(labels, ledger)
    kinds = {number: entry.kind for number, entry in ledger.items() if entry.checked}
    default = Counter(kinds.values()).most_common(1)[0][0] if kinds else KINDS[0]
    points = points_path(label)
    return Annotations(
        checked,
        unchecked if unchecked.any() else None,
        {number: kind for number, kind in kinds.items() if kind != default},
        default,
        read_points(points, len(shape), shape) if points.exists() else None,
        read_rectangles(label, len(shape)),
    )


def read_labels(path: Path, shape: Sequence[int]) -> np.ndarray:
    """Reads a label image (*shape) int32 of any tool.

    Raises:
        SpocoError: if it cannot be read, or is of another shape or holds negative numbers.
    """
    return checked_labels(read_image(path, "label", len(shape)).array[0], shape, str(path))


def checked_labels(labels: np.ndarray, shape: Sequence[int], name: str) -> np.ndarray:
    """Labels (*shape) as int32.

    Args:
        labels: as somebody gives them.
        shape: voxels of the image along each axis.
        name: of the labels, for messages.

    Raises:
        SpocoError: if they are of another shape, no whole numbers, negative, or too large for 32 bits.
    """
    if labels.shape != tuple(shape):
        wanted, found = (" x ".join(map(str, sizes)) for sizes in (shape, labels.shape))
        raise SpocoError(f"{name}: has {found} voxels, the image {wanted}: choose labels of this image")
    labels = as_label_ids(labels, name)
    if labels.min(initial=0) < 0:
        raise SpocoError(f"{name}: holds numbers that are no ids: objects are 1, 2, 3, ..., and 0 is nothing")
    return labels


def write_annotations(label: Path, contents: Contents, like: Path) -> list[Path]:
    """Writes the label, its ledger, points and complete regions, each only where there is something to say.

    Args:
        label: where the label goes, the others beside it.
        contents: what is written.
        like: an image of the grid and format of the label.

    Returns:
        The files that there are now.

    Raises:
        SpocoError: if one cannot be written.
    """
    written, points = [], points_path(label)
    if contents.labels.any() or label.exists():
        written += write_kept(label, as_ids(contents.labels), contents.entries, like)
    if len(contents.points):
        written.append(write_points(points, contents.points))
    else:
        points.unlink(missing_ok=True)
    return written + keep_rectangles(label, contents.rectangles)
