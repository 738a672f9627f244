"""What the clustering finds in what trained networks give for real images, and what it costs.

    python scripts/benchmark_clustering.py scores "bbbc050:spacing=[1.75,0.8,0.8]" dsb2018 fib25_neuron=neurons
    python scripts/benchmark_clustering.py confidence "bbbc050:spacing=[1.75,0.8,0.8]" dsb2018
    python scripts/benchmark_clustering.py speed "bbbc050:spacing=[1.75,0.8,0.8]" --millions 8 32 --threads 2

An argument is a folder with val/, of which every object is annotated, then `=MODEL` for a folder that `spoco train`
wrote (without it the weights of the bundle), then after colons names of shipped configs and ids.

`scores` prints AP50 pooled over val/, mean SBD, and objects found, per method.

`speed` tiles the output of the network for the image of most objects to volumes of so many million voxels, and clusters
them in one run with the network's forward pass over an image of the same size: seconds (best of the repeats), their
ratio, and the peak memory over that of embeddings and labels. The labels of one and of two threads, and of slabs of
another size, have to be the same, or the script ends with an error.

`confidence` prints how well the confidence ranks true objects (IoU of at least 0.5 with a true one) above false ones:
the area under the ROC curve over all objects of val/, its 95% interval by drawing the objects anew, the area with the
agreement of student and teacher in the confidence, and that of ranking by size.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import PeakMemory, ids_of, processor
from monai.bundle import ConfigParser
from one_line import one_line_errors
from sklearn.metrics import roc_auc_score

from spoco_bundle.app.config import find_config, json_content, read_configs, shipped_weights
from spoco_bundle.app.model_config import model_overlay
from spoco_bundle.clustering import METHODS, cluster_field, default_parameters, object_confidence
from spoco_bundle.core import embedding_field
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist, stored_dimensions
from spoco_bundle.formats import voxel_spacing
from spoco_bundle.metrics import contingency_table, instance_scores, pool_scores
from spoco_bundle.metrics.matching import match
from spoco_bundle.networks import load_weights


def read_argument(text: str) -> tuple[str, ConfigParser]:
    """Name and merged config of an argument such as ``DATA=MODEL:nonspatial:spacing=[1,1,1]``."""
    place, *parts = text.split(":")
    data, _, model = place.partition("=")
    overlays = [part for part in parts if "=" not in part]
    ids = ids_of(part for part in parts if "=" in part)
    ids |= {"dataset_dir": data, "partly_labelled": False, "device": "cpu"}
    # as in training: the clustering is looked at here, not the size that a prediction takes objects to have
    ids["validate#resolution"] = json_content(find_config("train"))["validate"]["resolution"]
    dims = stored_dimensions(build_datalist(data, "val"))
    ids["ckpt_dir"] = model or str(shipped_weights(dims))
    files = [find_config("train"), *model_overlay(model, dims), find_config("evaluate"), *map(find_config, overlays)]
    return Path(data).name, read_configs(files, ids)


def network_of(parser: ConfigParser) -> torch.nn.Module:
    """The network of the config with the weights that predict, which the decoder reads too."""
    return load_weights(parser.get_parsed_content("network"), parser.get_parsed_content("weights_file")).eval()


@torch.inference_mode()
def raw_outputs(parser: ConfigParser, student: bool = False) -> list[dict[str, Any]]:
    """Samples of val/ with the teacher's raw output as ``pred``, where asked for the student's as ``second_pred``."""
    networks = {"pred": network_of(parser)}
    if student:
        networks["second_pred"] = load_weights(
            copy.deepcopy(networks["pred"]), parser.get_parsed_content("second_weights_file")
        )
    inferer = parser.get_parsed_content("validate#inferer")
    samples = []
    for sample in parser.get_parsed_content("validate#dataset"):
        image = sample["image"].as_tensor()[None]
        samples.append({**sample, **{key: inferer(image, network)[0] for key, network in networks.items()}})
    return samples


def scores_of(parser: ConfigParser, samples: list[dict[str, Any]], method: str = "") -> dict[str, float]:
    """Pooled scores of the clustering of a config, by another method where one is given.

    Args:
        parser: from `read_argument`.
        samples: from `raw_outputs`.
        method: of `METHODS`, which takes those parameters of the config that it knows.
    """
    clustering = parser.get_parsed_content("clustering", instantiate=True)
    if method:
        known = default_parameters(method)
        clustering.method, clustering.params = method, {k: v for k, v in clustering.params.items() if k in known}
    scores = []
    for sample in samples:
        labels = np.asarray(clustering(sample)["pred"][0])
        scores.append(instance_scores(np.asarray(sample["label"][0]), labels, iou_thresholds=(0.5,)))
    return pool_scores(scores)


def print_scores(arguments: list[str], methods: list[str]) -> None:
    """Prints the table of `scores`."""
    print("| data | method | AP50 | SBD | objects | true objects | seconds |\n|---|---|---|---|---|---|---|")
    for text in arguments:
        name, parser = read_argument(text)
        samples = raw_outputs(parser)
        for method in methods:
            began = time.perf_counter()
            pooled = scores_of(parser, samples, method=method)
            seconds = time.perf_counter() - began
            columns = [f"{pooled['ap_50']:.3f}", f"{pooled['sbd']:.3f}"]
            columns += [f"{pooled['objects']:.0f}", f"{pooled['true_objects']:.0f}", f"{seconds:.1f}"]
            print(f"| {name} | {method} | {' | '.join(columns)} |", flush=True)


def judged(sample: dict[str, Any], clustering: Any) -> tuple[np.ndarray, ...]:
    """Of each predicted object: whether it is true, its confidence, its voxels."""
    found = clustering(sample)
    labels = np.asarray(found["pred"][0])
    table = contingency_table(np.asarray(sample["label"][0]), labels)
    true = np.zeros(table.objects, bool)
    true[match(table, 0.5)[1]] = True
    return true, np.asarray(found["pred_confidence"]), np.bincount(labels.ravel())[1:]


def interval(true: np.ndarray, confidence: np.ndarray, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95% interval of the area when the objects are drawn anew, with replacement."""
    random = np.random.default_rng(seed)
    areas = []
    for _ in range(draws):
        rows = random.integers(len(true), size=len(true))
        if 0 < true[rows].sum() < len(rows):
            areas.append(roc_auc_score(true[rows], confidence[rows]))
    return tuple(np.quantile(areas, (0.025, 0.975)))


