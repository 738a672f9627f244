"""A training of so many minutes: the clock decides the learning rate, the validations and the end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch.optim import Optimizer

__all__ = ["TimeBudget", "one_cycle"]

logger = logging.getLogger(__name__)


class TimeBudget:
    """Ends a training on time, in place of a number of epochs.

    The learning rate follows one cycle over the share of the time that has passed (see ``one_cycle``), so the schedule
    fits whatever the machine does beside it. Validations come at equal shares, the last at the end; the time that they
    take, as far as it is known, is kept free for them. What an interrupted training had spent counts when it goes on.

    Args:
        minutes: of the whole training, validations included; None leaves the training to its epochs.
        optimizer: whose learning rate is set.
        learning_rate: at the top of the cycle.
        evaluator: the validation.
        validations: how many, at most; fewer where they would take more than half of the time.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        minutes: float | None,
        optimizer: Optimizer,
        learning_rate: float,
        evaluator: Evaluator | None = None,
        validations: int = 6,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.seconds = None if minutes is None else 60 * minutes
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.evaluator = evaluator
        self.validations = validations
        self.clock = clock
        self.spent = self.validating = self.longest = 0.0
        self.done = 0
        self._began = 0.0

    def attach(self, engine: Engine) -> None:
        """Registers the clock, the learning rate and the end."""
        if self.seconds is None:
            return
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._set_learning_rate)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._look_at_the_clock)
        engine.add_event_handler(Events.COMPLETED, self._completed)

    def state_dict(self) -> dict[str, float]:
        """Seconds spent, those on validations, the longest of them, and how many there were."""
        return {"spent": self.elapsed, "validating": self.validating, "longest": self.longest, "done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from ``state_dict``."""
        self.spent, self.validating, self.longest = (float(state[name]) for name in ("spent", "validating", "longest"))
        self.done = int(state["done"])
        self._began = self.clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the start, those before an interruption included."""
        return self.spent + (self.clock() - self._began if self._began else 0.0)

    @property
    def progress(self) -> float:
        """Share of the time for training that has passed, 0 to 1."""
        left = self.longest * (1 if self._is_costly() else self.validations - self.done)
        training = self.seconds - self.validating - left
        return min(1.0, (self.elapsed - self.validating) / training) if training > 0 else 1.0

    def _is_costly(self) -> bool:
        """Whether another validation before the last would leave less than half of the time for training."""
        return self.validating + 2 * self.longest > self.seconds / 2

    def _start(self, engine: Engine) -> None:
        self._began = self.clock()

    def _set_learning_rate(self, engine: Engine) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * one_cycle(self.progress)

    def _look_at_the_clock(self, engine: Engine) -> None:
        progress = self.progress
        if progress >= 1:
            self._validate(engine)
            engine.terminate()
        elif progress >= (self.done + 1) / self.validations and self.done + 1 < self.validations:
            if self._is_costly():
                self.done += 1
            else:
                self._validate(engine)

    def _validate(self, engine: Engine) -> None:
        self.done += 1
        if self.evaluator is None:
            return
        before = self.clock()
        self.evaluator.run(engine.state.epoch)
        taken = self.clock() - before
        self.validating += taken
        self.longest = max(self.longest, taken)

    def _completed(self, engine: Engine) -> None:
        logger.info("%d iterations in %.1f minutes", engine.state.iteration, self.elapsed / 60)


def one_cycle(progress: float, warm_up: float = 0.05, start: float = 1 / 25, end: float = 1 / 250_000) -> float:
    """The learning rate over its top after a share of the training: up and down along cosines.

    As ``torch.optim.lr_scheduler.OneCycleLR`` with its defaults (Smith and Topin, "Super-convergence", 2018).

    Args:
        progress: share of the training that is done, 0 to 1.
        warm_up: share in which it rises.
        start: at the beginning.
        end: at the end.
    """
    if progress < warm_up:
        low, high, share = start, 1.0, progress / warm_up
    else:
        low, high, share = 1.0, end, (progress - warm_up) / (1 - warm_up)
    return high + (low - high) * (1 + math.cos(math.pi * share)) / 2
