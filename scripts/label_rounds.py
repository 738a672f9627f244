"""Three rounds of annotating, training and predicting on a real MONAI Label server, by three ways of choosing objects.

Starts from random weights. A person is played by the complete truth of the volume: in every round three objects are
drawn into the prediction that the server handed out, and the whole of it is submitted, so that everything else in it
comes back unchecked. The first round draws three objects by lot; from then on they are chosen by

- worst: those that the last prediction got most wrong by the truth, as a person would who looks at everything;
- disagreement: those nearest to the places that the server's strategy proposes;
- random: by lot.

All three go on from the same first round. Scores are those of the prediction alone against the complete truth.

    python scripts/label_rounds.py emb_raw.tif emb_label.tif --spacing 1.75 0.8 0.8 --output rounds
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from one_line import one_line_errors

from spoco_bundle.core.atomic_files import write_table
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import file_suffix, read_image, write_instances
from spoco_bundle.label.app_folder import prepare_app
from spoco_bundle.label.client import LabelClient
from spoco_bundle.label.environment import build_environment
from spoco_bundle.label.server import Door, server_command
from spoco_bundle.metrics import contingency_table, instance_scores
from spoco_bundle.report.pictures import instance_overlay

STUDY = "volume"
# small crops and few iterations: a training takes about a minute on one thread
SETTINGS = {"crop_size": [16, 48, 48], "iterations_per_epoch": 50, "max_epochs": 4, "val_interval": 2}
STRATEGIES = ("worst", "disagreement", "random")


@one_line_errors()
def main() -> None:
    """Plays all seeds and strategies and writes ``rounds.csv`` as it goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("label", type=Path, help="its complete truth")
    parser.add_argument("--spacing", type=float, nargs="+", default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--objects", type=int, default=3, help="drawn per round")
    parser.add_argument("--output", type=Path, default=Path("rounds"))
    parser.add_argument("--environment", type=Path, default=Path("label_server/environment"))
    parser.add_argument("--port", type=int, default=8010)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    python = build_environment(arguments.environment)
    rows = []
    for seed in arguments.seeds:
        first = arguments.output / f"seed{seed}_first"
        prepare(first, arguments, seed)
        opening = play(first, arguments, python, "random", seed, [1])
        for strategy in STRATEGIES:
            folder = arguments.output / f"seed{seed}_{strategy}"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(first, folder)
            later = play(folder, arguments, python, strategy, seed, list(range(2, arguments.rounds + 1)))
            rows += [{"seed": seed, "strategy": strategy, **row} for row in opening + later]
            write_table(arguments.output / "rounds.csv", list(rows[0]), [list(row.values()) for row in rows])
    draw(arguments, rows)


def prepare(folder: Path, arguments: argparse.Namespace, seed: int) -> None:
    """A studies folder with the volume, and an app with random weights."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "studies").mkdir(parents=True)
    shutil.copy(arguments.image, folder / "studies" / f"{STUDY}{file_suffix(arguments.image)}")
    prepare_app(folder / "app", random_weights=True, spacing=arguments.spacing, seed=seed, **SETTINGS)


def play(
    folder: Path, arguments: argparse.Namespace, python: Path, strategy: str, seed: int, rounds: list[int]
) -> list[dict]:
    """Plays some rounds on a server of its own; returns the scores after each."""
    truth = read_image(arguments.label, "label").array[0]
    lots = np.random.default_rng([seed, rounds[0]])
    rows = []
    with server(python, folder, arguments.port) as client:
        for number in rounds:
            drawn = annotated_ids(folder, truth)
            prediction = predict(client) if number > 1 else np.zeros_like(truth)
            chosen = choose(strategy, truth, prediction, drawn, arguments.objects, client, lots)
            returned = np.zeros_like(truth)
            if number > 1:
                returned = predict(client, show_confirmed=True)
            for instance in chosen:
                returned[truth == instance] = returned.max() + 1
            submit(client, folder, returned)
            client.train()
            task = client.wait_for_training()
            if task["status"] != "DONE":
                raise SpocoError("training failed: " + "\n".join(task["details"]))
            prediction = predict(client)
            scores = instance_scores(truth, prediction)
            write_instances(folder / f"round{number}{file_suffix(arguments.image)}", prediction, arguments.image)
            row = {"round": number, "annotated": len(drawn) + len(chosen), "chosen": " ".join(map(str, chosen))}
            row |= {name: scores[name] for name in ("ap_50", "sbd", "objects", "true_objects")}
            rows.append(row)
            print(f"{folder.name}: {row}", flush=True)
    return rows


def choose(
    strategy: str,
    truth: np.ndarray,
    prediction: np.ndarray,
    drawn: set[int],
    count: int,
    client: LabelClient,
    lots: np.random.Generator,
) -> list[int]:
    """Ids of the true objects to draw next, none of which was drawn before."""
    left = [int(i) for i in lots.permutation(np.unique(truth[truth > 0])) if i not in drawn]
    if strategy == "worst":
        best = best_iou(truth, prediction)
        return sorted(left, key=best.__getitem__)[:count]
    chosen: list[int] = []
    if strategy == "disagreement":
        proposal = client.next_sample("disagreement", count=count)
        for place in proposal["positions"]:
            free = [i for i in left if i not in chosen]
            position = np.array(place["position"][::-1])
            near = sorted(free, key=lambda i: np.linalg.norm(np.argwhere(truth == i) - position, axis=1).min())
            chosen += near[:1]
    return (chosen + [i for i in left if i not in chosen])[:count]


def best_iou(truth: np.ndarray, prediction: np.ndarray) -> dict[int, float]:
    """Best intersection over union of each true object, by its id, with a predicted one."""
    table = contingency_table(truth, prediction)
    best = np.zeros(table.true_objects)
    np.maximum.at(best, table.object_pairs()[0], table.iou())
    return dict(zip(table.truth_ids[1:].tolist(), best, strict=True))


def annotated_ids(folder: Path, truth: np.ndarray) -> set[int]:
    """Ids of the true objects that the labels hold already."""
    found = list((folder / "studies" / "labels" / "final").glob(f"{STUDY}.*"))
    kept = read_image(found[0], "label").array[0] if found else np.zeros_like(truth)
    return {int(i) for i in np.unique(truth[kept > 0])} - {0}


def predict(client: LabelClient, show_confirmed: bool = False) -> np.ndarray:
    """The server's prediction, (z, y, x) int32; with what was confirmed so far laid over it if asked for."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "prediction.nii.gz"
        file.write_bytes(client.infer(STUDY, show_confirmed=show_confirmed))
        return read_image(file, "label").array[0]


def submit(client: LabelClient, folder: Path, labels: np.ndarray) -> None:
    """Sends a label (z, y, x) for the volume."""
    image = next((folder / "studies").glob(f"{STUDY}.*"))
    with tempfile.TemporaryDirectory() as scratch:
        client.save_label(STUDY, write_instances(Path(scratch) / f"label{file_suffix(image)}", labels, image))


@contextmanager
def server(python: Path, folder: Path, port: int) -> Iterator[LabelClient]:
    """Runs a server on the folder's app and studies."""
    command, variables = server_command(python, folder / "app", folder / "studies", Door(port))
    with open(folder / "server.log", "a") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
        try:
            client = LabelClient(f"http://127.0.0.1:{port}")
            client.wait_until_up()
            yield client
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def draw(arguments: argparse.Namespace, rows: list[dict]) -> None:
    """Draws ``scores.png``, the scores over the rounds, and ``rounds.png``, a plane of the seed that began worst."""
    numbers = range(1, arguments.rounds + 1)
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, score, title in zip(axes, ("ap_50", "sbd"), ("AP at IoU 0.5", "symmetric best Dice"), strict=True):
        for strategy in STRATEGIES:
            means = [
                np.mean([float(row[score]) for row in rows if (row["strategy"], row["round"]) == (strategy, number)])
                for number in numbers
            ]
            axis.plot([arguments.objects * number for number in numbers], means, "o-", label=strategy)
        axis.set(xlabel="annotated objects", ylabel=title, xticks=[arguments.objects * number for number in numbers])
    axes[0].legend()
    figure.savefig(arguments.output / "scores.png", dpi=80)

    image = read_image(arguments.image).array
    truth = read_image(arguments.label, "label").array[0]
    worst = min(rows, key=lambda row: (row["round"], float(row["ap_50"])))["seed"]
    plane = int((truth > 0).sum(axis=(1, 2)).argmax())
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots(len(STRATEGIES), len(numbers) + 1)
    for line, strategy in zip(axes, STRATEGIES, strict=True):
        pictures = {"truth": truth}
        for number in numbers:
            folder = arguments.output / f"seed{worst}_{strategy}"
            file = folder / f"round{number}{file_suffix(arguments.image)}"
            pictures[f"{strategy}, {arguments.objects * number} objects"] = read_image(file, "label").array[0]
        for axis, (title, labels) in zip(line, pictures.items(), strict=True):
            axis.imshow(instance_overlay(image[:, plane], labels[plane]))
            axis.set_title(title, fontsize=8)
            axis.set_axis_off()
    figure.savefig(arguments.output / "rounds.png", dpi=72)


if __name__ == "__main__":
    main()
