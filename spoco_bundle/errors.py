"""The one error type for what a user can mend."""

from __future__ import annotations


class SpocoError(ValueError):
    """Bad input that the person who runs the program can put right.

    The message is one line that names the file or argument, the offending value and the remedy. The command line
    prints it without a traceback and exits with code 2.
    """
