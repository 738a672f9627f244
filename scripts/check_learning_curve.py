"""Whether the forecast of `spoco learning-curve` holds: half of the labels forecast the score of all of them.

python scripts/check_learning_curve.py DATA --minutes 2      # trains and scores what has no row yet, then the table
python scripts/check_learning_curve.py DATA --table-only --page docs/measurements/learning_curve.md

DATA is a folder of data sets, each with train/ and a val/ in which every object is annotated. Of each label image in
train/ a random half of the objects is kept, as if no more had been drawn. `spoco learning-curve` sees these alone and
forecasts the score of twice as many; trainings on all objects, as long as each of its own, say what it is. A row is one
data set: a JSON file in the folder of `--rows`. What is there is not done again, and what was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import (
    COMPLETE,
    MEASUREMENTS,
    length_of,
    machine,
    read_rows,
    run_rows,
    run_spoco,
    table_of,
    train_once,
    write_row,
)
from one_line import one_line_errors

from spoco_bundle.app.learning_curve import OVERLAY, PARTS, RESULT
from spoco_bundle.core.atomic_files import write_json
from spoco_bundle.dataset import build_datalist, stored_dimensions
from spoco_bundle.formats import write_instances
from spoco_bundle.handlers.held_out_scores import HELD_OUT_SCORES
from spoco_bundle.transforms import KeepInstanceFractiond, LoadVolumed

DATASETS = ("dsb2018", "bbbc050", "cvppp_a1")

#: choices of objects of each part in the learning curve
CHOICES = 2


def half_of_labels(data: Path, folder: Path) -> Path:
    """A datalist of the same images, with half of the objects of each label image in train/.

    Args:
        data: with train/ and val/.
        folder: for the label images and the datalist.
    """
    pairs = build_datalist(data, "train")
    load, thin = LoadVolumed("label", spatial_dims=stored_dimensions(pairs)), KeepInstanceFractiond("label", 0.5)
    for pair in pairs:
        target = folder / "labels" / Path(pair["label"]).name
        if not target.is_file():
            ids = thin(load({"label": pair["label"]}))["label"][0].numpy()
            write_instances(target, ids, pair["label"])
        pair["label"] = str(target.resolve())
    return write_json(folder / "half.json", {"training": pairs, "validation": build_datalist(data, "val")})


def check(data: Path, options: argparse.Namespace) -> None:
    """Forecasts and measures one data set, unless its row is there."""
    name = "-".join([data.name, length_of(options.minutes, options.threads), *options.set])
    row, work = options.rows / f"{name}.json", (options.work / name).resolve()
    if row.is_file():
        return
    work.mkdir(parents=True, exist_ok=True)
    shared = [*COMPLETE, *(f"--{setting}" for setting in options.set)]
    minutes = CHOICES * len(PARTS) * options.minutes
    ask = [str(half_of_labels(data, work)), "--minutes", str(minutes), "--output", str(work / "half")]
    run_spoco("learning-curve", *ask, *shared, log=work / "log.txt", threads=options.threads)
    measured, given = [], ["--minutes", str(options.minutes), "--config", OVERLAY, *shared]
    for seed in range(options.seeds):
        model = train_once(data, work / f"all_{seed}", given, seed, options.threads)
        objects = json.loads((model / "profile.json").read_text())["objects"]
        measured.append({"seed": seed, "objects": objects, **json.loads((model / HELD_OUT_SCORES).read_text())})
    curve = json.loads((work / "half" / RESULT).read_text())
    content = {
        **{"data": data.name, "minutes": options.minutes, "threads": options.threads, "settings": options.set},
        **{"trainings": curve["trainings"], "forecast": curve["forecast"], "measured": measured},
        **{"processor": machine(), "torch": torch.__version__},
    }
    write_row(row, content)
    print(" | ".join(_cells(content)), flush=True)


def table(rows: Path) -> str:
    """The rows as Markdown."""
    titles = ["`val` of", "minutes of each", "trained on: AP50", "expected of all", "measured with all", "within"]
    contents = read_rows(rows, "data", "minutes", "trainings", "forecast", "measured", "threads", "processor")
    measured = [{**one, **row} for row in contents for one in row["measured"]]
    threads = ", ".join(sorted({str(row["threads"]) for row in contents}))
    return table_of([titles, *map(_cells, contents)], measured, f"{threads} thread(s), ")


def _cells(row: dict[str, Any]) -> list[str]:
    found = row["forecast"]
    by_size: dict[int, list[str]] = {}
    for training in row["trainings"]:
        by_size.setdefault(training["objects"], []).append(f"{training['score']:.2f}")
    trained = "; ".join(f"{size}: {', '.join(scores)}" for size, scores in sorted(by_size.items()))
    within = [found["low"] <= one["score"] <= found["high"] for one in row["measured"]]
    measured = ", ".join(f"{one['score']:.3f}" for one in row["measured"])
    expected = f"{found['score']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
    objects = row["measured"][0]["objects"]
    counts = (f"{objects}: {measured}", f"{sum(within)} of {len(within)}")
    return [row["data"], f"{row['minutes']:g}", trained, expected, *counts]


@one_line_errors()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds the data sets")
    parser.add_argument("--minutes", type=float, default=2, help="of each training")
    parser.add_argument("--seeds", type=int, default=2, help="trainings on all objects")
    parser.add_argument("--set", action="append", default=[], metavar="ID=VALUE", help="a setting of all trainings")
    parser.add_argument("--only", nargs="+", help="names of data sets")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, default=MEASUREMENTS / "learning_curve", help="folder of the rows")
    parser.add_argument("--work", type=Path, default=Path("check_learning_curve"), help="folder for models and logs")
    parser.add_argument("--table-only", action="store_true", help="only bring the page up to date")
    parser.add_argument("--page", type=Path, help="page with the marks <!-- learning_curve --> and <!-- end -->")
    options = parser.parse_args()
    checks = [partial(check, options.data / name, options) for name in options.only or DATASETS]
    run_rows(options, checks, partial(table, options.rows), "learning_curve")


if __name__ == "__main__":
    main()
