"""Speed and accuracy of the clustering methods on generated volumes of touching, blurred objects.

    python scripts/benchmark_clustering.py                       # 2 million voxels
    python scripts/benchmark_clustering.py --millions 8 32      # needs 10 GB
    python scripts/benchmark_clustering.py --objects 3000 --max_blocks 3000000      # every voxel for itself
    python scripts/benchmark_clustering.py --slow --millions 0.2 --foreground found      # also HDBSCAN and mean-shift
    python scripts/benchmark_clustering.py --slow --millions 0.34 --foreground given     # 0.2 million in objects

Prints one row per volume: voxels per second end to end (wall clock and processor time, best of the repeats; where other
work runs too, processor time on one thread is the one to compare), peak memory of the first repeat over embeddings plus
labels, AP50 and adapted Rand error. The smallest object has a thousandth of the volume of an object of mean radius, and
20 voxels at least. For comparison the scores of the oracle that assigns every voxel to the nearest true instance mean
(nearest among the voxels of objects; it knows the foreground), and those of reading embeddings without noise: the
generator gives a voxel the mean of a window of 2 x 2 x 2 voxels that begins one voxel before it, so a voxel
at a border says which objects its window touches, and how much. The best guess is the object with the largest share,
and for AP50, to which all objects matter alike, small ones a little before large. Where a given foreground or votes for
centres tell that embeddings lie half a voxel before their voxels, they are read averaged with the next ones.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import threading
import time

import numpy as np
import torch
from embedding_volumes import scores, volume
from scipy import ndimage

from spoco_bundle.clustering import MIN_SIZE, cluster_embeddings

MERGE_DISTANCE = {False: 1.0, True: 0.6}  # the generator scales the free channels of semi-convolutional volumes by 0.2
FILL = 0.55  # mean radius of an object over the side of the cube that is there for it, as the generator has it
SMALL_FIRST = 0.1  # power of an object's size by which its share is divided: AP50 is highest among 0, 0.1, 0.2 and 0.4
WINDOWS_AT_ONCE = 20_000  # whose shares are held in memory
SMALLEST = 0.001  # volume of the smallest object that is kept, over that of a ball of the mean radius


def resident() -> int:
    """Memory of this process in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class PeakMemory:
    """Greatest memory that the process takes beyond what it has on entry, sampled every 2 ms."""

    def __enter__(self) -> PeakMemory:
        """Starts sampling."""
        self.start = self.top = resident()
        self.running = True
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        """Stops sampling."""
        self.running = False
        self.thread.join()

    def _watch(self) -> None:
        while self.running:
            self.top = max(self.top, resident())
            time.sleep(0.002)

    @property
    def extra(self) -> int:
        """Bytes."""
        return self.top - self.start


