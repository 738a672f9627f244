"""A training of so many minutes: the clock decides the learning rate, the validations and the end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch.optim import Optimizer

from spoco_bundle.core.errors import SpocoError

logger = logging.getLogger(__name__)


class TimeBudget:
    """Ends a training on time, in place of a number of epochs.

    The learning rate follows one cycle over the share of the time that has passed (see ``one_cycle``), so the schedule
    fits whatever the machine does beside it. Validations come at equal shares, the last at the end; the time that they
    take, one before the first iteration included, is kept free for them as far as it is known. What an interrupted
    training had spent counts when it goes on.

    Where the epochs are done before the time is, that is the end, with its validation.

    The epoch in which the time is up ends early, but completely: ``EPOCH_COMPLETED`` comes, so that a checkpoint holds
    the end. Where several processes train together, all go by the clock of rank 0: rates or validations of their own
    would let their weights part, and would make them wait for each other for ever.

    Args:
        minutes: of the whole training, validations included; None leaves the training to its epochs.
        optimizer: whose learning rate is set.
        learning_rate: at the top of the cycle.
        evaluator: the validation.
        validations: how many, at most; fewer where they would take more than ``share`` of the time.
        share: of the time that validations may take, above 0 and up to 1; the one at the end may take what it needs.
            Where not all can be had, the later ones are: their weights are the better ones.
        warm_up: share of the training in which the learning rate rises, above 0 and below 1.
        clock: seconds that never go back.

    Raises:
        SpocoError: if ``minutes``, ``validations``, ``share`` or ``warm_up`` is out of range.
    """

    def __init__(
        self,
        minutes: float | None,
        optimizer: Optimizer,
        learning_rate: float,
        evaluator: Evaluator | None = None,
        validations: int = 6,
        share: float = 0.15,
        warm_up: float = 0.05,
        clock: Callable[[], float] = time.monotonic,
    ):
        if minutes is not None and not minutes > 0:
            raise SpocoError(f"minutes: must be above 0, got {minutes}; leave it out to train for max_epochs")
        if validations < 1:
            raise SpocoError(f"validations: at least 1, the one at the end, got {validations}")
        if not 0 < share <= 1:
            raise SpocoError(f"share: must be above 0 and at most 1, got {share}")
        if not 0 < warm_up < 1:
            raise SpocoError(f"warm_up: must lie between 0 and 1, got {warm_up}")
        self.seconds = None if minutes is None else 60 * minutes
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.evaluator = evaluator
        self.validations = validations
        self.share = share
        self.warm_up = warm_up
        self.clock = clock
        self.spent = self.validating = self.longest = 0.0
        self.done = 0
        self._began = self._validation_began = 0.0
        self._is_over = False

    def attach(self, engine: Engine) -> None:
        """Registers the clock, the learning rate and the end."""
        if self.seconds is None:
            return
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.STARTED, self._validation_started)
            self.evaluator.add_event_handler(Events.COMPLETED, self._validation_completed)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._set_learning_rate)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._look_at_the_clock)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self._completed)

    def state_dict(self) -> dict[str, float]:
        """Seconds spent, those on validations, the longest of them, and how many there were."""
        return {"spent": self.elapsed, "validating": self.validating, "longest": self.longest, "done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from ``state_dict``."""
        self.spent, self.validating, self.longest = (float(state[name]) for name in ("spent", "validating", "longest"))
        self.done = int(state["done"])
        self._began = self.clock()
        if self.seconds is not None:
            # of more minutes than before a smaller share has passed, so some of the validations are due again
            self.done = min(self.done, int(self.progress * self.validations))
            logger.info("%.1f of %.1f minutes were spent before", self.spent / 60, self.seconds / 60)

    @property
    def elapsed(self) -> float:
        """Seconds since the start, those before an interruption included."""
        return self.spent + (self.clock() - self._began if self._began else 0.0)

    @property
    def progress(self) -> float:
        """Share of the time for training that has passed, 0 to 1, by the clock of this process."""
        training = self.seconds - self.validating - self.longest * self._to_come()
        return min(1.0, (self.elapsed - self.validating) / training) if training > 0 else 1.0

    def _to_come(self) -> int:
        """Validations that are still to come, the last included: as many as may be had in their share of the time."""
        affordable = (self.share * self.seconds - self.validating) / self.longest if self.longest else self.validations
        return max(1, min(self.validations - self.done, int(affordable)))

    @property
    def remaining(self) -> float:
        """Seconds left of the whole, 0 or more."""
        return max(0.0, self.seconds - self.elapsed)

    def _start(self, engine: Engine) -> None:
        self._began = self.clock()
        self._is_over = False
        logger.info(
            "training for %.1f minutes: learning rate up to %g and down again, %s",
            *(self.seconds / 60, self.learning_rate, self._plan()),
        )

    def _plan(self) -> str:
        if self.evaluator is None:
            return "no validation"
        return "a validation at the end" if self.validations == 1 else f"{self.validations} validations or fewer"

    def _set_learning_rate(self, engine: Engine) -> None:
        rate = self.learning_rate * one_cycle(idist.broadcast(self.progress), self.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _look_at_the_clock(self, engine: Engine) -> None:
        progress = idist.broadcast(self.progress)
        # of a training with both a time and a number of epochs the first that is reached is the end
        if progress >= 1 or engine.state.iteration == engine.state.max_epochs * engine.state.epoch_length:
            self._validate(engine)
            self._is_over = True
            engine.terminate_epoch()
        elif progress >= (self.done + 1) / self.validations and self.done + 1 < self.validations:
            if self._to_come() < self.validations - self.done:
                self.done += 1
            else:
                self._validate(engine)

    def _validate(self, engine: Engine) -> None:
        self.done += 1
        if self.evaluator is not None:
            self.evaluator.run(engine.state.epoch)

    def _validation_started(self, evaluator: Engine) -> None:
        self._validation_began = self.clock()

    def _validation_completed(self, evaluator: Engine) -> None:
        taken = idist.broadcast(self.clock() - self._validation_began)
        self.validating += taken
        self.longest = max(self.longest, taken)

    def _epoch_completed(self, engine: Engine) -> None:
        if self._is_over:
            engine.terminate()

    def _completed(self, engine: Engine) -> None:
        logger.info("%d iterations in %.1f minutes", engine.state.iteration, self.elapsed / 60)


def one_cycle(progress: float, warm_up: float = 0.05) -> float:
    """The learning rate over its top after a share of the training: up and down along cosines.

    As ``torch.optim.lr_scheduler.OneCycleLR`` with its defaults (Smith and Topin, "Super-convergence", 2018).

    Args:
        progress: share of the training that is done, 0 to 1.
        warm_up: share in which it rises.
    """
    if progress < warm_up:
        low, high, share = 1 / 25, 1.0, progress / warm_up
    else:
        low, high, share = 1.0, 1 / 250_000, (progress - warm_up) / (1 - warm_up)
    return high + (low - high) * (1 + math.cos(math.pi * share)) / 2
