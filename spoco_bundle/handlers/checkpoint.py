"""Checkpoints that survive an interruption: atomic writing, exact resume, best weights."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events

from spoco_bundle.core.errors import SpocoError, user_error
from spoco_bundle.networks.weights import DamagedFile, load_tensors

logger = logging.getLogger(__name__)

FORMAT = "spoco-training-checkpoint-1"


def save_atomically(content: Any, path: str | Path) -> None:
    """Writes with ``torch.save`` so that the file under its name is always complete.

    The content goes to ``NAME.tmp`` beside the file, is flushed to the disk, and takes the name in one step.

    Args:
        content: tensors and plain Python values in containers; see ``plain``.
        path: the file to write; its folder is made where it is missing.

    Raises:
        SpocoError: if it cannot be written (disk full, no permission). What stood under the name stays.
    """
    file = Path(path)
    partial = file.with_name(file.name + ".tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, file)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its zip writer
        partial.unlink(missing_ok=True)
        raise SpocoError(
            f"{file}: cannot be written ({_first_line(error)}); free space or choose another folder"
        ) from error


def plain(value: Any) -> Any:
    """Rebuilds nested state from tensors and plain Python, which is all that loads with ``weights_only``.

    Args:
        value: nested mappings, sequences and sets of tensors, NumPy arrays and scalars, numbers, strings and None.

    Returns:
        The same with dicts, lists, tuples, tensors on the CPU, numbers, strings and None.

    Raises:
        TypeError: if there is anything else in it.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if value is None or isinstance(value, (bool, int, float, str)):
        # subclasses (NumPy's float64, enums) become the type itself
        return value if value is None else next(t for t in (bool, int, float, str) if isinstance(value, t))(value)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {plain(name): plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, (list, set, frozenset)) or hasattr(value, "popleft"):
        return [plain(item) for item in value]
    raise TypeError(f"state of type {type(value).__name__} cannot be kept in a checkpoint")


