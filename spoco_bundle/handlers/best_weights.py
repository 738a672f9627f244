"""The best weights of a training, by the score of its validations."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch import nn

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.saved_state import plain_state, save_state

logger = logging.getLogger(__name__)


class BestWeights:
    """Saves the weights of a network whenever the validation score rises above every score before.

    Attach it to the evaluator, behind its metrics. The file is a flat state dict, as MONAI's readers want it, written
    atomically by rank 0. Its own ``state_dict`` keeps the best score, so that a resumed run does not overwrite better
    weights; put it among the objects of ``TrainingCheckpoint``.

    Args:
        network: module whose weights are saved; the inner one of a data-parallel wrapper.
        path: file to write, such as ``models/model.pt``.
        metric: name in ``engine.state.metrics``; None takes the evaluator's key metric.

    Attributes:
        best_score: the best so far.
        best_epoch: its epoch; 0 for none yet, and for weights from before the training.
        last_epoch: epoch of the last validation; 0 for none in this run.
        before: score of the weights that the training started from; None where they were not scored.
        best_trained: best score of the weights that it trained.
        saving: whether better weights are saved; switched off for those that the training starts from.
        on_save: called when weights were saved, to write what belongs beside them; None for nothing.

    Raises:
        SpocoError: when a validation ends, if there is no such metric.
    """

    def __init__(self, network: nn.Module, path: str, metric: str | None = None):
        self.network = network
        self.path = Path(path)
        self.metric = metric
        self.best_score = -float("inf")
        self.best_epoch = 0
        self.last_epoch = 0
        self.before: float | None = None
        self.best_trained = -float("inf")
        self.saving = True
        self.on_save: Callable[[], Any] | None = None

    @property
    def won(self) -> bool:
        """Whether a validation of this training was the best; not so where weights from before it still are."""
        return self.best_epoch > 0

    def attach(self, engine: Engine) -> None:
        """Registers the comparison at the end of each validation."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)

    def state_dict(self) -> dict[str, Any]:
        """The scores so far."""
        names = ("best_score", "best_epoch", "before", "best_trained")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the scores so far from ``state_dict``."""
        self.best_score = float(state["best_score"])
        self.best_epoch = int(state["best_epoch"])
        # version 0.1 kept no more than these two
        self.before = state.get("before")
        self.best_trained = float(state.get("best_trained", self.best_score))

    def start_from(self, score: float) -> None:
        """Takes the validation that has just ended for that of the weights which the training starts from."""
        self.before, self.best_trained, self.best_epoch = score, -float("inf"), 0

    def forget_before(self) -> None:
        """Lets the next validation win over the weights that the training started from."""
        if self.before is not None and not self.won:
            self.best_score = -float("inf")
        self.before = None

    def save(self) -> None:
        """Writes the weights as they are now, and what belongs beside them."""
        network = self.network
        if isinstance(network, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            network = network.module
        save_state(plain_state(network.state_dict()), self.path)
        if self.on_save is not None:
            self.on_save()

    def _epoch_completed(self, engine: Engine) -> None:
        name = self.metric or getattr(engine.state, "key_metric_name", None)
        if name not in engine.state.metrics:
            raise SpocoError(f"metric: validation gives no {name!r}; choose among {sorted(engine.state.metrics)}")
        score = float(engine.state.metrics[name])
        self.last_epoch = int(engine.state.epoch)
        self.best_trained = max(self.best_trained, score)
        if not score > self.best_score:  # NaN is no improvement either
            return
        self.best_score = score
        self.best_epoch = self.last_epoch
        if not self.saving:
            return
        if idist.get_rank() == 0:
            self.save()
        logger.info("best validation score so far: %.4f at epoch %d, weights in %s", score, self.best_epoch, self.path)
