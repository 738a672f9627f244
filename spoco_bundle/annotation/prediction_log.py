"""Keeps every prediction that was handed out, to tell later what a person changed."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.errors import SpocoError


class PredictionLog:
    """Predictions by image, one compressed file each, the same prediction only once.

    None is ever dropped: a client may return what it was given long ago, and an object that nobody looked at must not
    be taken for one that somebody drew.

    Args:
        folder: where they are kept, a folder per image.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def keep(self, image: str, labels: np.ndarray) -> None:
        """Stores one prediction.

        Args:
            image: name of the image, without a slash.
            labels: (*spatial) non-negative ids.
        """
        stored = np.ascontiguousarray(labels, dtype=np.int32)
        digest = hashlib.sha256(repr(stored.shape).encode() + stored.tobytes()).hexdigest()[:16]
        file = self.folder / image / f"{digest}.npz"
        if not file.exists():
            with atomic_write(file) as path:
                np.savez_compressed(path, labels=stored)

    def predictions(self, image: str, shape: Sequence[int]) -> list[np.ndarray]:
        """All predictions of an image.

        Args:
            image: its name.
            shape: its voxels per axis; predictions of another shape were made for an earlier image of that name.

        Returns:
            Arrays (*shape) int32.

        Raises:
            SpocoError: if one of the files is damaged.
        """
        found = []
        for file in sorted((self.folder / image).glob("[0-9a-f]*.npz")):
            try:
                with np.load(file, allow_pickle=False) as content:
                    found.append(content["labels"])
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                raise SpocoError(f"{file}: a prediction that was handed out is damaged; delete the file") from error
        return [labels for labels in found if labels.shape == tuple(shape)]
