"""How much annotation is needed: score against the number of annotated objects, and what each part of the method gives.

python scripts/benchmark_sparse.py train bbbc050 --fractions 0.1 0.25 1.0 --seeds 0 --minutes 45
python scripts/benchmark_sparse.py train bbbc050 --fractions 0.25 --variants no_consistency wide --minutes 20
python scripts/benchmark_sparse.py table

A row is one training and its scores on val/, a JSON file in the folder of `--rows`, by default the published ones. What
is there is not done again, and a training that was interrupted goes on from its last checkpoint in `--work`. The number
of iterations is what a probe of the machine says to fit into `--minutes` of processor time on one thread; it is
kept in `--work` for all seeds and fractions. Validations come on top, and the row says what was spent.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
import numpy as np
import psutil
import tifffile
import torch
from classical_baseline import score_folder
from measuring import processor, replace_table
from peers import score_predictions, write_thinned

from spoco_bundle.app.run_report import training_curves
from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist, stored_dimensions
from spoco_bundle.formats import read_image
from spoco_bundle.transforms import KeepInstanceFractiond

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 - the backend is chosen before

#: a level more than the default, the same on every axis
FIVE_LEVELS: dict[str, Any] = {
    "strides": [2, 2, 2, 2],
    "kernel_sizes": [3, 3, 3, 3, 3],
    "convolutions": [2, 2, 2, 2, 2],
}

DATASETS = ("bbbc050", "vnc_mito", "fib25_neuron", "dsb2018", "cvppp_a1")

#: voxel size along z, y, x that the files do not state, for the watershed
SPACING = {"bbbc050": (1.75, 0.8, 0.8), "vnc_mito": (0.0475, 0.0046, 0.0046)}

#: what each training changes in the plan; all but one have the consistency term, as the rows that are there
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "known_background": {"background_label": 0},
    "no_consistency": {"loss#consistency_weight": 0.0},
    "no_unlabeled_push": {"loss#unlabeled_push_weight": 0.0},
    "no_instance_term": {"loss#instance_weight": 0.0},
    "no_objectness": {"objectness": False},
    "sampled_anchor": {"loss#anchor": "voxel"},
    "nonspatial": {"config": "nonspatial"},
    "scale_quarter_radius": {"coordinate_radii": 0.25},
    "scale_one_radius": {"coordinate_radii": 1.0},
    "embedding_16": {"embedding_channels": 16},
    "crop_24x48x48": {"crop_size": [24, 48, 48]},
    "crop_32x96x96": {"crop_size": [32, 96, 96], "batch_size": 1},
    "wide": {"channels": [16, 32, 64, 128]},
    "deep": {"channels": [16, 32, 64, 128, 128], **FIVE_LEVELS},
}

#: what trains, in the rows of the bundle
PROGRAM = f"torch {torch.__version__}"

#: the published rows, beside their page
ROWS = Path(__file__).resolve().parent.parent / "docs" / "measurements" / "label_efficiency"

#: of all documents
PICTURES = ROWS.parent.parent / "pictures"

#: variants in the curve of score against annotated objects, with the name of their line
CURVES = {"default": "this bundle", "known_background": "this bundle", "stardist": "StarDist", "otsu_watershed": "Otsu"}

#: data sets that are scored a second time with the foreground given, as their challenge gives it
FOREGROUND_GIVEN = ("cvppp_a1",)

#: least distance of two seeds of the watershed, in the unit of the spacing, where it is not the default
SEED_RADIUS = {"vnc_mito": 0.1, "fib25_neuron": 0.1, "cvppp_a1": 20.0}

#: validations in a training, the last at its end
VALIDATIONS = 6

#: scores of a row, in the order of the table
SCORES = ("ap_50", "sbd", "dic_abs", "merges", "splits", "misses", "false_objects")


def settings(variant: str, fraction: float, seed: int) -> tuple[str, dict[str, Any]]:
    """Overlays and overrides of a training.

    Args:
        variant: a name of `VARIANTS`.
        fraction: of the annotated objects that is kept.
        seed: of the choice of objects, the weights, the crops and the augmentation.

    Returns:
        The value of `--config`, and ids with their values.
    """
    overrides = {"loss#consistency_weight": 1.0, **VARIANTS[variant]}
    config = overrides.pop("config", "")
    overrides |= {"keep_fraction": fraction, "keep_seed": seed, "seed": seed}
    return config, overrides | {"partly_labelled": False}


def count_objects(data: Path, fraction: float, seed: int) -> int:
    """Objects that the labels of train/ keep."""
    spatial_dims = stored_dimensions(build_datalist(data, "train"))
    keep = KeepInstanceFractiond(keys="label", fraction=fraction, seed=seed, ignore_label=-1)
    total = 0
    for pair in build_datalist(data, "train"):
        label = read_image(pair["label"], "label", spatial_dims).array
        kept = keep({"label": torch.as_tensor(label.astype(np.int64))})["label"]
        total += len(np.setdiff1d(np.unique(kept), (0, -1)))
    return total


def spoco(command: str, data: Path, output: Path, config: str, overrides: dict[str, Any], spent: Path) -> None:
    """Runs `spoco` on one thread and adds the processor time that it takes to a file.

    Args:
        command: "train" or "evaluate".
        data: folder with train/ and val/.
        output: folder of its results; the log goes there too.
        config: overlays, joined by commas, or "".
        overrides: id to value.
        spent: text file with the processor seconds spent so far, brought up to date every few seconds, so that an
            interrupted run is not lost to the account.

    Raises:
        SpocoError: if it fails; names the log.
    """
    output.mkdir(parents=True, exist_ok=True)
    options = [f"--{key}={json.dumps(value) if isinstance(value, list) else value}" for key, value in overrides.items()]
    options += [f"--config={config}"] if config else []
    call = [
        sys.executable,
        "-c",
        "from spoco_bundle.cli import main; main()",
        command,
        str(data),
        f"--output={output}",
        *options,
    ]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    before = float(spent.read_text()) if spent.is_file() else 0.0
    log = output / f"{command}.log"
    with log.open("a") as sink, subprocess.Popen(call, stdout=sink, stderr=sink, env=os.environ | threads) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                times = watched.cpu_times()
            except psutil.NoSuchProcess:
                break
            with atomic_write(spent) as path:
                path.write_text(str(before + times.user + times.system))
            time.sleep(1)
    if process.returncode:
        raise SpocoError(f"spoco {command} ended with {process.returncode}; see {log}")


def seconds_per_iteration(data: Path, config: str, overrides: dict[str, Any]) -> float:
    """Processor seconds of an iteration: what a training takes more than a shorter one that starts alike."""
    seconds = []
    with TemporaryDirectory() as folder:
        for iterations in (10, 50):
            spent = Path(folder) / f"{iterations}.txt"
            short = overrides | {"max_epochs": 1, "iterations_per_epoch": iterations}
            spoco("train", data, Path(folder) / str(iterations), config, short, spent)
            seconds.append(float(spent.read_text()))
    return (seconds[1] - seconds[0]) / 40


def train_row(
    data: Path, rows: Path, work: Path, dataset: str, variant: str, fraction: float, seed: int, minutes: float
) -> Path:
    """Trains and scores one row, unless it is there.

    Args:
        data: folder with train/ and val/.
        rows: folder of the rows.
        work: folder for models and logs.
        dataset: a name of `DATASETS`.
        variant: a name of `VARIANTS`.
        fraction: of the annotated objects that is kept.
        seed: of all that is random.
        minutes: of processor time to train for.

    Returns:
        The row's file.
    """
    name = f"{dataset}-{variant}-{100 * fraction:g}-seed{seed}-{minutes:g}min"
    row, folder = rows / f"{name}.json", work / name
    if row.is_file():
        return row
    config, overrides = settings(variant, fraction, seed)
    # seeds and fractions of a variant differ in nothing else, so they share the number of iterations
    plan = work / f"{dataset}-{variant}-{minutes:g}min.json"
    if not plan.is_file():
        # a multiple of the interval, so that the last epoch is validated
        interval = max(1, round(60 * minutes / seconds_per_iteration(data, config, overrides) / 100 / VALIDATIONS))
        with atomic_write(plan) as path:
            path.write_text(json.dumps({"max_epochs": VALIDATIONS * interval, "val_interval": interval}))
    overrides |= json.loads(plan.read_text())
    model, spent = folder / "model", folder / "training_seconds.txt"
    if not (folder / "trained").is_file():
        again = {"resume": True} if (model / "last.pt").is_file() else {}
        spoco("train", data, model, config, overrides | again, spent)
        (folder / "trained").touch()
    scores = {}
    ways = {"teacher": {"weights": "teacher"}, "student": {"weights": "student"}}
    if dataset in FOREGROUND_GIVEN:
        ways["foreground"] = {"weights": "teacher", "foreground_ending": "_foreground"}
    with TemporaryDirectory() as given:
        for way, choice in ways.items():
            results, source = folder / way, data
            if way == "foreground":
                source = write_foregrounds(data, Path(given))
            choice |= {"model": str(model), "partly_labelled": False}
            spoco("evaluate", source, results, "", choice, folder / "evaluation_seconds.txt")
            scores[way] = json.loads((results / "scores.json").read_text())
    per_epoch = overrides.get("iterations_per_epoch", 100)
    training = {
        "iterations": per_epoch * overrides["max_epochs"],
        "minutes": float(spent.read_text()) / 60,
        "program": PROGRAM,
        "validations": [
            [round(epoch * per_epoch), score] for epoch, score in training_curves(model).get("val_instances", [])
        ],
    }
    return _write_row(row, dataset, variant, data, fraction, seed, training, scores)


def write_foregrounds(data: Path, output: Path) -> Path:
    """Links val/ into a folder and writes NAME_foreground.tif, all objects of the truth, beside every image."""
    folder = output / "val"
    folder.mkdir()
    pairs = build_datalist(data, "val")
    for pair in pairs:
        for file in (Path(pair["image"]), Path(pair["label"])):
            (folder / file.name).symlink_to(file.resolve())
        array = read_image(pair["label"], "label", stored_dimensions(pairs)).array[0]
        tifffile.imwrite(
            folder / Path(pair["label"]).name.replace("_label", "_foreground"), (array > 0).astype(np.uint8)
        )
    return output


def score_row(data: Path, rows: Path, dataset: str, fraction: float, seed: int, predictions: Path, name: str) -> Path:
    """Scores what another program found in val/ and writes it as a row.

    Args:
        data: folder with val/.
        rows: folder of the rows.
        dataset: a name of `DATASETS`.
        fraction: of the annotated objects that it learned from.
        seed: of their choice.
        predictions: folder with NAME_instances.tif for every NAME_raw.tif, and training.json with minutes, iterations
            and program (its name and version).
        name: of the method.

    Returns:
        The row's file.
    """
    training = json.loads((predictions / "training.json").read_text())
    row = rows / f"{dataset}-{name}-{100 * fraction:g}-seed{seed}-{training['minutes']:.0f}min.json"
    return _write_row(
        row, dataset, name, data, fraction, seed, training, {"teacher": score_predictions(data, predictions)}
    )


def otsu_row(data: Path, rows: Path, dataset: str) -> Path:
    """Scores an Otsu threshold with a watershed, which learns from nothing, and writes it as a row."""
    seeds = {"seed_radius": SEED_RADIUS[dataset]} if dataset in SEED_RADIUS else {}
    scores = score_folder(data / "val", stored_dimensions(build_datalist(data, "val")), SPACING.get(dataset), **seeds)
    pooled, training = {"teacher": scores["pooled"]}, {"iterations": 0, "minutes": 0, "program": PROGRAM}
    row = rows / f"{dataset}-otsu_watershed.json"
    return _write_row(row, dataset, "otsu_watershed", None, 0.0, 0, training, pooled)


def _write_row(
    row: Path,
    dataset: str,
    variant: str,
    data: Path | None,
    fraction: float,
    seed: int,
    training: dict[str, Any],
    scores: dict[str, dict[str, float]],
) -> Path:
    result = {
        "dataset": dataset,
        "variant": variant,
        "fraction": fraction,
        "seed": seed,
        "objects": count_objects(data, fraction, seed) if data else 0,
        "iterations": training["iterations"],
        "minutes": training["minutes"],
        "machine": f"{processor()}, one thread, {training['program']}",
        "validations": training.get("validations", []),
        "scores": {weights: {name: pooled[name] for name in SCORES} for weights, pooled in scores.items()},
    }
    row.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(row) as path:
        path.write_text(json.dumps(result, indent=4) + "\n")
    return row


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder, by data set, variant, share of the objects, iterations and seed.

    Raises:
        SpocoError: if there are none.
    """
    rows = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    if not rows:
        raise SpocoError(f"{folder}: no rows; make some with `benchmark_sparse.py train`")
    order = ("variant", "fraction", "iterations", "seed")
    return sorted(rows, key=lambda row: (row["dataset"], row["variant"] != "default", *(row[name] for name in order)))


