"""An evaluation over many images that goes on where one of them is bad, and says so at the end."""

from __future__ import annotations

import multiprocessing
import sys
import traceback
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.utils.enums import CommonKeys as Keys

from spoco_bundle.core.errors import SpocoError, naming, unwrapped, user_error
from spoco_bundle.core.progress import Progress
from spoco_bundle.dataset.batch_dataset import PROBLEM
from spoco_bundle.engines.sharing import Helpers, SharedOrder


class BatchEvaluator(SupervisedEvaluator):
    """Supervised evaluator for batch commands.

    An image that cannot be read, segmented or written for a reason that the user can mend is passed over: nothing else
    hears of its iteration. When all images are done, the bad ones are listed on the error stream and the run ends with
    an error, so that a batch which is not complete never looks as if it were.

    Args:
        processes: images that are worked on at a time, 1 or more. With several, the first image is done alone and the
            others are shared by as many processes with one thread each; handlers then see a part of the images only.
        **kwargs: arguments of MONAI's ``SupervisedEvaluator``; the data loader wraps a ``BatchDataset`` and has a
            batch size of 1.

    Raises:
        SpocoError: if ``processes`` is out of range, or above 1 where processes cannot be forked; at the end of the
            run, if an image was bad.
    """

    def __init__(self, processes: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        if processes < 1 or processes > 1 and sys.platform != "linux":
            raise SpocoError(f"processes is {processes}: give 1, or on Linux any whole number from 1 on")
        self.processes = processes
        self.problems: list[tuple[str, str]] = []
        self._passed_over = False
        self._helpers: Helpers | None = None

    def run(self, global_epoch: int = 1) -> None:
        """Runs over all images."""
        self.problems = []
        images = self.state.epoch_length
        if not images:  # all results are there
            return
        if self.processes > 1 and images > 2:
            shared = self.data_loader.dataset
            collate, order = self.data_loader.collate_fn, SharedOrder(shared)
            self.data_loader = DataLoader(shared, batch_size=1, sampler=order, collate_fn=collate)
        self._done = multiprocessing.Value("q", 0)
        with Progress("images", images, quiet=idist.get_rank() != 0 or images == 1) as self._progress:
            try:
                super().run(global_epoch)
            except BaseException as error:
                # an interrupted helper, too, ends here: what comes after the run is its parent's
                if self._helpers is not None and self._helpers.is_helper:
                    # what caused an error is lost on its way to another process
                    defect = RuntimeError("".join(traceback.format_exception(error)))
                    self._helpers.report(user_error(error) or defect)
                raise
            finally:
                if self._helpers is not None:
                    self._helpers.close()
                    self._helpers = None

    def _iteration(self, engine: Engine, batchdata: dict[str, Any]) -> dict[str, Any]:
        if self._helpers is not None:
            self._helpers.check_parent()
        try:
            return self._output_of(engine, batchdata)
        finally:
            with self._done.get_lock():
                self._done.value += 1
            self._show_progress()

    def _show_progress(self) -> None:
        news = self._done.value - self._progress.done
        if news and (self._helpers is None or not self._helpers.is_helper):
            self._progress.update(news)

    def _output_of(self, engine: Engine, batchdata: dict[str, Any]) -> dict[str, Any]:
        self._passed_over = False
        if PROBLEM in batchdata:
            return self._pass_over(str(batchdata[Keys.IMAGE][0]), str(batchdata[PROBLEM][0]))
        name = str(batchdata[Keys.IMAGE].meta["filename_or_obj"][0])
        try:
            with unwrapped():
                return super()._iteration(engine, batchdata)
        except SpocoError as error:
            return self._pass_over(name, str(error))

    def _pass_over(self, name: str, problem: str) -> dict[str, Any]:
        self.problems.append((name, naming(name, problem)))
        self._passed_over = True
        return {}

    def _fire_event(self, event_name: Any, *event_args: Any, **event_kwargs: Any) -> None:
        # metrics and writers attached to the iteration have nothing to work on
        if self._passed_over and event_name == Events.ITERATION_COMPLETED:
            return
        if event_name == Events.GET_BATCH_STARTED and self.state.iteration == 1:
            self._share()
        if event_name == Events.EPOCH_COMPLETED and self._helpers is not None:
            self._gather()
        # before metrics are computed of nothing, or once all that can be done is done
        alone = self.problems and len(self.problems) == self.state.iteration
        if alone and event_name == Events.EPOCH_COMPLETED or self.problems and event_name == Events.COMPLETED:
            raise self._summary()
        super()._fire_event(event_name, *event_args, **event_kwargs)

    def _share(self) -> None:
        """Forks once the first image is done: what is said of all images alike has then been said."""
        if not isinstance(self.data_loader.sampler, SharedOrder):
            return
        others = len(self.data_loader.sampler) - 1
        self._helpers = Helpers(min(self.processes, others) - 1)
        self.state.epoch_length = None  # until there are no more images
        if self._helpers.is_helper:
            self.problems = []

    def _gather(self) -> None:
        """Of a helper: reports what it has done. Of the others' parent: waits for their reports."""
        if self._helpers.is_helper:
            self._helpers.report(self.problems)
        for found in self._helpers.reports(self._show_progress):
            if isinstance(found, Exception):
                raise found
            self.problems += found
        self.state.iteration = self.state.epoch_length = len(self.data_loader.sampler)
        place = {str(item[Keys.IMAGE]): number for number, item in enumerate(self.data_loader.dataset.data)}
        self.problems.sort(key=lambda problem: place.get(problem[0], 0))

    def _summary(self) -> SpocoError:
        """Lists the bad images; returns the error to end with."""
        count, images = len(self.problems), self.state.iteration
        reasons = {problem.removeprefix(f"{name}: ") for name, problem in self.problems}
        if count == images > 1 and len(reasons) == 1:
            return SpocoError(f"all {images} images: {reasons.pop()}")
        if count == 1:
            others = f"; the other {images - 1} of {images} images are done" if images > 1 else ""
            return SpocoError(self.problems[0][1] + others)
        print(f"{count} of {images} images could not be processed:", file=sys.stderr)
        for _, problem in self.problems:
            print(f"  {problem}", file=sys.stderr)
        left = images - count
        others = f"the other {left} {'is' if left == 1 else 'are'} done" if left else "none is done"
        return SpocoError(
            f"{count} of {images} images could not be processed, {others}: mend or leave out "
            f"{', '.join(name for name, _ in self.problems)} and run again"
        )
