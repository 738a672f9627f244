"""Gathers what a run left in its folder and renders it as one HTML page with PNG copies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fastremap
import numpy as np
from monai.bundle import ConfigParser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spoco_bundle.app.config import read_configs
from spoco_bundle.app.embedding_planes import embedding_planes
from spoco_bundle.app.run_record import read_run_record
from spoco_bundle.app.run_summary import log_summary
from spoco_bundle.blockwise.memory import available_memory, readable
from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.progress import Progress
from spoco_bundle.dataset import build_datalist
from spoco_bundle.dataset.datalist import OUTPUT_ENDING, image_name
from spoco_bundle.dataset.resume import TABLE_ENDING
from spoco_bundle.formats import Image, read_image
from spoco_bundle.formats.files import is_zarr
from spoco_bundle.formats.lazy import stored_header
from spoco_bundle.formats.names import is_image
from spoco_bundle.formats.objects_table import read_objects_table
from spoco_bundle.metrics.contingency import contingency_table
from spoco_bundle.metrics.matching import matching_scores
from spoco_bundle.metrics.partition import error_counts, symmetric_best_dice
from spoco_bundle.networks import load_weights
from spoco_bundle.report.mistakes import find_mistakes
from spoco_bundle.report.page import render_page
from spoco_bundle.report.pictures import overview_picture
from spoco_bundle.report.slices import ImagePanel

CURVES = ("train/loss", "train/instance", "train/pull", "train/push", "train/learning_rate")

#: of an image, also normalised, its instances and a truth, with what is computed from them for a while
BYTES_PER_VOXEL = 20


def write_report(
    folder: str | Path,
    output: str | Path | None = None,
    truth: str | Path | None = None,
    embeddings: bool = True,
    max_images: int = 4,
    max_megabytes: float = 4.5,
) -> Path:
    """Writes the page of what ``spoco predict``, ``spoco train`` or MONAI's own ``run`` of their configs left.

    Args:
        folder: results of a prediction, or a trained model; or a Zarr result.
        output: the HTML file, or a folder for it; by default ``report.html`` in the folder or ``NAME_report.html``
            beside a Zarr result. PNG copies of the pictures go beside it, ``NAME_report.png``.
        truth: folder of label images ``NAME_label.EXT`` or ``NAME.EXT`` to compare with, every object annotated.
        embeddings: whether to run the network again on the slices shown first, for its embedding in PCA colours.
        max_images: images shown, the first ones by name.
        max_megabytes: upper bound of the size of the page.

    Returns:
        The page written.

    Raises:
        SpocoError: if the folder holds no run of this program, an image is gone or too large to be drawn, or a truth
            does not fit.
    """
    folder = Path(folder)
    record = read_run_record(folder)
    if output is None:
        inside = not is_zarr(folder)
        output = folder / "report.html" if inside else folder.with_name(f"{image_name(folder)}_report.html")
    output = Path(output)
    output = output / "report.html" if output.is_dir() else output
    parser = read_configs(record["files"], record["overrides"])
    pairs = _predictions(folder, record, parser) if record["command"] == "predict" else []
    if pairs and embeddings:
        weights = parser.get_parsed_content("weights_file")
        load_weights(parser.get_parsed_content("network"), weights).eval()
    shown = pairs[:max_images]
    if shown:
        device = parser.get_parsed_content("device") if embeddings else "cpu"
        dims, axes = map(parser.get_parsed_content, ("spatial_dims", "axes"))
        items = [{"image": str(image)} for image, _ in shown]
        log_summary(
            "drawing pages with embeddings" if embeddings else "drawing pages", {"": items}, device, None, dims, axes
        )
    with Progress("images drawn", len(shown), quiet=len(shown) < 2) as progress:
        panels = []
        for image, result in shown:
            panels.append(_panel(image, result, parser, truth, embeddings))
            progress.update()
    curves: dict[str, list[tuple[float, float]]] = {}
    for place in {parser.get_parsed_content(key) for key in ("ckpt_dir", "output_dir")}:
        curves |= training_curves(Path(place))
    if not panels and not curves:
        raise SpocoError(
            f"{folder}: holds neither NAME{OUTPUT_ENDING} of the images of this run nor training curves: name a "
            "finished run"
        )
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


def _predictions(folder: Path, record: dict[str, Any], parser: ConfigParser) -> list[tuple[Path, Path]]:
    """Images with the results made from them, in the order of names."""
    endings = {name: parser.get_parsed_content(name) for name in ("image_ending", "foreground_ending")}
    images = build_datalist(parser.get_parsed_content("dataset_dir"), "predict", **endings)
    paths = [Path(item["image"]) for item in images]
    if record["result"]:
        return [(path, Path(record["result"])) for path in paths]
    results = {
        image_name(file).removesuffix(OUTPUT_ENDING): file
        for file in sorted(folder.glob(f"*{OUTPUT_ENDING}.*"))
        if not file.name.endswith(".partial")
    }
    return [(path, results[image_name(path)]) for path in paths if image_name(path) in results]


def _panel(
    image: Path,
    result: Path,
    parser: ConfigParser,
    truth: str | Path | None,
    embeddings: bool,
) -> ImagePanel:
    reading = {key: parser.get_parsed_content(key) for key in ("spacing", "axes", "channel", "time")}
    dims, ending = map(parser.get_parsed_content, ("spatial_dims", "image_ending"))
    labels = _read_labels(result, dims)
    volume = _read(image, "image", dims, **reading)
    name = image_name(result).removesuffix(OUTPUT_ENDING)
    rows = read_objects_table(result.with_name(f"{name}{TABLE_ENDING}.csv"))
    panel = ImagePanel(image.name, volume.array, labels, rows, volume.spacing, facts={"objects": str(len(rows))})
    if truth is not None:
        panel.truth = _read_labels(_truth_of(image, Path(truth), ending), dims)
        table = contingency_table(panel.truth, labels)
        panel.mistakes = find_mistakes(panel.truth, labels, table)
        panel.facts = {**panel.facts, "objects in the truth": str(table.true_objects)}
        panel.facts |= {"AP at IoU 0.5": f"{matching_scores(table, (0.5,))['ap_50']:.2f}"}
        panel.facts |= {"symmetric best Dice": f"{symmetric_best_dice(table):.2f}"}
        panel.facts |= {kind.replace("_", " "): f"{count:.0f}" for kind, count in error_counts(table).items()}
    if embeddings:
        panel.embedding = embedding_planes(volume, labels, parser)
    return panel


def _read_labels(path: Path, dims: int) -> np.ndarray:
    """Labels in the smallest type that holds their ids, since a page keeps two volumes of them in memory."""
    return fastremap.refit(_read(path, "label", dims).array[0])


def _read(path: Path, kind: str, dims: int, **options: Any) -> Image:
    """An image or labels, of a Zarr folder too; what a page does not have the memory for is refused."""
    stored = stored_header(path, dims, options.get("axes"))
    free = available_memory()
    if stored is not None and stored.voxels * BYTES_PER_VOXEL > free:
        raise SpocoError(
            f"{path}: {stored.voxels:,} voxels are too many to be drawn in {readable(free)} of free memory: cut out a "
            "part, or use a machine with more"
        )
    return read_image(path, kind, dims, **options)


def _truth_of(image: Path, folder: Path, image_ending: str) -> Path:
    name = image_name(image).removesuffix(image_ending)
    files = [path for path in sorted(folder.iterdir()) if is_image(path) and path.resolve() != image.resolve()]
    for stem in (f"{name}_label", name):
        found = [path for path in files if image_name(path) == stem]
        if found:
            return found[0]
    raise SpocoError(f"{folder}: holds no {name}_label or {name} to compare {image.name} with")


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
