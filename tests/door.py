"""Commands in processes that fork from a warm one, since a fresh one takes seconds to import everything."""

from __future__ import annotations

import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("spoco_bundle.cli", "spoco_bundle.engines", "spoco_bundle.handlers", "spoco_bundle.losses"),
        # what the first step of an optimizer, the profile of a training set and a page load
        *("monai.bundle", "torch._dynamo", "sklearn.ensemble", "spoco_bundle.report"),
    ]
)


def _child(arguments, cwd, streams, environment, address_space):
    """A command in a child of the fork server: what ``python`` with these arguments does."""
    for number, path in zip((1, 2), streams):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    torch.set_num_threads(1)
    if address_space is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + address_space, used + address_space))
    code = 0
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            sys.path.insert(0, os.getcwd())
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        elif arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            sys.path.insert(0, "")
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = arguments
            sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def start(
    arguments: Iterable[Any],
    cwd: Path,
    streams: tuple[Path, Path],
    address_space: int | None = None,
    **environment: str,
) -> multiprocessing.Process:
    """Starts ``python`` with arguments in a process that has everything imported.

    Args:
        arguments: ``-m`` and a module, ``-c`` and code, or a script, with what follows.
        cwd: folder it runs in.
        streams: files that standard output and error are appended to.
        address_space: bytes it may take beyond what it starts with.
        environment: variables beside those of this process.
    """
    environment = {**os.environ, **environment}
    arguments = [str(argument) for argument in arguments]
    process = CONTEXT.Process(
        target=_child, args=(arguments, str(cwd), streams, environment, address_space), daemon=False
    )
    process.start()
    return process


def run_warm(
    arguments: Iterable[Any], cwd: Path, timeout: float = 240, **environment: str
) -> subprocess.CompletedProcess:
    """Runs ``python`` with arguments to its end, in a process that has everything imported."""
    with tempfile.TemporaryDirectory() as folder:
        streams = Path(folder) / "out", Path(folder) / "err"
        process = start(arguments, cwd, streams, **environment)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{arguments} takes longer than {timeout} s:\n{streams[1].read_text()[-2000:]}")
        return subprocess.CompletedProcess(arguments, process.exitcode, *(path.read_text() for path in streams))


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
    """The console script, started, killed and read in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.log = folder / "log.txt"

    def start(self, *arguments, address_space=None) -> multiprocessing.Process:
        self.log.unlink(missing_ok=True)
        arguments = ["-m", "spoco_bundle.cli", *arguments]
        return start(arguments, self.folder, (self.log, self.log), address_space)

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
                time.sleep(0.0005)
        process.kill()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL), self.said()
        return process.exitcode != 0

    def said(self) -> str:
        return self.log.read_text()

    def last_line(self) -> str:
        return self.said().rstrip("\n").splitlines()[-1]
