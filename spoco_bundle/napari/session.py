"""What happens to one image: its annotations are kept, trainings on them, predictions, the files saved in the end."""

from __future__ import annotations

import glob
import json
import math
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spoco_bundle.annotation.confirmed import uncovered_objects
from spoco_bundle.annotation.side_files import annotated_name
from spoco_bundle.app.config import config_folder, shipped_weights
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import MICROMETER
from spoco_bundle.dataset.datalist import OUTPUT_ENDING, image_name
from spoco_bundle.dataset.resume import TABLE_ENDING
from spoco_bundle.formats.files import write_instances
from spoco_bundle.formats.geometry import Image, voxel_volume
from spoco_bundle.formats.names import family, result_suffix
from spoco_bundle.formats.objects_table import objects_table, write_objects_table
from spoco_bundle.handlers.embedding_colours import EMBEDDING_ENDING
from spoco_bundle.napari.annotations import (
    Annotations,
    Contents,
    checked_labels,
    label_file,
    read_annotations,
    read_labels,
    write_annotations,
)
from spoco_bundle.napari.files import copy_folder, write_datalist, write_pair
from spoco_bundle.napari.jobs import CommandRun, JobProgress
from spoco_bundle.napari.labels import as_ids, confidence_of, rows_of, small_ids, together, with_confidence

_LABEL = json.loads((config_folder() / "label.json").read_text())
#: iterations of a training unless it is told otherwise, and between two validations
ITERATIONS = _LABEL["max_epochs"] * _LABEL["iterations_per_epoch"]
VALIDATION = _LABEL["val_interval"] * _LABEL["iterations_per_epoch"]
#: iterations of an epoch: few, so that nearly any number of iterations can be asked for
EPOCH = 10

# of an image that is opened again all is read that was written of it
_FILES = threading.Lock()
_BEFORE = re.compile(r"^the weights before this training score (?P<score>[\d.]+|nan)")
_BEST = re.compile(r"^best validation score so far: (?P<score>[\d.]+) ")


@dataclass
class Trained:
    """What a training came to.

    Attributes:
        before: score of the weights that it started from, None where it started from nothing.
        best: score of the weights in use from now on.
        better: whether the weights were replaced.
        note: what else there is to know of the scores.
    """

    before: float | None
    best: float
    better: bool
    note: str = ""


@dataclass
class Predicted:
    """What a prediction, or another tool, found beside the annotated objects.

    Attributes:
        instances: (*spatial) int32 ids, 0 = nothing.
        rows: table of these objects, see ``rows_of``.
        embedding: (*grid, 3) uint8 colours of the embedding, None where the image went block by block.
    """

    instances: np.ndarray
    rows: list[dict[str, Any]]
    embedding: np.ndarray | None = None


