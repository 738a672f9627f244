"""What must be settled before the first iteration: weights to start from, spacing and coordinate scale."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch import nn

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import in_words
from spoco_bundle.dataset.crop_dataset import SparseCropDataset
from spoco_bundle.formats import voxel_spacing
from spoco_bundle.handlers.best_weights import BestWeights
from spoco_bundle.networks import MomentumTeacher, load_weights
from spoco_bundle.networks.lengths import alike_spacings, learn_lengths, learnt_lengths

logger = logging.getLogger(__name__)


class LoadWeights:
    """Loads a weights file into the network when the engine starts, and copies it to the teacher if there is one.

    Args:
        path: flat state dict, see :func:`spoco_bundle.networks.load_weights`.
        network: the network to fill.
        teacher: momentum teacher that shall start from the same weights.
        student_path: weights of the network, where it shall start from others than the teacher.

    Raises:
        SpocoError: when the engine starts, if a file is missing, damaged or made for another network.
    """

    def __init__(
        self, path: str, network: nn.Module, teacher: MomentumTeacher | None = None, student_path: str | None = None
    ):
        self.path = path
        self.network = network
        self.teacher = teacher
        self.student_path = student_path

    def attach(self, engine: Engine) -> None:
        """Registers the loading at the start of the engine."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Loads the weights."""
        load_weights(self.network, self.path)
        if self.teacher is not None:
            self.teacher.copy_from(self.network)
        if self.student_path is not None:
            load_weights(self.network, self.student_path)
        logger.info("weights from %s", " and ".join(filter(None, (self.path, self.student_path))))


class CoordinateScale:
    """Writes the training spacing and the coordinate scale into the buffers of student and teacher.

    The scale is the number given, or else ``radii`` times the radius of a typical annotated object. Where the volumes
    have different spacings the median per axis is kept.

    The buffers also say whether these are micrometres or pixels. A network that is trained further keeps its own scale,
    unless it learnt the other of the two, or its spacing differs by more than 1.5 times along an axis: other voxels
    hold other objects, in which its scale would make every vote for a centre far too short or too long, while half a
    radius stays half a radius.

    Args:
        network: the student, with the buffers of ``EmbeddingUNet``.
        teacher: its momentum teacher.
        dataset: the ``SparseCropDataset`` of the training, whose volumes are not read again.
        spatial_dims: 2 or 3.
        diameter: of a typical object, in micrometres, or pixels where the images have no known size.
        scale: coordinate scale in the same unit; None for that of the network, or one that follows from the diameter.
        radii: scale in units of the radius, where it follows from the diameter.
        max_volumes: volumes looked at.
    """

    def __init__(
        self,
        network: nn.Module,
        teacher: MomentumTeacher,
        dataset: SparseCropDataset,
        spatial_dims: int,
        diameter: float,
        scale: float | None = None,
        radii: float = 1.0,
        max_volumes: int = 16,
    ):
        self.network = network
        self.teacher = teacher
        self.dataset = dataset
        self.spatial_dims = spatial_dims
        self.diameter = diameter
        self.scale = scale
        self.radii = radii
        self.max_volumes = max_volumes

    def attach(self, engine: Engine) -> None:
        """Registers the estimate at the start of the engine."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Fills the buffers."""
        spacings, unit = [], ""
        for number in range(min(self.max_volumes, len(self.dataset.data))):
            sample = self.dataset.whole_volume(number)
            spacings.append(voxel_spacing(sample["image"], self.spatial_dims))
            unit = str(sample["image"].meta["length_unit"])
        spacing = np.median(spacings, axis=0)
        if self.scale is not None:
            scale = self.scale
        elif self._fits(spacing, unit):
            scale = float(self.network.coordinate_scale)
        else:
            scale = self.radii * self.diameter / 2
        for network in (self.network, self.teacher.module):
            network.coordinate_scale.fill_(scale)
            learn_lengths(network, spacing, unit)
        logger.info("coordinate scale %.3g, spacing %s", scale, in_words(spacing, unit))

    def _fits(self, spacing: np.ndarray, unit: str) -> bool:
        """Whether the network has a scale, made for voxels of about this spacing."""
        trained, learnt = learnt_lengths(self.network)
        if float(self.network.coordinate_scale) == 0:
            return False
        return trained is None or learnt == unit and alike_spacings(spacing.tolist(), trained)


class ScoreBefore:
    """Validates the weights that a training starts from, so that ``BestWeights`` replaces them only by better ones.

    They are not saved: they lie in their place already. A training that goes on knows the score from its checkpoint. At
    the end one line says which weights are kept, with both scores. Put it behind the handlers that load weights and set
    the coordinate scale.

    Args:
        evaluator: the validation.
        best: what keeps the best weights there.
        from_weights: whether the training starts from weights, not from random ones.
        wanted: False replaces them by the best of the new ones in any case.
        top: score from which on a better one could not be told from it.

    Raises:
        SpocoError: before the first iteration, if the validation gives no score.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        best: Sequence[BestWeights],
        from_weights: bool = True,
        wanted: bool = True,
        top: float = 0.999,
    ):
        self.evaluator = evaluator
        self.best = best
        self.from_weights = from_weights
        self.wanted = wanted
        self.top = top

    def attach(self, engine: Engine) -> None:
        """Registers the validation before the first iteration, and the word at the end."""
        # later than STARTED, at which a training that goes on reads its checkpoint
        engine.add_event_handler(Events.EPOCH_STARTED, self)
        engine.add_event_handler(Events.COMPLETED, self._completed)

    def __call__(self, engine: Engine) -> None:
        """Validates once."""
        if not self.wanted:
            for one in self.best:
                one.forget_before()
        elif self.from_weights and engine.state.iteration == 0:
            self._score()

    def _score(self) -> None:
        for one in self.best:
            one.saving = False
        self.evaluator.run(1)
        state = self.evaluator.state
        score = float(state.metrics[state.key_metric_name])
        if math.isnan(score):
            raise SpocoError(
                "replace_if_better: the validation cannot score the weights that the training starts from: annotate "
                "objects to validate on, or give --replace_if_better False"
            )
        for one in self.best:
            one.saving = True
            one.start_from(score)
        logger.info("the weights before this training score %.4f", score)

    def _completed(self, engine: Engine) -> None:
        best = self.best[0]
        if best.before is None:
            return
        if best.won:
            logger.info(
                "replaced the old weights: those in use from now on score %.4f, the old ones %.4f",
                *(best.best_score, best.before),
            )
            return
        logger.info(
            "kept the old weights: none was better (they score %.4f, the best new ones %.4f)",
            *(best.before, best.best_trained),
        )
        if best.before >= self.top:
            logger.info("that score can hardly be beaten, so it cannot tell which are better: annotate more objects")
