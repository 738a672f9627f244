"""Gathers what a run left in its folder and renders it as one HTML page with PNG copies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spoco_bundle.app.config import read_configs
from spoco_bundle.app.run_record import read_run_record
from spoco_bundle.app.run_summary import announce
from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.progress import Progress
from spoco_bundle.dataset import build_datalist
from spoco_bundle.dataset.datalist import OUTPUT_ENDING, image_name
from spoco_bundle.dataset.resume import TABLE_ENDING
from spoco_bundle.formats import read_image, voxel_spacing
from spoco_bundle.formats.objects_table import read_objects_table
from spoco_bundle.metrics import instance_scores
from spoco_bundle.networks import load_weights
from spoco_bundle.report.page import ImagePanel, render_page
from spoco_bundle.report.pictures import embedding_colours, fullest_plane, overview_picture

__all__ = ["training_curves", "write_report"]

CURVES = ("train/loss", "train/instance", "train/pull", "train/push", "train/learning_rate")


def write_report(
    folder: str | Path,
    output: str | Path,
    truth: str | Path | None = None,
    embeddings: bool = True,
    max_images: int = 4,
    max_megabytes: float = 4.5,
) -> Path:
    """Writes the page of a folder that ``spoco predict`` or ``spoco train`` filled.

    Args:
        folder: results of a prediction, or a trained model.
        output: the HTML file; PNG copies of the pictures go beside it, ``NAME_report.png``.
        truth: folder of label images ``NAME_label.EXT`` or ``NAME.EXT`` to compare with, every object annotated.
        embeddings: whether to run the network again on the slices shown first, for its embedding in PCA colours.
        max_images: images shown, the first ones by name.
        max_megabytes: upper bound of the size of the page.

    Returns:
        The page written.

    Raises:
        SpocoError: if the folder holds no run of this program, an image is gone, or a truth does not fit.
    """
    folder, output = Path(folder), Path(output)
    record = read_run_record(folder)
    parser = read_configs(record["files"], record["overrides"])
    pairs = _predictions(folder, parser) if record["command"] == "predict" else []
    if pairs and embeddings:
        # the config's own rule for the file of the network that predicted
        weights = parser.get_parsed_content("handlers#0#path")
        load_weights(parser.get_parsed_content("network"), weights).eval()
    shown = pairs[:max_images]
    if shown:
        device = parser.get_parsed_content("device") if embeddings else "cpu"
        dims, axes = map(parser.get_parsed_content, ("spatial_dims", "axes"))
        items = [{"image": str(image)} for image, _ in shown]
        announce(
            "drawing pages with embeddings" if embeddings else "drawing pages", {"": items}, device, None, dims, axes
        )
    with Progress("images drawn", len(shown), quiet=len(shown) < 2) as progress:
        panels = []
        for image, result in shown:
            panels.append(_panel(image, result, parser, truth, embeddings))
            progress.update()
    curves = training_curves(Path(parser.get_parsed_content("ckpt_dir")))
    if not panels and not curves:
        raise SpocoError(f"{folder}: holds neither NAME{OUTPUT_ENDING} files nor training curves: name a finished run")
    summary = f"spoco {record['command']} of {record['overrides']['dataset_dir']}"
    if len(pairs) > len(panels):
        summary += f"; the first {len(panels)} of {len(pairs)} images"
    page = render_page(
        f"{record['command'].capitalize()}: {folder.resolve().name}",
        panels,
        curves,
        json.dumps(record["ids"], indent=2),
        summary,
        max_megabytes=max_megabytes,
    )
    with atomic_write(output) as path:
        path.write_text(page, encoding="utf-8")
    for panel in panels:
        with atomic_write(output.parent / f"{image_name(panel.name)}_report.png") as path:
            overview_picture(path, panel.image, panel.labels, panel.truth, None, panel.spacing, panel.name)
    return output


def _predictions(folder: Path, parser: ConfigParser) -> list[tuple[Path, Path]]:
    """Images with the instance files made from them, in the order of names."""
    results = {file.name.split(OUTPUT_ENDING)[0]: file for file in sorted(folder.glob(f"*{OUTPUT_ENDING}.*"))}
    ending = parser.get_parsed_content("image_ending")
    images = build_datalist(parser.get_parsed_content("dataset_dir"), "predict", image_ending=ending)
    paths = [Path(item["image"]) for item in images]
    return [(path, results[image_name(path)]) for path in paths if image_name(path) in results]


def _panel(image: Path, result: Path, parser: ConfigParser, truth: str | Path | None, embeddings: bool) -> ImagePanel:
    names = ("spatial_dims", "spacing", "axes", "image_ending", "channel", "time")
    dims, spacing, axes, ending, channel, time = map(parser.get_parsed_content, names)
    labels = read_image(result, "label", dims).array[0]
    volume = read_image(image, "image", dims, spacing, axes, channel, time)
    rows = read_objects_table(result.with_name(f"{image_name(image)}{TABLE_ENDING}.csv"))
    facts = {"objects": str(len(rows))}
    true_labels = None
    if truth is not None:
        true_labels = read_image(_truth_of(image, Path(truth), ending), "label", dims).array[0]
        scores = instance_scores(true_labels, labels, iou_thresholds=(0.5,))
        facts |= {"objects in the truth": f"{scores['true_objects']:.0f}", "AP at IoU 0.5": f"{scores['ap_50']:.2f}"}
        facts |= {"symmetric best Dice": f"{scores['sbd']:.2f}"}
        facts |= {name.replace("_", " "): f"{scores[name]:.0f}" for name in ("merges", "splits", "misses")}
    panel = ImagePanel(image.name, volume.array, labels, rows, volume.spacing, true_labels, facts=facts)
    if embeddings:
        panel.embedding = _embedding_planes(image, labels, parser)
    return panel


def _truth_of(image: Path, folder: Path, image_ending: str) -> Path:
    name = image_name(image).removesuffix(image_ending)
    for stem in (f"{name}_label", name):
        found = sorted(path for path in folder.glob(f"{stem}.*") if path.resolve() != image.resolve())
        if found:
            return found[0]
    raise SpocoError(f"{folder}: holds no {name}_label or {name} to compare {image.name} with")


def _embedding_planes(image: Path, labels: np.ndarray, parser: ConfigParser) -> dict[int, tuple[int, np.ndarray]]:
    """Colours of the embedding in the fullest slice across each axis, computed from slabs just thick enough."""
    sample = parser.get_parsed_content("preprocessing")({"image": str(image)})
    tensor = sample["image"]
    network = parser.get_parsed_content("network")
    inferer = parser.get_parsed_content("inferer")
    device = parser.get_parsed_content("device")
    decoder = parser.get_parsed_content("decoder")
    planes = {}
    for axis in range(3) if labels.ndim == 3 else (0,):
        if labels.ndim == 2:
            slab, inside, index = tensor, None, 0
        else:
            index = fullest_plane(labels, axis)
            size = tensor.shape[axis + 1]
            place = min(size - 1, index * size // labels.shape[axis])
            reach = network.receptive_radius[axis]
            start = max(0, place - reach) // network.total_stride[axis] * network.total_stride[axis]
            slab = tensor.narrow(axis + 1, start, min(size, place + reach + 1) - start)
            inside = place - start
        with torch.no_grad():
            output = inferer(slab[None].as_tensor().to(device), network)[0].cpu()
        field = decoder.field(output, voxel_spacing(tensor, labels.ndim))
        planes[axis] = (index, embedding_colours(field, None if inside is None else axis, inside or 0))
    return planes


def training_curves(model: Path) -> dict[str, list[tuple[float, float]]]:
    """Losses by iteration, and scores of validations by epoch, from the TensorBoard files in the folder of a model.

    Args:
        model: folder that a training wrote.

    Returns:
        Tag to points (iteration or epoch, value), ascending; a tag that begins with "val" is a validation's.
    """
    curves: dict[str, dict[int, float]] = {}
    for file in sorted(model.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            if tag in CURVES or tag.startswith("val"):
                curves.setdefault(tag, {}).update((event.step, event.value) for event in events.Scalars(tag))
    return {tag: sorted(points.items()) for tag, points in sorted(curves.items())}
