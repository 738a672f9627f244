"""What the measuring scripts share: commands with their threads, the name of the machine, and tables in a document."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.errors import SpocoError


def run_spoco(command: str, *arguments: str, log: Path, threads: int) -> None:
    """Runs `spoco` with so many threads and its output in a file.

    Raises:
        SpocoError: if it fails; names the log.
    """
    call = [sys.executable, "-m", "spoco_bundle.cli", command, *arguments]
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    with log.open("a") as sink:
        done = subprocess.run(call, stdout=sink, stderr=sink, env=os.environ | variables, check=False)
    if done.returncode:
        raise SpocoError(f"spoco {command} ended with {done.returncode}; see {log}")


def processor() -> str:
    """Name of the processor, as Linux tells it."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


def replace_table(page: Path, mark: str, table: str) -> None:
    """Puts a table between `<!-- MARK -->` and `<!-- end -->` of a page.

    Raises:
        SpocoError: if the page has no such marks, or has them twice.
    """
    start = re.escape(f"<!-- {mark} -->")
    text, count = re.subn(rf"({start}\n).*?(<!-- end -->)", rf"\g<1>\n{table}\n\n\2", page.read_text(), flags=re.S)
    if count != 1:
        raise SpocoError(f"{page}: has no marks <!-- {mark} --> and <!-- end -->, or has them twice; put them in once")
    with atomic_write(page) as path:
        path.write_text(text)
