"""The part of the window for what takes time: steps in a thread, how far they are, and how they end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from napari.qt.threading import create_worker
from napari.utils.notifications import notification_manager, show_error

from spoco_bundle.core.errors import SpocoError, user_error
from spoco_bundle.napari.jobs import CancelledError, JobProgress


class Running:
    """Adds to the window that one work runs at a time, whether it does (``running``), and its end."""

    def _start_running(self) -> None:
        self.running = False
        self._done: Callable[[Any], None] = self._say

    def _start(self, steps: Callable[[], Iterator[JobProgress]], done: Callable[[Any], None]) -> None:
        """Runs steps in a thread that shows their progress; ``done`` gets their result in the thread of the window."""
        if self.running:
            return
        if self.session is not None:
            self.session.begin()
        self.running, self._done = True, done
        self._show_progress(JobProgress("starting ..."))
        self._refresh()
        worker = create_worker(_guarded, steps)
        worker.yielded.connect(self._show_progress)
        # methods of this widget, which Qt therefore calls in its thread
        worker.returned.connect(self._end)
        worker.start()

    def _show_progress(self, progress: JobProgress) -> None:
        busy = progress.fraction is None or progress.fraction >= 1
        self.bar.setMaximum(0 if busy else 1000)
        self.bar.setValue(0 if busy else round(1000 * progress.fraction))
        left = "" if progress.seconds_left is None or busy else f", about {_duration(progress.seconds_left)} left"
        self._say(progress.text + left)

    def _end(self, outcome: tuple[Any, Exception | None]) -> None:
        result, error = outcome
        self.running = False
        self.bar.setMaximum(1000)
        self.bar.setValue(0)
        self._say("")
        self._refresh()
        if isinstance(error, CancelledError):
            self._say("cancelled; the model is what it was")
        elif isinstance(error, SpocoError):
            self._say("stopped; the message says why")
            show_error(" ".join(str(error).split()))
        elif error is not None:
            self._say("failed; the message says more")
            notification_manager.receive_error(type(error), error, error.__traceback__)
        else:
            self._done(result)
            self._refresh()

    def _say(self, text: str) -> None:
        # lines break at slashes too, so that long paths are seen to their end
        self.status_label.setText(text.replace("/", "/\u200b"))


def _guarded(steps: Callable[[], Iterator[JobProgress]]) -> Iterator[JobProgress]:
    """Hands on the result of steps, or what they raised, which the window is to tell."""
    try:
        return (yield from steps()), None
    except Exception as error:
        return None, user_error(error) or error


def _duration(seconds: float) -> str:
    return f"{max(5, math.ceil(seconds))} s" if seconds < 90 else f"{seconds / 60:.0f} min"
