"""Files that are either there as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spoco_bundle.errors import SpocoError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Hands out a path beside ``path`` to write to, and moves the file into place once it is complete.

    Args:
        path: where the file is to be; missing folders are made.

    Yields:
        A hidden path in the same folder, with the same end of the name, so that the format it stands for is the same.

    Raises:
        SpocoError: if the file cannot be written; what stood at ``path`` before is then untouched.
    """
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise SpocoError(f"{path}: cannot be written ({error.strerror or error}): choose another folder") from error
