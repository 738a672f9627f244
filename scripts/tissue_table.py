"""Do objects wind, and do they look like what lies around them? Both as `spoco train` measures them.

python scripts/tissue_table.py fib25_neuron bbbc050 cvppp_a1

Each argument is a folder with train/, and what it needs, separated by colons: ids with their value, such as
`spacing=[1,2,2]`. How well objects are told from what lies around them is measured where they fill little of their box.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import torch
from measuring import ids_of, processor
from one_line import one_line_errors

from spoco_bundle.app.config import find_config, read_configs
from spoco_bundle.dataset.profile import Profile


def measured(folder: str, **overrides: Any) -> Profile:
    """Profile of a folder such as in the arguments."""
    path, *settings = folder.split(":")
    given = {"dataset_dir": path, "device": "cpu", **ids_of(settings), **overrides}
    parser = read_configs([find_config("train")], given)
    return parser.get_parsed_content("profile")


def span(values: list[float]) -> str:
    """Smallest and largest of some values, nothing of none."""
    return f"{min(values):.2f} to {max(values):.2f}" if values else ""


@one_line_errors()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="FOLDER[:ID=VALUE]")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.25, 0.1], help="share of the objects kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="choices of the objects kept")
    arguments = parser.parse_args()
    print("| data | fill | area under the curve | seconds |\n|---|---|---|---|")
    for folder in arguments.folders:
        profiles, seconds = [], []
        for fraction, seed in itertools.product(arguments.fractions, arguments.seeds):
            start = time.process_time()
            profiles.append(measured(folder, keep_fraction=fraction, keep_seed=seed))
            seconds.append(time.process_time() - start)
        fills = span([profile.fill for profile in profiles])
        areas = span([profile.surroundings for profile in profiles if profile.surroundings is not None])
        print(f"| {Path(folder.split(':')[0]).name} | {fills} | {areas} | {max(seconds):.1f} |", flush=True)
    seeds = ", ".join(map(str, arguments.seeds))
    print(f"\n{processor()}, {torch.get_num_threads()} thread(s), seeds {seeds}")


if __name__ == "__main__":
    main()
