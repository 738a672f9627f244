"""Progress with an estimate of the time left: a bar on a terminal, now and then a line of the log elsewhere."""

from __future__ import annotations

import logging
import time
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS = 30.0  # between two lines of a log, unless SHARE of the work is done earlier
SHARE = 0.1


class Progress:
    """Counts work that is done, and shows it on the error stream if that is a terminal, else in the log.

    A log gets a line when a tenth more is done, all is done, or 30 seconds have passed, so that it holds neither
    carriage returns nor a line for every step. A context manager: leaving it closes the bar.

    Args:
        name: what is done, such as "images".
        total: steps in all, or None where they are not known.
        done: steps done earlier, as by a run that is resumed.
        inner: part of a larger work that is shown too: its bar disappears at its end, and a log hears of it only as
            seconds pass.
        quiet: shows nothing.
    """

    def __init__(
        self, name: str, total: int | None = None, done: int = 0, inner: bool = False, quiet: bool = False
    ) -> None:
        self.name = name
        self.total = total
        self.done = self._first = done
        self.quiet = quiet
        self.inner = inner
        self._began = self._said = time.monotonic()
        self._said_done = done
        # None: only on a terminal
        self.bar = tqdm(desc=name, total=total, initial=done, leave=not inner, disable=True if quiet else None)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update(self, steps: int = 1, **facts: Any) -> None:
        """Counts steps; facts, such as a loss, are shown beside them."""
        self.done += steps
        if not self.bar.disable:
            self.bar.set_postfix(facts, refresh=False)
            self.bar.update(steps)
        elif not self.quiet and self._is_due():
            logger.info("%s", self.line(**facts))
            self._said, self._said_done = time.monotonic(), self.done

    def close(self) -> None:
        """Ends the bar."""
        self.bar.close()

    def line(self, **facts: Any) -> str:
        """The state in words, such as ``images: 3 of 10, 1.5 minutes gone, about 3.5 minutes left``."""
        gone = time.monotonic() - self._began
        parts = [f"{self.name}: {self.done}" + (f" of {self.total}" if self.total else "")]
        parts += [f"{name} {value}" for name, value in facts.items()]
        parts.append(f"{_in_words(gone)} gone")
        if self.total and self.done > self._first:
            parts.append(f"about {_in_words(gone * (self.total - self.done) / (self.done - self._first))} left")
        return ", ".join(parts)

    def _is_due(self) -> bool:
        tenth = bool(self.total) and (self.done - self._said_done >= SHARE * self.total or self.done == self.total)
        return tenth and not self.inner or time.monotonic() - self._said >= SECONDS


def _in_words(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} second{'s' * (whole != 1)}" if whole < 60 else f"{seconds / 60:.1f} minutes"
