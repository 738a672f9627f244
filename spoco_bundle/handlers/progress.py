"""Progress bar over a whole training, with the loss and the time left."""

from __future__ import annotations

import logging
import time
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from tqdm import tqdm

logger = logging.getLogger(__name__)


class TrainingProgress:
    """One bar for all iterations of all epochs; Ignite's own bar starts again with every epoch.

    Shows iterations, time gone and left, epoch, loss, and the best validation score where one is given. Where the
    output is no terminal, a line is logged at the end of each epoch instead. Quiet on other ranks than 0.

    Args:
        best_weights: object with ``best_score`` to show, such as ``BestWeights``; None shows none.
        loss_key: key of the loss in the trainer's output.
    """

    def __init__(self, best_weights: Any = None, loss_key: str = "loss"):
        self.best_weights = best_weights
        self.loss_key = loss_key
        self.bar: tqdm | None = None
        self._last_loss = float("nan")
        self._opened = 0.0
        self._first_epoch = 0

    def attach(self, engine: Engine) -> None:
        """Registers opening, moving and closing the bar."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._log)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _open(self, engine: Engine) -> None:
        if self.bar is None and idist.get_rank() == 0:
            state = engine.state
            total = state.epoch_length * state.max_epochs if state.epoch_length and state.max_epochs else None
            # opened with the first epoch, because a resumed engine learns its iteration at the start
            self._opened = time.monotonic()
            self._first_epoch = state.epoch - 1
            self.bar = tqdm(total=total, initial=state.iteration, desc="training", unit="it", disable=None)

    def _advance(self, engine: Engine) -> None:
        if self.bar is None:
            return
        output = engine.state.output
        output = output[0] if isinstance(output, (list, tuple)) else output
        self._last_loss = float(output[self.loss_key])
        shown = {"epoch": engine.state.epoch, "loss": f"{self._last_loss:.3f}"}
        if self.best_weights is not None and self.best_weights.best_epoch:
            shown["best"] = f"{self.best_weights.best_score:.3f}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()

    def _log(self, engine: Engine) -> None:
        if self.bar is None or not self.bar.disable:
            return
        state = engine.state
        minutes = (time.monotonic() - self._opened) / 60
        left = minutes * (state.max_epochs - state.epoch) / max(state.epoch - self._first_epoch, 1)
        logger.info(
            "epoch %d of %d, loss %.3f, %.1f minutes gone, about %.1f left",
            state.epoch,
            state.max_epochs,
            self._last_loss,
            minutes,
            left,
        )

    def _close(self, engine: Engine) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
