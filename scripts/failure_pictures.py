"""Where a model fails: a list of all errors, and a picture of the images of val/ with most of them.

    python scripts/failure_pictures.py bbbc050 docs/pictures/failures_3d.png --spacing 1.75 0.8 0.8
    python scripts/failure_pictures.py dsb2018 docs/pictures/failures_2d.png

Objects are matched with the truth at an intersection over union of 0.5. Of a volume the plane across z that cuts most
errors is drawn, over the whole range of intensities between percentiles 1 and 99.8 of the volume.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.figure import Figure
from one_line import one_line_errors
from readme_picture import write_png
from skimage.segmentation import find_boundaries

from spoco_bundle.cli import Spoco
from spoco_bundle.dataset import build_datalist, stored_dimensions
from spoco_bundle.dataset.datalist import image_name
from spoco_bundle.formats import read_image, result_suffix
from spoco_bundle.metrics.contingency import contingency_table
from spoco_bundle.metrics.matching import match
from spoco_bundle.report.pictures import gray

# told apart by readers who see red and green alike
RIGHT, MISSED, WRONG = (0.0, 0.62, 0.45), (1.0, 0.75, 0.0), (1.0, 0.25, 0.75)
COLOURS = 96  # of a picture, which keeps its file small
DRAWN = 2  # images, those with most errors
THRESHOLD = 0.5  # of intersection over union


@dataclass(frozen=True)
class Case:
    """An image with its errors.

    Attributes:
        name: of the image.
        picture: (*spatial, 3) in [0, 1].
        right: (*spatial) found objects that match a true one, 0 elsewhere.
        missed: (*spatial) true objects that no found one matches.
        wrong: (*spatial) found objects that match no true one.
    """

    name: str
    picture: np.ndarray
    right: np.ndarray
    missed: np.ndarray
    wrong: np.ndarray

    @property
    def errors(self) -> int:
        """Objects missed or found wrongly."""
        return sum(len(np.setdiff1d(np.unique(labels), 0)) for labels in (self.missed, self.wrong))

    def plane(self) -> Case:
        """The plane across the first axis that cuts most errors; itself where it is 2D."""
        if self.right.ndim == 2:
            return self
        layers = zip(self.missed, self.wrong, strict=True)
        index = int(np.argmax([sum(len(np.unique(labels)) - 1 for labels in pair) for pair in layers]))
        cut = [labels[index] for labels in (self.right, self.missed, self.wrong)]
        return Case(f"{self.name}, plane {index}", self.picture[index], *cut)


def compare(name: str, image: np.ndarray, truth: np.ndarray, found: np.ndarray) -> Case:
    """Sorts found and true objects into right, missed and wrong ones.

    Args:
        name: of the image.
        image: (C, *spatial).
        truth: (*spatial) labels.
        found: (*spatial) labels.
    """
    table = contingency_table(truth, found)
    in_truth, in_found, _ = match(table, THRESHOLD)
    matched_truth, matched_found = table.truth_ids[1:][in_truth], table.prediction_ids[1:][in_found]
    return Case(
        name,
        gray(image),
        right=np.where(np.isin(found, matched_found), found, 0),
        missed=np.where(np.isin(truth, matched_truth), 0, truth),
        wrong=np.where(np.isin(found, matched_found), 0, found),
    )


def list_errors(name: str, image: np.ndarray, truth: np.ndarray, found: np.ndarray) -> list[str]:
    """Rows of a Markdown table: every object missed or found wrongly, and what it looks like.

    Args:
        name: of the image.
        image: (C, *spatial).
        truth: (*spatial) labels.
        found: (*spatial) labels.

    Returns:
        Rows of name, error, voxels, extent in voxels, mean intensity (percentiles 1 and 99.8 of the image are 0 and 1),
        and the greatest intersection over union with an object of the other side.
    """
    table = contingency_table(truth, found)
    in_truth, in_found, _ = match(table, THRESHOLD)
    partners = table.object_pairs()[:2]
    low, high = np.percentile(image, (1, 99.8))
    shown = (image.mean(0) - low) / max(high - low, 1e-12)
    rows = []
    for kind, labels, ids, matched, partner in (
        ("missed", truth, table.truth_ids[1:], in_truth, partners[0]),
        ("found wrongly", found, table.prediction_ids[1:], in_found, partners[1]),
    ):
        for index in np.setdiff1d(np.arange(len(ids)), matched):
            inside = labels == ids[index]
            extent = "x".join(str(np.ptp(places) + 1) for places in np.nonzero(inside))
            best = max(table.iou()[partner == index], default=0.0)
            rows.append(f"| {name} | {kind} | {inside.sum()} | {extent} | {shown[inside].mean():.2f} | {best:.2f} |")
    return rows


def draw(cases: list[Case], path: Path) -> None:
    """Writes a PNG with a row for each case: the image, and outlines over it."""
    figure = Figure(figsize=(8, 4.1 * len(cases) + 0.4), layout="constrained")
    axes = figure.subplots(len(cases), 2, squeeze=False)
    for (plain, outlined), case in zip(axes, (case.plane() for case in cases), strict=True):
        plain.imshow(case.picture, interpolation="nearest")
        plain.set_title(case.name, fontsize=9)
        picture = case.picture
        for labels, colour in ((case.right, RIGHT), (case.missed, MISSED), (case.wrong, WRONG)):
            picture = np.where(find_boundaries(labels, mode="inner")[..., None], colour, picture)
        outlined.imshow(picture, interpolation="nearest")
        for axis in (plain, outlined):
            axis.set_axis_off()
    for place, text, colour in (
        (0.15, "found and right", RIGHT),
        (0.42, "missed", MISSED),
        (0.65, "found wrongly", WRONG),
    ):
        figure.text(place, 0.004, f"\u25a0 {text}", color=[0.8 * part for part in colour], fontsize=11)
    figure.get_layout_engine().set(rect=(0, 0.04, 1, 0.96))
    write_png(figure, path, COLOURS)


@one_line_errors()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with val/, completely annotated")
    parser.add_argument("picture", type=Path, help="the PNG file to write")
    parser.add_argument("--model", default="", help="folder that `spoco train` wrote; by default the shipped model")
    parser.add_argument("--spacing", type=float, nargs="+", help="voxel size, where the files do not say it")
    arguments = parser.parse_args()
    options = {"spacing": arguments.spacing} if arguments.spacing else {}
    cases, rows = [], []
    pairs = build_datalist(arguments.data, "val")
    spatial_dims = stored_dimensions(pairs)
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        Spoco().predict(str(arguments.data / "val"), output=folder, model=arguments.model, blockwise="False", **options)
        for pair in pairs:
            name = image_name(pair["image"])
            results = Path(folder) / f"{name}_instances{result_suffix(pair['image'])}"
            image, truth, found = (
                read_image(path, kind, spatial_dims).array
                for path, kind in ((pair["image"], "image"), (pair["label"], "label"), (results, "label"))
            )
            cases.append(compare(name, image, truth[0], found[0]))
            rows += list_errors(name, image, truth[0], found[0])
    print("| image | error | voxels | extent | brightness | best IoU |\n|---|---|---|---|---|---|", *rows, sep="\n")
    cases.sort(key=lambda case: -case.errors)
    for case in cases[:DRAWN]:
        print(f"{case.name}: {case.errors} objects missed or found wrongly")
    draw(cases[:DRAWN], arguments.picture)
    print(arguments.picture)


if __name__ == "__main__":
    main()
