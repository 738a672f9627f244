"""Time and memory of SpocoLoss beside a textbook version of the same terms, forward and backward.

    python scripts/benchmark_loss.py   # 48x96x96 at 10, 40 and 160 instances, 2 threads
    python scripts/benchmark_loss.py --device cuda --shape 128 128 128   # the same table on a GPU
    python scripts/benchmark_loss.py --device cuda --shape 128 128 128 --dtype bfloat16

Every row is measured in a process of its own. Times are the median of `--repeats` runs after a warm-up; the textbook
version runs once. Memory is the peak above what the process held before, with embeddings, labels and teacher embeddings
in place: resident memory on the CPU (Linux only), allocated memory on a GPU. Both versions get the same anchors;
"difference" is the largest relative difference of a term. With `bfloat16` the embeddings are rounded to bfloat16 and
our loss runs under autocast; the textbook version gets the rounded values in float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from measuring import PeakMemory, machine, processor
from textbook_loss import crop
from textbook_loss import loss as textbook_loss

from spoco_bundle.losses import SpocoLoss
from spoco_bundle.losses.consistency import draw_anchors
from spoco_bundle.losses.sorted_crop import sort_crop, take_rows

CHANNELS, ANCHORS = 16, 20
TERMS = ("pull", "push", "unlabeled_push", "instance", "consistency")


def timed(step: Callable[[], dict[str, float]], device: torch.device) -> tuple[float, dict[str, float]]:
    """Seconds that a step takes, and what it returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    values = step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, values


def measure(step: Callable[[], dict[str, float]], repeats: int, device: torch.device) -> dict:
    """Peak memory of the first run, then the median time of `repeats` runs (of the first one if that is all)."""
    with PeakMemory(device) as memory:
        first, values = timed(step, device)
    times = [timed(step, device)[0] for _ in range(repeats)] if repeats > 1 else [first]
    return {"seconds": statistics.median(times), "gigabytes": memory.peak / 2**30, "values": values}


def measure_one(args: argparse.Namespace) -> dict:
    """Measure one version at one number of instances in this process."""
    torch.set_num_threads(args.threads)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    embeddings, labels, teacher = crop(args.instances[0], tuple(args.shape), CHANNELS, args.seed)
    # contiguous, as a network returns them
    embeddings = embeddings.contiguous().to(device, dtype).requires_grad_()
    labels, teacher = labels.to(device), teacher.contiguous().to(device, dtype)
    criterion = SpocoLoss(max_anchors=ANCHORS, regularizer_weight=0.0, sampled_voxels=2**62)

    def ours() -> dict[str, float]:
        embeddings.grad = None
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            terms = criterion(embeddings[None], labels[None], teacher[None], seeds=[args.seed])
        terms["loss"].backward()
        return {name: terms[name].item() for name in TERMS}

    if args.version == "ours":
        return measure(ours, args.repeats, device)

    ordered = sort_crop(labels)
    with torch.no_grad():
        rows = take_rows(embeddings, ordered.order)
        anchors = draw_anchors(
            rows[: ordered.unlabeled],
            len(rows),
            criterion.delta_var,
            ANCHORS,
            generator=torch.Generator().manual_seed(args.seed),
        )
    anchors = ordered.order[anchors].tolist()
    single, single_teacher = embeddings.detach().float().requires_grad_(), teacher.float()

    def textbook() -> dict[str, float]:
        single.grad = None
        with torch.device(device):
            terms = textbook_loss(single, labels, single_teacher, anchors)
        terms["loss"].backward()
        return {name: terms[name].item() for name in TERMS}

    return measure(textbook, 1, device)


def in_fresh_process(args: argparse.Namespace, version: str, instances: int) -> dict:
    """Run `measure_one` in a new process."""
    passed = ["--version", version, "--instances", str(instances), "--shape", *map(str, args.shape)]
    for name in ("threads", "repeats", "seed", "device", "dtype"):
        passed += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run([sys.executable, __file__, *passed], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, nargs="+", default=[10, 40, 160])
    parser.add_argument("--shape", type=int, nargs=3, default=[48, 96, 96])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--textbook-up-to", type=int, default=40, help="most instances for the textbook version")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--version", choices=["ours", "textbook"], help="measure one version in this process, as JSON")
    args = parser.parse_args()
    if args.version:
        print(json.dumps(measure_one(args)))
        return
    shape = "x".join(map(str, args.shape))
    device = processor() if args.device == "cpu" else machine()
    print(f"{device}, {args.threads} threads, seed {args.seed}")
    print(f"{shape}, {CHANNELS} channels, {ANCHORS} anchors, {args.device}, {args.dtype}")
    print("instances   ours [s]   ours [GB]   textbook [s]   textbook [GB]   ratio   difference", flush=True)
    for instances in args.instances:
        ours = in_fresh_process(args, "ours", instances)
        line = f"{instances:9d}   {ours['seconds']:8.3f}   {ours['gigabytes']:9.3f}"
        if instances <= args.textbook_up_to:
            book = in_fresh_process(args, "textbook", instances)
            difference = max(
                abs(ours["values"][name] - value) / max(abs(value), 1e-8) for name, value in book["values"].items()
            )
            line += f"   {book['seconds']:12.2f}   {book['gigabytes']:13.2f}"
            line += f"   {book['seconds'] / ours['seconds']:4.0f}x   {difference:10.1e}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
