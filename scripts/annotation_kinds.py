"""How far other annotations than whole objects go: score against the outlines that somebody has to draw.

python scripts/annotation_kinds.py DATA                 # trains and scores what has no row yet, then table and plot
python scripts/annotation_kinds.py DATA --only bbbc050 --cases slices strokes
python scripts/annotation_kinds.py DATA --table-only --page docs/measurements/annotation_kinds.md

DATA is a folder of data sets, each with train/ and val/, completely labelled. The same objects are annotated in several
ways, all derived from their true labels: whole, by one outline in the middle slice, by outlines in every few slices, by
strokes, by a point. One outline is one object in one slice. A flat image is one slice, with one stroke in each object.
Each training begins from nothing, sees nothing but these annotations, is as long as the others, and is scored on the
whole of val/. A row is one training, a JSON file in the folder of `--rows`; what is there is not done again, and a
training that was cut off goes on. The table is of those that are as long as `--epochs` and `--threads` say.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from measuring import (
    MEASUREMENTS,
    length_of,
    raw_link,
    read_rows,
    run_rows,
    table_of,
    train_and_score,
    write_pair,
    write_row,
)
from one_line import one_line_errors
from scipy import ndimage

from spoco_bundle.annotation.ledger import Entry, ledger_path, write_ledger
from spoco_bundle.annotation.points import points_path, write_points
from spoco_bundle.annotation.side_files import COMPLETE_ENDING
from spoco_bundle.core.atomic_files import write_json
from spoco_bundle.dataset import build_datalist, image_name, stored_dimensions
from spoco_bundle.dataset.label_checks import MeasuredObject, measured_objects
from spoco_bundle.formats import read_image

PLOT = MEASUREMENTS.parent / "pictures" / "annotation_kinds.png"
#: iterations
EPOCH = 100


@dataclass(frozen=True)
class Case:
    """One way of annotating some objects of a data set.

    Attributes:
        data: folder of the data set.
        name: of the way.
        kind: of the annotation; "middle" is one outline in the middle slice, "every" outlines in every few slices.
        objects: how many are annotated, drawn at random by the seed; None for all.
        step: of the slices, for "every".
        outlines_of: in place of a number of objects: as many as that many whole ones cost in outlines.
        complete: say of the outlined slices that every object in them is drawn; for "every".
        inset: voxels between the border of an object and its outline, as where people leave membranes free.
        diameter: voxels across an object, which whoever clicks says; for "points".
    """

    data: str
    name: str
    kind: str
    objects: int | None = None
    step: int = 1
    outlines_of: int | None = None
    complete: bool = False
    inset: int = 0
    diameter: float | None = None


CASES = (
    Case("bbbc050", "whole", "whole", 222),
    Case("bbbc050", "slices", "middle", 222),
    Case("bbbc050", "strokes", "strokes", 222),
    Case("bbbc050", "points", "points", 222, diameter=14),
    Case("bbbc050", "whole_25", "whole", 25),
    Case("bbbc050", "slices_for_25", "middle", outlines_of=25),
    Case("epithelial_tube_3d", "whole", "whole"),
    Case("epithelial_tube_3d", "every_10", "every", step=10),
    Case("epithelial_tube_3d", "complete_10", "every", step=10, complete=True),
    Case("epithelial_tube_3d", "whole_93_inset", "whole", 93, inset=1),
    Case("epithelial_tube_3d", "slices_93", "middle", 93),
    Case("epithelial_tube_3d", "slices_93_inset", "middle", 93, inset=1),
    Case("epithelial_tube_3d", "strokes", "strokes"),
    Case("epithelial_tube_3d", "points", "points", diameter=16),
    Case("vnc_mito", "every_5", "every", step=5),
    Case("fib25_neuron", "every_10", "every", step=10),
    Case("dsb2018", "whole", "whole", 488),
    Case("dsb2018", "strokes", "strokes", 488),
    Case("dsb2018", "points", "points", 488, diameter=18),
)
#: cases that are trained for several choices of objects
SEVERAL = ("whole_25", "slices_for_25")


@dataclass
class Volume:
    """An image to learn from.

    Attributes:
        image: its file.
        ids: (z, y, x); of a flat image z is 1.
        found: its objects.
        flat: whether it is a flat image.
    """

    image: Path
    ids: np.ndarray
    found: list[MeasuredObject]
    flat: bool


def volumes_of(data: Path) -> list[Volume]:
    """The training part of a data set."""
    volumes, items = [], build_datalist(data, "train")
    dims = stored_dimensions(items)
    for item in items:
        stored = read_image(item["label"], "label", dims).array[0].astype(np.int32)
        ids = stored.reshape((1,) * (3 - dims) + stored.shape)
        volumes.append(Volume(Path(item["image"]), ids, measured_objects(ids), dims == 2))
    return volumes


def slices_of(volume: Volume, item: MeasuredObject) -> list[int]:
    """Slices along z in which an object has voxels."""
    box = tuple(map(slice, item.first.min(0), item.stop.max(0)))
    return (np.flatnonzero((volume.ids[box] == item.id).any((1, 2))) + box[0].start).tolist()


def chosen_objects(volumes: list[Volume], case: Case, seed: int) -> list[tuple[Volume, MeasuredObject]]:
    """The objects that are annotated, a random choice that begins alike for any number of them."""
    every = [(volume, item) for volume in volumes for item in volume.found]
    order = [every[place] for place in np.random.default_rng(seed).permutation(len(every))]
    if case.outlines_of is None:
        return order[: case.objects]
    return order[: sum(len(slices_of(*one)) for one in order[: case.outlines_of])]


def stroke_voxels(section: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Voxels (n, 2) of a stroke through a section (y, x) of an object: along a line through its middle, so many."""
    places = np.argwhere(ndimage.binary_erosion(section) if section.sum() > 4 * count else section)
    places = places if len(places) >= count else np.argwhere(section)
    angle = generator.uniform(0, np.pi)
    along = (places - places.mean(0)) @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return places[np.lexsort((np.abs(along[:, 0]), np.abs(along[:, 1]).round()))[:count]]


