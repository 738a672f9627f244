"""The picture at the top of the README: an image, a few annotated objects, and every object found.

    python scripts/readme_picture.py dsb2018

The image comes from val/, which the shipped 2D weights were not trained on. A share of its objects, drawn by lot from
its label, is shown as what a person would annotate. What is found is found by the shipped weights, or by `--model`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from one_line import one_line_errors
from PIL import Image

from spoco_bundle import segment
from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist
from spoco_bundle.dataset.datalist import image_name
from spoco_bundle.formats import read_image
from spoco_bundle.report.pictures import gray, instance_overlay

CAPTIONS = ("an image", "a few objects annotated", "all objects that were found")
COLOURS = 192  # of the picture, which keeps its file small
DPI = 100


def annotated(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """A share of the objects, drawn by lot.

    Args:
        labels: (y, x) ints, 0 = no object.
        fraction: share of the objects kept, above 0 and at most 1; at least one object stays.
        seed: of the lot.

    Returns:
        The labels, 0 where an object is not kept.
    """
    ids = np.setdiff1d(np.unique(labels), 0)
    kept = np.random.default_rng(seed).permutation(ids)[: max(1, round(fraction * len(ids)))]
    return np.where(np.isin(labels, kept), labels, 0)


def draw(panels: Sequence[np.ndarray], path: Path, width: int) -> None:
    """Writes a PNG with the panels side by side, each below its caption.

    Args:
        panels: as many pictures (y, x, 3) in [0, 1] as there are captions, of one size.
        path: the PNG file.
        width: of the PNG in pixels.
    """
    rows, columns = panels[0].shape[:2]
    inches = width / DPI
    figure = Figure(figsize=(inches, inches / len(panels) * rows / columns + 0.4), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.02, wspace=0, hspace=0)
    for axis, panel, caption in zip(figure.subplots(1, len(panels)), panels, CAPTIONS, strict=True):
        axis.imshow(panel, interpolation="nearest")
        axis.set_title(caption, fontsize=14)
        axis.set_axis_off()
    write_png(figure, path, COLOURS)


def write_png(figure: Figure, path: Path, colours: int) -> None:
    """Writes a figure as a PNG of so many colours, which keeps it small."""
    with atomic_write(path) as whole:
        figure.savefig(whole, dpi=DPI, format="png")
        with Image.open(whole) as drawn:
            small = drawn.convert("RGB").quantize(colours, Image.Quantize.MAXCOVERAGE)
        small.save(whole, format="PNG", optimize=True)


def overview(data: Path, image: str, crop: Sequence[int], fraction: float, seed: int, model: str) -> list[np.ndarray]:
    """The three panels.

    Args:
        data: folder with val/, completely annotated 2D images.
        image: name of the image, without `_raw` and ending.
        crop: first row, first column, rows and columns of the part that is shown; the whole image is segmented.
        fraction: share of the objects in that part that are shown as annotated.
        seed: of the lot that chooses them.
        model: folder that `spoco train` wrote; "" for the shipped 2D weights.

    Returns:
        Pictures (rows, columns, 3) in [0, 1]: the image, annotated objects on it, found objects on it.

    Raises:
        SpocoError: if there is no such image, or no object in that part of it.
    """
    pairs = {image_name(pair["image"]).removesuffix("_raw"): pair for pair in build_datalist(data, "val")}
    if image not in pairs:
        raise SpocoError(f"{data / 'val'}: has no image {image!r}; it has {', '.join(sorted(pairs))}")
    pair = pairs[image]
    top, left, rows, columns = crop
    part = (slice(top, top + rows), slice(left, left + columns))
    pixels = read_image(pair["image"], "image", 2).array
    truth = read_image(pair["label"], "label", 2).array.reshape(pixels.shape[1:])[part]
    if not truth.any():
        raise SpocoError(f"{pair['label']}: has no object in the part {tuple(crop)}; choose another by --crop")
    found = segment(pair["image"], model=model or None, spatial_dims=2).labels[part]
    shown = pixels[(slice(None), *part)]
    return [gray(shown), instance_overlay(shown, annotated(truth, fraction, seed)), instance_overlay(shown, found)]


@one_line_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with val/, such as dsb2018")
    parser.add_argument("output", type=Path, nargs="?", default=Path("docs/pictures/overview.png"), help="the PNG file")
    parser.add_argument("--image", default="a9d884ba0929", help="name of the image in val/")
    part = ("TOP", "LEFT", "ROWS", "COLUMNS")
    parser.add_argument("--crop", type=int, nargs=4, default=[50, 70, 160, 170], metavar=part, help="part shown")
    parser.add_argument("--fraction", type=float, default=0.25, help="share of the objects shown as annotated")
    parser.add_argument("--seed", type=int, default=0, help="of the lot that chooses them")
    parser.add_argument("--model", default="", help="folder that `spoco train` wrote; by default the shipped weights")
    parser.add_argument("--width", type=int, default=1200, help="of the picture in pixels")
    chosen = parser.parse_args(arguments)
    panels = overview(chosen.data, chosen.image, chosen.crop, chosen.fraction, chosen.seed, chosen.model)
    draw(panels, chosen.output, chosen.width)


if __name__ == "__main__":
    main()
