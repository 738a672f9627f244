"""Brings public data sets from the layout they are distributed in into the one that `spoco train` reads.

    python scripts/prepare_data.py cvppp CVPPP2017_LSC_training/training cvppp_a1 --folders A1
    python scripts/prepare_data.py cityscapes CITYSCAPES cityscapes_car --class-name car --fraction 0.4
    python scripts/prepare_data.py dsb2018 stage1_train dsb2018
    python scripts/prepare_data.py bbbc050 BBBC050 bbbc050
    python scripts/prepare_data.py omnipose omnipose/docs/test_files bacteria
    python scripts/prepare_data.py isbi2012 unet/data/membrane/train neurites
    python scripts/prepare_data.py coelho2009 Coelho2009_ISBI_NuclearSegmentation nuclei --cells U2OS
    python scripts/prepare_data.py hdf5 cells --split volume.h5:raw volume.h5:label --val-fraction 0.2

The output folder holds `{train,val}/NAME_raw.tif` and `NAME_label.tif`, where the data set has one also the foreground
`NAME_fg.tif`, with the voxel spacing that the source states. It appears when all of it is written, and one that exists
is never written into. docs/datasets.md says where the data are, under which licence, and how they are trained on.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from prepare_hdf5 import hdf5
from prepared import Example, files_in, held_out, read_ids, read_picture, write_data_set
from scipy import ndimage

from spoco_bundle.core.errors import SpocoError, one_line, user_error
from spoco_bundle.formats import read_image

# ids of the Cityscapes classes that have instances
CITYSCAPES = {
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
IGNORED = 65535  # Cityscapes: groups whose members were not told apart; `ignore_label` in configs/paper_cityscapes.json
COELHO_CELLS = {"U2OS": "gnf", "NIH3T3": "ic100"}  # its folders, by the kind of cell
BBBC050_SPACING = {"train": (1.75, 0.8, 0.8), "test": (2.0, 0.8, 0.8)}  # micrometres, by the data set's description


def cvppp(
    source: Path, output: Path, folders: Sequence[str], val_fraction: float, seed: int, without_foreground: bool
) -> Counter:
    """CVPPP leaf segmentation challenge: `A1/plantXXX_rgb.png`, `_label.png` and `_fg.png`.

    Args:
        source: holds the folders.
        output: folder to make.
        folders: of A1, A2, A3, A4 those to take.
        val_fraction: share of the images of each folder that goes to val.
        seed: of the draw.
        without_foreground: whether to leave the masks of the plant out.
    """
    remedy = "name the folder that holds A1 to A4, and with --folders those to take"
    images = {folder: files_in(source / folder, "*_rgb.png", remedy) for folder in folders}

    def examples() -> Iterator[Example]:
        for folder, files in images.items():
            val = held_out([file.name for file in files], val_fraction, seed)
            for file in files:
                plant = file.name.removesuffix("_rgb.png")
                label, mask = (file.with_name(f"{plant}_{kind}.png") for kind in ("label", "fg"))
                yield Example(
                    "val" if file.name in val else "train",
                    f"{folder}_{plant}",
                    _coloured(read_picture(file)),
                    read_ids(label),
                    (str(file), str(label)),
                    None if without_foreground else _coloured(read_picture(mask)).any(-1),
                    colour=True,
                )

    return write_data_set(output, examples(), sum(map(len, images.values())))


def cityscapes(source: Path, output: Path, class_name: str, fraction: float, seed: int) -> Counter:
    """Cityscapes, one class: `leftImg8bit/{train,val}/CITY/*_leftImg8bit.png`, `gtFine/.../*_gtFine_instanceIds.png`.

    In train a fraction of the class's instances keeps its annotation, drawn from those of all images together; val
    stays complete. The foreground is the class's semantic mask. Groups that were not told apart are ignored.

    Args:
        source: holds leftImg8bit and gtFine.
        output: folder to make.
        class_name: one of `CITYSCAPES`.
        fraction: share of the instances in train that stay annotated.
        seed: of the draw.
    """
    number = CITYSCAPES[class_name]
    pairs = []
    for split in ("train", "val"):
        remedy = "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into one folder and name it"
        for file in files_in(source / "leftImg8bit" / split, "*/*_leftImg8bit.png", remedy):
            name = file.name.removesuffix("_leftImg8bit.png")
            ids = source / "gtFine" / split / file.parent.name / f"{name}_gtFine_instanceIds.png"
            pairs.append((split, name, file, ids))
    kept: set[str] | None = None
    if fraction < 1:
        instances = (
            f"{name}/{value}"
            for split, name, _, file in pairs
            if split == "train"
            for value in np.unique(read_ids(file))
            if value // 1000 == number
        )
        kept = held_out(instances, fraction, seed)

    def examples() -> Iterator[Example]:
        for split, name, file, ids_file in pairs:
            ids = read_ids(ids_file).astype(np.int32)
            of_class = (ids // 1000 == number) | (ids == number)
            labels = np.where(ids == number, IGNORED, 0)
            for value in np.unique(ids[ids // 1000 == number]):
                if split == "val" or kept is None or f"{name}/{value}" in kept:
                    labels[ids == value] = value - 1000 * number + 1
            sources = str(file), str(ids_file)
            yield Example(split, name, _coloured(read_picture(file)), labels, sources, of_class, colour=True)

    return write_data_set(output, examples(), len(pairs), IGNORED)


def dsb2018(source: Path, output: Path, val_fraction: float, seed: int, colour: bool) -> Counter:
    """2018 Data Science Bowl: `ID/images/ID.png` and `ID/masks/*.png`, one mask per nucleus.

    Empty masks are left out. Where masks overlap, the smaller nucleus has the pixels; one of which nothing is left that
    way, such as a mask given twice, is left out.

    Args:
        source: the folder stage1_train, or the one that holds it.
        output: folder to make.
        val_fraction: share of the images that goes to val.
        seed: of the draw.
        colour: takes all images, as RGB; otherwise those in grey alone, as one channel.
    """
    if (source / "stage1_train").is_dir():
        source = source / "stage1_train"
    files = files_in(source, "*/images/*.png", "unpack stage1_train.zip and name its folder")
    repairs: Counter = Counter()
    if not colour:
        grey = [file for file in files if _is_grey(read_picture(file))]
        repairs["images left out, in colour"] = len(files) - len(grey)
        files = grey
        if not files:
            raise SpocoError(f"{source}: holds colour images alone: take them with --colour")
    val = held_out([file.stem for file in files], val_fraction, seed)

    def examples() -> Iterator[Example]:
        for file in files:
            image = _coloured(read_picture(file))
            labels = merge_masks(file, image.shape[:2], repairs)
            split = "val" if file.stem in val else "train"
            sources = str(file), str(file.parent.parent / "masks")
            yield Example(split, file.stem, image if colour else image[..., 0], labels, sources, colour=colour)

    return write_data_set(output, examples(), len(files)) + repairs


def merge_masks(image: Path, shape: tuple[int, ...], repairs: Counter) -> np.ndarray:
    """Labels (y, x) of the masks that belong to an image; counts what was wrong with them in `repairs`."""
    masks = []
    files = files_in(image.parent.parent / "masks", "*.png", "unpack stage1_train.zip again")
    for file in files:
        mask = read_picture(file)
        if mask.shape[:2] != shape:
            raise SpocoError(f"{file}: shape {mask.shape[:2]} differs from shape {shape} of {image}: unpack it again")
        masks.append(_coloured(mask).any(-1))
    filled = [mask for mask in masks if mask.any()]
    labels = np.zeros(shape, dtype=np.int32)
    for number, mask in enumerate(sorted(filled, key=np.count_nonzero, reverse=True), start=1):
        labels[mask] = number
    left, labels = np.unique(labels, return_inverse=True)
    if left[0] > 0:  # no background at all
        labels = labels + 1
    repairs["empty masks"] += len(masks) - len(filled)
    repairs["pixels in more than one mask"] += int((np.sum(filled, axis=0) > 1).sum())
    repairs["masks covered by smaller ones"] += len(filled) - np.count_nonzero(left)
    return labels.reshape(shape)


def bbbc050(source: Path, output: Path, val_embryos: Sequence[str]) -> Counter:
    """BBBC050: `Images/{train,test}/Images/NAME.tif`, `GroundTruth/{train,test}/GroundTruth_QCANet/NAME.tif`.

    Volumes of the data set's test go to test, where they are.

    Args:
        source: holds Images and GroundTruth.
        output: folder to make.
        val_embryos: embryos of train that go to val; names begin with them.
    """
    remedy = "unpack Images.zip and GroundTruth.zip into one folder and name it"
    files = [("train", file) for file in files_in(source / "Images" / "train" / "Images", "*.tif", remedy)]
    files += [("test", file) for file in sorted((source / "Images" / "test" / "Images").glob("*.tif"))]

    def examples() -> Iterator[Example]:
        for part, file in files:
            label = source / "GroundTruth" / part / "GroundTruth_QCANet" / file.name
            image = read_image(file, spacing=BBBC050_SPACING[part])
            split = "val" if part == "train" and file.stem.split("_")[0] in val_embryos else part
            labels = read_image(label, "label").array[0]
            yield Example(
                split, file.stem, image.array[0], labels, (str(file), str(label)), spacing=BBBC050_SPACING[part]
            )

    return write_data_set(output, examples(), len(files))


def omnipose(source: Path, output: Path) -> Counter:
    """Bacteria of Omnipose's documentation: `NAME.EXT` and `masks/NAME_cp_masks.tif`, which Omnipose found itself.

    Left halves go to train, right halves to val. Pictures with fewer than five bacteria in a half are left out.

    Args:
        source: the folder test_files.
        output: folder to make.
    """
    files = files_in(source / "masks", "*_cp_masks.tif", "clone the repository and name its docs/test_files")

    def examples() -> Iterator[Example]:
        for label in files:
            name = label.name.removesuffix("_cp_masks.tif")
            image = files_in(source, f"{name}.*", "its masks have a picture there: take the whole folder")[0]
            picture, ids = _one_channel(read_picture(image)), read_ids(label)
            middle = ids.shape[1] // 2
            halves = {"train": slice(middle), "val": slice(middle, None)}
            if all(np.unique(ids[:, half]).size > 5 for half in halves.values()):
                for split, half in halves.items():
                    yield Example(split, name, picture[:, half], ids[:, half], (str(image), str(label)))

    return write_data_set(output, examples(), 2 * len(files))


def isbi2012(source: Path, output: Path, val_fraction: float) -> Counter:
    """Sections of the ISBI challenge of 2012: `image/N.png`, and `label/N.png`, white but for the cells' membranes.

    A cell is what is connected within its section, 30 pixels at least. The last sections go to val.

    Args:
        source: holds the two folders.
        output: folder to make.
        val_fraction: share of the sections that goes to val.
    """
    files = sorted(files_in(source / "image", "*.png", "name the folder that holds image and label"), key=_number)
    first = max(1, round((1 - val_fraction) * len(files)))

    def examples() -> Iterator[Example]:
        for number, image in enumerate(files):
            label = source / "label" / image.name
            cells, _ = ndimage.label(read_picture(label) > 127)
            cells = _without_specks(cells, 30)
            split = "train" if number < first else "val"
            yield Example(split, f"section{image.stem}", read_picture(image), cells, (str(image), str(label)))

    return write_data_set(output, examples(), len(files))


def coelho2009(source: Path, output: Path, cells: Sequence[str], val_fraction: float, seed: int) -> Counter:
    """Nuclei of Coelho et al. 2009: `data/images/dna-images/KIND/dna-N.png`, `data/preprocessed-data/KIND/dna-N.png`.

    Nuclei of fewer than 200 pixels are left out.

    Args:
        source: the repository of the data.
        output: folder to make.
        cells: kinds of `COELHO_CELLS`.
        val_fraction: share of the images that goes to val.
        seed: of the draw.
    """
    folder = source / "data" / "preprocessed-data"
    files = [file for kind in cells for file in files_in(folder / COELHO_CELLS[kind], "*.png", "clone it whole")]
    kept = held_out((f"{file.parent.name}-{file.stem}" for file in files), val_fraction, seed)

    def examples() -> Iterator[Example]:
        for label in files:
            name = f"{label.parent.name}-{label.stem}"
            image = source / "data" / "images" / "dna-images" / label.parent.name / label.name
            ids = _without_specks(read_ids(label), 200)
            split = "val" if name in kept else "train"
            yield Example(split, name, _one_channel(read_picture(image)), ids, (str(image), str(label)))

    return write_data_set(output, examples(), len(files))


def _coloured(picture: np.ndarray) -> np.ndarray:
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=-1)


def _is_grey(picture: np.ndarray) -> bool:
    return picture.ndim == 2 or bool((picture == picture[..., :1]).all())


def _one_channel(picture: np.ndarray) -> np.ndarray:
    """The picture, with one channel where red, green and blue are the same."""
    return picture[..., 0] if picture.ndim == 3 and _is_grey(picture) else picture


def _without_specks(ids: np.ndarray, least: int) -> np.ndarray:
    """The ids, 0 in place of objects of fewer pixels."""
    return np.where(np.bincount(ids.ravel())[ids] < least, 0, ids)


def _number(file: Path) -> tuple[int, str]:
    """Sections in their order: 2 before 10."""
    return int(file.stem) if file.stem.isdecimal() else 0, file.stem


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: give a number above 0, at most 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="DATA_SET")

    def kind(function: Any, drawn: str = "", of_source: bool = True) -> argparse.ArgumentParser:
        words = function.__doc__.splitlines()[0]
        one = kinds.add_parser(function.__name__, help=words, description=words)
        if of_source:
            one.add_argument("source", type=Path, help="folder of the data set as it is distributed")
        one.add_argument("output", type=Path, help="folder to make")
        one.set_defaults(function=function)
        if drawn:
            one.add_argument("--val-fraction", type=_fraction, default=0.2, help=f"share of the {drawn} for val")
        return one

    seed = {"type": int, "default": 0, "help": "of the draw"}
    one = kind(cvppp, "images")
    one.add_argument("--folders", nargs="+", default=["A1"], help="those of A1 to A4 to take")
    one.add_argument("--without-foreground", action="store_true", help="leave the masks of the plant out")
    one.add_argument("--seed", **seed)
    one = kind(cityscapes)
    one.add_argument("--class-name", choices=list(CITYSCAPES), required=True)
    one.add_argument("--fraction", type=_fraction, default=1.0, help="share of the instances in train to keep")
    one.add_argument("--seed", **seed)
    one = kind(dsb2018, "images")
    one.add_argument("--colour", action="store_true", help="take colour images too, all as RGB")
    one.add_argument("--seed", **seed)
    one = kind(bbbc050)
    one.add_argument("--val-embryos", nargs="+", default=["Emb09"], help="embryos of train that go to val")
    kind(omnipose)
    kind(isbi2012, "sections").set_defaults(val_fraction=1 / 3)
    one = kind(coelho2009, "images")
    one.add_argument("--cells", nargs="+", choices=list(COELHO_CELLS), default=list(COELHO_CELLS), help="kinds to take")
    one.add_argument("--seed", **seed)
    one.set_defaults(val_fraction=1 / 3)
    one = kind(hdf5, "planes of --split", of_source=False)
    for name, words in (
        ("--train", "image and labels for train, each path.h5:dataset; may be given several times"),
        ("--val", "the same for val"),
        ("--split", "the same, the first planes for train, the last ones for val"),
    ):
        one.add_argument(name, nargs=2, action="append", default=[], metavar=("IMAGE", "LABELS"), help=words)
    one.add_argument("--spacing", nargs=3, type=float, help="micrometres z y x in place of what the files say")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: 0, or 2 and one line for what the user can mend."""
    given = vars(_parser().parse_args(arguments))
    function, _ = given.pop("function"), given.pop("kind")
    try:
        counts = function(**given)
    except Exception as error:
        mendable = user_error(error)
        if mendable is None:
            raise
        print(one_line(mendable), file=sys.stderr)
        return 2
    print(f"{given['output']}: " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items()) if count))
    return 0


if __name__ == "__main__":
    sys.exit(main())
