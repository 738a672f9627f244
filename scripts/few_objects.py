"""What a training reaches from a handful of objects, drawn in one or two images, with nothing else to validate on.

    python scripts/few_objects.py DATA --minutes 5 --page docs/measurements/label_efficiency.md
    python scripts/few_objects.py DATA --minutes 5 --peers stardist=PYTHON --only dsb2018
    python scripts/few_objects.py DATA --minutes 5 --set objectness_unlabeled_weight=1.0

DATA is a folder of data sets, each with train/ and val/, completely labelled. The objects are a random choice, by the
seed, of those that lie whole in the image plane and are at least a quarter as large as the typical one. Trained is with
nothing but a folder of these images and `--minutes`, so that a quarter of the objects is held out to choose the weights
by; scored is the whole of val/. Other programs learn from the same objects for as many minutes, and choose their
thresholds on val/, which favours them. With `--set "a=1 b=2"` these ids are set; it stands in a column beside the plan
as it is. A row is one training, a JSON file in the folder of `--rows`; what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
from measuring import MEASUREMENTS, length_of, read_rows, run_rows, table_of, train_and_score, write_pair, write_row
from one_line import one_line_errors
from peers import PEERS, chosen_peers, resolution, train_peer
from skimage.measure import regionprops

from spoco_bundle.app.training_plan import PLAN, PROFILE
from spoco_bundle.core.atomic_files import atomic_folder
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist, stored_dimensions
from spoco_bundle.formats import read_image

#: data sets, and in how many images the objects are drawn; two in any other
CASES = {
    **{"bbbc050": 2, "epithelial_tube_3d": 1, "fib25_neuron": 1},
    **{"dsb2018": 2, "he_nuclei_rgb": 2, "cvppp_a1": 2, "usiigaci_phase": 2},
}


def worth_drawing(labels: np.ndarray) -> list[int]:
    """Objects (z, y, x) or (y, x) that somebody would choose: not cut in the plane, and no specks."""
    found = regionprops(labels)
    typical = np.median([one.area for one in found])
    plane, dims = labels.shape[-2:], labels.ndim
    return [
        one.label
        for one in found
        if one.area >= typical / 4
        and min(one.bbox[dims - 2 : dims]) > 0
        and all(stop < size for stop, size in zip(one.bbox[-2:], plane))
    ]


def write_few(data: Path, folder: Path, objects: int, images: int, seed: int) -> None:
    """Writes train/ with so many objects in so many images of a data set, chosen at random.

    Args:
        data: folder with train/.
        folder: to write train/ into, images linked.
        objects: in all.
        images: with about as many each.
        seed: of both choices.

    Raises:
        SpocoError: if too few images have enough objects.
    """
    generator, items = np.random.default_rng(seed), build_datalist(data, "train")
    dims = stored_dimensions(items)
    shares = [len(part) for part in np.array_split(np.arange(objects), images)]
    for place in generator.permutation(len(items)):
        labels = read_image(items[place]["label"], "label", dims).array[0].astype(np.int32)
        usable = worth_drawing(labels)
        if len(usable) < shares[0]:
            continue
        chosen = generator.choice(usable, shares.pop(0), replace=False)
        write_pair(folder / "train", Path(items[place]["image"]), np.where(np.isin(labels, chosen), labels, 0))
        if not shares:
            return
    raise SpocoError(f"{data}: too few images have {shares[0]} whole objects; give fewer --objects")


def train_rows(data: Path, programs: dict[str, Path], options: argparse.Namespace) -> None:
    """Trains and scores this bundle and other programs on one data set, each unless its row is there."""
    length = length_of(options.minutes, options.threads)
    name = f"{data.name}-{options.objects}objects-seed{options.seed}-{length}"
    source = options.work / name / "data"
    images = CASES.get(data.name, 2)
    case = {"data": data.name, "objects": options.objects, "images": images, "minutes": options.minutes}
    if not source.is_dir():
        with atomic_folder(source) as folder:
            write_few(data, folder, options.objects, images, options.seed)
    own = options.rows / (f"{name}-{options.set}.json" if options.set else f"{name}.json")
    if not own.is_file():
        given = ("--minutes", str(options.minutes), *(f"--{one}" for one in options.set.split()))
        trained = train_and_score(source, data, options.work / own.stem, given, options.seed, options.threads)
        model = options.work / own.stem / "model"
        read = {file.removesuffix(".json"): json.loads((model / file).read_text()) for file in (PLAN, PROFILE)}
        write_row(own, {**case, "setting": options.set, **trained, **read})
    known = json.loads(own.read_text())
    looked_at = resolution(known["profile"], known["plan"]["target_spacing"])
    for program, python in programs.items():
        beside = options.rows / f"{name}-{program}.json"
        if beside.is_file() or len(looked_at[0]) == 3 and not PEERS[program].volumes:
            continue
        chosen = (options.minutes, options.threads, options.seed, *looked_at)
        trained = train_peer(PEERS[program], python, source, data, options.work / beside.stem, *chosen)
        write_row(beside, {**case, "setting": program, **trained})


def table(rows: Path) -> str:
    """The rows as Markdown, the mean over the choices of objects."""
    contents = read_rows(rows, "data", "objects", "images", "minutes", "threads", "setting", "scores")
    found: dict[tuple, dict[str, list[dict]]] = {}
    for row in contents:
        case = tuple(row[key] for key in ("data", "objects", "images", "minutes", "threads"))
        found.setdefault(case, {}).setdefault(row["setting"], []).append(row["scores"]["teacher"])
    beside = sorted({row["setting"] for row in contents if row["setting"]})
    titles = ["`val` of", "objects, images", "minutes, threads", "AP50", "SBD"]
    cells = [[*titles, *(PEERS[name].name if name in PEERS else f"`{name}`" for name in beside), "choices"]]
    for (*names, objects, images, minutes, threads), scores in found.items():
        if "" not in scores:
            continue
        ap50 = {setting: f"{np.mean([one['ap_50'] for one in some]):.2f}" for setting, some in scores.items()}
        sbd = f"{np.mean([one['sbd'] for one in scores['']]):.2f}"
        others = [ap50.get(setting, "") for setting in beside]
        choices = str(len(scores[""]))
        cells.append([*names, f"{objects}, {images}", f"{minutes:g}, {threads}", ap50[""], sbd, *others, choices])
    return table_of(cells, contents)


@one_line_errors()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds the data sets")
    parser.add_argument("--objects", type=int, default=10, help="that are annotated")
    parser.add_argument("--minutes", type=float, default=5, help="for each training")
    parser.add_argument("--set", default="", metavar="ID=VALUE", help="to compare; several by blanks")
    parser.add_argument("--peers", nargs="+", default=[], metavar="NAME[=PYTHON]", help=", ".join(PEERS))
    parser.add_argument("--seed", type=int, default=0, help="of the choice of objects and of the training")
    parser.add_argument("--only", nargs="+", help="names of data sets; any folder of DATA")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=Path, default=MEASUREMENTS / "few_objects", help="folder of the rows")
    parser.add_argument("--work", type=Path, default=Path("few_objects"), help="folder for models and logs")
    parser.add_argument("--table-only", action="store_true", help="only bring the page up to date")
    parser.add_argument("--page", type=Path, help="page with the marks <!-- few_objects --> and <!-- end -->")
    options = parser.parse_args()
    programs = chosen_peers(options.peers)
    trainings = [partial(train_rows, options.data / name, programs, options) for name in options.only or CASES]
    run_rows(options, trainings, partial(table, options.rows), "few_objects")


if __name__ == "__main__":
    main()
