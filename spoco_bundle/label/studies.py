"""Labels as clients send them, and what is kept of them: what a person vouches for, told from the rest."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fastremap
import numpy as np

from spoco_bundle.annotation.confirmed import (
    beside_confirmed,
    confirmed_labels,
    mostly_in,
    put_confirmed_over,
)
from spoco_bundle.annotation.kept import told_apart
from spoco_bundle.annotation.kinds import KINDS
from spoco_bundle.annotation.ledger import Entry, ledger_path, read_ledger
from spoco_bundle.annotation.prediction_log import PredictionLog
from spoco_bundle.annotation.rectangles import rectangles_around
from spoco_bundle.annotation.side_files import annotated_name, files_beside, side_files
from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.datalist import OUTPUT_ENDING, image_name
from spoco_bundle.dataset.label_checks import check_labels, check_same_grid
from spoco_bundle.formats import Image, file_suffix, image_dimensions, read_image, result_suffix, write_instances
from spoco_bundle.formats.itk_io import file_grid
from spoco_bundle.label.client_input import SUFFIXES, is_inside

#: how the name of a segment begins that the person has checked, or painted where no object is, or around what is
#: drawn completely, or that was predicted
CONFIRMED, BACKGROUND, COMPLETE, PREDICTED = "confirmed", "no object", "complete", "object"


class Studies:
    """What was handed out and what came back for the images of a folder.

    Args:
        folder: the studies folder; predictions are kept in its subfolder ``.spoco``.
        spatial_dims: 2 or 3.
        background_label: id under which known background is kept.
        annotation: how objects are annotated that nothing is said of, one of ``KINDS``.
    """

    def __init__(self, folder: str | Path, spatial_dims: int, background_label: int, annotation: str = "whole"):
        self.spatial_dims = spatial_dims
        self.background_label = background_label
        self.annotation = annotation
        self.handed_out = PredictionLog(Path(folder) / ".spoco")

    def hand_out(self, study: str, prediction: np.ndarray, kept: str | Path) -> tuple[np.ndarray, dict[str, int]]:
        """Lays confirmed objects over a prediction and remembers what is left of it.

        Args:
            study: id of the image.
            prediction: (*spatial) ids 1 to n, z, y, x.
            kept: label file of the image, "" where there is none; objects that nobody has checked are left out.

        Returns:
            (*spatial) int32 ids without gaps, and a name for each: "object 1", ..., "confirmed 8", "slices 9",
            "no object".
        """
        words = dict.fromkeys(range(1, int(prediction.max(initial=0)) + 1), PREDICTED)
        if kept:
            own, _, entries = self._kept(kept)
            prediction, kinds = put_confirmed_over(prediction, own, self.background_label)
            before = mostly_in(np.where(own == self.background_label, 0, prediction), own)
            words = {number: self._word(kind, entries.get(before.get(number, 0))) for number, kind in kinds.items()}
        numbers = [number for number, word in words.items() if word == PREDICTED]
        self.handed_out.keep(study, fastremap.mask_except(prediction.astype(np.int32), numbers))
        return prediction, {word if word == BACKGROUND else f"{word} {n}": n for n, word in words.items()}

    def take_back(
        self, study: str, image: str | Path, returned: str | Path, info: Mapping[str, Any], previous: str | Path
    ) -> TakenBack:
        """Checks a label that a client sends, and tells what a person vouches for from what nobody has checked.

        Args:
            study: id of the image.
            image: the image file.
            returned: the label file.
            info: parameters sent with it, see ``what_is_said``.
            previous: label file kept for the image so far, "" where there is none.

        Raises:
            SpocoError: if the file cannot be read, lies on another grid, its ids are no objects, or there is nothing to
                learn from.
        """
        volume, label = self._read(image, "image"), self._read(returned, "label")
        labels = label.array[0]
        said = what_is_said(info, labels, self.annotation)
        around = np.isin(labels, said.complete)
        labels = np.where(around, 0, labels)
        own, unchecked, entries = self._kept(previous) if previous else (None, None, {})
        if own is not None and own.shape != labels.shape:
            own = unchecked = None  # of an earlier image of that name
        before = {} if own is None else {i: entries[j].kind for i, j in mostly_in(labels, own).items() if j in entries}
        # what is declared right and not described was predicted, in all its voxels
        kinds = dict.fromkeys(said.confirmed, "whole") | before | said.kinds
        objects = np.where(np.isin(labels, said.background), 0, labels)[None]
        files = str(image), str(returned)
        check_labels(volume.array, objects, *files, annotation=said.default, kinds=kinds, require_objects=False)
        _check_place(volume, label)
        predictions = self.handed_out.predictions(study, labels.shape)
        predictions += [] if unchecked is None else [unchecked]
        confirmed = confirmed_labels(labels, predictions, own, said.confirmed, said.background, self.background_label)
        checked = {int(i) for i in fastremap.unique(confirmed)} - {0, self.background_label}
        if not checked:
            raise SpocoError(
                f"{study}: the label holds no object that was drawn, changed or confirmed, so there is "
                f"nothing to learn from: draw one, or let the name of a right one begin with {CONFIRMED!r}"
            )
        kept, left = beside_confirmed(labels, confirmed, self.background_label)
        ledger = {number: Entry(kinds.get(number, said.default)) for number in sorted(checked)}
        ledger |= dict.fromkeys(sorted(left), Entry("whole", checked=False))
        return TakenBack(kept, ledger, rectangles_around(around) if said.complete else None)

    def _word(self, kind: str, entry: Entry | None) -> str:
        """How the name of a segment begins."""
        if kind != "confirmed":
            return {"object": PREDICTED, "background": BACKGROUND}[kind]
        return CONFIRMED if entry is None or entry.kind == "whole" else entry.kind

    def _kept(self, path: str | Path) -> tuple[np.ndarray, np.ndarray, dict[int, Entry]]:
        """A label that was kept: what is checked of it, what is not, and its ledger."""
        entries = read_ledger(ledger_path(path))
        return *told_apart(self._read(path, "label").array[0], entries), entries

    def _read(self, path: str | Path, kind: str) -> Image:
        return read_image(path, kind, self.spatial_dims)


class TakenBack(NamedTuple):
    """What is kept of a label that a client sent.

    Attributes:
        labels: (*spatial) int32 ids.
        ledger: of its objects, of which only checked ones teach.
        rectangles: in which every object is drawn, (4, D) corners in voxels each; None where nothing was said.
    """

    labels: np.ndarray
    ledger: dict[int, Entry]
    rectangles: list[np.ndarray] | None


class Said(NamedTuple):
    """What a client says of a label.

    Attributes:
        confirmed: ids that are right.
        background: ids of background.
        complete: ids painted around what is drawn completely.
        kinds: how objects are annotated, by id.
        default: the same of all others.
    """

    confirmed: list[int]
    background: list[int]
    complete: list[int]
    kinds: dict[int, str]
    default: str


def what_is_said(info: Mapping[str, Any], labels: np.ndarray, default: str) -> Said:
    """What the parameters that a client sends with a label say of its objects.

    3D Slicer numbers the segments that it exports 1, 2, 3 in their order; its ``idx`` counts those too which it leaves
    out, so the order decides where the ids fit it.

    Args:
        info: ``confirmed``, ``background`` and ``complete``, lists of ids; ``annotation``, kinds by id, and under
            ``default`` that of all others; ``label_info``, the names of the segments as 3D Slicer sends them, which
            begin with "confirmed", "no object", "complete" or a kind. Whose kind is said is confirmed by that.
        labels: (*spatial) ids.
        default: kind of objects that nothing is said of.

    Raises:
        SpocoError: if one of these has another form, or there is no such kind.
    """
    try:
        chosen = {key: [int(i) for i in info.get(key, ())] for key in (CONFIRMED, "background", COMPLETE)}
        said = {str(number): str(kind) for number, kind in (info.get("annotation") or {}).items()}
        default = said.pop("default", default)
        kinds = {int(number): kind for number, kind in said.items()}
        chosen[CONFIRMED] += list(kinds)
        segments: Sequence[Mapping[str, Any]] = info.get("label_info") or ()
        in_order = labels.max(initial=0) <= len(segments)
        for place, segment in enumerate(segments, start=1):
            name = str(segment["name"]).strip().lower()
            number = place if in_order else int(segment["idx"])
            word = re.match("[a-z]*", name)[0]
            chosen[CONFIRMED] += [number] if name.startswith(CONFIRMED) or word in KINDS else []
            chosen["background"] += [number] if name.startswith(BACKGROUND) else []
            chosen[COMPLETE] += [number] if word == COMPLETE else []
            kind = {PREDICTED: "whole"}.get(word, word)
            if kind in KINDS:
                kinds.setdefault(number, kind)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise SpocoError(
            f"params {dict(info)}: give 'confirmed', 'background' and 'complete' as lists of ids, "
            "'annotation' as {id: kind}, 'label_info' as a list of {'name': ..., 'idx': ...}"
        ) from error
    wrong = {default, *kinds.values()} - set(KINDS)
    if wrong:
        raise SpocoError(f"annotation {min(wrong)!r}: give one of {', '.join(KINDS)}")
    return Said(chosen[CONFIRMED], chosen["background"], chosen[COMPLETE], kinds, default)


def _check_place(image: Image, label: Image) -> None:
    """Refuses a label that lies elsewhere than its image, where both say where they lie."""
    if not {image.file_format, label.file_format} <= {"nifti", "itk"}:
        return
    shape = image.spatial_shape
    try:
        check_same_grid(image.affine, label.affine, shape, image.path, label.path)
    except SpocoError:
        # viewers write millimetres, whatever the unit of the image; other clients repeat the image's numbers
        grids = (file_grid(volume.path)[0][:, [2, 1, 0, 3]] for volume in (image, label))
        check_same_grid(*grids, shape if len(shape) == 3 else (1, *shape), image.path, label.path)


def with_side_files(pairs: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Pairs of ``image`` and ``label`` with the files beside the labels, as ``build_datalist`` gives them."""
    found = []
    for pair in pairs:
        folder = Path(pair["label"]).parent
        beside = files_beside(pair["label"])
        found.append({**pair, **{key: str(path) for key, path in beside.items() if is_inside(folder, path)}})
    return found


