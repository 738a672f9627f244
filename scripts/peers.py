"""What other programs learn from, and what they find: the same objects, the same minutes, the same scores."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from measuring import processor
from monai.data import MetaTensor

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist, stored_dimensions
from spoco_bundle.formats import read_image
from spoco_bundle.metrics import instance_scores, pool_scores
from spoco_bundle.transforms import KeepInstanceFractiond

#: data sets whose train/ is annotated in part as it is
ANNOTATED_IN_PART = frozenset({"vectra_2ch"})


def write_thinned(data: Path, fraction: float, seed: int, output: Path) -> None:
    """Writes train/ with the objects that a training learns from, for other programs.

    Args:
        data: folder with train/.
        fraction: of the annotated objects that is kept.
        seed: of the choice.
        output: folder to write train/ into: images linked, labels as TIFF.
    """
    spatial_dims = stored_dimensions(build_datalist(data, "train"))
    keep = KeepInstanceFractiond(keys="label", fraction=fraction, seed=seed)
    folder = output / "train"
    folder.mkdir(parents=True, exist_ok=True)
    for pair in build_datalist(data, "train"):
        image, label = Path(pair["image"]), Path(pair["label"])
        array = read_image(label, "label", spatial_dims).array.astype(np.int64)
        kept = keep({"label": MetaTensor(array, meta={"filename_or_obj": str(label)})})["label"]
        tifffile.imwrite(folder / label.name, kept[0].numpy().astype(np.uint16))
        link = folder / image.name
        if not link.exists():
            link.symlink_to(image.resolve())


def score_predictions(data: Path, predictions: Path) -> dict[str, float]:
    """Pooled scores on val/ of what another program found.

    Args:
        data: folder with val/.
        predictions: folder with NAME_instances.tif for every NAME_label.EXT.
    """
    pairs = build_datalist(data, "val")
    scores = []
    for pair in pairs:
        truth = read_image(pair["label"], "label", stored_dimensions(pairs)).array[0]
        stem = Path(pair["label"]).name.rsplit("_label", 1)[0]
        scores.append(instance_scores(truth, tifffile.imread(predictions / f"{stem}_instances.tif")))
    return pool_scores(scores)


def train_stardist(
    python: Path,
    data: Path,
    fraction: float,
    work: Path,
    minutes: float,
    threads: int,
    seed: int,
    step: Sequence[int],
    spacing: Sequence[float],
) -> dict[str, Any]:
    """Trains StarDist on the objects that a training here learns from, for as many minutes, and scores it.

    Args:
        python: interpreter of its environment, see `stardist_baseline.py`.
        data: folder with train/ and val/.
        fraction: of the annotated objects that is kept; what is not annotated then is ignored.
        work: folder for what it is given, writes and finds.
        minutes: to train for; tuning its thresholds on val/ comes on top.
        threads: of TensorFlow.
        seed: of the choice of objects and of the training.
        step: pixels along each axis that become one.
        spacing: size of these along each axis; in volumes it says how much wider than high a star is.

    Returns:
        What a row holds of it: scores, seed, threads, processor and program.

    Raises:
        SpocoError: if it fails; names the log.
    """
    found = work / "found"
    if not (found / "training.json").is_file():
        write_thinned(data, fraction, seed, work / "data")
        sparse = ["--sparse"] if fraction < 1 or data.name in ANNOTATED_IN_PART else []
        shape = ["--spacing", *spacing] if len(step) == 3 else []
        shrunk = ["--downsample", *step] if max(step) > 1 else []
        script = Path(__file__).with_name("stardist_baseline.py")
        options = ["--output", found, "--minutes", minutes, "--threads", threads, "--seed", seed]
        call = [python, script, work / "data", data / "val", *options, *sparse, *shape, *shrunk]
        log = work / "log.txt"
        with log.open("a") as sink:
            variables = os.environ | {"OMP_NUM_THREADS": str(threads)}
            done = subprocess.run(list(map(str, call)), stdout=sink, stderr=sink, env=variables, check=False)
        if done.returncode:
            raise SpocoError(f"StarDist ended with {done.returncode}; see {log}")
    training = json.loads((found / "training.json").read_text())
    return {
        **{"seed": seed, "threads": threads, "seconds": 60 * training["minutes"], "processor": processor()},
        **{"program": training["program"], "iterations": training["iterations"], "step": list(step)},
        "scores": {"teacher": score_predictions(data, found)},
    }
