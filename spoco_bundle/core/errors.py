"""The one error type for what a user can mend, and how it is found in what other libraries raise."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class SpocoError(ValueError):
    """Bad input that the person who runs the program can put right.

    The message is one line that names the file or argument, the offending value and the remedy. The command line
    prints it without a traceback and exits with code 2.
    """


# the form in which torch hands on what was raised in a worker of a data loader
_RAISED_IN_WORKER = re.compile(r"^spoco_bundle\.core\.errors\.SpocoError: (.*)$", re.MULTILINE)
_WORKER_DIED = re.compile(r"DataLoader worker.*(killed by signal|exited unexpectedly)|unable to allocate shared memory")
_MEMORY_SPENT = re.compile(r"can't allocate memory|not enough memory|out of memory|std::bad_alloc", re.IGNORECASE)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def user_error(error: BaseException) -> SpocoError | None:
    """What the user can mend inside a chain of wrapping exceptions, if there is anything.

    That is a ``SpocoError``, also one that was raised in a data-loader worker; a limit of the machine that was met:
    memory, a killed worker, a file or folder that the system refuses; or an expression or an argument in a config that
    makes no sense.

    Args:
        error: what was raised, with its causes and contexts.
    """
    chain = _causes(error)
    for seen in chain:
        raised_in_worker = _RAISED_IN_WORKER.findall(str(seen))
        if raised_in_worker:
            return SpocoError(raised_in_worker[-1])
        if isinstance(seen, SpocoError):
            return seen
    for seen in chain:
        mendable = _limit_met(seen) or _wrong_config(seen)
        if mendable is not None:
            return mendable
    return None


def report_last_on_stderr() -> None:
    """Makes an uncaught error that the user can mend end with its own line, below the traceback.

    For commands that are not this package's own, such as ``python -m monai.bundle run``.
    """
    sys.excepthook = _excepthook


@contextmanager
def unwrapped() -> Iterator[None]:
    """Takes what the user can mend out of the errors that MONAI wraps it in; any other error passes as it is.

    Raises:
        SpocoError: in place of an error that `user_error` finds one in.
    """
    try:
        yield
    except Exception as error:
        mendable = user_error(error)
        if mendable is None or mendable is error:
            raise
        raise SpocoError(str(mendable)) from error


def naming(name: str, problem: str) -> str:
    """What is wrong with a file, its name in front unless it is said anyway."""
    return problem if name in problem else f"{name}: {problem}"


def in_short(error: BaseException) -> str:
    """What an error of another package says, on one line, or its kind where it says nothing; 160 characters at most."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def one_line(error: SpocoError) -> str:
    """The line that both doors of the package end with."""
    return "spoco: " + " ".join(str(error).split())


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.__excepthook__(kind, error, trace)
    mendable = user_error(error)
    if mendable is not None:
        print(one_line(mendable), file=sys.stderr, flush=True)


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and not any(seen is before for before in chain):
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    return chain


def _limit_met(error: BaseException) -> SpocoError | None:
    died = isinstance(error, RuntimeError) and _WORKER_DIED.search(str(error))
    # one that dies while it is started, or the process that starts them, breaks the connection to it
    if died or (isinstance(error, ConnectionError) and _comes_from(error, os.path.join("torch", "utils", "data"))):
        return SpocoError(
            f"num_workers: a data-loader worker died ({in_short(error)}), most often for want of memory: set "
            "num_workers lower or to 0 and run again, a training with --resume"
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _MEMORY_SPENT.search(str(error))):
        return SpocoError(
            f"memory is spent ({in_short(error)}): set window_size for prediction, batch_size, "
            "crop_size or cache_rate for training lower, or use a machine with more"
        )
    full = isinstance(error, OSError) and error.errno in _NO_ROOM
    if full or (isinstance(error, OSError) and error.filename):
        place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        remedy = "free space or choose another folder" if full else "check the path and its permissions"
        return SpocoError(f"{place}{error.strerror}: {remedy}")
    return None


def _comes_from(error: BaseException, folder: str) -> bool:
    """Whether code in such a folder has called what raised an error."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(folder in frame.f_code.co_filename for frame, _ in frames)


def _wrong_config(error: BaseException) -> SpocoError | None:
    """For the two errors in which MONAI wraps what goes wrong in a config item, where the item itself is to blame."""
    cause, text = error.__cause__, " ".join(str(error).split())
    if cause is None or not isinstance(error, RuntimeError):
        return None
    reason = " ".join(str(cause).split())[:160] or type(cause).__name__
    if text.startswith("Failed to evaluate ConfigExpression") and _raised_in_expression(cause):
        expression = text.partition(": ")[2]
        return SpocoError(
            f"config expression {expression} cannot be evaluated ({reason}): correct it or override its id"
        )
    if text.startswith("Failed to instantiate component") and isinstance(cause, (TypeError, ValueError, KeyError)):
        component = text.split("'")[1]
        return SpocoError(f"config component {component} refuses its arguments ({reason}): correct them")
    return None


def _raised_in_expression(cause: BaseException) -> bool:
    """Whether the text of an expression itself failed, not something that it calls."""
    frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(cause.__traceback__)]
    return isinstance(cause, SyntaxError) or frames[-1:] == ["<string>"]
