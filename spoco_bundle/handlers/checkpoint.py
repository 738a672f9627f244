"""Checkpoints that survive an interruption: Ignite's ``Checkpoint``, atomic files, random state, exact resume."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from spoco_bundle.core.errors import SpocoError, user_error
from spoco_bundle.core.random_state import RandomState
from spoco_bundle.core.saved_state import plain_state, save_state
from spoco_bundle.handlers.stop_signals import StopSignals
from spoco_bundle.networks.weights import DamagedFileError, load_tensors

logger = logging.getLogger(__name__)

FORMAT = "spoco-training-checkpoint-1"
LAST, PREVIOUS = "last.pt", "last_previous.pt"
#: the last checkpoint of the training before, in a folder in which another one began
EARLIER = "last_earlier.pt"
#: the last checkpoint of the training after, where that one is gone on with
LATER = "last_later.pt"


def find_checkpoint(folder: str | Path, resume: str | bool) -> Path | None:
    """The file that ``resume`` of ``TrainingCheckpoint`` names, None where a training starts anew.

    Raises:
        SpocoError: if the training that was begun last in the folder has written no checkpoint, but one before it has.
    """
    named = {True: LAST, "last": LAST, "latest": LAST, "previous": PREVIOUS}
    if not resume:
        return None
    if resume not in named:
        return Path(resume)
    file, before, earlier = (Path(folder) / name for name in (named[resume], PREVIOUS, EARLIER))
    if not file.is_file() and before.is_file():
        return before  # interrupted between the two renames of a save: the previous checkpoint is the last complete one
    if not file.is_file() and earlier.is_file():
        raise SpocoError(
            f"{file}: no such checkpoint: the training that began last in this folder has written none; train without "
            f"resume, or go on with the training before it by --resume {earlier}"
        )
    return file


def set_aside(folder: str | Path, resumed: Path | None = None) -> None:
    """Renames the checkpoint of another training than the one that begins in a folder to ``last_earlier.pt``.

    Else ``resume`` would go on with the other training where this one stops before its first checkpoint.

    Args:
        folder: of the checkpoints.
        resumed: checkpoint with which the training that begins goes on; it stays where it is, and ``last.pt`` and
            ``last_previous.pt`` are of one training. Beside ``last_earlier.pt`` the other becomes ``last_later.pt``.
    """
    last, previous, earlier = (Path(folder).resolve() / name for name in (LAST, PREVIOUS, EARLIER))
    own = None if resumed is None else resumed.resolve()
    if own in (last, previous):
        return
    for file in (previous, last):  # so that the later of the two stays
        if file.is_file():
            os.replace(file, earlier.with_name(LATER) if own == earlier else earlier)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a training checkpoint.

    Args:
        path: file written by ``TrainingCheckpoint``.

    Returns:
        State dicts by name, with ``engine`` (iteration, epoch, epoch_length, max_epochs) and ``random`` among them;
        tensors on the CPU.

    Raises:
        SpocoError: if the file is missing, damaged, holds more than tensors and plain values, or is something else.
    """
    file = Path(path)
    if not file.is_file():
        raise SpocoError(f"{file}: no such checkpoint; name an existing one, or train without resume")
    try:
        content = load_tensors(file)
    except DamagedFileError as error:
        raise SpocoError(
            f"{file}: not a readable checkpoint ({error}): truncated, or with content other than "
            "tensors; resume from the one before with resume='previous', or train without resume"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise SpocoError(
            f"{file}: not a training checkpoint of this bundle; to start from weights alone, load them as weights"
        )
    return content


def check_checkpoint(file: Path, network: nn.Module, epoch_length: int, max_epochs: int) -> None:
    """Fills a network from a checkpoint, before a training that goes on with it writes anything.

    Args:
        file: the checkpoint.
        network: of that training.
        epoch_length: its iterations per epoch.
        max_epochs: its epochs.

    Raises:
        SpocoError: as ``load_checkpoint``, or if it is of another network, or of epochs that do not fit.
    """
    content = load_checkpoint(file)
    _fill(file, content, "network", network)
    _check_position(file, content["engine"], epoch_length, max_epochs)


class _TwoFiles(DiskSaver):
    """Ignite's saver, on rank 0 only, with an atomic write that keeps the file before it under another name."""

    def _save_func(self, checkpoint: Mapping, path: Path, func: Callable) -> None:
        content = {"format": FORMAT, **plain_state(checkpoint)}
        save_state(content, path, keep_before=path.with_name(PREVIOUS))

    def remove(self, filename: str) -> None:
        """Leaves the file to the next one, which takes its place in one step."""


class _Position:
    """Where an engine is."""

    engine: Engine

    def state_dict(self) -> dict[str, int]:
        state = self.engine.state
        return {name: getattr(state, name) for name in ("iteration", "epoch", "epoch_length", "max_epochs")}


class TrainingCheckpoint:
    """Saves everything a training needs to go on, and goes on from it.

    ``last.pt`` is written every so many iterations and at the end of every so many epochs; the one before it is kept as
    ``last_previous.pt``, that of a training before in the same folder as ``last_earlier.pt``. Put this handler last in
    the list, behind validation, so that what others change at the same event is in the file. Only rank 0 writes.

    On SIGTERM and on the first Ctrl-C the running iteration is finished, the checkpoint written, and the process ends
    with exit code 143 or 130.

    The step count of the engine is kept too. A run that resumes in the middle of an epoch goes on with that iteration;
    that it sees the batches it had not seen yet is up to a sampler keyed by epoch and iteration.

    What a run is told holds, also where it is resumed: optimizers take over their moments, but keep the learning rate
    and weight decay of this run, and schedules of the learning rate are this run's, at the step that was reached. With
    more epochs than before the rate thus goes on where a training of that many epochs would be, and rises first.

    Args:
        ckpt_dir: folder of these files.
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
        self.resume = resume
        self.save_on_signal = save_on_signal
        self.signals = StopSignals()
        self._position = _Position()

    def attach(self, engine: Engine) -> None:
        """Registers resuming at the start and saving at the intervals."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self.release_signals)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._exception_raised)

    def load(self, engine: Engine, file: Path) -> None:
        """Puts the state of a checkpoint into the objects, the engine and the generators."""
        content = load_checkpoint(file)
        missing = sorted(self.objects.keys() - content.keys())
        if missing:
            raise SpocoError(f"{file}: holds no state of {missing[0]!r}; resume with the config it was written with")
        self._load_position(engine, file, content["engine"])
        for name, thing in self.objects.items():
            _fill(file, content, name, thing)
        RandomState().load_state_dict(content["random"])
        logger.info("resumed from %s: epoch %d, iteration %d", file, engine.state.epoch, engine.state.iteration)

    def _load_position(self, engine: Engine, file: Path, saved: Mapping[str, int]) -> None:
        epochs = engine.state.max_epochs
        _check_position(file, saved, engine.state.epoch_length, epochs)
        if epochs is not None and epochs != saved["max_epochs"]:
            logger.info(
                "%d epochs in place of %d: the learning rate follows the schedule of a training of %d epochs",
                *(epochs, saved["max_epochs"], epochs),
            )
        # the engine counts an epoch when it begins one, so an interrupted epoch must not be counted yet
        engine.state.iteration, engine.state.epoch = saved["iteration"], saved["iteration"] // saved["epoch_length"]

    def _start(self, engine: Engine) -> None:
        self._position.engine = engine
        file = find_checkpoint(self.ckpt_dir, self.resume)
        if file is not None:
            self.load(engine, file)
        if idist.get_rank() == 0:
            set_aside(self.ckpt_dir, file)
        files = _TwoFiles(self.ckpt_dir, require_empty=False)
        state = {"engine": self._position, "random": RandomState(), **self.objects}
        self.save = Checkpoint(state, files, filename_pattern=LAST)
        if self.save_on_signal:
            self.signals.listen()

    def _iteration_completed(self, engine: Engine) -> None:
        if engine.state.iteration % engine.state.epoch_length == 0:
            return  # left to the end of the epoch: a resumed run starts the next one, so validation must be behind it
        due = self.interval_iterations and engine.state.iteration % self.interval_iterations == 0
        self._save_or_leave(engine, bool(due))

    def _epoch_completed(self, engine: Engine) -> None:
        due = self.interval_epochs and engine.state.epoch % self.interval_epochs == 0
        self._save_or_leave(engine, bool(due) or engine.state.epoch == engine.state.max_epochs)

    def _save_or_leave(self, engine: Engine, due: bool) -> None:
        number = self.signals.number
        if due or number is not None:
            self.save(engine)
        if number is None:
            return
        logger.warning("interrupted at iteration %d%s", engine.state.iteration, self._how_to_go_on())
        self.release_signals()
        raise SystemExit(128 + number)

    def release_signals(self, engine: Engine | None = None) -> None:
        """Gives SIGTERM and Ctrl-C back to who handled them before.

        Called at the end of the run. Where another handler raises before this one hears of an exception, whoever runs
        the engine in a process that lives on calls it.
        """
        self.signals.release()

    def _exception_raised(self, engine: Engine, error: BaseException) -> None:
        self.release_signals()
        if user_error(error) is not None and (self.ckpt_dir / LAST).is_file():
            logger.warning("stopped in iteration %d%s", engine.state.iteration, self._how_to_go_on())
        raise error

    def _how_to_go_on(self) -> str:
        return f"; go on with --resume last ({self.ckpt_dir / LAST})"


def _check_position(file: Path, saved: Mapping[str, int], epoch_length: int | None, max_epochs: int | None) -> None:
    """Refuses a checkpoint that a run of so many iterations per epoch, and epochs, cannot go on with."""
    if epoch_length is not None and saved["epoch_length"] != epoch_length:
        raise SpocoError(
            f"{file}: written with {saved['epoch_length']} iterations per epoch, this run has {epoch_length}; resume "
            "with the same data and batch size"
        )
    if max_epochs is not None and saved["iteration"] > max_epochs * saved["epoch_length"]:
        least = saved["iteration"] // saved["epoch_length"] + 1
        raise SpocoError(f"max_epochs is {max_epochs}: {file} has more than that behind it; give at least {least}")


def _fill(file: Path, content: Mapping[str, Any], name: str, thing: Any) -> None:
    """Puts the state of a name into its object, or says that it does not fit."""
    try:
        _restore(thing, content[name])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpocoError(
            f"{file}: the state of {name!r} does not fit this config ({_first_line(error)}); resume with the config it "
            "was written with"
        ) from error


def _restore(thing: Any, state: Mapping[str, Any]) -> None:
    """Loads state into an object, except for what this run's own settings decide."""
    if isinstance(thing, torch.optim.Optimizer):
        own = thing.state_dict()["param_groups"]
        sizes = [[len(group["params"]) for group in groups] for groups in (own, state["param_groups"])]
        if sizes[0] != sizes[1]:
            raise ValueError(f"groups of {sizes[1]} parameters, not {sizes[0]}")
        thing.load_state_dict({"state": state["state"], "param_groups": own})
    elif isinstance(thing, LRScheduler) and not isinstance(thing, ReduceLROnPlateau):
        with warnings.catch_warnings():
            # of a schedule that steps ahead of its optimizer, which has its own steps behind it
            warnings.simplefilter("ignore")
            for _ in range(int(state["last_epoch"]) - thing.last_epoch):
                thing.step()
    else:
        thing.load_state_dict(state)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
