"""Labels as clients send them, and as they are kept: only what a person drew, changed or confirmed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fastremap
import numpy as np

from spoco_bundle.annotation.confirmed import confirmed_labels, put_confirmed_over
from spoco_bundle.annotation.prediction_log import PredictionLog
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.label_checks import check_labels, check_same_grid
from spoco_bundle.formats import Image, read_image, result_suffix, write_instances
from spoco_bundle.formats.itk_io import file_grid

#: how a segment's name begins that the person has checked, or painted where no object is
CONFIRMED, BACKGROUND = "confirmed", "no object"


class Studies:
    """What was handed out and what came back for the images of a folder.

    Args:
        folder: the studies folder; predictions are kept in its subfolder ``.spoco``.
        spatial_dims: 2 or 3.
        background_label: id under which known background is kept.
    """

    def __init__(self, folder: str | Path, spatial_dims: int, background_label: int):
        self.spatial_dims = spatial_dims
        self.background_label = background_label
        self.handed_out = PredictionLog(Path(folder) / ".spoco")

    def hand_out(self, study: str, prediction: np.ndarray, confirmed: str | Path) -> tuple[np.ndarray, dict[str, int]]:
        """Lays confirmed objects over a prediction and remembers what is left of it.

        Args:
            study: id of the image.
            prediction: (*spatial) ids 1 to n, z, y, x.
            confirmed: label file of the image, "" where there is none.

        Returns:
            (*spatial) int32 ids without gaps, and a name for each: "object 1", ..., "confirmed 8", "no object".
        """
        kinds = {number: "object" for number in range(1, int(prediction.max(initial=0)) + 1)}
        if confirmed:
            own = self._read(confirmed, "label").array[0]
            prediction, kinds = put_confirmed_over(prediction, own, self.background_label)
        numbers = [number for number, kind in kinds.items() if kind == "object"]
        self.handed_out.keep(study, fastremap.mask_except(prediction.astype(np.int32), numbers))
        words = {"object": "object {}", "confirmed": CONFIRMED + " {}", "background": BACKGROUND}
        return prediction, {words[kind].format(number): number for number, kind in kinds.items()}

    def take_back(
        self, study: str, image: str | Path, returned: str | Path, info: Mapping[str, Any], previous: str | Path
    ) -> Path:
        """Checks a label that a client sends and writes what trains, in the format and on the grid of the image.

        Args:
            study: id of the image.
            image: the image file.
            returned: the label file.
            info: parameters sent with it: ``confirmed`` and ``background``, lists of ids, or ``label_info``, the names
                of the segments as 3D Slicer sends them.
            previous: label file kept for the image so far, "" where there is none.

        Returns:
            A new file in the folder for temporary files, for the caller to move away.

        Raises:
            SpocoError: if the file cannot be read, lies on another grid, or its ids are no objects.
        """
        volume, label = self._read(image, "image"), self._read(returned, "label")
        labels = label.array[0]
        confirmed, background = named_segments(info, labels)
        objects = np.where(np.isin(labels, background), 0, labels)
        check_labels(volume.array, objects[None], str(image), str(returned), require_objects=False)
        _check_place(volume, label)
        kept = confirmed_labels(
            labels,
            self.handed_out.predictions(study, labels.shape),
            None if not previous else self._read(previous, "label").array[0],
            confirmed,
            background,
            self.background_label,
        )
        if not np.isin(kept, [0, self.background_label], invert=True).any():
            raise SpocoError(
                f"{study}: the label holds no object that was drawn, changed or confirmed, so there is "
                f"nothing to learn from: draw one, or let the name of a right one begin with {CONFIRMED!r}"
            )
        target = Path(tempfile.mkdtemp()) / f"label{result_suffix(image)}"
        return write_instances(target, kept, image)

    def _read(self, path: str | Path, kind: str) -> Image:
        return read_image(path, kind, self.spatial_dims)


def named_segments(info: Mapping[str, Any], labels: np.ndarray) -> tuple[list[int], list[int]]:
    """Ids that the person confirmed, and ids painted as background.

    3D Slicer numbers the segments that it exports 1, 2, 3 in their order; its ``idx`` counts those too which it leaves
    out, so the order decides where the ids fit it.

    Args:
        info: see ``Studies.take_back``.
        labels: (*spatial) ids.

    Raises:
        SpocoError: if ``label_info`` or one of the lists has another form.
    """
    try:
        chosen = {key: [int(i) for i in info.get(key, ())] for key in ("confirmed", "background")}
        segments: Sequence[Mapping[str, Any]] = info.get("label_info") or ()
        in_order = labels.max(initial=0) <= len(segments)
        for place, segment in enumerate(segments, start=1):
            name = str(segment["name"]).strip().lower()
            number = place if in_order else int(segment["idx"])
            for key, word in (("confirmed", CONFIRMED), ("background", BACKGROUND)):
                chosen[key] += [number] if name.startswith(word) else []
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise SpocoError(
            f"params {dict(info)}: give 'confirmed' and 'background' as lists of ids, and 'label_info' as a list of "
            "{'name': ..., 'idx': ...}"
        ) from error
    return chosen["confirmed"], chosen["background"]


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
