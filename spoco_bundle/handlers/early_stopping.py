"""Ends a training that no longer improves."""

from __future__ import annotations

import logging

from ignite.engine import Engine, Events

from spoco_bundle.handlers.best_weights import BestWeights

logger = logging.getLogger(__name__)


class EarlyStopping:
    """Ends the training at a validation since whose best one a number of epochs has passed.

    It keeps no state of its own: the best epoch is that of ``BestWeights``, which a checkpoint holds, so a resumed
    training stops at the same epoch as an uninterrupted one. Put it behind the validation in the trainer's handlers.

    Args:
        best_weights: handler of the evaluator that knows the best epoch.
        patience: epochs without a better score.
    """

    def __init__(self, best_weights: BestWeights, patience: int):
        self.best_weights = best_weights
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        """Registers the check at the end of each epoch."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Ends the training if it is time."""
        if self.best_weights.last_epoch - self.best_weights.best_epoch >= self.patience:
            logger.info(
                "no better score since epoch %d: stopping at epoch %d", self.best_weights.best_epoch, engine.state.epoch
            )
            engine.terminate()
