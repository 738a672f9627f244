"""Do objects wind, and do they look like what lies around them? Both as `spoco train` measures them.

python scripts/tissue_table.py fib25_neuron bbbc050 cvppp_a1

Each argument is a folder with train/, and what it needs, separated by colons: ids with their value, such as
`spacing=[1,2,2]`. Where an area under the curve and a fill are both below the limits of `is_dense` in
`spoco_bundle/app/plan.py`, `spoco train` takes the settings for dense tissue; "none" stands where too few objects are
annotated to say.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from spoco_bundle.app.config import find_config, read_configs
from spoco_bundle.dataset.profile import Profile


def measured(folder: str, **overrides: Any) -> Profile:
    """Profile of a folder such as in the arguments."""
    path, *settings = folder.split(":")
    ids = dict(setting.split("=", 1) for setting in settings)
    ids = {key: json.loads(value) if value[:1] in "[0123456789tfn" else value for key, value in ids.items()}
    parser = read_configs([find_config("train")], {"dataset_dir": path, "device": "cpu", **ids, **overrides})
    return parser.get_parsed_content("profile")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="FOLDER[:ID=VALUE]")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.25, 0.1], help="share of the objects kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="choices of the objects kept")
    arguments = parser.parse_args()
    columns = [f"{fraction:.0%}" for fraction in arguments.fractions]
    print(f"| data | {' | '.join(columns)} | fill | seconds |\n|{'---|' * (len(columns) + 3)}")
    for folder in arguments.folders:
        cells, seconds, fills = [], [], []
        for fraction in arguments.fractions:
            found = []
            for seed in arguments.seeds:
                start = time.process_time()
                profile = measured(folder, keep_fraction=fraction, keep_seed=seed)
                found.append(profile.surroundings)
                fills.append(profile.fill)
                seconds.append(time.process_time() - start)
            cells.append(", ".join("none" if auc is None else f"{auc:.2f}" for auc in found))
        cells += [f"{min(fills):.2f} to {max(fills):.2f}", f"{max(seconds):.1f}"]
        print(f"| {Path(folder.split(':')[0]).name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
