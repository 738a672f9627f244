"""What the measuring scripts share: commands with their threads, pairs, rows, machines and tables."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spoco_bundle.app.config import json_content
from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import file_suffix, result_suffix, write_instances
from spoco_bundle.formats.names import image_name

#: in the data sets that are measured on every object of val/ is annotated
COMPLETE = ("--partly_labelled", "False")

MEASUREMENTS = Path(__file__).resolve().parent.parent / "docs" / "measurements"


def run_rows(
    options: argparse.Namespace, trainings: Iterable[Callable[[], object]], table: Callable[[], str], mark: str
) -> None:
    """Trains, unless only the table is asked for, and shows the table; what fails is said, and the script ends with 1.

    Args:
        options: `table_only` and `page`.
        trainings: each of which writes its row, unless that is there; another one that fails does not keep it from it.
        table: makes the table.
        mark: of the page.
    """
    check_page(options.page, mark)
    failed = False
    steps = () if options.table_only else trainings
    for step in [*steps, lambda: show_table(table(), options.page, mark)]:
        try:
            step()
        except SpocoError as error:
            failed = True
            print(error, file=sys.stderr, flush=True)
    if failed:
        sys.exit(1)


def run_spoco(command: str, *arguments: str, log: Path, threads: int) -> None:
    """Runs `spoco` with so many threads and its output in a file.

    Raises:
        SpocoError: if it fails; names the log.
    """
    call = [sys.executable, "-m", "spoco_bundle.cli", command, *arguments]
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    with log.open("a") as sink:
        done = subprocess.run(call, stdout=sink, stderr=sink, env=os.environ | variables, check=False)
    if done.returncode:
        raise SpocoError(f"spoco {command} ended with {done.returncode}; see {log}")


def train_once(source: Path, work: Path, given: Sequence[str], seed: int, threads: int) -> Path:
    """Trains, or goes on with a training that was interrupted; one that has ended is not done again.

    Args:
        source: folder that is learnt from.
        work: folder for the model and the log.
        given: further options of `spoco train`.
        seed: of the training.
        threads: of the command.

    Returns:
        The folder of the model.

    Raises:
        SpocoError: if the command fails; names the log.
    """
    work.mkdir(parents=True, exist_ok=True)
    model = work / "model"
    if not (work / "trained").is_file():
        again = ["--resume"] if (model / "last.pt").is_file() else []
        train = [str(source), "--output", str(model), "--seed", str(seed)]
        run_spoco("train", *train, *given, *again, log=work / "log.txt", threads=threads)
        (work / "trained").touch()
    return model


def train_and_score(
    source: Path, data: Path, work: Path, given: Sequence[str], seed: int, threads: int
) -> dict[str, Any]:
    """Trains as `train_once` does, and scores both networks.

    Args:
        source: folder that is learnt from.
        data: folder whose val/ is scored, where every object counts.
        work: folder for the model, its scores and the log.
        given: further options of `spoco train`.
        seed: of the training.
        threads: of all commands.

    Returns:
        What a row holds of it: scores of teacher and student, seed, threads, machine and release of torch.

    Raises:
        SpocoError: if a command fails; names the log.
    """
    train_once(source, work, given, seed, threads)
    scores = {
        network: score(data, work, network, ["--weights", network], threads) for network in ("teacher", "student")
    }
    return {"seed": seed, "threads": threads, "scores": scores, "processor": machine(), "torch": torch.__version__}


def score(data: Path, work: Path, name: str, given: Sequence[str], threads: int) -> dict[str, float]:
    """Scores of a model that `train_and_score` trained, on val/ where every object counts.

    Args:
        data: folder with val/.
        work: folder of the training.
        name: of the folder in it for the scores.
        given: further options of `spoco evaluate`.
        threads: of the command.

    Raises:
        SpocoError: if it fails; names the log.
    """
    ask = ["--model", str(work / "model"), "--output", str(work / name)]
    run_spoco("evaluate", str(data), *ask, *COMPLETE, *given, log=work / "log.txt", threads=threads)
    return json.loads((work / name / "scores.json").read_text())


def write_pair(folder: Path, image: Path, ids: np.ndarray) -> None:
    """Puts an image and labels of it into a folder: NAME_raw.EXT, a link, and NAME_label.EXT."""
    name, link = image_name(image).removesuffix("_raw"), raw_link(folder, image)
    write_instances(folder / f"{name}_label{result_suffix(image)}", ids, like=link)


def raw_link(folder: Path, image: Path) -> Path:
    """Links an image into a folder as NAME_raw.EXT."""
    link = folder / f"{image_name(image).removesuffix('_raw')}_raw{file_suffix(image)}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (link.exists() and link.samefile(image)):
        link.unlink(missing_ok=True)
        link.symlink_to(image.resolve())
    return link


def ids_of(settings: Iterable[str]) -> dict[str, Any]:
    """Ids by their values, of ID=VALUE with a value as configs have it; what is no JSON is a text.

    Raises:
        SpocoError: if one has no value.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise SpocoError(f"{setting}: gives no value: write ID=VALUE, such as spacing=[1,2,2]")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def length_of(minutes: float, threads: int, epochs: int | None = None) -> str:
    """How long a training is, as in the names of rows: by the clock, or by epochs where they are given."""
    length = f"{minutes:g}min" if epochs is None else f"{epochs}epochs"
    return f"{length}-{threads}thread{'s' * (threads > 1)}"


