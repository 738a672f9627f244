"""Files and folders that are either there as a whole or not at all."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import psutil

from spoco_bundle.core.errors import SpocoError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
_HOST = re.sub(r"\W+", "_", socket.gethostname())


def partial_path(path: Path) -> Path:
    """Where a file lies until it is complete; of its own for each thread, as two of a server may write it at once."""
    return path.with_name(f".{_HOST}-{os.getpid()}-{threading.get_native_id()}-{path.name}")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Hands out a path beside ``path`` to write to, and moves the file into place once it is complete.

    Args:
        path: where the file is to be; missing folders are made.

    Yields:
        A hidden path in the same folder, with the same end of the name, so that the format it stands for is the same.

    Raises:
        SpocoError: if the file cannot be written; what stood at ``path`` before is then untouched.

    What killed processes of this machine left in the folder is removed.
    """
    partial = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(path.parent)
        try:
            yield partial
            _flush(partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def write_json(path: Path, content: Any) -> Path:
    """Writes JSON that a person reads, whole or not at all; returns the file.

    Raises:
        SpocoError: as ``atomic_write``.
    """
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=4) + "\n")
    return path


def write_table(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Writes a CSV file with a header, whole or not at all; returns the file.

    Raises:
        SpocoError: as ``atomic_write``.
    """
    path = Path(path)
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(chain([columns], rows))
    return path


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Hands out a hidden folder beside ``path`` to make and fill, and moves it into place once it is complete.

    Args:
        path: where the folder is to be; one that stands there is replaced.

    Yields:
        Its path until then, where nothing stands.

    Raises:
        SpocoError: if something cannot be written.
    """
    partial, before = (path.with_name(f".{path.name}.{end}") for end in ("partial", "before"))
    try:
        shutil.rmtree(partial, ignore_errors=True)
        try:
            yield partial
            # removing a folder takes its time, in which the process may be killed; renaming it does not
            if path.exists():
                shutil.rmtree(before, ignore_errors=True)
                os.replace(path, before)
            os.replace(partial, path)
            shutil.rmtree(before, ignore_errors=True)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def _flush(file: Path) -> None:
    """Waits until a file is on the disk, so that a name never stands for less than the whole, power cut included."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk or a forbidden place into an error that says so; other errors pass.

    Raises:
        SpocoError: in place of such an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL | _FORBIDDEN:
            raise _unwritable(path, error) from error
        raise


def _unwritable(path: Path, error: OSError) -> SpocoError:
    if error.errno in _FULL:
        return SpocoError(
            f"{path}: the disk is full: free space or choose another folder; what is finished stays, and the same "
            "command goes on from there"
        )
    return SpocoError(f"{path}: cannot be written ({error.strerror or error}): free space or choose another folder")


@cache
def _remove_left_behind(folder: Path) -> None:
    """Removes the partial files of processes that no longer run, once per folder."""
    for left in folder.iterdir():
        found = re.match(rf"\.{_HOST}-(\d+)-", left.name)
        if found and not psutil.pid_exists(int(found[1])):
            left.unlink(missing_ok=True)