def oracle(embeddings: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Every object voxel to the nearest true instance mean, 0 elsewhere."""
    flat, owner = embeddings.reshape(len(embeddings), -1), truth.ravel()
    ids, inverse = np.unique(owner, return_inverse=True)
    sums = np.stack([np.bincount(inverse, channel) for channel in flat], 1)
    means = torch.from_numpy((sums / np.bincount(inverse)[:, None])[ids > 0]).float()
    result = np.zeros(owner.shape, np.int32)
    inside = np.flatnonzero(owner)
    for part in np.array_split(inside, 1 + len(inside) // 20_000):
        vectors = torch.from_numpy(flat[:, part].T.astype(np.float32))
        nearest = torch.addmm(means.square().sum(1), vectors, means.T, alpha=-2).argmin(1).numpy()
        result[part] = ids[ids > 0][nearest]
    return result.reshape(truth.shape)


def largest_share(truth: np.ndarray, foreground: bool, centred: bool = False, seed: int = 0) -> np.ndarray:
    """Every voxel to the object, or background, with the largest share of the window that its embedding averages.

    The share of an object is divided by its size, over the median, to the power of `SMALL_FIRST`.

    Args:
        truth: (z, y, x) instances.
        foreground: whether the voxels of objects are known, so that these take an object and the others none.
        centred: whether embeddings are averaged with the next ones before, so that they lie on their voxels.
        seed: of the choice between equal shares.

    Returns:
        (z, y, x) labels.
    """
    random = np.random.default_rng(seed)
    size = np.bincount(truth.ravel()).clip(min=1).astype(np.float32)
    size[0] = np.median(size[1:])
    worth = (size / size[0]) ** -SMALL_FIRST
    along = {-1: 0.25, 0: 0.5, 1: 0.25} if centred else {-1: 0.5, 0: 0.5}
    offsets = np.array(list(itertools.product(along, repeat=3)))
    weight = np.prod([[along[step] for step in offset] for offset in offsets], 1, dtype=np.float32)
    result = truth.copy()
    mixed = np.argwhere(ndimage.maximum_filter(truth, 3) != ndimage.minimum_filter(truth, 3))
    for places in np.array_split(mixed, 1 + len(mixed) // WINDOWS_AT_ONCE):
        near = (places[:, None] + offsets).clip(0, np.array(truth.shape) - 1)
        window = truth[tuple(np.moveaxis(near, 2, 0))]
        share = ((window[:, :, None] == window[:, None]) * weight).sum(2) * worth[window]
        share *= 1 + random.random(share.shape, dtype=np.float32) / 1000
        if foreground:
            share[window == 0] = 0
        result[tuple(places.T)] = np.take_along_axis(window, share.argmax(1)[:, None], 1)[:, 0]
    return result * (truth > 0) if foreground else result


def least_voxels(voxels: int, objects: int, least: int = MIN_SIZE) -> int:
    """Smallest object of a volume of so many voxels and objects, as who has annotated some would say it."""
    ball = 4 / 3 * math.pi * FILL**3 * voxels / objects
    return max(least, round(SMALLEST * ball))


def measure(embeddings, truth, method, coordinates, foreground, repeats, **params):
    """One row of the table."""
    seconds, extra = [], []
    keywords = {"coordinate_channels": 3 * coordinates, "foreground": truth > 0 if foreground else None, **params}
    for _ in range(repeats):
        labels = None
        with PeakMemory() as memory:
            start, cpu = time.perf_counter(), time.process_time()
            labels = cluster_embeddings(embeddings, method, **keywords)
            seconds.append((time.perf_counter() - start, time.process_time() - cpu))
        extra.append(memory.extra)
    wall, cpu = min(seconds)
    result = scores(truth, labels)
    ratio = (embeddings.nbytes + extra[0]) / (embeddings.nbytes + labels.nbytes)
    return {
        "method": method,
        "seconds": f"{wall:.2f}",
        "cpu s": f"{cpu:.2f}",
        "Mvoxel/s": f"{truth.size / wall / 1e6:.3g}",
        "Mvoxel/cpu s": f"{truth.size / cpu / 1e6:.3g}",
        "memory": f"{ratio:.2f}",
        "objects": f"{result['pred']}/{result['truth']}",
        "AP50": f"{result['ap']:.3f}",
        "ARE": f"{result['are']:.4f}",
    }


def show(rows: list[dict]) -> None:
    """Prints rows as a Markdown table."""
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")


def main(arguments: list[str]) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, nargs="+", help="voxels per volume, in millions: 2, with --slow 0.2")
    parser.add_argument("--objects", type=int, nargs="+", help="objects per volume: 60 600 3000, with --slow 60")
    parser.add_argument("--foreground", nargs="+", choices=("given", "found"), default=("given", "found"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="more only where as many cores are idle")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--no-oracle", action="store_true", help="skip the oracle, which takes longest at 3,000 objects"
    )
    parser.add_argument("--max_blocks", type=int, help="volumes of more voxels are averaged over blocks")
    parser.add_argument("--smallest", type=int, default=MIN_SIZE, help="voxels of an object that is kept, at least")
    parser.add_argument("--slow", action="store_true", help="also run HDBSCAN and mean-shift, on smaller volumes")
    options = parser.parse_args(arguments)
    millions_of = options.millions or ([0.2] if options.slow else [2])
    objects = options.objects or ([60] if options.slow else [60, 600, 3000])
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, load average {os.getloadavg()[0]:.1f} at the start\n")
    given = {} if options.max_blocks is None else {"max_blocks": options.max_blocks}
    cluster_embeddings(volume((64,) * 3, 20)[0])  # loads what a process loads once, which is not the first row's to pay
    rows = []
    for millions in millions_of:
        side = round((millions * 1e6) ** (1 / 3))
        for count in objects:
            for coordinates in (False, True):
                embeddings, truth = volume((side,) * 3, count, seed=options.seed, coordinates=coordinates)
                name = {"voxels": f"{truth.size / 1e6:.2g} M", "true": count, "coordinates": coordinates}
                best = {} if options.no_oracle else scores(truth, oracle(embeddings, truth))
                least = {"min_size": least_voxels(truth.size, count, options.smallest)}
                for way in options.foreground:
                    foreground = way == "given"
                    base = {**name, "foreground": way}
                    plain = scores(truth, largest_share(truth, foreground, centred=foreground or coordinates))
                    runs = [
                        ("density_peaks", {"merge_distance": MERGE_DISTANCE[coordinates], **given}, options.repeats)
                    ]
                    if options.slow:
                        runs += [
                            ("hdbscan", {"max_samples": 10**9, "min_cluster_size": 30}, 1),
                            ("mean_shift", {"bandwidth": 0.6 if coordinates else 1.0, "max_samples": 50_000}, 1),
                        ]
                    for method, params, repeats in runs:
                        row = measure(embeddings, truth, method, coordinates, foreground, repeats, **least, **params)
                        if best:
                            row |= {"oracle AP50": f"{best['ap']:.3f}", "oracle ARE": f"{best['are']:.4f}"}
                        row |= {"without noise AP50": f"{plain['ap']:.3f}", "without noise ARE": f"{plain['are']:.4f}"}
                        rows.append(base | row)
                        print(rows[-1], file=sys.stderr, flush=True)
    show(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