class Session:
    """An image and the model that is trained on it, with a folder for temporary files of its own.

    ``keep`` may be called from another thread than ``train``, ``predict``, ``take_file``, ``take_labels`` and ``save``,
    each of both from one at a time, ``cancel`` and ``close`` from any.

    Args:
        image: the image.
        spacing: voxel size along z, y, x or y, x, where the file states none.

    Attributes:
        path: file of the image.
        model: folder of the model in use; None for the weights that come with the bundle.
        trained_here: whether it was trained in this session.
        label: where the annotations are kept, see ``label_file``.
        at_close: what is left to do before the session closes.
    """

    def __init__(self, image: Image, spacing: Sequence[float] | None = None):
        self.image = image
        self.spacing = spacing
        self.model: Path | None = None
        self.trained_here = False
        self.path = Path(image.path)
        self.label = label_file(self.path)
        self.at_close: Callable[[], Any] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="spoco-napari-"))
        self._unkept = False
        self._job = CommandRun()

    def use_model(self, folder: str | Path) -> None:
        """Takes another model into use, which ``spoco train`` wrote.

        Raises:
            SpocoError: if the folder holds no model.
        """
        if not (Path(folder) / "model.pt").is_file():
            raise SpocoError(f"{folder}: holds no model.pt: name the output folder of `spoco train`")
        self.model, self.trained_here = Path(folder), False

    def begin(self) -> None:
        """Forgets an earlier ``cancel``; to be called where work is asked for, before it is handed to a thread."""
        self._job = CommandRun()

    def cancel(self) -> None:
        """Ends the training or prediction within seconds; its files are removed, the model stays as it was."""
        self._job.cancel()

    def close(self) -> None:
        """Ends what runs and removes the temporary files; a model that was not saved is gone."""
        self._job.close()
        if self.at_close is not None:
            self.at_close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def has_voxel_size(self) -> bool:
        """Whether the file states a voxel size, or somebody gave one."""
        return self.image.spacing is not None or self.spacing is not None

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.image.spatial_shape)

    def read(self) -> tuple[Annotations, list[dict[str, Any]]]:
        """What was annotated before, with the table of the unchecked objects, see ``rows_of``.

        Raises:
            SpocoError: if a file that lies beside the label cannot be read or belongs to another image.
        """
        with _FILES:
            annotations = read_annotations(self.label, self.image.spatial_shape)
        rows = [] if annotations.unchecked is None else rows_of(annotations.unchecked, {})
        for folder in {self.label.parent, self.path.parent}:
            rows = with_confidence(rows, folder / f"{image_name(self.path)}{TABLE_ENDING}.csv")
        return annotations, rows

    def keep(self, contents: Contents) -> None:
        """Writes annotations beside the image, or where they were saved if that is not possible.

        Raises:
            SpocoError: if they cannot be written.
        """
        with _FILES:
            self._unkept = True
            write_annotations(self.label, contents, self._like(self.label))
            self._unkept = False

    def train(
        self,
        annotations: Annotations,
        iterations: int = ITERATIONS,
        from_scratch: bool = False,
        options: Sequence[str] = (),
    ) -> Iterator[JobProgress]:
        """Trains on the annotated objects as ``spoco train`` with ``configs/label.json`` does.

        A share of the objects is held out, and the weights are replaced only by ones that score better on them.

        Args:
            annotations: what is known of the image; unchecked objects teach nothing.
            iterations: about how many, rounded to whole validations.
            from_scratch: start from random weights.
            options: further options of ``spoco train``.

        Yields:
            Progress.

        Returns:
            ``Trained``.

        Raises:
            CancelledError: if it was cancelled.
            SpocoError: if nothing is annotated, the shipped weights are for images of another kind, or for whatever
                ``spoco train`` refuses.
        """
        contents = replace(annotations, unchecked=None).contents()
        if not contents.teaches:
            raise SpocoError(
                "no object is annotated yet: paint a few objects into the layer of annotations, each with its own "
                "number, or click into some"
            )
        if not from_scratch:
            self._check_weights()
        with self._job_folder() as name:
            folder = Path(name)
            result = folder / "model"
            validations = max(1, round(iterations / VALIDATION))
            interval = math.ceil(iterations / EPOCH / validations)
            arguments = ["train", str(write_pair(contents, self.image, self.label, folder)), "--output", str(result)]
            arguments += ["--config", "label", "--checkpoint_dir", str(folder / "checkpoints")]
            arguments += ["--iterations_per_epoch", str(EPOCH)]
            arguments += ["--max_epochs", str(interval * validations), "--val_interval", str(interval)]
            if from_scratch:
                arguments += ["--replace_if_better", "False"]
            else:
                arguments += ["--pretrained", str(self._weights() / "model.pt")]
                student = self._weights() / "model_student.pt"
                arguments += ["--pretrained_student", str(student)] if student.is_file() else []
            scores: dict[str, float] = {}
            better, note = True, ""
            for progress in self._job.run([*arguments, *self._common(), *options]):
                for name, pattern in (("before", _BEFORE), ("best", _BEST)):
                    found = pattern.match(progress.text)
                    scores |= {name: float(found["score"])} if found else {}
                better = better and not progress.text.startswith("kept the old weights")
                note = progress.text if "cannot tell which are better" in progress.text else note
                # where the weights lie until the end concerns nobody
                yield replace(progress, text=progress.text.partition(", weights in ")[0])
            if better:
                self._adopt(result)
        before = scores.get("before")
        best = scores.get("best", float("nan") if before is None else before)
        return Trained(before, best, better, note)  # noqa: B901

    def predict(self, checked: np.ndarray, options: Sequence[str] = ()) -> Iterator[JobProgress]:
        """Segments the image as ``spoco predict`` does, in one piece or block by block.

        Args:
            checked: (*spatial) annotated ids; what they cover is left out of the result.
            options: further options of ``spoco predict``.

        Yields:
            Progress.

        Returns:
            ``Predicted``.

        Raises:
            CancelledError: if it was cancelled.
            SpocoError: for whatever ``spoco predict`` refuses.
        """
        self._check_weights()
        with self._job_folder() as name:
            folder = Path(name)
            # as a config, not as an option, which a prediction block by block would refuse
            embedding = folder / "embedding.json"
            embedding.write_text('{"save_embedding": true}')
            arguments = ["predict", str(self.path), "--output", str(folder), "--config", str(embedding)]
            if self.model is not None:
                arguments += ["--model", str(self.model)]
            yield from self._job.run([*arguments, *self._common(), *options])
            yield JobProgress("reading the results")
            (file,) = folder.glob(f"{glob.escape(image_name(self.path))}{OUTPUT_ENDING}.*")
            colours = folder / f"{image_name(self.path)}{EMBEDDING_ENDING}"
            embedding = np.load(colours, allow_pickle=False) if colours.is_file() else None
            return replace(self._read_result(file, checked), embedding=embedding)  # noqa: B901

    def take_file(self, path: str | Path, checked: np.ndarray) -> Iterator[JobProgress]:
        """Reads the result of any tool: a label image on the grid of the image.

        Args:
            path: the label image; of ``NAME_instances.EXT`` the table beside it says the confidences.
            checked: as for ``predict``.

        Yields:
            Progress.

        Returns:
            ``Predicted``.

        Raises:
            SpocoError: if it cannot be read or belongs to another image.
        """
        yield JobProgress(f"reading {path}")
        return self._read_result(Path(path), checked)  # noqa: B901

    def take_labels(self, labels: np.ndarray, name: str, checked: np.ndarray) -> Iterator[JobProgress]:
        """Takes labels of another layer; else as ``take_file``."""
        yield JobProgress(f"reading {name}")
        found = checked_labels(np.asarray(labels), self.image.spatial_shape, name)
        return self._beside(found, {}, checked)  # noqa: B901

    def save(self, folder: str | Path, annotations: Annotations, confidence: Mapping[int, float]) -> list[Path]:
        """Writes what there is, in the format and on the grid of the image.

        ``NAME_instances.EXT`` and ``NAME_objects.csv`` as ``spoco predict`` writes them, annotated objects among the
        predicted ones, without a confidence; ``NAME_label.EXT`` and the files beside it, see ``write_annotations``,
        with ``NAME_datalist.json``, on which ``spoco train`` trains; and ``NAME_model/``, if a model was trained.

        Args:
            folder: made if missing.
            annotations: what is known of the image.
            confidence: of unchecked objects, by id.

        Returns:
            What was written.

        Raises:
            SpocoError: if there is nothing to save, or a file cannot be written.
        """
        folder, name, written = Path(folder).absolute(), image_name(self.path), []
        if annotations.unchecked is not None:
            labels = together(annotations.unchecked, annotations.checked)
            table = folder / f"{name}{TABLE_ENDING}.csv"
            table.unlink(missing_ok=True)
            path = folder / f"{name}{OUTPUT_ENDING}{result_suffix(self.path)}"
            written.append(write_instances(path, as_ids(labels), self.path))
            lengths, volume = (self.spacing, MICROMETER), None
            if self.image.spacing is not None:
                lengths = self.image.spacing, self.image.file_unit
                volume = voxel_volume(self.image.affine)
            rows = objects_table(labels, *lengths, voxel_volume=volume)
            rows = [{**row, "confidence": confidence.get(row["id"], "")} for row in rows]
            written.append(write_objects_table(table, rows, self.dims))
        label = folder / f"{annotated_name(self.path)}_label{result_suffix(self.path)}"
        label = self.label if folder == self.label.parent else label
        with _FILES:
            annotated = write_annotations(label, annotations.contents(), self._like(label))
        written += annotated
        if annotated:
            written.append(write_datalist(folder / f"{name}_datalist.json", self.path, label))
        if self.trained_here:
            written.append(copy_folder(self.model, folder / f"{name}_model"))
        if not written:
            raise SpocoError("there is nothing to save yet: annotate objects or predict first")
        if self._unkept:
            self.label = label
        return written

    def _check_weights(self) -> None:
        if self.model is None and len(self.image.array) != 1:
            raise SpocoError(
                f"{self.path}: has {len(self.image.array)} channels, the weights that come with the bundle are for "
                "one: train from scratch first, or choose another model"
            )

    def _weights(self) -> Path:
        return shipped_weights(self.dims) if self.model is None else self.model

    def _common(self) -> list[str]:
        if self.image.spacing is None and self.spacing is not None:
            return ["--spacing", json.dumps([float(step) for step in self.spacing])]
        return []

    def _like(self, label: Path) -> Path:
        """An image in the format of a label: the image itself, or a copy of the label that is there."""
        if not label.exists() or family(label) == family(self.path):
            return self.path
        copy = self.folder / label.name
        if not copy.exists():
            (shutil.copytree if label.is_dir() else shutil.copy)(label, copy)
        return copy

    def _adopt(self, result: Path) -> None:
        """Takes a trained model into use; the one before goes."""
        before, self.model = self.model, self.folder / f"model_{result.stat().st_mtime_ns}"
        os.replace(result, self.model)
        if self.trained_here and before is not None:
            shutil.rmtree(before, ignore_errors=True)
        self.trained_here = True

    def _read_result(self, path: Path, checked: np.ndarray) -> Predicted:
        """The objects of a label image, and of ``NAME_instances.EXT`` the confidences in the table beside it."""
        table = path.with_name(f"{image_name(path).removesuffix(OUTPUT_ENDING)}{TABLE_ENDING}.csv")
        labels = read_labels(path, self.image.spatial_shape)
        return self._beside(labels, confidence_of(labels, table), checked)

    def _beside(self, labels: np.ndarray, confidence: Mapping[int, float], checked: np.ndarray) -> Predicted:
        labels, confidence = small_ids(labels, confidence)
        instances = uncovered_objects(labels, checked)
        return Predicted(instances, rows_of(instances, confidence))

    def _job_folder(self) -> tempfile.TemporaryDirectory:
        # whatever a cancelled or failed run wrote by half lies in here
        return tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True)
