"""Dask runs the steps: on threads of this process, on local processes, or on any scheduler's workers."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask
import torch
from distributed import Client, LocalCluster, WorkerPlugin, as_completed, get_worker

from spoco_bundle.blockwise.job import Job
from spoco_bundle.core.errors import SpocoError, in_short
from spoco_bundle.core.progress import Progress

CONNECT_SECONDS = 30
_QUEUED = 10_000  # steps known to the scheduler at a time

# Dask keeps an hour of profiles and logs in memory, which outgrow the blocks
_KEEP_LITTLE = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.log-length": 1000,
    "distributed.admin.low-level-log-length": 100,
    "distributed.admin.system-monitor.log-length": 100,
}

# a local worker that was silent, as in a process that was stopped for a while, still works: nobody would replace it
_LOCAL = {"distributed.scheduler.worker-ttl": None}


class JobPlugin(WorkerPlugin):
    """Hands the job to every worker, also to those that come later."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def setup(self, worker: Any) -> None:
        """Called by Dask in each worker."""
        if self.job.threads is not None:
            torch.set_num_threads(self.job.threads)


@contextmanager
def job_engine(job: Job, client: Client, retries: int, progress: bool) -> Iterator[Engine]:
    """Hands a job to the workers of Dask, and takes it back at the end.

    Args:
        job: what the steps are made of.
        client: see ``dask_client``.
        retries: how often a failing step is tried again, and how many dying workers it may have.
        progress: whether to show a progress bar for each stage.
    """
    plugin = f"spoco-{uuid.uuid4()}"  # a shared scheduler may hold the jobs of others
    client.register_plugin(JobPlugin(job), name=plugin)
    try:
        yield Engine(client, plugin, job, retries, progress)
    finally:
        client.unregister_worker_plugin(plugin)


@contextmanager
def dask_client(scheduler: str, workers: int, retries: int) -> Iterator[Client]:
    """Connects to Dask, which is started where it is to run on this machine.

    Args:
        scheduler: ``"threads"`` (of this process), ``"processes"`` (of this machine) or the address of a running
            scheduler, such as ``"tcp://host:8786"``.
        workers: number of threads or processes; a running scheduler has its own.
        retries: how many dying workers a step may have.

    Raises:
        SpocoError: if the scheduler cannot be reached.
    """
    for name in ("distributed", "distributed.nanny", "distributed.worker", "distributed.scheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    settings = {**_KEEP_LITTLE, "distributed.scheduler.allowed-failures": retries}
    with dask.config.set(settings), _client(scheduler, workers) as client:
        yield client


@contextmanager
def _client(scheduler: str, workers: int) -> Iterator[Client]:
    if scheduler in ("threads", "processes"):
        threads = scheduler == "threads"
        with (
            dask.config.set(_LOCAL),
            LocalCluster(
                n_workers=1 if threads else workers,
                threads_per_worker=workers if threads else 1,
                processes=not threads,
                memory_limit=None,
                dashboard_address="127.0.0.1:0",
                # of processes: here the loggers are quiet, and handlers may be those of others
                silence_logs=False if threads else logging.CRITICAL,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,  # what else this process does with Dask stays as it was
        ):
            yield client
        return
    choices = "give threads, processes or the address of a running Dask scheduler, such as tcp://host:8786"
    if ":" not in scheduler:
        raise SpocoError(f"--scheduler {scheduler}: is no address: {choices}")
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise SpocoError(f"--scheduler {scheduler}: cannot be reached ({in_short(error)}): {choices}") from error
    with client:
        yield client


class Engine:
    """Runs stages of one job; see :func:`job_engine`."""

    def __init__(self, client: Client, plugin: str, job: Job, retries: int, progress: bool) -> None:
        self.client = client
        self.plugin = plugin
        self.job = job
        self.retries = retries
        self.progress = progress

    def run(self, stage: str, total: int, name: Callable[[int], str]) -> None:
        """Runs a stage for the blocks that still need it.

        Args:
            stage: name of the stage.
            total: its number of blocks.
            name: describes a block in an error.

        Raises:
            SpocoError: if blocks failed on every try, after all others were finished; at once for what the user has to
                mend first, such as a full disk.
        """
        waiting = sorted(set(range(total)) - self.job.work.finished(stage), reverse=True)
        failed: dict[int, str] = {}
        owners: dict[str, int] = {}
        running = as_completed(loop=self.client.loop)

        def submit() -> None:
            number = waiting.pop()
            future = self.client.submit(_step, self.plugin, stage, number, retries=self.retries, pure=False)
            owners[future.key] = number
            running.add(future)

        with Progress(f"{stage}, blocks", total, done=total - len(waiting), quiet=not self.progress) as bar:
            while waiting and len(owners) < _QUEUED:
                submit()
            for future in running:
                number = owners.pop(future.key)
                if future.status == "finished":
                    bar.update()
                else:
                    error = future.exception()
                    if isinstance(error, SpocoError):
                        self.client.cancel(list(running.futures))
                        raise error
                    failed[number] = f"{name(number)} failed ({type(error).__name__}: {in_short(error)})"
                future.release()
                if waiting:
                    submit()
        if failed:
            others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
            raise SpocoError(
                f"{failed[min(failed)]}{others}, tried {self.retries + 1} times; all other blocks are kept in "
                f"{self.job.work.path}: mend the cause and give the same command again"
            )


def _step(plugin: str, stage: str, number: int) -> None:
    get_worker().plugins[plugin].job.run(stage, number)
