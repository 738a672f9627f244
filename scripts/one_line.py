"""How scripts end where the user can mend it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spoco_bundle.core.errors import user_error


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Around `main`: what the user can mend ends a script with exit code 2 and one line, as argparse does."""
    try:
        yield
    except Exception as error:
        mendable = user_error(error)
        if mendable is None:
            raise
        print(f"{Path(sys.argv[0]).name}: error: {mendable}", file=sys.stderr, flush=True)
        sys.exit(2)