def is_outlined(plane: int, case: Case) -> bool:
    """Whether objects are outlined in a slice, for "every"."""
    return plane % case.step == case.step // 2


def drawn(volume: Volume, item: MeasuredObject, case: Case, generator: np.random.Generator) -> Iterator[tuple]:
    """What is drawn of an object: places that index the label, one for each outline or stroke."""
    planes = slices_of(volume, item)
    if case.kind == "middle":
        planes = [planes[len(planes) // 2]]
    elif case.kind == "every":
        planes = [plane for plane in planes if is_outlined(plane, case)]
    elif case.kind == "points":
        middle = planes[len(planes) // 2]
        inside = volume.ids[middle] == item.id
        deepest = np.unravel_index(ndimage.distance_transform_edt(np.pad(inside, 1)).argmax(), np.add(inside.shape, 2))
        planes = []
        yield (middle, *(np.array([place - 1]) for place in deepest))
    elif case.kind == "strokes":
        planes = sorted({planes[int(share * (len(planes) - 1))] for share in (0.25, 0.5, 0.75)})
        for plane in planes:
            count = max(1, round(item.voxels.sum() / 10 / len(planes)))
            yield (plane, *stroke_voxels(volume.ids[plane] == item.id, count, generator).T)
        planes = []
    for plane in planes:
        section = volume.ids[plane] == item.id
        yield (plane, *np.nonzero(ndimage.binary_erosion(section, iterations=case.inset) if case.inset else section))


def write_annotations(data: Path, folder: Path, case: Case, seed: int) -> dict[str, int]:
    """Makes a data set with the annotations of a case, and counts what is drawn."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "train").mkdir(parents=True)
    (folder / "val").symlink_to((data / "val").resolve())
    generator, volumes = np.random.default_rng(seed), volumes_of(data)
    labels = {id(volume): np.zeros_like(volume.ids) for volume in volumes}
    counted = {"objects": 0, "drawn": 0, "voxels": 0}
    for volume, item in chosen_objects(volumes, case, seed):
        pieces = list(drawn(volume, item, case, generator))
        counted["objects"] += bool(pieces)
        counted["drawn"] += len(pieces)
        for piece in pieces:
            labels[id(volume)][piece] = item.id
            counted["voxels"] += len(piece[-1])
    kind = {"middle": "slices", "every": "slices"}.get(case.kind, case.kind)
    for volume in volumes:
        label = labels[id(volume)][0] if volume.flat else labels[id(volume)]
        if not label.any():
            continue
        name = image_name(volume.image).removesuffix("_raw")
        path = folder / "train" / f"{name}_label.tif"
        if kind == "points":
            raw_link(path.parent, volume.image)
            write_points(points_path(path), np.argwhere(label))
            continue
        write_pair(path.parent, volume.image, label)
        if case.complete:
            outlined = np.zeros(label.shape, np.uint8)
            outlined[[is_outlined(plane, case) for plane in range(len(label))]] = 1
            tifffile.imwrite(path.with_name(f"{name}{COMPLETE_ENDING}.tif"), outlined, compression="zlib")
        write_ledger(ledger_path(path), {number: Entry(kind) for number in np.unique(label[label > 0]).tolist()})
    return counted


def train_row(data: Path, case: Case, seed: int, options: argparse.Namespace) -> None:
    """Trains and scores one case for one choice of objects, unless its row is there."""
    length = length_of(0, options.threads, options.epochs)
    name = "-".join([case.data, case.name, f"seed{seed}", length, *options.set])
    row, work = options.rows / f"{name}.json", options.work / name
    if row.is_file():
        return
    counted_file = work / "counted.json"
    if not counted_file.is_file():
        write_json(counted_file, write_annotations(data, work / "data", case, seed))
    points = [] if case.diameter is None else ["--diameter", str(case.diameter)]
    ends = ["--max_epochs", str(options.epochs), "--val_interval", str(max(1, options.epochs // 2))]
    given = [*ends, *points, *(f"--{setting}" for setting in options.set)]
    trained = train_and_score(work / "data", data, work, given, seed, options.threads)
    content = {
        **{"data": case.data, "case": case.name, "kind": case.kind, "settings": options.set, "diameter": case.diameter},
        **json.loads(counted_file.read_text()),
        **{"iterations": EPOCH * options.epochs, **trained},
    }
    write_row(row, content)


Cases = dict[Case, list[dict[str, Any]]]


def rows_of(options: argparse.Namespace) -> Cases:
    """Rows of trainings as long as asked for by their cases, without those of other settings."""
    found: Cases = {}
    rows = read_rows(options.rows, "data", "case", "drawn", "settings", "iterations", "threads", "scores")
    for case, row in itertools.product(CASES, rows):
        wanted = (case.data, case.name, [], EPOCH * options.epochs, options.threads)
        if wanted == tuple(row[name] for name in ("data", "case", "settings", "iterations", "threads")):
            found.setdefault(case, []).append(row)
    return found


def table(found: Cases, length: str) -> str:
    """The rows as Markdown."""
    words = {
        **{"whole": "whole", "middle": "one outline in the middle slice of each", "strokes": "strokes in each"},
        **{"every": "outlines in every {}th slice", "points": "a click in each"},
    }
    cells = [["`val` of", "annotated", "objects", "outlines, strokes or clicks", "AP50", "SBD", "choices"]]
    for case, some in found.items():
        ap50, sbd = (f"{np.mean([row['scores']['teacher'][key] for row in some]):.2f}" for key in ("ap_50", "sbd"))
        way = words[case.kind].format(case.step) + ", said to be complete" * case.complete
        if case.inset:
            way += f", {case.inset} voxel within the border"
        counts = (f"{np.mean([row[key] for row in some]):.0f}" for key in ("objects", "drawn"))
        cells.append([case.data, way, *counts, ap50, sbd, str(len(some))])
    return table_of(cells, [row for some in found.values() for row in some], length)


def plot(found: Cases, path: Path) -> None:
    """AP50 against outlines, strokes or clicks, a panel for each data set."""
    names = list(dict.fromkeys(case.data for case in found))
    colours = {name: f"C{number}" for number, name in enumerate(dict.fromkeys(case.name for case in found))}
    figure = Figure(figsize=(4.2 * len(names), 3.6))
    panels = figure.subplots(1, len(names), squeeze=False, sharey=True)
    for panel, data in zip(panels[0], names, strict=True):
        for case, some in found.items():
            if case.data == data:
                counts, scores = [row["drawn"] for row in some], [row["scores"]["teacher"]["ap_50"] for row in some]
                panel.scatter(counts, scores, color=colours[case.name], label=case.name.replace("_", " "))
        panel.set(xscale="log", xlabel="outlines, strokes or clicks", title=data, ylim=(0, 1))
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_locator(NullLocator())
        panel.legend(fontsize=7)
    panels[0][0].set_ylabel("AP50 on val")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def table_and_plot(options: argparse.Namespace) -> str:
    """The rows as Markdown; where there is a page for them, the plot is drawn anew."""
    found = rows_of(options)
    length = f"{EPOCH * options.epochs} iterations, {options.threads} thread(s), "
    if options.page and found:
        plot(found, PLOT)
    return table(found, length)


@one_line_errors()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds the data sets")
    parser.add_argument("--epochs", type=int, default=6, help=f"of {EPOCH} iterations, of each training")
    parser.add_argument("--cases", nargs="+", choices=sorted({case.name for case in CASES}))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="choices of objects")
    parser.add_argument("--set", action="append", default=[], metavar="ID=VALUE", help="a setting of all trainings")
    parser.add_argument("--only", nargs="+", choices=sorted({case.data for case in CASES}), help="data sets")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, default=MEASUREMENTS / "annotation_kinds", help="folder of the rows")
    parser.add_argument("--work", type=Path, default=Path("annotation_kinds"), help="folder for models and logs")
    parser.add_argument("--table-only", action="store_true", help="only bring the page up to date")
    parser.add_argument("--page", type=Path, help="page with the marks <!-- annotation_kinds --> and <!-- end -->")
    options = parser.parse_args()
    trainings = [
        partial(train_row, options.data / case.data, case, seed, options)
        for case in CASES
        if case.data in (options.only or [case.data]) and case.name in (options.cases or [case.name])
        for seed in (options.seeds if case.name in SEVERAL else options.seeds[:1])
    ]
    run_rows(options, trainings, partial(table_and_plot, options), "annotation_kinds")


if __name__ == "__main__":
    main()
