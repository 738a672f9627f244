"""What fine-tuning the shipped weights on a few annotated objects of other data gives, and what it costs.

The folder holds one volume in train/ of which every object is labelled. For each seed some objects are drawn; the label
that trains keeps those only, all else becomes 0, unlabeled. `spoco train --config fine_tune` goes on from the shipped
weights, and the last ones predict the whole volume. It is compared with the prediction of the shipped weights alone.

Scores leave out what was trained on, for both alike: the drawn objects, and the predicted objects that lie on them with
more than half of their voxels. All other objects of the volume count, so the score says what the annotation of a few
objects does for the rest of the same volume. Drawn are objects of at least a quarter of the median size, as nobody
would annotate the specks that the border of a volume cuts off; the score counts these too.

The shipped weights alone predict in three ways, and the one with the best mean is what the fine-tuned ones are compared
with; the others are printed below the table:

- as is: no spacing is stated, the training's is assumed;
- spacing: that of the command line;
- helped: with everything that fine-tuning knows but the training itself: spacing, settings that also prediction takes
  (`invert`, `target_spacing`), and the coordinate scale that was estimated from the drawn objects.

    python scripts/fine_tune.py gonuclear_mini --spacing 0.284 0.127 0.127
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from measuring import processor

from spoco_bundle.app.config import find_config, read_configs
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist, image_name
from spoco_bundle.formats import read_image, write_instances
from spoco_bundle.metrics import instance_scores
from spoco_bundle.networks.weights import load_tensors

LEAST_SHARE = 0.25
SCORES = ("ap_50", "sbd")
WAYS = ("as is", "spacing", "helped")


def choose_objects(truth: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Ids of objects drawn by lot, (count,), among those of at least a quarter of the median size.

    Args:
        truth: (z, y, x) ids, 0 = no object.
        count: how many.
        seed: of the lots.

    Raises:
        SpocoError: if there are not that many, or no other object would be left to score.
    """
    ids, voxels = np.unique(truth[truth > 0], return_counts=True)
    large = ids[voxels >= LEAST_SHARE * np.median(voxels)] if len(ids) else ids
    if not 0 < count <= len(large) or count >= len(ids):
        raise SpocoError(f"--objects {count}: the volume holds {len(large)} objects to draw from; give fewer")
    return np.random.default_rng(seed).choice(large, count, replace=False)


