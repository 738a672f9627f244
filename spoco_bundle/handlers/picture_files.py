"""A picture of each evaluated image, as a PNG file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ignite.engine import Engine, Events

from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.plain_tensors import plain
from spoco_bundle.core.resampling import resize_nearest
from spoco_bundle.dataset.datalist import image_name
from spoco_bundle.formats.geometry import voxel_spacing
from spoco_bundle.report.pictures import overview_picture


class PictureFilesHandler:
    """Writes ``NAME_overview.png`` for each image of an evaluation: image, embedding, instances found, truth.

    Args:
        output_dir: folder of the pictures.
        max_images: images drawn; the others have scores only.
    """

    def __init__(self, output_dir: str, max_images: int = 20):
        self.output_dir = Path(output_dir)
        self.max_images = max_images
        self._drawn = 0

    def attach(self, engine: Engine) -> None:
        """Draws after each iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draws the images of one iteration."""
        for sample in engine.state.output[: self.max_images - self._drawn]:
            image = sample["image"]
            # as the network saw the image, whatever its own resolution
            prediction, truth = (
                np.asarray(resize_nearest(plain(sample[key]).cpu(), image.shape[1:])[0]) for key in ("pred", "label")
            )
            source = str(image.meta["filename_or_obj"])
            with atomic_write(self.output_dir / f"{image_name(source)}_overview.png") as path:
                overview_picture(
                    path,
                    np.asarray(image.cpu()),
                    prediction,
                    truth,
                    sample["pred_field"],
                    voxel_spacing(image, prediction.ndim),
                    Path(source).name,
                )
            self._drawn += 1
