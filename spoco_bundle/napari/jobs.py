"""One command of the package in a process of its own: its progress, its errors, its end.

A process, not a thread: a training saves and stops by signals, which Python hands to the main thread only; its memory
is given back whole; it can be ended in the midst of a convolution; and it cannot hold up the window.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from spoco_bundle.core.errors import SpocoError

#: what this Python is told to run
COMMAND = ["-m", "spoco_bundle.napari.command"]
#: seconds that a process is given to end by itself once it is told to
GRACE = 3.0

# the lines of spoco_bundle.core.progress.Progress where there is no terminal
_SHARE = re.compile(
    r"^(?P<text>[\w -]+: (?P<done>\d+) of (?P<total>[1-9]\d*).*?), [\d.]+ (seconds?|minutes) gone"
    r"(, about (?P<left>[\d.]+) (?P<unit>seconds?|minutes) left)?$"
)
_ERROR = "spoco: "


class CancelledError(Exception):
    """Raised where a command was told to end before its time."""


@dataclass
class JobProgress:
    """How far a command is.

    Attributes:
        text: what it said last.
        fraction: in [0, 1]; None where it is not known.
        seconds_left: None where it is not known.
    """

    text: str
    fraction: float | None = None
    seconds_left: float | None = None


class CommandRun:
    """One run of a command of ``spoco``; ``cancel`` may be called from any thread, also before the run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._ending: threading.Thread | None = None
        self._cancelled = False

    def run(self, arguments: Sequence[str]) -> Iterator[JobProgress]:
        """Runs one command to its end.

        Args:
            arguments: of ``spoco``.

        Yields:
            Progress, whenever there is some.

        Raises:
            CancelledError: if ``cancel`` was called.
            SpocoError: if the command says what the user can mend, or the system killed it.
            RuntimeError: if it failed in another way; its last lines are the message.
        """
        command = [sys.executable, *COMMAND, *arguments]
        with self._lock:
            if self._cancelled:
                raise CancelledError
            self._process = process = subprocess.Popen(
                command,
                # never written to: it closes when this process ends, however it does
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
        last: deque[str] = deque(maxlen=12)
        try:
            with process.stdout as lines:
                for line in filter(None, map(str.strip, lines)):
                    found = read_progress(line)
                    if found.fraction is None:
                        last.append(line)
                    yield found
            code = process.wait()
        finally:
            # also where nobody asks for more, as when a window is closed
            self._end(process)
            process.stdin.close()
        if self._cancelled:
            raise CancelledError
        if code:
            raise _failure(code, last)

    def cancel(self) -> None:
        """Tells the command to end, and ends it some seconds later if it has not; returns at once."""
        with self._lock:
            self._cancelled = True
            process = self._process
            if process is None or (self._ending is not None and self._ending.is_alive()):
                return
            self._ending = threading.Thread(target=self._end, args=(process,), daemon=True)
            self._ending.start()

    def close(self) -> None:
        """Ends the command and waits until it has ended."""
        self.cancel()
        if self._ending is not None:
            self._ending.join()

    @staticmethod
    def _end(process: subprocess.Popen) -> None:
        """Ends a process and the workers that it started."""
        if process.poll() is not None:
            return
        try:
            family = [process, *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()


def read_progress(line: str) -> JobProgress:
    """What a line of a command says."""
    found = _SHARE.match(line)
    if found is None:
        return JobProgress(line)
    left = None if found["left"] is None else float(found["left"]) * (60 if found["unit"] == "minutes" else 1)
    return JobProgress(found["text"], int(found["done"]) / int(found["total"]), left)


def _failure(code: int, last: Sequence[str]) -> Exception:
    said = [line for line in last if line.startswith(_ERROR)]
    if said:
        return SpocoError(said[-1].removeprefix(_ERROR))
    if code < 0:
        return SpocoError(
            f"the command was ended by the system (signal {-code}), most often for want of memory: close other "
            "programs, or set smaller numbers in the options, such as --batch_size 1"
        )
    return RuntimeError("\n".join(last) or f"the command ended with code {code}")
