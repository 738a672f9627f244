"""The paper's embeddings without coordinates, on leaves: `configs/paper.json` and `paper_cvppp.json`, as long as given.

    python scripts/paper_leaves.py cvppp_a1 --minutes 95 --fraction 0.1 --threads 1 --page docs/datasets.md

The foreground, which the paper takes as given, is made of the labels of val/. So that a step takes seconds on a
processor, images and crops have half the size, and the learning rate is higher. What was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import tifffile
from measuring import replace_table, train_and_score, write_row

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "docs" / "measurements" / "paper"
GIVEN = (
    *("--config", "paper,paper_cvppp", "--target_spacing", "[2,2]", "--crop_size", "[224,224]"),
    *("--learning_rate", "0.001"),
)


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
    lines = [
        "| data | annotated | minutes, threads | AP50 | SBD | abs. DiC | student: AP50, SBD |",
        "|---|---|---|---|---|---|---|",
    ]
    for file in sorted(rows.glob("*.json")):
        row = json.loads(file.read_text())
        teacher, student = row["scores"]["teacher"], row["scores"]["student"]
        scored = f"{teacher['ap_50']:.2f} | {teacher['sbd']:.2f} | {teacher['dic_abs']:.1f}"
        lines.append(
            f"| {row['data']} | {row['fraction']:.0%} | {row['minutes']:g}, {row['threads']} | {scored} | "
            f"{student['ap_50']:.2f}, {student['sbd']:.2f} |"
        )
        machine = f"{row['processor']}, seed {row['seed']}."
    return "\n".join([*lines, "", machine])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/ and val/")
    parser.add_argument("--minutes", type=float, default=95)
    parser.add_argument("--fraction", type=float, default=0.1, help="share of the annotated leaves that is kept")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, default=ROWS, help="folder of the rows")
    parser.add_argument("--work", type=Path, default=Path("paper_leaves"), help="folder for models and logs")
    parser.add_argument("--page", type=Path, help="page with the marks <!-- paper --> and <!-- end -->")
    options = parser.parse_args()
    name = f"{options.data.name}-{100 * options.fraction:g}-seed{options.seed}-{options.minutes:g}min"
    row = options.rows / f"{name}.json"
    if not row.is_file():
        work = options.work / name
        data = with_foreground(options.data, work / "data")
        kept = ["--keep_fraction", str(options.fraction), "--keep_seed", str(options.seed)]
        given = [*GIVEN, *kept, "--minutes", str(options.minutes)]
        trained = train_and_score(data, data, work, given, options.seed, options.threads)
        shares = {"data": options.data.name, "fraction": options.fraction, "minutes": options.minutes}
        write_row(row, shares | trained)
    found = table(options.rows)
    print(found)
    if options.page:
        replace_table(options.page, "paper", found)


if __name__ == "__main__":
    main()
