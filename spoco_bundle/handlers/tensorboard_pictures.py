"""TensorBoard: pictures of what the network sees and finds."""

from __future__ import annotations

from collections.abc import Mapping

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.handlers import TensorBoardHandler

from spoco_bundle.report.pictures import embedding_colours, fullest_plane, gray, label_colours


class PicturesHandler(TensorBoardHandler):
    """Writes pictures of the first validation images: input slice, embedding in PCA colours, instances over truth.

    Volumes are shown in the z slice with the most labelled voxels. The upper half of the last picture holds the
    instances found, the lower half the truth.

    Args:
        log_dir: folder of the TensorBoard files.
        max_images: validation images shown per epoch.
    """

    def __init__(self, log_dir: str = "./runs", max_images: int = 2):
        super().__init__(log_dir=log_dir)
        self.max_images = max_images
        self.shown = 0

    def attach(self, engine: Engine) -> None:
        """Registers the handler with an evaluator, on rank 0 only."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_STARTED, self._restart)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)

    def _restart(self, engine: Engine) -> None:
        self.shown = 0

    def _iteration_completed(self, engine: Engine) -> None:
        outputs = engine.state.output
        for sample in outputs if isinstance(outputs, list) else [outputs]:
            if self.shown < self.max_images:
                self.write(sample, self.shown, int(engine.state.epoch))
                self.shown += 1

    def write(self, sample: Mapping[str, torch.Tensor], number: int, epoch: int) -> None:
        """Writes the pictures of one validation image, of those entries that the sample has."""
        truth = np.asarray(sample["label"].cpu())
        depth = fullest_plane(truth[0], 0) if truth.ndim == 4 else None

        def picture(key: str) -> np.ndarray:
            values = sample[key].detach().cpu()
            return np.asarray(values if depth is None else values[:, depth])

        pictures = {"input": gray(picture("image"))}
        if "pred_field" in sample:
            pictures["embedding"] = embedding_colours(sample["pred_field"], None if depth is None else 0, depth or 0)
        if "pred" in sample:
            found = label_colours(picture("pred")[0])
            pictures["instances_over_truth"] = np.concatenate([found, label_colours(picture("label")[0])])
        for name, colours in pictures.items():
            self._writer.add_image(f"validation_{number}/{name}", colours, epoch, dataformats="HWC")
        self._writer.flush()
