"""The paper's embeddings without coordinates, on leaves: `configs/paper.json` and `paper_cvppp.json`, as long as given.

    python scripts/paper_leaves.py cvppp_a1 --minutes 95 --fraction 0.1 --threads 1 --page docs/measurements/paper.md

The foreground, which the paper takes as given, is made of the labels of val/. So that a step takes seconds on a
processor, images and crops have half the size, and the learning rate is higher. What was cut off goes on.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import tifffile
from measuring import (
    MEASUREMENTS,
    check_page,
    length_of,
    read_rows,
    score,
    show_table,
    table_of,
    train_and_score,
    write_row,
)
from one_line import one_line_errors

GIVEN = (
    *("--config", "paper,paper_cvppp", "--target_spacing", "[2,2]", "--crop_size", "[224,224]"),
    *("--learning_rate", "0.001"),
)
OVERLAY = "mean-shift, bandwidth 0.5 (the overlay's)"
OTHERS = {
    "mean-shift, bandwidth 1": ["--clustering#bandwidth", "1.0"],
    "HDBSCAN": ["--clustering#method", "hdbscan"],
    "density peaks": ["--clustering#method", "density_peaks"],
}


def with_foreground(data: Path, folder: Path) -> Path:
    """A copy of a data set with NAME_fg.tif beside each NAME_label.tif: where a leaf is."""
    for file in sorted(data.glob("*/*.tif")):
        target = folder / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
        if file.stem.endswith("_label"):
            mask = (tifffile.imread(file) > 0).astype(np.uint8)
            tifffile.imwrite(target.with_name(file.name.replace("_label", "_fg")), mask)
    return folder


def table(rows: Path) -> str:
    """The rows as Markdown."""
    titles = ["data", "annotated", "minutes, threads", "clustering", "AP50", "SBD", "abs. DiC", "merges", "splits"]
    contents, cells = read_rows(rows, "data", "fraction", "minutes", "threads", "scores", "clusterings"), [titles]
    for row in contents:
        training = [row["data"], f"{row['fraction']:.0%}", f"{row['minutes']:g}, {row['threads']}"]
        for name, scores in {OVERLAY: row["scores"]["teacher"], **row["clusterings"]}.items():
            counts = [f"{scores['dic_abs']:.1f}", f"{scores['merges']:.0f}", f"{scores['splits']:.0f}"]
            cells.append([*training, name, f"{scores['ap_50']:.2f}", f"{scores['sbd']:.2f}", *counts])
    return table_of(cells, contents)


def train_row(options: argparse.Namespace) -> None:
    """Trains and scores, unless the row is there."""
    length = length_of(options.minutes, options.threads)
    name = f"{options.data.name}-{100 * options.fraction:g}-seed{options.seed}-{length}"
    row, work = options.rows / f"{name}.json", options.work / name
    if row.is_file():
        return
    data = with_foreground(options.data, work / "data")
    kept = ["--keep_fraction", str(options.fraction), "--keep_seed", str(options.seed)]
    given = [*GIVEN, *kept, "--minutes", str(options.minutes)]
    trained = train_and_score(data, data, work, given, options.seed, options.threads)
    shares = {"data": options.data.name, "fraction": options.fraction, "minutes": options.minutes}
    clusterings = {name: score(data, work, "other", given, options.threads) for name, given in OTHERS.items()}
    write_row(row, shares | trained | {"clusterings": clusterings})


@one_line_errors()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/ and val/")
    parser.add_argument("--minutes", type=float, default=95)
    parser.add_argument("--fraction", type=float, default=0.1, help="share of the annotated leaves that is kept")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, default=MEASUREMENTS / "paper", help="folder of the rows")
    parser.add_argument("--work", type=Path, default=Path("paper_leaves"), help="folder for models and logs")
    parser.add_argument("--page", type=Path, help="page with the marks <!-- paper --> and <!-- end -->")
    options = parser.parse_args()
    check_page(options.page, "paper")
    train_row(options)
    show_table(table(options.rows), options.page, "paper")


if __name__ == "__main__":
    main()
