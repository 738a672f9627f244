"""Writes the scores of an evaluation and prints them as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ignite.engine import Engine, Events
from monai.utils import string_list_all_gather

from spoco_bundle.core.atomic_files import write_json, write_table
from spoco_bundle.handlers.instance_metric import InstanceMetric
from spoco_bundle.metrics import pool_scores

DENSE_COLUMNS = ("true_objects", "objects", "ap_50", "sbd", "dic_abs", "merges", "splits", "misses", "false_objects")
PARTLY_LABELLED_COLUMNS = (
    "true_objects",
    "objects",
    "recall_50",
    "annotated_sbd",
    "partly_labelled_score",
    "merges",
    "splits",
    "misses",
)
COUNTS = ("true_objects", "objects", "merges", "splits", "misses", "false_objects")


class ScoresHandler:
    """Writes ``scores.csv`` (all scores, a row per image) and ``scores.json`` (pooled), and prints a table.

    Args:
        metric: the metric that the evaluator computes; its details are read when the evaluation is complete.
        output_dir: folder of the files.
    """

    def __init__(self, metric: InstanceMetric, output_dir: str):
        self.metric = metric
        self.output_dir = Path(output_dir)
        default = DENSE_COLUMNS if "sbd" in metric.keys else PARTLY_LABELLED_COLUMNS
        self.columns = [c for c in default if c in metric.keys]
        self._names: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Collects the images' names during the evaluation and reports at its end."""
        engine.add_event_handler(Events.STARTED, lambda _: self._names.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Writes and prints."""
        names = string_list_all_gather(self._names)
        if engine.state.rank != 0:
            return
        # with fewer images than processes every process scores all of them
        scored = dict(zip(names, self.metric.details(), strict=True))
        rows = [{"image": name, **scores} for name, scores in scored.items()]
        pooled = {"images": len(rows), **pool_scores(list(scored.values()))}
        write_table(self.output_dir / "scores.csv", list(rows[0]), [list(row.values()) for row in rows])
        write_json(self.output_dir / "scores.json", pooled)
        print("\n".join(filter(None, (self._table(rows, pooled), self.metric.hint()))), flush=True)

    def _collect(self, engine: Engine) -> None:
        self._names.extend(Path(str(item["image"].meta["filename_or_obj"])).name for item in engine.state.batch)

    def _table(self, rows: Sequence[dict], pooled: dict) -> str:
        last = {"image": "all (pooled)", **pooled}
        width = max(len(str(row["image"])) for row in (*rows, last))
        lines = ["  ".join([f"{'image':<{width}}", *self.columns])]
        for row in (*rows, last):
            numbers = (f"{row[c]:.0f}" if c in COUNTS else f"{row[c]:.2f}" for c in self.columns)
            cells = (number.rjust(len(column)) for number, column in zip(numbers, self.columns))
            lines.append("  ".join([f"{row['image']:<{width}}", *cells]))
        return "\n".join(lines)