def write_row(row: Path, content: dict[str, Any]) -> None:
    """Writes a row of a table, and says its scores where it has them."""
    with atomic_write(row) as path:
        path.write_text(json.dumps(content, indent=1) + "\n")
    if "scores" in content:
        teacher = content["scores"]["teacher"]
        print(f"{row.stem}: AP50 {teacher['ap_50']:.3f}, SBD {teacher['sbd']:.3f}", flush=True)


def read_rows(rows: Path, *names: str) -> list[dict[str, Any]]:
    """The rows of a folder, by the names of their files.

    Args:
        rows: the folder.
        names: what each of them holds.

    Raises:
        SpocoError: if there is none, one is no JSON, or lacks something, as those of other tables do.
    """
    found = {file: json_content(file) for file in sorted(rows.glob("*.json"))}
    if not found:
        raise SpocoError(f"{rows}: holds no row: name the folder of the rows in --rows, or train first")
    for file, row in found.items():
        for name in names:
            if name not in row:
                raise SpocoError(f"{file}: has no {name!r}, so it is a row of another table: name its folder in --rows")
    return list(found.values())


def machine() -> str:
    """Name of the GPU that PyTorch uses, or of the processor where there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor()


def processor() -> str:
    """Name of the processor, as Linux tells it."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


class PeakMemory:
    """Peak memory above the start of a `with` block, in bytes: of a GPU, or of the process (Linux only)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peak = 0

    def __enter__(self) -> PeakMemory:
        """Give free pages back, note what is in use, and forget earlier peaks."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        else:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            self.before = resident("VmRSS")
        return self

    def __exit__(self, *error: object) -> None:
        """Note the peak."""
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device) - self.before
        else:
            self.peak = resident("VmHWM") - self.before


def resident(field: str) -> int:
    """Memory of this process in bytes, as Linux tells it: VmRSS is what it has, VmHWM the most that it had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def measured_on(rows: Iterable[dict[str, Any]]) -> str:
    """Machines that rows were measured on, with how many of them where there are several, and their seeds."""
    rows = list(rows)
    machines = Counter(row["processor"] for row in rows)
    names = [
        f"{name} ({count} of {len(rows)})" if len(machines) > 1 else name for name, count in machines.most_common()
    ]
    seeds = sorted({row["seed"] for row in rows})
    return f"{', '.join(names)}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}."


def table_of(cells: Sequence[Sequence[str]], rows: Sequence[dict[str, Any]], length: str = "") -> str:
    """Cells, those of the head first, as Markdown, and below them how long and on what the rows were measured.

    Raises:
        SpocoError: if there are no rows: an empty table is not to take the place of a page's.
    """
    if not rows:
        raise SpocoError("no row is of what was asked for: train it first, or ask for another length or setting")
    lines = [f"| {' | '.join(line)} |" for line in cells]
    lines.insert(1, "|---" * len(cells[0]) + "|")
    return "\n".join([*lines, "", length + measured_on(rows)])


def check_page(page: Path | None, mark: str) -> None:
    """Ends a script before its work where the page for the table lacks the marks, or is not there."""
    if page is not None:
        try:
            around_table(page, mark)
        except SpocoError as error:
            sys.exit(str(error))


def show_table(table: str, page: Path | None, mark: str) -> None:
    """Prints a table, and puts it into a page where there is one; see `replace_table`."""
    print(table, flush=True)
    if page is not None:
        replace_table(page, mark, table)


def replace_table(page: Path, mark: str, table: str) -> None:
    """Puts a table between `<!-- MARK -->` and `<!-- end -->` of a page; raises as `around_table` does."""
    before, after = around_table(page, mark)
    with atomic_write(page) as path:
        path.write_text(f"{before}\n{table}\n\n{after}")


def around_table(page: Path, mark: str) -> tuple[str, str]:
    """What stands before a table of a page, its mark included, and what stands after it.

    Raises:
        SpocoError: if there is no such page, or it has no such marks, or has them twice.
    """
    if not page.is_file():
        raise SpocoError(f"{page}: no such page: name one with the marks <!-- {mark} --> and <!-- end -->")
    parts = re.split(rf"(?<=<!-- {re.escape(mark)} -->\n).*?(?=<!-- end -->)", page.read_text(), flags=re.S)
    if len(parts) != 2:
        raise SpocoError(f"{page}: has no marks <!-- {mark} --> and <!-- end -->, or has them twice; put them in once")
    return parts[0], parts[1]
