"""What fine-tuning the shipped weights on a few annotated objects of other data gives, and what training anew does.

    python scripts/fine_tune.py gonuclear_mini --spacing 0.284 0.127 0.127

The folder holds one volume in train/ of which every object is labelled. For each seed some objects are drawn; the label
that trains keeps those only, all else becomes 0, unlabeled. `spoco train --config fine_tune` goes on from the shipped
weights, and `spoco train` starts from nothing, for as many iterations; each predicts the whole volume, and so do the
shipped weights alone.

Scores leave out what was trained on, for all alike: the drawn objects, and the predicted objects that lie on them with
more than half of their voxels. All other objects of the volume count, so the score says what the annotation of a few
objects does for the rest of the same volume. Drawn are objects of at least a quarter of the median size, as nobody
would annotate the specks that the border of a volume cuts off; the score counts these too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from measuring import check_page, ids_of, machine, run_spoco, show_table, write_pair
from one_line import one_line_errors

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist, image_name
from spoco_bundle.formats import read_image, result_suffix
from spoco_bundle.metrics import instance_scores

LEAST_SHARE = 0.25
SHIPPED = "shipped"
#: option of `spoco train` for each way to train
TRAININGS = {"fine-tuned": {"config": "fine_tune"}, "from nothing": {"max_epochs": "3"}}


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


def predict(image: Path, folder: Path, *arguments: str) -> np.ndarray:
    """The prediction of `spoco predict` for one image, (z, y, x)."""
    folder.mkdir(parents=True, exist_ok=True)
    run_spoco("predict", str(image), "--output", str(folder), *arguments, log=folder / "predict.log", threads=1)
    return read_image(folder / f"{image_name(image)}_instances{result_suffix(image)}", "label").array[0]


def compare(arguments: argparse.Namespace) -> dict[int, dict[str, dict[str, float]]]:
    """Trains and scores for every seed.

    Returns:
        For each seed and way the scores of all objects that were not drawn.

    Raises:
        SpocoError: if the folder does not hold one volume, or a command fails.
    """
    pairs = build_datalist(arguments.folder, "train")
    if len(pairs) != 1:
        raise SpocoError(f"{arguments.folder}: holds {len(pairs)} volumes in train/; one is expected")
    image, truth = Path(pairs[0]["image"]), read_image(pairs[0]["label"], "label").array[0]
    spacing = [] if arguments.spacing is None else ["--spacing", str(list(arguments.spacing))]
    shipped = predict(image, arguments.output / SHIPPED, *spacing)
    rows = {}
    for seed in arguments.seeds:
        folder = arguments.output / f"seed{seed}"
        chosen = choose_objects(truth, arguments.objects, seed)
        write_pair(folder / "data" / "train", image, np.where(np.isin(truth, chosen), truth, 0))
        found = {SHIPPED: shipped}
        for way, options in TRAININGS.items():
            model = folder / way
            model.mkdir(parents=True, exist_ok=True)
            settings = options | ids_of(arguments.settings)
            given = ["--output", str(model), "--seed", str(seed), *spacing]
            given += [f"--{name}={value}" for name, value in settings.items()]
            run_spoco("train", str(folder / "data"), *given, log=model / "train.log", threads=1)
            found[way] = predict(image, model / "results", "--model", str(model), *spacing)
        rows[seed] = {way: scores_of_others(truth, labels, chosen) for way, labels in found.items()}
        print(seed, {way: scores["ap_50"] for way, scores in rows[seed].items()}, flush=True)
    return rows


def table(rows: dict[int, dict[str, dict[str, float]]]) -> str:
    """AP50 / SBD of each seed and way, and their means, as Markdown."""
    ways = [SHIPPED, *TRAININGS]
    lines = [f"| seed | {' | '.join(ways)} |", "|---" * (1 + len(ways)) + "|"]
    for name, chosen in [*((str(seed), [row]) for seed, row in rows.items()), ("mean", list(rows.values()))]:
        means = ([np.mean([row[way][score] for row in chosen]) for score in ("ap_50", "sbd")] for way in ways)
        lines.append(f"| {name} | {' | '.join(f'{ap:.2f} / {sbd:.2f}' for ap, sbd in means)} |")
    return "\n".join([*lines, "", f"AP50 / SBD. {machine()}, one thread."])


@one_line_errors()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds train/NAME_raw.EXT and train/NAME_label.EXT, one volume")
    parser.add_argument("--objects", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--spacing", type=float, nargs=3, help="voxel size per axis, where the file does not say it")
    parser.add_argument("--settings", nargs="*", default=[], help="ids of both trainings, such as invert=True")
    parser.add_argument("--output", type=Path, default=Path("fine_tuning"))
    parser.add_argument("--page", type=Path, help="page with the marks <!-- NAME OF THE FOLDER --> and <!-- end -->")
    arguments = parser.parse_args()
    mark = arguments.folder.resolve().name
    check_page(arguments.page, mark)
    show_table(table(compare(arguments)), arguments.page, mark)


if __name__ == "__main__":
    main()
