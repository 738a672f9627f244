"""SIGTERM and Ctrl-C, noted until a run can end in good order."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """Notes SIGTERM (as clusters send it) and the first Ctrl-C; a second Ctrl-C ends the process at once.

    Attributes:
        number: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Takes the signals over; in another thread than the main one, whose owner decides, nothing happens."""
        self.number = None
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}

    def release(self) -> None:
        """Gives the signals back to who handled them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
