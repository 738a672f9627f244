"""The console script in processes that fork from a warm one, since a fresh one takes seconds to import everything."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import traceback
from pathlib import Path

import torch


def run_spoco(arguments, log, address_space):
    """The console script in a child of the fork server; both streams go to a file."""
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    torch.set_num_threads(1)
    if address_space is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + address_space, used + address_space))
    from spoco_bundle.cli import main

    sys.argv = ["spoco", *map(str, arguments)]
    try:
        main()
    except SystemExit as ended:
        os._exit(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def snapshot(folder: Path) -> set:
    """Names, sizes and times of the files in a folder."""
    found = set()
    for entry in os.scandir(folder) if folder.is_dir() else ():
        try:
            status = entry.stat()
        except FileNotFoundError:
            continue
        found.add((entry.name, status.st_size, status.st_mtime_ns))
    return found


class Door:
    """Starts the console script in processes that fork from one which has imported everything."""

    def __init__(self, folder: Path):
        self.log = folder / "log.txt"
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["spoco_bundle.cli", "spoco_bundle.engines", "spoco_bundle.handlers"])

    def start(self, *arguments, address_space=None) -> multiprocessing.Process:
        process = self.context.Process(target=run_spoco, args=(arguments, self.log, address_space), daemon=False)
        process.start()
        return process

    def run(self, *arguments, address_space=None) -> int:
        process = self.start(*arguments, address_space=address_space)
        process.join(200)
        assert process.exitcode is not None, "hangs"
        return process.exitcode

    def kill(self, delay: float, *arguments, watched: Path | None = None) -> bool:
        """Kills after a while, or, with a folder to watch, as soon after that as a file in it changes.

        Returns whether the process was killed before it ended by itself.
        """
        process = self.start(*arguments)
        process.join(delay)
        if watched is not None:
            before = snapshot(watched)
            while process.is_alive() and snapshot(watched) == before:
                pass
        process.kill()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL), self.said()
        return process.exitcode != 0

    def said(self) -> str:
        return self.log.read_text()

    def last_line(self) -> str:
        return self.said().rstrip("\n").splitlines()[-1]
