"""Images of one run shared by several processes of this machine, each of which computes with one thread."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sized
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from torch.utils.data import Sampler

from spoco_bundle.core.errors import SpocoError


class SharedOrder(Sampler[int]):
    """Every index of a dataset once, in order, given to whichever process asks for the next.

    Args:
        dataset: what is shared.
    """

    def __init__(self, dataset: Sized):
        self._images = len(dataset)
        self._next = multiprocessing.Value("q", 0)

    def __len__(self) -> int:
        return self._images

    def __iter__(self) -> Iterator[int]:
        while True:
            with self._next.get_lock():
                index = self._next.value
                self._next.value += 1
            if index >= self._images:
                return
            yield index


class Helpers:
    """Copies of this process that go on from where they were made, and report to it when they are done.

    They are forked, so that nothing is loaded again: Linux alone does that safely with PyTorch.

    Args:
        count: how many.

    Attributes:
        is_helper: whether this process is one of them.
    """

    def __init__(self, count: int):
        self.is_helper = False
        self._parent = os.getpid()
        self._reports: dict[Connection, int] = {}
        sys.stdout.flush()
        sys.stderr.flush()
        for _ in range(count):
            receiver, sender = multiprocessing.Pipe(duplex=False)
            with warnings.catch_warnings():
                # newer Pythons warn of threads: those of PyTorch wait for work, of which a helper gives them none
                warnings.simplefilter("ignore", DeprecationWarning)
                helper = os.fork()
            if helper == 0:
                self.is_helper, self._sender = True, sender
                self._reports = {}
                break
            sender.close()
            self._reports[receiver] = helper
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)

    def report(self, content: Any) -> None:
        """Of a helper: hands over what it has found, an exception where it failed, and ends it."""
        try:
            self._sender.send(content)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(0)  # what the parent registered to be done at its end is not done twice

    def check_parent(self) -> None:
        """Of a helper: ends it where nobody waits for it any more."""
        if self.is_helper and os.getppid() != self._parent:
            os._exit(1)

    def reports(self, meanwhile: Callable[[], None]) -> list[Any]:
        """What the helpers hand over, when all are done.

        Args:
            meanwhile: called now and then while waiting.

        Raises:
            SpocoError: if a helper was ended from outside.
        """
        found = []
        while self._reports:
            for receiver in wait(list(self._reports), timeout=0.2):
                try:
                    found.append(receiver.recv())
                except EOFError:
                    raise SpocoError(
                        "a process that segmented some of the images was ended by the system, probably because memory "
                        "ran out: give --processes 1, and --resume to keep the results that are there"
                    ) from None
                os.waitpid(self._reports.pop(receiver), 0)
            meanwhile()
        return found

    def close(self) -> None:
        """Ends helpers that still work, and gives this process its threads back."""
        torch.set_num_threads(self._threads)
        for helper in self._reports.values():
            os.kill(helper, 9)
            os.waitpid(helper, 0)
        self._reports = {}