def write_table(rows: Iterable[dict[str, Any]]) -> str:
    """A Markdown table of the rows: the teacher's scores, and the student's AP50 beside them."""
    head = ["data", "variant", "kept", "objects", "seed", "iterations", "CPU min", "AP50", "SBD", "abs. DiC", "merges"]
    head += ["splits", "misses", "false", "student AP50", "foreground given: AP50, SBD"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        teacher, student = row["scores"]["teacher"], row["scores"].get("student")
        cells = [row["dataset"], row["variant"], f"{row['fraction']:.0%}", row["objects"], row["seed"]]
        cells += [row["iterations"], f"{row['minutes']:.0f}", *(f"{teacher[name]:.2f}" for name in SCORES[:2])]
        cells += [f"{teacher['dic_abs']:.1f}", *(f"{teacher[name]:.0f}" for name in SCORES[3:])]
        cells += [f"{student['ap_50']:.2f}" if student else ""]
        given = row["scores"].get("foreground")
        cells += [f"{given['ap_50']:.2f}, {given['sbd']:.2f}" if given else ""]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def fill_tables(rows: Sequence[dict[str, Any]], document: Path) -> None:
    """Puts the tables into a document, between `<!-- rows NAME -->` and `<!-- end -->`.

    NAME is "curve" for what the curve shows and "ablations" for the rest.

    Raises:
        SpocoError: if the document has no such marks.
    """
    tables = {
        "curve": [row for row in rows if row["variant"] in CURVES],
        "ablations": [row for row in rows if row["variant"] not in CURVES],
    }
    for name, part in tables.items():
        replace_table(document, f"rows {name}", write_table(part))


def by_method(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Rows by data set and method (`CURVES`), ablations left out; of trainings on as many objects the longest."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        if row["variant"] in CURVES:
            found.setdefault(row["dataset"], {}).setdefault(CURVES[row["variant"]], []).append(row)
    return {
        dataset: {method: longest_trainings(part) for method, part in methods.items()}
        for dataset, methods in found.items()
    }


def longest_trainings(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the rows on as many objects those with the most iterations."""
    most: dict[int, int] = {}
    for row in rows:
        most[row["objects"]] = max(most.get(row["objects"], 0), row["iterations"])
    return [row for row in rows if row["iterations"] == most[row["objects"]]]


def draw_curve(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Draws AP50 and SBD against the number of annotated objects, a panel for each data set with two sizes or more.

    Args:
        rows: of `read_rows`; ablations are left out, and of a method's trainings on as many objects the shorter ones.
        path: PNG to write.
    """
    curves = {
        name: methods
        for name, methods in by_method(rows).items()
        if len({row["objects"] for part in methods.values() for row in part}) > 1
    }
    figure, axes = plt.subplots(2, max(1, len(curves)), figsize=(4.5 * max(1, len(curves)), 6.5), squeeze=False)
    for column, (dataset, methods) in enumerate(curves.items()):
        for line, score, label in ((0, "ap_50", "AP50"), (1, "sbd", "SBD")):
            axis = axes[line, column]
            for method, part in methods.items():
                points = sorted((row["objects"], row["scores"]["teacher"][score]) for row in part)
                if not points[-1][0]:  # learns from nothing, so it is the same everywhere
                    axis.axhline(points[-1][1], label=method, color="gray", linestyle="--")
                    continue
                sizes = sorted({objects for objects, _ in points})
                means = [np.mean([value for objects, value in points if objects == size]) for size in sizes]
                (drawn,) = axis.plot(sizes, means, label=method)
                axis.plot(*zip(*points, strict=True), "o", color=drawn.get_color(), markersize=4, clip_on=False)
            axis.set(xscale="log", ylim=(0, 1), xlabel="annotated objects", ylabel=label, title=dataset)
            ticks = sorted({row["objects"] for part in methods.values() for row in part} - {0})
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.minorticks_off()
            axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def draw_trainings(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Draws AP50 of the validations against the processor time of the training, a panel for each data set.

    Args:
        rows: of `read_rows`; ablations, rows without validations, and of a method's trainings on as many objects the
            shorter ones are left out.
        path: PNG to write.
    """
    panels = by_method(row for row in rows if row.get("validations"))
    figure, axes = plt.subplots(1, max(1, len(panels)), figsize=(4.5 * max(1, len(panels)), 3.5), squeeze=False)
    for axis, (dataset, methods) in zip(axes[0], panels.items(), strict=False):
        for row in itertools.chain.from_iterable(methods.values()):
            iterations, scores = zip(*row["validations"], strict=True)
            minutes = [row["minutes"] * i / row["iterations"] for i in iterations]
            name = f"{row['objects']} objects, seed {row['seed']}"
            axis.plot(minutes, scores, "o-", markersize=4, label=name)
        axis.set(ylim=(0, 1), xlabel="CPU minutes", ylabel="AP50 in validation", title=dataset)
        if axis.has_data():
            axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="make rows")
    train.add_argument("--fractions", type=float, nargs="+", default=[0.25], help="of the annotated objects")
    train.add_argument("--variants", nargs="+", choices=VARIANTS, default=["default"])
    train.add_argument("--seeds", type=int, nargs="+", default=[0])
    train.add_argument("--minutes", type=float, default=45, help="processor time to train for")
    train.add_argument("--work", type=Path, default=Path("runs/sparse"), help="folder for models and logs")
    labels = commands.add_parser(
        "labels", help="write train/ with the objects that a row trains on, for other programs"
    )
    labels.add_argument("--output", type=Path, required=True)
    score = commands.add_parser("score", help="make a row of what another program found")
    score.add_argument("--predictions", type=Path, required=True, help="folder with NAME_instances.tif, training.json")
    score.add_argument("--name", default="stardist", help="of the method")
    otsu = commands.add_parser("otsu", help="make the row of an Otsu threshold with a watershed")
    for command in (train, labels, score, otsu):
        command.add_argument("dataset", choices=DATASETS)
        command.add_argument("--data", type=Path, help="folder with train/ and val/, by default one of that name")
    for command in (labels, score):
        command.add_argument("--fraction", type=float, default=0.25)
        command.add_argument("--seed", type=int, default=0)
    table = commands.add_parser("table", help="table and curve of all rows")
    table.add_argument("--document", type=Path, default=ROWS.with_suffix(".md"), help="Markdown file with the tables")
    table.add_argument("--curve", type=Path, default=PICTURES / "label_efficiency.png")
    table.add_argument("--trainings", type=Path, default=PICTURES / "label_efficiency_trainings.png")
    for command in (train, score, otsu, table):
        command.add_argument("--rows", type=Path, default=ROWS, help="folder of the rows")
    chosen = parser.parse_args()
    try:
        run(chosen)
    except SpocoError as error:
        parser.error(str(error))


def run(chosen: argparse.Namespace) -> None:
    """Does what the command line asks for."""
    if chosen.command == "table":
        rows = read_rows(chosen.rows)
        fill_tables(rows, chosen.document)
        draw_curve(rows, chosen.curve)
        draw_trainings(rows, chosen.trainings)
        return
    data = chosen.data or Path(chosen.dataset)
    if chosen.command == "labels":
        write_thinned(data, chosen.fraction, chosen.seed, chosen.output)
    elif chosen.command == "otsu":
        print(otsu_row(data, chosen.rows, chosen.dataset))
    elif chosen.command == "score":
        print(
            score_row(data, chosen.rows, chosen.dataset, chosen.fraction, chosen.seed, chosen.predictions, chosen.name)
        )
    else:
        for variant, fraction, seed in itertools.product(chosen.variants, chosen.fractions, chosen.seeds):
            asked = (chosen.dataset, variant, fraction, seed, chosen.minutes)
            print(train_row(data, chosen.rows, chosen.work, *asked), flush=True)


if __name__ == "__main__":
    main()
