"""Scores of trainings that are given a folder and a number of minutes, nothing else; what was planned beside them.

python scripts/zero_options.py DATA --minutes 30          # trains and scores what has no row yet, then the table
python scripts/zero_options.py DATA --table-only
python scripts/zero_options.py DATA --epochs 6 --only fib25_neuron vectra_2ch --set tissue=gaps --set tissue=dense
python scripts/zero_options.py DATA --minutes 10 --peers unet --only dsb2018 --fractions 0.1 1 --curve curve.png

DATA is a folder of data sets, each with train/ and val/. A row is one training: a JSON file in the folder of `--rows`.
What is there is not done again. A training that was cut off goes on where it stopped; its clock counts training alone.
Otsu's threshold with a watershed stands beside it, which learns from nothing. With `--set` each case is trained once
for each setting, and the table compares the settings; `--set ""` is the plan as it is, `--set "a=1 b=2"` sets two ids.
With `--peers unet stardist=PYTHON embedseg=PYTHON cellpose=PYTHON` other programs are trained beside each case, on the
same objects, for as many minutes of as many threads, on images shrunk by whole steps to about the resolution that was
planned; Cellpose for flat images alone. Their scripts, `NAME_baseline.py`, say how to install them.
With `--curve` the table has a column for each share of the annotated objects that was kept, and a picture is drawn.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Collection
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from classical_baseline import score_folder
from matplotlib.figure import Figure
from measuring import MEASUREMENTS, length_of, measured_on, read_rows, run_rows, table_of, train_and_score, write_row
from one_line import one_line_errors
from peers import ANNOTATED_IN_PART, PEERS, chosen_peers, resolution, train_peer, write_thinned

from spoco_bundle.app.training_plan import PLAN, PROFILE
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist, stored_dimensions

#: folder and share of the annotated objects that is kept
CASES = (
    *(("epithelial_tube_3d", 1.0), ("usiigaci_phase", 1.0), ("he_nuclei_rgb", 1.0), ("vectra_2ch", 1.0)),
    *(("cvppp_a1", 0.1), ("cvppp_a1", 1.0), ("vnc_mito", 0.25), ("vnc_mito", 1.0), ("fib25_neuron", 0.25)),
    *(("bbbc050", 0.25), ("dsb2018", 0.1)),
)


def row_name(data: Path, fraction: float, setting: str, options: argparse.Namespace) -> str:
    """Name of a row, and of the folder of its work."""
    length = length_of(options.minutes, options.threads, options.epochs)
    return f"{data.name}-{100 * fraction:g}-seed{options.seed}-{length}" + (f"-{setting}" if setting else "")


def train_row(data: Path, fraction: float, setting: str, options: argparse.Namespace) -> None:
    """Trains and scores one case with a setting such as ``tissue=gaps``, "" for none, unless its row is there."""
    name = row_name(data, fraction, setting, options)
    row, work = options.rows / f"{name}.json", options.work / name
    if row.is_file():
        return
    ends = ["--minutes", str(options.minutes)]
    if options.epochs is not None:
        ends = ["--max_epochs", str(options.epochs), "--val_interval", str(max(1, options.epochs // 2))]
    kept = ["--keep_fraction", str(fraction), "--keep_seed", str(options.seed)] if fraction < 1 else []
    given = [*ends, *kept, *(f"--{one}" for one in setting.split())]
    trained = train_and_score(data, data, work, given, options.seed, options.threads)
    content = {
        **{"data": data.name, "fraction": fraction, "minutes": options.minutes, "epochs": options.epochs},
        **{"setting": setting, **trained, "otsu": otsu_scores(data)},
        **{file.removesuffix(".json"): json.loads((work / "model" / file).read_text()) for file in (PLAN, PROFILE)},
    }
    write_row(row, content)


def peer_row(data: Path, fraction: float, name: str, python: Path, options: argparse.Namespace) -> None:
    """Trains and scores another program on the objects of a case, unless its row is there; that of the case has to be.

    Raises:
        SpocoError: if the case has no row, or the program fails.
    """
    row, planned = (options.rows / f"{row_name(data, fraction, setting, options)}.json" for setting in (name, ""))
    if row.is_file():
        return
    if not planned.is_file():
        raise SpocoError(f"{planned}: not there, so the resolution is not known; train that case first")
    known = json.loads(planned.read_text())
    profile, target = known["profile"], known["plan"]["target_spacing"]
    if len(profile["spacing"]) == 3 and not PEERS[name].volumes:
        print(f"{data.name}: {PEERS[name].name} learns from flat images alone", flush=True)
        return
    work, in_part = options.work / row.stem, fraction < 1 or data.name in ANNOTATED_IN_PART
    write_thinned(data, fraction, options.seed, work / "data")
    chosen = (options.minutes, options.threads, options.seed, *resolution(profile, target), in_part)
    trained = train_peer(PEERS[name], python, work / "data", data, work, *chosen)
    case_ids = {"data": data.name, "fraction": fraction, "minutes": options.minutes, "epochs": None}
    write_row(row, {**case_ids, "setting": name, **trained})


def otsu_scores(data: Path) -> dict[str, float]:
    """Pooled scores of Otsu's threshold with a watershed on val/; of several channels their mean is taken."""
    return score_folder(data / "val", stored_dimensions(build_datalist(data, "val")))["pooled"]