def scores_of_others(truth: np.ndarray, prediction: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    """Scores without the chosen objects and without the predicted objects that lie mostly on them.

    Args:
        truth: (z, y, x) ids, 0 = no object.
        prediction: (z, y, x) ids, 0 = no object.
        chosen: ids of the truth.

    Returns:
        See `instance_scores`.
    """
    trained_on = np.isin(truth, chosen)
    voxels = np.bincount(prediction.ravel())
    on_them = np.bincount(prediction[trained_on], minlength=len(voxels))
    left_out = np.flatnonzero(2 * on_them > voxels)
    return instance_scores(
        np.where(trained_on, 0, truth), np.where(np.isin(prediction, left_out), 0, prediction), iou_thresholds=(0.5,)
    )


def spoco(*arguments: object, log: Path, minutes: float | None = None) -> float:
    """Runs a command of `spoco` on one thread.

    Args:
        *arguments: of the command.
        log: file for what it prints.
        minutes: processor time after which it is ended.

    Returns:
        Processor time in seconds, of the whole process.

    Raises:
        SpocoError: if it fails, or needs longer.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    limit = None if minutes is None else round(60 * minutes)
    command = [sys.executable, "-m", "spoco_bundle.cli", *map(str, arguments)]
    if limit is not None:
        command = ["bash", "-c", f"ulimit -t {limit}; exec {shlex.join(command)}"]
    with open(log, "w") as stream:
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=stream, stderr=stream)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode != 0:
        late = limit is not None and spent >= limit - 1
        raise SpocoError(f"--minutes {minutes}: too few for this training" if late else f"spoco failed, see {log}")
    return spent


def option(name: str, values: list[float] | None) -> list[str]:
    """A list as an option of `spoco`, nothing for None."""
    return [] if values is None else [f"--{name}", str(list(values))]


def predict(image: Path, folder: Path, *arguments: object) -> np.ndarray:
    """The prediction of `spoco predict` for one image, (z, y, x)."""
    folder.mkdir(parents=True, exist_ok=True)
    spoco("predict", image, "--output", folder, *arguments, log=folder / "predict.log")
    return read_image(next(folder.glob(f"{image_name(image)}_instances.*")), "label").array[0]


def compare(arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Fine-tunes and scores for every seed.

    Returns:
        For each seed: ap_50 and sbd of each way of the shipped weights, and of the fine-tuned ones, by keys such as
        `tuned ap_50`, and the `seconds` of processor time that the training took.
    """
    pairs = build_datalist(arguments.folder, "train")
    if len(pairs) != 1:
        raise SpocoError(f"{arguments.folder}: holds {len(pairs)} volumes in train/; one is expected")
    image, label = Path(pairs[0]["image"]), Path(pairs[0]["label"])
    truth = read_image(label, "label").array[0]
    spacing = option("spacing", arguments.spacing)
    settings = [f"--{setting}" for setting in arguments.settings]
    taken = read_configs([find_config("inference")], {}).get()
    shared = [f"--{setting}" for setting in arguments.settings if re.split("[=#]", setting)[0] in taken]
    ways = {"as is": predict(image, arguments.output / "as_is")}
    if spacing:
        ways["spacing"] = predict(image, arguments.output / "spacing", *spacing)
    rows = []
    for seed in arguments.seeds:
        folder = arguments.output / f"seed{seed}"
        data = folder / "data" / "train"
        data.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, data)
        chosen = choose_objects(truth, arguments.objects, seed)
        write_instances(data / label.name, np.where(np.isin(truth, chosen), truth, 0), label)
        seconds = spoco(
            *("train", data.parent, "--config", "fine_tune", "--output", folder / "model", "--seed", seed),
            *(*spacing, *settings),
            log=folder / "train.log",
            minutes=arguments.minutes,
        )
        scale = float(load_tensors(folder / "model" / "model.pt")["coordinate_scale"])
        helped = predict(image, folder / "helped", *spacing, *shared, f"--decoder#coordinate_scale={scale}")
        tuned = predict(image, folder / "results", "--model", folder / "model", *spacing)
        found = {**ways, "helped": helped, "tuned": tuned}
        scores = {way: scores_of_others(truth, labels, chosen) for way, labels in found.items()}
        row = {f"{way} {score}": values[score] for way, values in scores.items() for score in SCORES}
        rows.append({"seed": seed, **row, "seconds": seconds})
        print(rows[-1], flush=True)
    return rows


def table(rows: list[dict[str, float]]) -> str:
    """The rows and their means as Markdown; the shipped weights in the way that scores best."""
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    ways = [way for way in WAYS if f"{way} ap_50" in means]
    shipped = max(ways, key=lambda way: means[f"{way} ap_50"])
    lines = [
        f"| seed | shipped, {shipped}: AP50 | SBD | fine-tuned: AP50 | SBD | gain in AP50 | processor seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in [*((str(row["seed"]), row) for row in rows), ("mean", means)]:
        before, after = ([row[f"{way} {score}"] for score in SCORES] for way in (shipped, "tuned"))
        cells = [*(f"{value:.2f}" for value in (*before, *after)), f"{after[0] - before[0]:+.2f}"]
        lines.append("| " + " | ".join([name, *cells, f"{row['seconds']:.0f}"]) + " |")
    others = [f"shipped, {way}: AP50 {means[f'{way} ap_50']:.2f}" for way in ways if way != shipped]
    return "\n".join([*lines, *others])


def machine() -> str:
    """The processor and the release of torch."""
    return f"{processor()}, {os.cpu_count()} cores, one thread; torch {torch.__version__}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds train/NAME_raw.EXT and train/NAME_label.EXT, one volume")
    parser.add_argument("--objects", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=10, help="of processor time at most per training")
    parser.add_argument("--spacing", type=float, nargs=3, help="voxel size per axis, where the file does not say it")
    parser.add_argument("--settings", nargs="*", default=[], help="ids of the training, such as max_epochs=5")
    parser.add_argument("--output", type=Path, default=Path("fine_tuning"))
    arguments = parser.parse_args()
    try:
        rows = compare(arguments)
    except SpocoError as error:
        parser.error(str(error))
    print(table(rows))
    print(machine())
    print("python", shlex.join(sys.argv))


if __name__ == "__main__":
    main()
