"""What the way in which OpenMP's threads wait costs alone and beside one busy process, as a table in Markdown.

    python scripts/benchmark_threads.py [--rounds 5] [--page docs/measurements/speed.md]

One step of the loss (48x96x96 voxels, 40 objects) and one pass of the shipped network are timed in fresh processes, a
setting after the other, and that round after round, so that other work on the machine meets all of them alike. Times
are the least of the rounds' medians alone, and the median of them beside one process that keeps a core busy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measuring import check_page, processor, show_table
from one_line import one_line_errors

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "KMP_BLOCKTIME")
SETTINGS = {
    "OpenMP's own": {"GOMP_SPINCOUNT": "300000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=100": {"GOMP_SPINCOUNT": "100"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def measure(repeats: int) -> dict[str, float]:
    """Median seconds of the loss and of the network in this process."""
    import torch
    from textbook_loss import crop

    from spoco_bundle.losses import SpocoLoss
    from spoco_bundle.networks import EmbeddingUNet

    embeddings, labels, teacher = crop(40, (48, 96, 96), 16, 0)
    embeddings = embeddings.contiguous().requires_grad_()
    criterion = SpocoLoss(regularizer_weight=0.0)
    network = EmbeddingUNet(out_channels=9).eval()
    image = torch.rand(1, 1, 32, 96, 96)

    def loss() -> None:
        embeddings.grad = None
        criterion(embeddings[None], labels[None], teacher[None], seeds=[0])["loss"].backward()

    def forward() -> None:
        with torch.no_grad():
            network(image)

    found = {}
    for name, step in (("loss", loss), ("network", forward)):
        step()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        found[name] = statistics.median(times)
    return found


def in_fresh_process(setting: dict[str, str], repeats: int) -> dict[str, float]:
    """The same with other variables of OpenMP."""
    plain = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, __file__, "--here", "--repeats", str(repeats)]
    done = subprocess.run(command, env={**plain, **setting}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


@one_line_errors()
def main() -> None:
    """Prints the table, or puts it into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--page", type=Path, help="page with the marks <!-- threads --> and <!-- end -->")
    parser.add_argument("--here", action="store_true", help="measure in this process, as JSON")
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args.repeats)))
        return
    check_page(args.page, "threads")
    times = {(name, beside): [] for name in SETTINGS for beside in (False, True)}
    for _ in range(args.rounds):
        for beside in (False, True):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if beside else None
            try:
                for name, setting in SETTINGS.items():
                    times[name, beside].append(in_fresh_process(setting, args.repeats))
            finally:
                if busy is not None:
                    busy.kill()
                    busy.wait()
    lines = [f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {args.rounds} rounds", ""]
    lines += [
        "| setting | loss alone [s] | beside | ratio | network alone [s] | beside | ratio |",
        "|---|" + "---|" * 6,
    ]
    for name in SETTINGS:
        row = [name]
        for work in ("loss", "network"):
            alone = min(found[work] for found in times[name, False])
            beside = statistics.median(found[work] for found in times[name, True])
            row += [f"{alone:.2f}", f"{beside:.2f}", f"{beside / alone:.1f}"]
        lines.append(f"| {' | '.join(row)} |")
    show_table("\n".join(lines), args.page, "threads")


if __name__ == "__main__":
    main()