def table(rows: Path) -> str:
    """The rows as Markdown."""
    contents = sorted(
        timed_rows(rows, ""), key=lambda row: (row["data"], row["fraction"], row["minutes"] * row["threads"])
    )
    scored = {
        peer.name: {case_of(row): f"{row['scores']['teacher']['ap_50']:.2f}" for row in timed_rows(rows, name)}
        for name, peer in PEERS.items()
    }
    beside = {name: of_peer for name, of_peer in scored.items() if of_peer}
    titles = ["`val` of", "annotated", "minutes, threads", "AP50", "SBD", *beside, "Otsu", "objects across"]
    cells = [[*titles, "working resolution", "levels", "crop"]]
    for row in contents:
        plan, profile, scores = row["plan"], row["profile"], row["scores"]["teacher"]
        spacing = "as the images" if plan["target_spacing"] is None else _numbers(plan["target_spacing"], "{:.3g}")
        cells.append(
            [
                *(row["data"], f"{row['fraction']:.0%}", f"{row['minutes']:g}, {row['threads']}"),
                *(f"{scores['ap_50']:.2f}", f"{scores['sbd']:.2f}"),
                *(of_peer.get(case_of(row), "") for of_peer in beside.values()),
                *(f"{row['otsu']['ap_50']:.2f}", f"{profile['diameters'][1]:.0f}", spacing),
                *(f"{len(plan['channels'])}", f"{plan['batch_size']} of {_numbers(plan['crop_size'], '{}')}"),
            ]
        )
    return table_of(cells, contents)


Rows = list[dict[str, Any]]


def mean_scores(rows: Rows) -> dict[str, float]:
    """AP50 and SBD, of several seeds the mean."""
    return {score: mean(row["scores"]["teacher"][score] for row in rows) for score in ("ap_50", "sbd")}


def rows_of(rows: Path, settings: Collection[str], length: str | None = None) -> Rows:
    """The rows with one of these settings, by their names; with a length only those of trainings that long."""
    contents = read_rows(rows, "data", "fraction", "minutes", "epochs", "setting", "threads", "seed", "scores")
    of_settings = [row for row in contents if row["setting"] in settings]
    return [row for row in of_settings if length in (None, length_of(row["minutes"], row["threads"], row["epochs"]))]


def timed_rows(rows: Path, setting: str) -> Rows:
    """The rows of trainings by the clock with a setting."""
    return [row for row in rows_of(rows, {setting}) if row["epochs"] is None]