def load_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Reads a training checkpoint.

    Args:
        path: file written by ``TrainingCheckpoint``.
        map_location: device of the tensors.

    Returns:
        State dicts by name, with ``engine`` (iteration, epoch, epoch_length, max_epochs) and ``random`` among them.

    Raises:
        SpocoError: if the file is missing, damaged, holds more than tensors and plain values, or is something else.
    """
    file = Path(path)
    if not file.is_file():
        raise SpocoError(f"{file}: no such checkpoint; name an existing one, or train without resume")
    try:
        content = load_tensors(file, map_location)
    except DamagedFile as error:
        raise SpocoError(
            f"{file}: not a readable checkpoint ({error}): truncated, or with content other than "
            "tensors; resume from the one before with resume='previous', or train without resume"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise SpocoError(
            f"{file}: not a training checkpoint of this bundle; to start from weights alone, load them as weights"
        )
    return content


def random_state() -> dict[str, Any]:
    """State of the global generators of Python, NumPy and torch (CPU and every GPU), as plain values."""
    numpy_name, numpy_keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (numpy_name, torch.from_numpy(numpy_keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Puts back what ``random_state`` returned; states of GPUs that are not there are left out."""
    random.setstate(state["python"])
    numpy_name, numpy_keys, *rest = state["numpy"]
    np.random.set_state((numpy_name, numpy_keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    for device, cuda_state in zip(range(torch.cuda.device_count()), state["cuda"]):
        torch.cuda.set_rng_state(cuda_state.cpu(), device)


class TrainingCheckpoint:
    """Saves everything a training needs to go on, and goes on from it.

    ``last.pt`` is written every so many iterations and at the end of every so many epochs; the one before it is kept as
    ``last_previous.pt``. Put this handler last in the list, behind validation, so that what others change at the same
    event is in the file. Only rank 0 writes.

    On SIGTERM (as clusters send it) and on the first Ctrl-C the running iteration is finished, the checkpoint written,
    and the process ends with exit code 143 or 130. A second Ctrl-C ends it at once.

    The step count of the engine is kept too. A run that resumes in the middle of an epoch goes on with that iteration;
    that it sees the batches it had not seen yet is up to a sampler keyed by epoch and iteration.

    Args:
        ckpt_dir: folder of the two files.
        objects: name -> object with ``state_dict`` and ``load_state_dict`` (network, teacher, optimizer, scheduler,
            best weights, early stopping, ...).
        interval_iterations: iterations between checkpoints; 0 for none between epochs.
        interval_epochs: epochs between checkpoints; 0 for none at the end of epochs.
        resume: "" or False starts anew; True, "last" (or "latest") and "previous" resume from the files in
            ``ckpt_dir``; anything else is the path of a checkpoint. "last" takes the previous file where only that one
            exists.
        save_on_signal: whether to handle SIGTERM and Ctrl-C as told above.

    Raises:
        SpocoError: when the engine starts, if the checkpoint to resume from is unusable or does not fit the objects.
    """

    last = "last.pt"
    previous = "last_previous.pt"

    def __init__(
        self,
        ckpt_dir: str,
        objects: Mapping[str, Any],
        interval_iterations: int = 500,
        interval_epochs: int = 1,
        resume: str | bool = "",
        save_on_signal: bool = True,
    ):
        taken = {"format", "engine", "random"} & set(objects)
        if taken:
            raise SpocoError(f"objects: the names {sorted(taken)} are reserved; choose others")
        self.ckpt_dir = Path(ckpt_dir)
        self.objects = dict(objects)
        self.interval_iterations = interval_iterations
        self.interval_epochs = interval_epochs
        self.resume = "last" if resume is True else resume or ""
        self.save_on_signal = save_on_signal
        self._signal: int | None = None
        self._handlers_before: dict[int, Any] = {}

    def attach(self, engine: Engine) -> None:
        """Registers resuming at the start and saving at the intervals."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self.release_signals)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._exception_raised)

    def save(self, engine: Engine) -> Path:
        """Writes ``last.pt`` after moving the present one to ``last_previous.pt``; returns its path."""
        state = engine.state
        content = {
            "format": FORMAT,
            "engine": {
                "iteration": state.iteration,
                "epoch": state.epoch,
                "epoch_length": state.epoch_length,
                "max_epochs": state.max_epochs,
            },
            "random": random_state(),
            **{name: plain(thing.state_dict()) for name, thing in self.objects.items()},
        }
        file = self.ckpt_dir / self.last
        fresh = self.ckpt_dir / (self.last + ".new")
        save_atomically(content, fresh)
        if file.is_file():
            os.replace(file, self.ckpt_dir / self.previous)
        os.replace(fresh, file)
        return file

    def load(self, engine: Engine) -> None:
        """Puts the state of the checkpoint named by ``resume`` into the objects, the engine and the generators."""
        file = self._resume_file()
        content = load_checkpoint(file)
        missing = sorted(self.objects.keys() - content.keys())
        if missing:
            raise SpocoError(f"{file}: holds no state of {missing[0]!r}; resume with the config it was written with")
        for name, thing in self.objects.items():
            try:
                thing.load_state_dict(content[name])
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise SpocoError(
                    f"{file}: the state of {name!r} does not fit this config ({_first_line(error)}); resume with the "
                    "config it was written with"
                ) from error
        self._load_engine(engine, file, content["engine"])
        set_random_state(content["random"])
        logger.info("resumed from %s: epoch %d, iteration %d", file, engine.state.epoch, engine.state.iteration)

    def _load_engine(self, engine: Engine, file: Path, saved: Mapping[str, int]) -> None:
        length = engine.state.epoch_length
        if length is not None and saved["epoch_length"] != length:
            raise SpocoError(
                f"{file}: written with {saved['epoch_length']} iterations per epoch, this run has {length}; resume "
                "with the same data and batch size"
            )
        engine.state.iteration = saved["iteration"]
        # the engine counts an epoch when it begins one, so an interrupted epoch must not be counted yet
        engine.state.epoch = saved["iteration"] // saved["epoch_length"]

    def _resume_file(self) -> Path:
        named = {"last": self.last, "latest": self.last, "previous": self.previous}
        if self.resume not in named:
            return Path(self.resume)
        file = self.ckpt_dir / named[self.resume]
        if file.name == self.last and not file.is_file() and (self.ckpt_dir / self.previous).is_file():
            # interrupted between the two renames of save(): the previous checkpoint is the last complete one
            return self.ckpt_dir / self.previous
        return file

    def _start(self, engine: Engine) -> None:
        self._signal = None
        if self.resume:
            self.load(engine)
        # only the main thread may set signal handlers; elsewhere (a server's worker) the owner decides
        if self.save_on_signal and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers_before[number] = signal.signal(number, self._note_signal)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def _iteration_completed(self, engine: Engine) -> None:
        if engine.state.iteration % engine.state.epoch_length == 0:
            return  # left to the end of the epoch: a resumed run starts the next one, so validation must be behind it
        due = self.interval_iterations and engine.state.iteration % self.interval_iterations == 0
        if self._signal is not None or due:
            self._save_on_rank_0(engine)
        self._leave_if_asked(engine)

    def _epoch_completed(self, engine: Engine) -> None:
        due = self.interval_epochs and engine.state.epoch % self.interval_epochs == 0
        if self._signal is not None or due or engine.state.epoch == engine.state.max_epochs:
            self._save_on_rank_0(engine)
        self._leave_if_asked(engine)

    def _save_on_rank_0(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            self.save(engine)

    def _leave_if_asked(self, engine: Engine) -> None:
        if self._signal is None:
            return
        number = self._signal
        logger.warning(
            "interrupted at iteration %d; resume with resume='last' (%s)",
            engine.state.iteration,
            self.ckpt_dir / self.last,
        )
        self.release_signals()
        raise SystemExit(128 + number)

    def release_signals(self, engine: Engine | None = None) -> None:
        """Gives SIGTERM and Ctrl-C back to who handled them before.

        Called at the end of the run. Where another handler raises before this one hears of an exception, whoever runs
        the engine in a process that lives on calls it.
        """
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before.clear()

    def _exception_raised(self, engine: Engine, error: BaseException) -> None:
        self.release_signals()
        if user_error(error) is not None and (self.ckpt_dir / self.last).is_file():
            logger.warning(
                "stopped in iteration %d; once that is mended, go on with resume='last' (%s)",
                engine.state.iteration,
                self.ckpt_dir / self.last,
            )
        raise error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
