"""The command line of this package as ``jobs`` starts it: it ends when the process that started it is gone.

A viewer that crashes or is killed has no time to end a training; the pipe to it closes in any case.
"""

from __future__ import annotations

import os
import threading

from spoco_bundle.cli import main


def _end_with_parent() -> None:
    # not through sys.stdin, whose lock would be held when Python ends
    while os.read(0, 1):
        pass
    # what it wrote lies in a temporary folder, so nothing has to be put in order
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    main()