def case_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a training and one of another program beside it have in common."""
    return tuple(row[name] for name in ("data", "fraction", "minutes", "threads", "seed"))


Curves = dict[str, dict[str, dict[float, dict[str, float]]]]


def curves(rows: Path, length: str, names: dict[str, str]) -> Curves:
    """Scores by data set, by curve and by the share of the annotated objects; of several seeds the mean.

    Args:
        rows: folder of the rows.
        length: of the trainings, as in the names of rows.
        names: of the curves, by the setting of their rows.

    Raises:
        SpocoError: if no data set has two shares.
    """
    found: dict[str, dict[str, dict[float, Rows]]] = {}
    for row in rows_of(rows, names, length):
        of_method = found.setdefault(row["data"], {}).setdefault(names[row["setting"]], {})
        of_method.setdefault(row["fraction"], []).append(row)
    several = {data: methods for data, methods in found.items() if max(map(len, methods.values())) > 1}
    if not several:
        raise SpocoError(
            f"{rows}: no data set has rows of {length} with two shares of its objects: train some with --fractions"
        )
    return {
        data: {
            name: {share: mean_scores(some) for share, some in sorted(methods[name].items())}
            for name in names.values()
            if name in methods
        }
        for data, methods in sorted(several.items())
    }


def curve_table(found: Curves) -> str:
    """AP50 and SBD as Markdown, a column for each share."""
    shares = sorted({share for methods in found.values() for of_one in methods.values() for share in of_one})
    lines = [f"| `val` of | | {' | '.join(f'{share:.0%}' for share in shares)} |", "|---" * (2 + len(shares)) + "|"]
    for data, methods in found.items():
        for name, scores in methods.items():
            cells = (_pair(scores[share]) if share in scores else "" for share in shares)
            lines.append(f"| {data} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_curve(found: Curves, file: Path) -> None:
    """Draws AP50 and SBD against the share of the annotated objects, a column for each data set, to a PNG."""
    figure = Figure(figsize=(3.6 * len(found), 6))
    axes = figure.subplots(2, len(found), squeeze=False, sharey=True)
    for column, (data, methods) in zip(axes.T, found.items()):
        for axis, (score, label) in zip(column, (("ap_50", "AP50"), ("sbd", "SBD"))):
            for name, scores in methods.items():
                axis.plot(list(scores), [one[score] for one in scores.values()], "o-", label=name)
            axis.set(xscale="log", ylim=(0, 1), xlabel="share of the objects", ylabel=label, title=data)
            ticks = sorted({share for scores in methods.values() for share in scores})
            axis.set_xticks(ticks, [f"{share:.0%}" for share in ticks])
            axis.minorticks_off()
            if len(methods) > 1:
                axis.legend(frameon=False)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=80)


def comparison(rows: Path, settings: list[str], length: str) -> str:
    """AP50 and SBD of each setting as Markdown, for the cases that have rows of all; of several seeds the mean."""
    found: dict[tuple[str, float], dict[str, Rows]] = {}
    for row in rows_of(rows, settings, length):
        found.setdefault((row["data"], row["fraction"]), {}).setdefault(row["setting"], []).append(row)
    shown = {case: some for case, some in sorted(found.items()) if len(some) == len(settings)}
    cells = [["setting", *(f"{data}, {fraction:.0%}" for data, fraction in shown)]]
    for setting in settings:
        scores = (_pair(mean_scores(some[setting])) for some in shown.values())
        cells.append([f"`{setting}`" if setting else "as planned", *scores])
    return table_of(cells, [row for some in shown.values() for of_one in some.values() for row in of_one])


def _pair(scores: dict[str, float]) -> str:
    return f"{scores['ap_50']:.2f} / {scores['sbd']:.2f}"


def _share(option: str, given: str | float) -> float:
    try:
        share = float(given)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise SpocoError(f"{option}{given}: give a share of the annotated objects, above 0 and at most 1")
    return share


def _numbers(values: list[Any], form: str) -> str:
    return " x ".join(form.format(value) for value in values)


def cases(only: list[str] | None, fractions: list[float] | None = None) -> list[tuple[str, float]]:
    """Folders and shares of the annotated objects: all cases, those of a NAME, or NAME:SHARE as it is given.

    Args:
        only: NAME or NAME:SHARE; None for all.
        fractions: shares for each NAME without one, in place of those of `CASES`.

    Raises:
        SpocoError: if a share is no number from 0 to 1.
    """
    chosen = []
    for name, _, share in (one.partition(":") for one in only or dict(CASES)):
        if share:
            chosen.append((name, _share("--only NAME:", share)))
        elif fractions:
            chosen += [(name, _share("--fractions ", one)) for one in fractions]
        else:
            chosen += [case for case in CASES if case[0] == name] or [(name, 1.0)]
    return chosen


def asked_for(options: argparse.Namespace) -> str:
    """The curve, which is drawn too, the settings beside one another, or all trainings by the clock, as Markdown."""
    length = length_of(options.minutes, options.threads, options.epochs)
    if options.curve:
        programs = {"": "this bundle", **{name: peer.name for name, peer in PEERS.items()}}
        names = {setting: setting or "as planned" for setting in options.set} if options.set else programs
        drawn = curves(options.rows, length, names)
        draw_curve(drawn, options.curve)
        shown = [row for row in rows_of(options.rows, names, length) if row["data"] in drawn]
        return f"{curve_table(drawn)}\n\n{measured_on(shown)}"
    return comparison(options.rows, options.set, length) if options.set else table(options.rows)


@one_line_errors()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds the data sets")
    parser.add_argument("--minutes", type=float, default=30, help="for each training")
    parser.add_argument("--epochs", type=int, help="of each training, in place of minutes")
    parser.add_argument("--set", action="append", default=[], metavar="ID=VALUE", help="to compare; several by blanks")
    parser.add_argument("--fractions", type=float, nargs="+", help="of the objects, where --only has no NAME:0.5")
    parser.add_argument("--peers", nargs="+", default=[], metavar="NAME[=PYTHON]", help=", ".join(PEERS))
    parser.add_argument("--curve", type=Path, help="PNG to draw of scores against shares")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="names of data sets, or with a share: NAME:0.5")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=Path, default=MEASUREMENTS / "zero_options", help="folder of the rows")
    parser.add_argument("--work", type=Path, default=Path("zero_options"), help="folder for models and logs")
    parser.add_argument("--table-only", action="store_true", help="only bring the page up to date")
    parser.add_argument("--page", type=Path, help="page with the marks <!-- MARK --> and <!-- end -->")
    parser.add_argument("--mark", default="zero_options", help="of the page")
    options = parser.parse_args()
    if options.peers and options.epochs is not None:
        parser.error("--peers: other programs are trained for --minutes; leave --epochs out")
    chosen = cases(options.only, options.fractions)
    beside = [partial(peer_row, name=name, python=python) for name, python in chosen_peers(options.peers).items()]
    train = [*(partial(train_row, setting=setting) for setting in options.set or [""]), *beside]
    trainings = [
        partial(one, options.data / name, fraction, options=options) for name, fraction in chosen for one in train
    ]
    run_rows(options, trainings, partial(asked_for, options), options.mark)


if __name__ == "__main__":
    main()
