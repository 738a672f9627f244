"""How `spoco train` tells dense tissue from objects with gaps: the area under the curve for folders of images.

python scripts/tissue_table.py fib25_neuron "bbbc050:spacing=[1.75,0.8,0.8]" cvppp_a1:2d:in_channels=3

Each argument is a folder with train/, and what it needs, separated by colons: overlay configs by name, and ids with
their value. Below `threshold` of `spoco_bundle/tissue_choice.py` `spoco train` takes it for dense tissue; "none" stands
where too few objects are annotated to say.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from spoco_bundle.app.config import find_config, read_configs
from spoco_bundle.app.tissue_choice import measure_surroundings


def measured(folder: str, **overrides: Any) -> float:
    """Area under the curve of a folder such as in the arguments; NaN where too few objects are annotated."""
    path, *settings = folder.split(":")
    files = [find_config(name) for name in ["train", *(setting for setting in settings if "=" not in setting)]]
    ids = dict(setting.split("=", 1) for setting in settings if "=" in setting)
    ids = {key: json.loads(value) if value[:1] in "[0123456789tfn" else value for key, value in ids.items()}
    auc = measure_surroundings(read_configs(files, {"dataset_dir": path, "device": "cpu", **ids, **overrides}))
    return float("nan") if auc is None else auc


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="FOLDER[:CONFIG][:ID=VALUE]")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.25, 0.1], help="share of the objects kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="choices of the objects kept")
    arguments = parser.parse_args()
    columns = [f"{fraction:.0%}" for fraction in arguments.fractions]
    print(f"| data | {' | '.join(columns)} | seconds |\n|{'---|' * (len(columns) + 2)}")
    for folder in arguments.folders:
        cells, seconds = [], []
        for fraction in arguments.fractions:
            found = []
            for seed in arguments.seeds:
                start = time.process_time()
                found.append(measured(folder, keep_fraction=fraction, keep_seed=seed))
                seconds.append(time.process_time() - start)
            cells.append(", ".join("none" if np.isnan(auc) else f"{auc:.2f}" for auc in found))
        print(f"| {Path(folder.split(':')[0]).name} | {' | '.join(cells)} | {max(seconds):.1f} |", flush=True)


if __name__ == "__main__":
    main()
