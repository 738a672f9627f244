"""What happens to one image: trainings on its annotated objects, predictions, and the files saved in the end."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spoco_bundle.annotation.confirmed import uncovered_objects
from spoco_bundle.app.config import config_folder, shipped_weights
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import MICROMETER, UNITLESS
from spoco_bundle.dataset.datalist import OUTPUT_ENDING, image_name
from spoco_bundle.dataset.resume import TABLE_ENDING
from spoco_bundle.formats.files import is_zarr, read_image, result_suffix, write_instances
from spoco_bundle.formats.lazy import open_volume
from spoco_bundle.formats.objects_table import objects_table, read_objects_table, write_objects_table
from spoco_bundle.handlers.embedding_colours import EMBEDDING_ENDING
from spoco_bundle.napari.files import copy_folder, write_datalist, write_label_image, write_part
from spoco_bundle.napari.jobs import CommandRun, JobProgress
from spoco_bundle.napari.labels import as_ids, count_objects, together
from spoco_bundle.napari.reader import OpenedImage

_LABEL = json.loads((config_folder() / "label.json").read_text())
#: iterations of a training unless it is told otherwise, and between two validations
ITERATIONS = _LABEL["max_epochs"] * _LABEL["iterations_per_epoch"]
VALIDATION = _LABEL["val_interval"] * _LABEL["iterations_per_epoch"]
#: iterations of an epoch: few, so that nearly any number of iterations can be asked for
EPOCH = 10
#: voxels along z, y, x around the annotated objects of a large image that are cut out with them to train on
AROUND = (32, 64, 64)

_KEPT = re.compile(r"^kept the old weights")
_NOTE = re.compile(r"cannot tell which are better")
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
    """What a prediction found beside the annotated objects.

    Attributes:
        instances: (*spatial) int32 ids, 0 = nothing.
        rows: table of these objects, see ``objects_table``.
        embedding: (*grid, 3) uint8 colours of the embedding, None where the image went block by block.
    """

    instances: np.ndarray
    rows: list[dict[str, Any]]
    embedding: np.ndarray | None


class Session:
    """An image and the model that is trained on it, with a folder for temporary files of its own.

    ``train``, ``predict`` and ``save`` are to be called from one thread at a time, ``cancel`` and ``close`` from any.

    Args:
        image: the image.
        spacing: voxel size along z, y, x or y, x, where the file states none.

    Attributes:
        model: folder of the model in use; None for the weights that come with the bundle.
        trained_here: whether it was trained in this session.
        confidence: of the objects of the last prediction, by id.
    """

    def __init__(self, image: OpenedImage, spacing: Sequence[float] | None = None):
        self.image = image
        self.spacing = spacing
        self.model: Path | None = None
        self.trained_here = False
        self.confidence: dict[int, float] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="spoco-napari-"))
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
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def has_voxel_size(self) -> bool:
        """Whether the file states a voxel size, or somebody gave one."""
        return self.image.spacing is not None or self.spacing is not None

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.image.shape)

    def train(
        self,
        annotations: np.ndarray,
        iterations: int = ITERATIONS,
        from_scratch: bool = False,
        options: Sequence[str] = (),
    ) -> Iterator[JobProgress]:
        """Trains on the annotated objects as ``spoco train`` with ``configs/label.json`` does.

        A share of the objects is held out, and the weights are replaced only by ones that score better on them.

        Args:
            annotations: (*spatial) a number per object, 0 = unknown, ``BACKGROUND`` = no object.
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
        if count_objects(annotations) == 0:
            raise SpocoError(
                "no object is annotated yet: paint a few whole objects into the layer of annotations, each with its "
                "own number"
            )
        if not from_scratch:
            self._check_weights()
        with self._job_folder() as name:
            folder = Path(name)
            result = folder / "model"
            validations = max(1, round(iterations / VALIDATION))
            interval = math.ceil(iterations / EPOCH / validations)
            arguments = ["train", str(self._write_pair(annotations, folder)), "--output", str(result)]
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
                better = better and not _KEPT.match(progress.text)
                note = progress.text if _NOTE.search(progress.text) else note
                # where the weights lie until the end concerns nobody
                yield replace(progress, text=progress.text.partition(", weights in ")[0])
            if better:
                self._adopt(result)
        before = scores.get("before")
        best = scores.get("best", float("nan") if before is None else before)
        return Trained(before, best, better, note)  # noqa: B901

    def predict(self, annotations: np.ndarray, options: Sequence[str] = ()) -> Iterator[JobProgress]:
        """Segments the image as ``spoco predict`` does, in one piece or block by block.

        Args:
            annotations: as for ``train``; what they cover is left out of the result.
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
            arguments = ["predict", str(self.image.path), "--output", str(folder), "--config", str(embedding)]
            if self.model is not None:
                arguments += ["--model", str(self.model)]
            yield from self._job.run([*arguments, *self._common(), *options])
            yield JobProgress("reading the results")
            result = self._read_results(folder, annotations)
        return result  # noqa: B901

    def save(self, folder: str | Path, instances: np.ndarray | None, annotations: np.ndarray) -> list[Path]:
        """Writes what there is, in the format and on the grid of the image.

        ``NAME_instances.EXT`` and ``NAME_objects.csv`` as ``spoco predict`` writes them, annotated objects among the
        predicted ones, without a confidence; ``NAME_label.EXT``, the annotations alone, with ``NAME_datalist.json``,
        on which ``spoco train`` trains; and ``NAME_model/``, if a model was trained.

        Args:
            folder: made if missing.
            instances: (*spatial) predicted ids; None without a prediction.
            annotations: as for ``train``.

        Returns:
            What was written.

        Raises:
            SpocoError: if there is nothing to save, or a file cannot be written.
        """
        folder, name = Path(folder).absolute(), image_name(self.image.path)
        annotated = bool(annotations.any())
        if instances is None and not annotated and not self.trained_here:
            raise SpocoError("there is nothing to save yet: annotate objects or predict first")
        written = []
        if instances is not None:
            labels, confidence = together(instances, annotations, self.confidence)
            table = folder / f"{name}{TABLE_ENDING}.csv"
            table.unlink(missing_ok=True)
            written.append(self._write_labels(folder, OUTPUT_ENDING, labels))
            written.append(write_objects_table(table, self._rows(labels, confidence), self.dims))
        if annotated:
            label = self._write_labels(folder, "_label", annotations)
            written += [label, write_datalist(folder / f"{name}_datalist.json", self.image.path, label)]
        if self.trained_here:
            written.append(copy_folder(self.model, folder / f"{name}_model"))
        return written

    def _check_weights(self) -> None:
        if self.model is None and self.image.channels != 1:
            raise SpocoError(
                f"{self.image.path}: has {self.image.channels} channels, the weights that come with the bundle are for "
                "one: train from scratch first, or choose another model"
            )

    def _weights(self) -> Path:
        return shipped_weights(self.dims) if self.model is None else self.model

    def _common(self) -> list[str]:
        if self.image.spacing is None and self.spacing is not None:
            return ["--spacing", json.dumps([float(step) for step in self.spacing])]
        return []

    def _write_pair(self, annotations: np.ndarray, folder: Path) -> Path:
        """The datalist of a training; of an OME-Zarr image the part around the annotated objects."""
        image = self.image.path
        if is_zarr(image):
            image = folder / "part.ome.tif"
            region = self._region_to_train(annotations)
            write_part(image, open_volume(self.image.path, self.dims).read(region), self.image)
            annotations = annotations[region]
        suffix = result_suffix(image)
        label = write_instances(folder / f"annotations{suffix}", as_ids(annotations), image)
        return write_datalist(folder / "datalist.json", image, label)

    def _region_to_train(self, annotations: np.ndarray) -> tuple[slice, ...]:
        margin = AROUND[-self.dims :]
        axes = range(self.dims)
        places = [np.flatnonzero(annotations.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]
        return tuple(
            slice(max(0, int(place[0]) - around), min(size, int(place[-1]) + 1 + around))
            for place, around, size in zip(places, margin, annotations.shape)
        )

    def _adopt(self, result: Path) -> None:
        """Takes a trained model into use; the one before goes."""
        before, self.model = self.model, self.folder / f"model_{result.stat().st_mtime_ns}"
        os.replace(result, self.model)
        if self.trained_here and before is not None:
            shutil.rmtree(before, ignore_errors=True)
        self.trained_here = True

    def _read_results(self, folder: Path, annotations: np.ndarray) -> Predicted:
        name = image_name(self.image.path)
        file = next(path for path in folder.iterdir() if path.name.startswith(f"{name}{OUTPUT_ENDING}."))
        if is_zarr(file):
            labels = open_volume(file, self.dims).read(tuple(slice(0, size) for size in self.image.shape))[0]
        else:
            labels = read_image(file, "label", self.dims).array[0]
        table = read_objects_table(folder / f"{name}{TABLE_ENDING}.csv")
        self.confidence = {int(row["id"]): float(row["confidence"]) for row in table if row["confidence"]}
        instances = uncovered_objects(labels.astype(np.int32), annotations)
        colours = folder / f"{name}{EMBEDDING_ENDING}"
        embedding = np.load(colours, allow_pickle=False) if colours.is_file() else None
        return Predicted(instances, self._rows(instances, self.confidence), embedding)

    def _rows(self, labels: np.ndarray, confidence: Mapping[int, float]) -> list[dict[str, Any]]:
        rows = objects_table(labels, self.image.spacing or self.spacing, self._unit())
        return [{**row, "confidence": confidence.get(row["id"], "")} for row in rows]

    def _unit(self) -> str:
        stated = self.image.unit
        return MICROMETER if self.image.spacing is None or stated == UNITLESS else stated

    def _write_labels(self, folder: Path, ending: str, labels: np.ndarray) -> Path:
        path, labels = self.image.path, as_ids(labels)
        if is_zarr(path):
            return write_label_image(folder / f"{image_name(path)}{ending}.ome.zarr", labels, self.image)
        return write_instances(folder / f"{image_name(path)}{ending}{result_suffix(path)}", labels, path)

    def _job_folder(self) -> tempfile.TemporaryDirectory:
        # whatever a cancelled or failed run wrote by half lies in here
        return tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True)
