"""Memory that was freed, given back."""

from __future__ import annotations

import ctypes
import sys


def release_freed() -> None:
    """Gives memory that was freed back to the system, where the C library (glibc) would keep it in pieces.

    Without it resident memory creeps up from block to block, and from one stage of a large volume to the next, though
    nothing is held.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
