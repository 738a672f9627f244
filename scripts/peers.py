"""What other programs learn from, and what they find: the same objects, the same minutes, the same scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tifffile
from measuring import processor, write_pair

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist, stored_dimensions
from spoco_bundle.formats import read_image
from spoco_bundle.metrics import instance_scores, pool_scores
from spoco_bundle.transforms import KeepInstanceFractiond, LoadVolumed


@dataclass(frozen=True)
class Peer:
    """Another program.

    Attributes:
        name: in tables.
        script: that trains it.
        own_environment: whether it needs one.
        takes_spacing: whether the script is told the spacing of volumes.
        ignores: whether it is told what is not annotated; else that is background.
        volumes: whether it learns from volumes, not from flat images alone.
    """

    name: str
    script: str
    own_environment: bool = True
    takes_spacing: bool = False
    ignores: bool = True
    volumes: bool = True


#: programs that can be trained beside a case, by the setting of their rows
PEERS = {
    "stardist": Peer("StarDist", "stardist_baseline.py", takes_spacing=True),
    "embedseg": Peer("EmbedSeg", "embedseg_baseline.py", takes_spacing=True),
    "cellpose": Peer("Cellpose", "cellpose_baseline.py", ignores=False, volumes=False),
    "unet": Peer("U-Net, watershed", "unet_baseline.py", own_environment=False),
}

#: data sets whose train/ is annotated in part as it is
ANNOTATED_IN_PART = frozenset({"vectra_2ch"})


def write_thinned(data: Path, fraction: float, seed: int, output: Path) -> None:
    """Writes train/ with the objects that a training learns from, for other programs.

    Args:
        data: folder with train/.
        fraction: of the annotated objects that is kept.
        seed: of the choice.
        output: folder to write train/ into, images linked.
    """
    pairs = build_datalist(data, "train")
    load = LoadVolumed("label", spatial_dims=stored_dimensions(pairs))
    keep = KeepInstanceFractiond("label", fraction, seed)
    for pair in pairs:
        write_pair(output / "train", Path(pair["image"]), keep(load({"label": pair["label"]}))["label"][0].numpy())


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


def chosen_peers(given: Sequence[str]) -> dict[str, Path]:
    """Interpreters by the names of the programs.

    Args:
        given: NAME=PYTHON, or NAME for what runs in this environment.

    Raises:
        SpocoError: if a name is unknown, or the program needs an environment of its own.
    """
    chosen = {}
    for one in given:
        name, _, python = one.partition("=")
        if name not in PEERS:
            raise SpocoError(f"--peers {one}: there is no {name!r}; choose among {', '.join(PEERS)}")
        if PEERS[name].own_environment and not python:
            raise SpocoError(f"--peers {name}: give its Python, as {name}=PYTHON; {PEERS[name].script} says how")
        chosen[name] = Path(python or sys.executable)
    return chosen


def resolution(profile: Mapping[str, Any], target: Sequence[float] | None) -> tuple[list[int], list[float]]:
    """At about which resolution a training here works.

    Args:
        profile: of that training.
        target: its ``target_spacing``.

    Returns:
        Pixels along each axis that become one, and the size of these along each axis.
    """
    step = [max(1, round(to / given)) for to, given in zip(target or profile["spacing"], profile["spacing"])]
    return step, [given * size for given, size in zip(profile["spacing"], step)]


def train_peer(
    peer: Peer,
    python: Path,
    source: Path,
    data: Path,
    work: Path,
    minutes: float,
    threads: int,
    seed: int,
    step: Sequence[int],
    spacing: Sequence[float],
    in_part: bool = True,
) -> dict[str, Any]:
    """Trains another program on the objects that a training here learns from, for as many minutes, and scores it.

    Args:
        peer: the program.
        python: interpreter of its environment.
        source: folder with train/, NAME_raw.tif and NAME_label.tif.
        data: folder with val/, where every object counts.
        work: folder for what it writes and finds.
        minutes: to train for; what it chooses on val/ afterwards comes on top.
        threads: to train with.
        seed: of the training.
        step: pixels along each axis that become one.
        spacing: size of these along each axis.
        in_part: whether objects may lie where none is annotated, which is ignored then, where it can be.

    Returns:
        What a row holds of it: scores, seed, threads, processor, program, and whether it was tuned on val/.

    Raises:
        SpocoError: if it fails; names the log.
    """
    found = work / "found"
    if not (found / "training.json").is_file():
        sparse = ["--sparse"] if peer.ignores and in_part else []
        shape = ["--spacing", *spacing] if len(step) == 3 and peer.takes_spacing else []
        shrunk = ["--downsample", *step] if max(step) > 1 else []
        options = ["--output", found, "--minutes", minutes, "--threads", threads, "--seed", seed]
        script = Path(__file__).with_name(peer.script)
        call = [python, script, source, data / "val", *options, *sparse, *shape, *shrunk]
        log = work / "log.txt"
        work.mkdir(parents=True, exist_ok=True)
        with log.open("a") as sink:
            variables = os.environ | {"OMP_NUM_THREADS": str(threads)}
            done = subprocess.run(list(map(str, call)), stdout=sink, stderr=sink, env=variables, check=False)
        if done.returncode:
            raise SpocoError(f"{peer.name} ended with {done.returncode}; see {log}")
    training = json.loads((found / "training.json").read_text())
    return {
        **{"seed": seed, "threads": threads, "seconds": 60 * training["minutes"], "processor": processor()},
        **{"step": list(step), **{name: training[name] for name in ("program", "iterations", "tuned")}},
        "scores": {"teacher": score_predictions(data, found)},
    }
