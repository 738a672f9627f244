"""How long the installed command takes to answer, and what it loads, as a table in Markdown.

    python scripts/benchmark_start.py [--repeats 5] [--page docs/measurements/speed.md]

Each command runs in fresh processes, in turns, after one run of each that fills the caches of files. "seconds" is the
least of the times by the clock, "processor seconds" the least of what the processes used themselves: other work on the
machine lengthens the first much more than the second. "modules" is how many were loaded at the end.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from measuring import check_page, processor, show_table
from one_line import one_line_errors

SHAPE = (16, 64, 64)
#: commands that end with exit code 2
REFUSED = ("missing file", "wrong option", "no data to train on")


def commands(image: str) -> dict[str, list[str]]:
    """Arguments of `spoco` by what the row is called."""
    return {
        "help": ["--help"],
        "help of a command": ["predict", "--help"],
        "missing file": ["predict", "missing.tif"],
        "wrong option": ["predict", image, "--window_sise", "9"],
        "no data to train on": ["train", "missing"],
        f"a volume of {'x'.join(map(str, SHAPE))} segmented": ["predict", image, "--output", "out", "--device", "cpu"],
    }


def run(command: list[str], folder: Path, code: int) -> tuple[float, float]:
    """Seconds by the clock, and seconds of the processor that a process takes which ends with this exit code."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PAGER": "cat"})
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != code:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def modules(arguments: list[str], folder: Path) -> int:
    """How many modules are loaded when the command ends."""
    code = (
        "import atexit, sys; from spoco_bundle.cli import main; "
        "atexit.register(lambda: print('MODULES', len(sys.modules))); main()"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PAGER": "cat"})
    return int(done.stdout.rsplit("MODULES", 1)[1])


@one_line_errors()
def main() -> None:
    """Prints the table, or puts it into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--page", type=Path, help="page with the marks <!-- start --> and <!-- end -->")
    args = parser.parse_args()
    check_page(args.page, "start")
    spoco = shutil.which("spoco") or sys.exit("spoco is not on the path; install the package")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        volume = np.random.default_rng(0).normal(100, 20, SHAPE)
        volume[4:12, 10:30, 10:30] += 300
        tifffile.imwrite(folder / "a.tif", volume.clip(0).astype(np.uint16), metadata={"axes": "ZYX"})
        rows = {title: [spoco, *arguments] for title, arguments in commands("a.tif").items()}
        rows = {"import spoco_bundle": [sys.executable, "-c", "import spoco_bundle"], **rows}
        rows["import torch, for comparison"] = [sys.executable, "-c", "import torch"]
        rows["import monai.bundle, for comparison"] = [sys.executable, "-c", "import monai.bundle"]
        times: dict[str, list[tuple[float, float]]] = {title: [] for title in rows}
        for repeat in range(args.repeats + 1):
            for title, command in rows.items():
                taken = run(command, folder, 2 * (title in REFUSED))
                if repeat:
                    times[title].append(taken)
        loaded = {title: modules(arguments, folder) for title, arguments in commands("a.tif").items()}
    lines = [f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, least of {args.repeats} runs", ""]
    lines += ["| command | seconds | processor seconds | modules |", "|---|---|---|---|"]
    for title, taken in times.items():
        clock, own = zip(*taken)
        lines.append(f"| {title} | {min(clock):.2f} | {min(own):.2f} | {loaded.get(title, '')} |")
    show_table("\n".join(lines), args.page, "start")


if __name__ == "__main__":
    main()
