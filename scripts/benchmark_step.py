"""Where the time of a training step goes: the training workflow itself, with a clock at its events and hooks.

    python scripts/benchmark_step.py                                   # default config, synthetic sample, 2 threads
    python scripts/benchmark_step.py --threads 1 --precision float32
    python scripts/benchmark_step.py --dataset_dir my_data --configs nonspatial

Prints a Markdown table: median seconds of each part over the iterations after a warm-up, and its share in the sum of
the medians. Validation and checkpoints are left out, all other handlers of the config run.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from ignite.engine import Events
from measuring import machine
from monai.bundle import ConfigWorkflow
from monai.engines.utils import IterationEvents
from one_line import one_line_errors

from spoco_bundle.app.config import config_folder, find_config, read_configs
from spoco_bundle.dataset.synthetic import make_synthetic_sample
from spoco_bundle.engines import SpocoTrainer

#: what a mark ends, in the order of an iteration
PARTS = (
    "data",
    "preparation",
    "student forward",
    "teacher forward",
    "loss forward",
    "loss backward",
    "network backward, clipping",
    "optimizer",
    "teacher averaging",
    "handlers",
)
#: the project's own parts, which should cost little beside the network
OWN = ("data", "loss forward", "loss backward", "teacher averaging")


class StepClock:
    """Splits each iteration of a trainer into parts.

    The clock runs from mark to mark: each mark books the time since the last one to the part that just ended. On a GPU
    every mark waits for the device, so that a part pays for its own kernels.

    Args:
        trainer: an initialised trainer, before its run.
    """

    def __init__(self, trainer: SpocoTrainer):
        self.device = trainer.state.device
        self.iterations: list[dict[str, float]] = []
        self._last = time.perf_counter()
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._begin)
        trainer.add_event_handler(Events.GET_BATCH_COMPLETED, self._mark, "data")
        trainer.network.register_forward_pre_hook(lambda module, inputs: self._mark("preparation"))
        trainer.network.register_forward_hook(self._student_done)
        trainer.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._mark, "teacher forward")
        trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, self._mark, "loss forward")
        trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._mark, "network backward, clipping")
        trainer.optimizer.register_step_post_hook(lambda optimizer, args, kwargs: self._mark("optimizer"))
        trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, self._mark, "teacher averaging")
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._mark, "handlers")

    def seconds(self, warm_up: int) -> dict[str, float]:
        """Median seconds per part over the iterations behind the warm-up."""
        measured = self.iterations[warm_up:]
        return {part: statistics.median(iteration.get(part, 0.0) for iteration in measured) for part in PARTS}

    def _begin(self) -> None:
        self.iterations.append({})
        self._last = self._now()

    def _mark(self, part: str) -> None:
        now = self._now()
        self.iterations[-1][part] = now - self._last
        self._last = now

    def _student_done(self, module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        self._mark("student forward")
        # the gradient that arrives at the network's output has passed the whole loss and nothing of the network
        output.register_hook(lambda gradient: self._mark("loss backward"))

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def measure(args: argparse.Namespace, folder: Path) -> tuple[dict[str, float], str]:
    """Trains for a few iterations in a folder; returns the seconds per part and the precision that was used."""
    dataset_dir = args.dataset_dir
    if dataset_dir is None:
        dataset_dir = folder / "data"
        make_synthetic_sample(dataset_dir, seed=args.seed)
    files = [find_config("train"), *(find_config(name) for name in args.configs)]
    overrides = {
        "dataset_dir": str(dataset_dir),
        "ckpt_dir": str(folder),
        "output_dir": str(folder),
        "iterations_per_epoch": args.warm_up + args.iterations,
        "max_epochs": 1,
        "val_interval": 2,
        "checkpoint_interval": 0,
        "precision": args.precision,
        "seed": args.seed,
    }
    read_configs(files, overrides)
    workflow = ConfigWorkflow(
        config_file=[str(file) for file in files],
        meta_file=str(config_folder() / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        **overrides,
    )
    workflow.initialize()
    clock = StepClock(workflow.trainer)
    workflow.run()
    trainer, crop = workflow.trainer, workflow.parser.get_parsed_content("crop_size")
    return clock.seconds(args.warm_up), "bfloat16" if trainer.uses_bfloat16(crop) else "float32"


def table(seconds: dict[str, float]) -> str:
    """The Markdown table."""
    total = sum(seconds.values())
    own = sum(seconds[part] for part in OWN)
    rows = [*seconds.items(), ("**step**", total), ("**data + loss + teacher averaging**", own)]
    lines = ["| part | median [s] | share |", "|---|---:|---:|"]
    lines += [f"| {part} | {value:.4f} | {100 * value / total:.1f}% |" for part, value in rows]
    return "\n".join(lines)


@one_line_errors()
def main() -> None:
    """Print the table and the circumstances."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", help="folder as for training; by default the synthetic sample is made")
    parser.add_argument("--configs", nargs="*", default=[], help="overlays of configs/train.json, by name or path")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--warm_up", type=int, default=3, help="iterations before those that count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    with tempfile.TemporaryDirectory() as folder:
        seconds, precision = measure(args, Path(folder))
    print(f"`python {shlex.join(sys.argv)}`\n")
    print(f"{machine()}, {args.threads} threads, torch {torch.__version__}, {precision}, seed {args.seed}, ", end="")
    print(f"{args.iterations} iterations after {args.warm_up}\n")
    print(table(seconds))


if __name__ == "__main__":
    main()
