"""Time and memory of `spoco predict` from file to file, where the time goes, and StarDist on the same images.

    python scripts/benchmark_predict.py bbbc050/val dsb2018/val [--repeats 3] [--page docs/measurements/speed.md]
    python scripts/benchmark_predict.py bbbc050/val dsb2018/val --stardist stardist/bin/python found3d found2d

The volume has 128x512x512 voxels, put together from the NAME_raw.tif of the first folder; the flat images are those of
the second. Each program runs as a user starts it, in fresh processes and in turns, with as many threads as `--threads`.
`--stardist` names the Python of StarDist's environment and the models of volumes and of images that
`stardist_baseline.py` has trained there. `--flat="--diameter 13"` adds a row of the flat images with these options.
"seconds" is the median from start to end by the clock, imports included; "working" leaves out what the same command
takes for one tiny image. The stages are those of one image after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile
from measuring import check_page, processor, show_table
from one_line import one_line_errors

from spoco_bundle import cli
from spoco_bundle.core.errors import SpocoError

SHAPE = (128, 512, 512)
#: where the time of a prediction goes: module, class and method that take it
STAGES = {
    "reading": ("spoco_bundle.dataset", "BatchDataset", "_transform"),
    "network": ("spoco_bundle.inferers", "HaloWindowInferer", "__call__"),
    "clustering": ("spoco_bundle.transforms", "ClusterEmbeddingsd", "__call__"),
    "writing": ("spoco_bundle.transforms", "SaveInstancesd", "__call__"),
}


def mosaic(images: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Images of one type beside and behind each other, mirrored at every other place so that none is cut at a seam.

    Args:
        images: (z, y, x) each, used in turn.
        shape: voxels per axis.

    Returns:
        An array of this shape.
    """
    tile = tuple(min(sizes) for sizes in zip(*(image.shape for image in images)))
    made = np.empty(shape, images[0].dtype)
    places = itertools.product(*(range(0, size, step) for size, step in zip(shape, tile)))
    for place, image in zip(places, itertools.cycle(images)):
        steps = tuple(-1 if at // step % 2 else 1 for at, step in zip(place, tile))
        part = image[tuple(slice(0, step) for step in tile)][tuple(slice(None, None, step) for step in steps)]
        target = tuple(slice(at, min(at + step, size)) for at, step, size in zip(place, tile, shape))
        made[target] = part[tuple(slice(0, where.stop - where.start) for where in target)]
    return made


def make_images(volumes: Path, flat: Path, folder: Path) -> dict[str, Path]:
    """Writes the images to segment, a folder of each kind: volume, images, and one tiny image of both.

    Raises:
        SpocoError: if a folder holds no NAME_raw.tif.
    """
    read = {}
    for name, source in (("volume", volumes), ("images", flat)):
        read[name] = [tifffile.imread(path) for path in sorted(source.glob("*_raw.tif"))]
        if not read[name]:
            raise SpocoError(f"{source}: holds no NAME_raw.tif; give the val/ folder of a data set")
    made = {
        "volume": {"volume": mosaic(read["volume"], SHAPE)},
        "images": {f"{number:03}": image for number, image in enumerate(read["images"])},
        "tiny volume": {"tiny": read["volume"][0][:8, :64, :64]},
        "tiny image": {"tiny": read["images"][0][:64, :64]},
    }
    for name, images in made.items():
        (folder / name).mkdir()
        for stem, image in images.items():
            tifffile.imwrite(folder / name / f"{stem}.tif", image, metadata={"axes": "ZYX"[-image.ndim :]})
    return {name: folder / name for name in made}


def run(command: list[Any], threads: int, limit: float = math.inf) -> tuple[float, float]:
    """Seconds by the clock and the peak memory in GiB of a process with its children.

    One that takes longer than `limit` seconds is stopped, and takes infinitely long.

    Raises:
        SpocoError: if it fails; with the end of what it said.
    """
    # the threads of OpenMP and of the libraries of arithmetic
    counts = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
    environment = {**os.environ, **counts, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryFile("w+") as said:
        began, peak = time.perf_counter(), 0
        running = psutil.Popen([*map(str, command)], stdout=said, stderr=said, env=environment)
        while running.poll() is None:
            try:
                family = [running, *running.children(recursive=True)]
                peak = max(peak, sum(process.memory_info().rss for process in family))
            except psutil.NoSuchProcess:
                continue
            if time.perf_counter() - began > limit:
                for process in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                running.wait()
                return math.inf, peak / 2**30
            time.sleep(0.05)
        seconds = time.perf_counter() - began
        said.seek(0)
        if running.returncode:
            raise SpocoError(f"{' '.join(map(str, command))}: exit code {running.returncode}\n{said.read()[-2000:]}")
    return seconds, peak / 2**30


def time_stages(arguments: list[str], target: Path) -> None:
    """Runs `spoco` in this process with a clock around each stage, and writes the seconds of each as JSON."""
    taken, inner = dict.fromkeys(STAGES, 0.0), [0.0]

    def with_clock(stage: str, method: Any) -> Any:
        def timed(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            inner.append(0.0)
            try:
                return method(*given, **named)
            finally:
                # a stage inside another counts once, as itself
                spent = time.perf_counter() - began
                taken[stage] += spent - inner.pop()
                inner[-1] += spent

        return timed

    for stage, (module, name, method) in STAGES.items():
        owner = getattr(importlib.import_module(module), name)
        setattr(owner, method, with_clock(stage, getattr(owner, method)))
    sys.argv = ["spoco", *arguments]
    began = time.perf_counter()
    try:
        cli.main()
    finally:
        taken["all else"] = time.perf_counter() - began - sum(taken.values())
        target.write_text(json.dumps(taken))


@one_line_errors()
def main() -> None:
    """Prints the tables, or puts them into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", type=Path, help="folder of 3D NAME_raw.tif")
    parser.add_argument("images", type=Path, help="folder of 2D NAME_raw.tif")
    parser.add_argument("--stardist", nargs=3, type=Path, metavar=("PYTHON", "MODEL_3D", "MODEL_2D"))
    parser.add_argument("--flat", action="append", default=[], metavar="OPTIONS", help="a row with these, too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=1800, help="seconds after which a program is stopped")
    parser.add_argument("--page", type=Path, help="page with the marks <!-- predict --> and <!-- end -->")
    options = parser.parse_args()
    check_page(options.page, "predict")
    here = Path(__file__).resolve()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folders = make_images(options.volumes, options.images, work)
        commands: dict[tuple[str, str], list[Any]] = {}
        for kind, folder in folders.items():
            flat = "image" in kind
            spoco = [sys.executable, "-m", "spoco_bundle.cli", "predict", folder, "--output", work / "found"]
            for given in ("", *options.flat) if flat else ("",):
                commands[kind, f"SPOCO {given}".strip()] = [*spoco, *given.split()]
            if options.stardist:
                python, *models = options.stardist
                star = [here.parent / "stardist_predict.py", folder, "--model", models[flat]]
                commands[kind, "StarDist"] = [python, *star, "--output", work / "star", "--threads", options.threads]
        found: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in commands}
        for _, (key, command) in itertools.product(range(options.repeats), commands.items()):
            found[key].append(run(command, options.threads, options.limit))
        stages = {}
        for kind in ("volume", "images"):
            arguments = [*commands[kind, "SPOCO"][3:], "--processes", "1"]  # what others do would not be seen
            code = f"import sys; sys.path.insert(0, {str(here.parent)!r}); from pathlib import Path; "
            code += "from benchmark_predict import time_stages; time_stages(sys.argv[2:], Path(sys.argv[1]))"
            run([sys.executable, "-c", code, work / "stages.json", *arguments], options.threads)
            stages[kind] = json.loads((work / "stages.json").read_text())
        voxels = {
            kind: sum(tifffile.imread(path).size for path in folders[kind].glob("*.tif"))
            for kind in ("volume", "images")
        }
    show_table(tables(found, stages, voxels, options), options.page, "predict")


def tables(
    found: dict[tuple[str, str], list[tuple[float, float]]],
    stages: dict[str, dict[str, float]],
    voxels: dict[str, int],
    options: argparse.Namespace,
) -> str:
    """Both tables in Markdown."""
    lines = [
        f"{processor()}, {options.threads} threads, load {os.getloadavg()[0]:.1f}, median of {options.repeats} runs",
        "",
        "| what | program | seconds | working | million voxels a second | peak memory [GiB] |",
        "|---|---|---:|---:|---:|---:|",
    ]
    titles = {"volume": "one volume of 128x512x512", "images": "all flat images"}
    for (kind, program), times in found.items():
        if kind not in voxels:
            continue
        seconds = statistics.median(time for time, _ in times)
        tiny = "tiny volume" if kind == "volume" else "tiny image"
        working = seconds - statistics.median(time for time, _ in found[tiny, program])
        cells = f"{seconds:.1f} | {working:.1f} | {voxels[kind] / 1e6 / working:.2f}"
        if math.isinf(seconds):
            cells = f"not done after {options.limit:.0f} | | below {voxels[kind] / 1e6 / options.limit:.2f}"
        lines.append(f"| {titles[kind]} | {program} | {cells} | {max(peak for _, peak in times):.2f} |")
    lines += ["", "| stage | " + " | ".join(titles[kind] for kind in stages) + " |", "|---|---:|---:|"]
    for stage in [*STAGES, "all else"]:
        shares = [f"{taken[stage]:.1f} s, {taken[stage] / sum(taken.values()):.0%}" for taken in stages.values()]
        lines.append(f"| {stage} | {' | '.join(shares)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