def labels_beside(folder: Path) -> dict[Path, Path | None]:
    """Images of a folder with their labels ``NAME_label.EXT`` beside them, as napari keeps them; None without one."""
    files = {image_name(path): path for path in sorted(folder.iterdir()) if path.name.lower().endswith(SUFFIXES)}
    images = {name: path for name, path in files.items() if not is_result(name, files)}
    return {path: files.get(f"{annotated_name(path)}_label") for path in images.values()}


def is_result(name: str, names: Collection[str]) -> bool:
    """Whether the name of a file is that of another one's label, of a mask beside it, or of its prediction."""
    bare = next((name.removesuffix(end) for end in ("_label", "_complete", OUTPUT_ENDING) if name.endswith(end)), None)
    return bare is not None and (bare in names or f"{bare}_raw" in names)


def adopt_labels(folder: Path) -> list[Path]:
    """Copies labels and the files beside them from beside their images to where the server keeps labels.

    An image on which somebody only clicked, with points and no label, gets an empty label beside them.

    Args:
        folder: the studies folder; what the server keeps of an image already stays.

    Returns:
        The images whose labels were copied.

    Raises:
        SpocoError: if one cannot be written.
    """
    final, adopted = folder / "labels" / "final", []
    kept = {image_name(path) for path in final.glob("*")}
    beside = side_files(folder)
    for image, label in labels_beside(folder).items():
        sides = beside.get(annotated_name(image), {})
        if image_name(image) in kept or label is None and "points" not in sides:
            continue
        # the label last: until it is there nothing is learnt
        copies = {path: final / path.name for path in sides.values()}
        if label is not None:
            copies[label] = final / f"{image_name(image)}{file_suffix(label)}"
        for source, target in copies.items():
            with atomic_write(target) as partial:
                shutil.copy(source, partial)
        if label is None:
            shape = read_image(image, "image", image_dimensions(image)).spatial_shape
            write_instances(final / f"{image_name(image)}{result_suffix(image)}", np.zeros(shape, np.uint16), image)
        adopted.append(image)
    return adopted