def print_confidence(arguments: list[str]) -> None:
    """Prints the table of `confidence`."""
    print("| data | true / false | area | interval | median of true | with agreement | size |")
    print("|---" * 7 + "|")
    for text in arguments:
        name, parser = read_argument(text)
        samples, clustering = raw_outputs(parser, student=True), parser.get_parsed_content("clustering")
        areas = []
        for key in ("second_pred", None):
            clustering.teacher_key = key
            columns = zip(*(judged(sample, clustering) for sample in samples), strict=True)
            true, confidence, size = (np.concatenate(column) for column in columns)
            areas.append(roc_auc_score(true, confidence))
        low, high = interval(true, confidence)
        cells = [f"{true.sum()} / {(~true).sum()}", f"{areas[1]:.2f}", f"{low:.2f} to {high:.2f}"]
        cells += [f"{np.median(confidence[true]):.2f}", f"{areas[0]:.2f}", f"{roc_auc_score(true, size):.2f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def tiled(values: torch.Tensor, voxels: float) -> torch.Tensor:
    """(C, *spatial) repeated, mirrored every other time, along all axes to about so many voxels."""
    shape = values.shape[1:]
    side = (voxels / np.prod(shape)) ** (1 / len(shape))
    for axis, size in enumerate(shape, start=1):
        wanted = max(1, round(side * size))
        place = np.pad(np.arange(size), (0, max(0, wanted - size)), mode="symmetric")[:wanted]
        values = values.index_select(axis, torch.from_numpy(place))
    return values.contiguous()


def print_speed(text: str, millions: list[float], threads: int, repeats: int) -> None:
    """Prints the table of `speed`.

    Raises:
        SpocoError: if labels depend on threads or slabs.
    """
    torch.set_num_threads(threads)
    name, parser = read_argument(text)
    network, inferer = network_of(parser), parser.get_parsed_content("validate#inferer")
    sample = max(parser.get_parsed_content("validate#dataset"), key=lambda item: int(item["label"].max()))
    image, spacing = sample["image"].as_tensor(), voxel_spacing(sample["image"], sample["image"].ndim - 1)
    clustering = parser.get_parsed_content("clustering")
    print(f"{name}, {processor()}, {threads} threads, load average {os.getloadavg()[0]:.1f} at the start\n")
    print("| voxels | network s | clustering s | of which confidence s | ratio | Mvoxel/s | memory | objects |")
    print("|---|---|---|---|---|---|---|---|")
    for million in millions:
        with torch.inference_mode():
            output = tiled(inferer(image[None], network)[0], 1e6 * million)
            volume = tiled(image, 1e6 * million)
            began = time.perf_counter()
            inferer(volume[None], network)
            forward = time.perf_counter() - began
        field = clustering.decoder.field(output, spacing)
        settings = {"min_size": clustering.smallest_object(spacing), **clustering.params}
        seconds, extra = [], []
        for _ in range(repeats):
            labels = None
            with PeakMemory(torch.device("cpu")) as memory:
                began = time.perf_counter()
                labels = cluster_field(field, clustering.method, **settings)
                found = time.perf_counter()
                object_confidence(field, labels)
                seconds.append((time.perf_counter() - began, time.perf_counter() - found))
            extra.append(memory.peak)
        check_determinism(field, clustering.method, settings, labels)
        total, confidence = min(seconds)
        memory = (output.nbytes + min(extra)) / (output.nbytes + labels.nbytes)
        columns = [f"{labels.numel() / 1e6:.1f} M", f"{forward:.1f}", f"{total:.2f}", f"{confidence:.2f}"]
        columns += [f"{total / forward:.2f}", f"{labels.numel() / total / 1e6:.1f}", f"{memory:.2f}", f"{labels.max()}"]
        print(f"| {' | '.join(columns)} |", flush=True)


def check_determinism(field: Any, method: str, settings: dict[str, Any], labels: torch.Tensor) -> None:
    """Clusters again with one thread, and with small slabs.

    Raises:
        SpocoError: if the labels differ.
    """
    threads, slab = torch.get_num_threads(), embedding_field.SLAB_VALUES
    try:
        torch.set_num_threads(1)
        embedding_field.SLAB_VALUES = slab // 5
        again = cluster_field(field, method, **settings)
    finally:
        torch.set_num_threads(threads)
        embedding_field.SLAB_VALUES = slab
    if not torch.equal(again, labels):
        raise SpocoError("labels depend on the number of threads or the size of slabs")


@one_line_errors()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="command", required=True)
    part = parts.add_parser("scores")
    part.add_argument("data", nargs="+")
    part.add_argument("--methods", nargs="+", default=["density_peaks"], choices=list(METHODS))
    part = parts.add_parser("confidence")
    part.add_argument("data", nargs="+")
    part = parts.add_parser("speed")
    part.add_argument("data")
    part.add_argument("--millions", type=float, nargs="+", default=[8])
    part.add_argument("--threads", type=int, default=2)
    part.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    if options.command == "speed":
        print_speed(options.data, options.millions, options.threads, options.repeats)
        return
    torch.set_num_threads(1)
    print(f"{processor()}, 1 thread\n")
    if options.command == "scores":
        print_scores(options.data, options.methods)
    else:
        print_confidence(options.data)


if __name__ == "__main__":
    main()
