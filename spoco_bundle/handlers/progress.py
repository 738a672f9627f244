"""Progress over a whole training, with the loss and the time left."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from spoco_bundle.core.progress import Progress


class TrainingProgress:
    """Shows all iterations of all epochs as one work; Ignite's own bar starts again with every epoch.

    Beside iterations and time left: epoch, loss, and the best validation score where one is given. Quiet on other ranks
    than 0.

    Args:
        best_weights: object with ``best_score`` to show, such as ``BestWeights``; None shows none.
        budget: ``TimeBudget`` of a training that ends by the clock; the minutes left are shown in place of the epochs.
    """

    def __init__(self, best_weights: Any = None, budget: Any = None):
        self.best_weights = best_weights
        self.budget = budget
        self.progress: Progress | None = None

    def attach(self, engine: Engine) -> None:
        """Registers opening, moving and closing."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._close)

    @property
    def _has_budget(self) -> bool:
        return self.budget is not None and self.budget.seconds is not None

    def _open(self, engine: Engine) -> None:
        if self.progress is None and idist.get_rank() == 0:
            state = engine.state
            known = not self._has_budget and state.epoch_length and state.max_epochs
            total = state.epoch_length * state.max_epochs if known else None
            # opened with the first epoch, because a resumed engine learns its iteration at the start
            self.progress = Progress("iterations", total, done=state.iteration)

    def _advance(self, engine: Engine) -> None:
        if self.progress is None:
            return
        state = engine.state
        output = state.output[0] if isinstance(state.output, (list, tuple)) else state.output
        if self._has_budget:
            facts = {"minutes left": f"{self.budget.remaining / 60:.1f}"}
        else:
            facts = {"epoch": f"{state.epoch} of {state.max_epochs}"}
        facts["loss"] = f"{output['loss_terms']['loss']:.3f}"
        if self.best_weights is not None and self.best_weights.best_epoch:
            facts["best"] = f"{self.best_weights.best_score:.3f}"
        self.progress.update(**facts)

    def _close(self, engine: Engine) -> None:
        if self.progress is not None:
            self.progress.close()
            self.progress = None
