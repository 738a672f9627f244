"""Lists of images and labels, from folders as people keep them or from a MONAI datalist."""

from __future__ import annotations

import glob
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from spoco_bundle.annotation.side_files import (
    COMPLETE_ENDING,
    POINTS_ENDING,
    SIDE_FILES,
    annotated_name,
    refuse_strays,
    side_files,
    without_ending,
)
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.folder_content import PICTURE_ENDINGS, alike, held, say_passed_over
from spoco_bundle.formats.files import image_dimensions
from spoco_bundle.formats.names import IMAGE_SUFFIXES, image_name, is_image, is_zarr
from spoco_bundle.formats.tiff_header import files_of_set

logger = logging.getLogger(__name__)

OUTPUT_ENDING = "_instances"

SPLITS = ("train", "val", "test", "predict")
#: names of the lists of a split in a datalist, and endings of its folders as nnU-Net names them
JSON_KEYS = {
    "train": ("training", "train"),
    "val": ("validation", "val"),
    "test": ("testing", "test"),
    "predict": ("testing", "test", "validation", "val", "training", "train"),
}
PAIR_FOLDERS = {"train": ("Tr",), "val": ("Val", "Ts"), "test": ("Ts",)}
#: folders in that of a split, in which people keep images and labels apart
IMAGE_FOLDER, LABEL_FOLDERS = "images", ("labels", "masks")
_CHANNEL_ENDING = "_0000"


def build_datalist(
    source: str | Path | Sequence[str],
    split: str = "train",
    image_ending: str = "_raw",
    label_ending: str = "_label",
    foreground_ending: str | None = None,
) -> list[dict[str, str]]:
    """Finds the images of a split, each with its label.

    For ``train``, ``val`` and ``test``, ``source`` is one of

    - a folder with ``train/`` and ``val/`` (and ``test/``), holding ``NAME_raw.EXT`` beside ``NAME_label.EXT``,
      or ``images/NAME.EXT`` and ``labels/NAME.EXT`` (or ``masks/``);
    - a folder with ``imagesTr/`` and ``labelsTr/`` (``val``: ``imagesVal/`` and ``labelsVal/``, else ``imagesTs/`` and
      ``labelsTs/``), the label named as the image, with or without nnU-Net's ``_0000``;
    - a MONAI datalist, a JSON file with the lists ``training``, ``validation`` and ``testing`` of
      ``{"image": path, "label": path}``, paths relative to the file; an entry may name side files, too.

    Side files are ``NAME_annotation.csv``, ``NAME_points.csv`` and ``NAME_complete.EXT`` beside the label or the image,
    where NAME is the name of either without its ending; in folders, others are refused. An image with points needs no
    label.

    For ``predict``, it is an image (a file or a Zarr folder), a folder of images, a pattern such as ``data/*.tif``, or
    a list of these. Labels, masks (``NAME_complete``), earlier results (``NAME_instances``) and pictures of them in
    folders are passed over; so are, in one line, formats of other programs. Of files that hold parts of one image
    (multi-file OME-TIFF) the first stands for it.

    Args:
        source: see above.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"predict"``.
        image_ending: how image names end before the suffix, ``""`` for any; ``_FLAIR`` for instance.
        label_ending: how label names end before the suffix.
        foreground_ending: how the names of foreground masks beside images end, which are no images; None without masks.

    Returns:
        Dictionaries of absolute path strings in the order of names: ``image`` and, except for ``predict``, ``label``
        (in ``test`` and for images with points only where there is one) and the side files that exist: ``annotation``,
        ``points`` and ``complete``.

    Raises:
        SpocoError: if nothing is found, a pair is incomplete, a side file belongs to no image, or two images share a
            name, so that their results would overwrite each other.
    """
    if split not in SPLITS:
        raise SpocoError(f"split is {split!r}: give one of {', '.join(SPLITS)}")
    endings = image_ending, label_ending, foreground_ending
    if isinstance(source, (str, Path)) and str(source).endswith(".json"):
        items = _from_json(Path(source), split, image_ending, label_ending)
    elif split == "predict":
        items = [{"image": str(path)} for path in _images_to_predict(source, *endings)]
    elif isinstance(source, (str, Path)):
        items = _from_folder(Path(source), split, *endings)
    else:
        raise SpocoError(f"a list of {len(source)} paths has no labels: give a folder or a datalist JSON for {split}")
    return _each_once(items, once=split == "predict")


def stored_dimensions(
    data: Sequence[dict[str, Any]], axes: str | None = None, channel: int | None = None, time: int | None = None
) -> int:
    """2 or 3: whether the images of a list are single images or volumes, by the first of them.

    Args:
        data: items with ``image``, as ``build_datalist`` gives them.
        axes: see ``read_image``.
        channel: see ``read_image``.
        time: see ``read_image``.
    """
    return image_dimensions(data[0]["image"], axes, channel, time)


def _from_json(path: Path, split: str, image_ending: str, label_ending: str) -> list[dict[str, str]]:
    content = json_lists(path)
    keys = [key for key in JSON_KEYS[split] if content.get(key)]
    if not keys:
        raise SpocoError(
            f"{path}: has no list {JSON_KEYS[split][0]!r} for the split {split}: add one with entries "
            '{"image": path, "label": path}'
        )
    if not isinstance(content[keys[0]], list):
        raise SpocoError(f"{path}: {keys[0]!r} is {content[keys[0]]!r}: give a list of {{'image': path, ...}}")
    items = []
    beside = cache(side_files)
    for entry in content[keys[0]]:
        entry = {"image": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            raise SpocoError(f"{path}: entry {entry!r} of {keys[0]!r} names no image: write {{'image': path, ...}}")
        wanted = ("image",) if split == "predict" else ("image", "label", *SIDE_FILES)
        item = {key: os.path.abspath(path.parent / entry[key]) for key in wanted if isinstance(entry.get(key), str)}
        for file in item.values():
            if Path(file).is_dir() and not is_zarr(file):
                raise SpocoError(f"{path}: lists {file}, a folder that is no Zarr image: name an image in it")
            if not Path(file).exists():
                raise SpocoError(f"{path}: lists {file}, which is missing: correct the path, relative to the JSON file")
        if split != "predict":
            files = [Path(item[key]) for key in ("image", "label") if key in item]
            names = [annotated_name(file, image_ending, label_ending) for file in files]
            for file, name in zip(files, names):
                called = {image_name(file): beside(file.parent).get(image_name(file), {})}
                refuse_strays([called], [name], [Path(known) for known in item.values()], image_ending, label_ending)
            item = _item(files, *(beside(file.parent).get(name, {}) for file, name in zip(files, names))) | item
        if split in ("train", "val") and not {"label", "points"} & item.keys():
            raise SpocoError(
                f"{path}: image {entry['image']} of {keys[0]!r} has no label and no points: add them or leave it out"
            )
        items.append(item)
    return items


def json_lists(path: Path) -> dict[str, Any]:
    """The lists of a datalist by their names; none where the file holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpocoError(f"{path}: is no readable datalist ({error}): give a JSON file as MONAI writes it") from error
    return content if isinstance(content, dict) else {}


def _from_folder(folder: Path, split: str, *endings: str | None) -> list[dict[str, str]]:
    if not folder.is_dir():
        raise SpocoError(f"{folder}: no such folder: give the folder that holds train/ and val/, or a datalist JSON")
    if (folder / split).is_dir():
        images, *others = (folder / split / name for name in (IMAGE_FOLDER, *LABEL_FOLDERS))
        labels = next(filter(Path.is_dir, others), others[0])
        if images.is_dir() and (labels.is_dir() or split == "test"):
            return _pairs_across(images, labels, split, *endings)
        return _pairs_beside(folder / split, split, *endings)
    for end in PAIR_FOLDERS[split]:
        images, labels = folder / f"images{end}", folder / f"labels{end}"
        if images.is_dir() and (labels.is_dir() or split == "test"):
            return _pairs_across(images, labels, split, *endings)
    expected = f"{split}/ or " + " or ".join(f"images{end}/ with labels{end}/" for end in PAIR_FOLDERS[split])
    remedy = (
        "move some image and label pairs out of the training split into it, or give a datalist JSON"
        if split == "val"
        else "put the pairs there, or give a datalist JSON"
    )
    raise SpocoError(f"{folder}: has no {expected}{held(folder)}: {remedy}")


def _pairs_beside(
    folder: Path, split: str, image_ending: str, label_ending: str, foreground_ending: str | None
) -> list[dict[str, str]]:
    """Pairs NAME + image_ending, NAME + label_ending of one folder."""
    if image_ending == label_ending:
        raise SpocoError(f"image_ending and label_ending are both {image_ending!r}: they must differ")
    files = _images_in(folder)
    masks = _masks(files, (COMPLETE_ENDING, foreground_ending), image_ending, label_ending)
    files = [path for path in files if path not in masks]
    # The longer ending first, so that an empty one takes only what the other leaves.
    labels = _by_name(folder, [path for path in files if _ends(path, label_ending, image_ending)], label_ending)
    images = _by_name(folder, [path for path in files if _ends(path, image_ending, label_ending)], image_ending)
    if not images:
        raise SpocoError(
            f"{folder}: has no image named NAME{image_ending}.EXT{held(folder)}: "
            f"rename the images, put them into {IMAGE_FOLDER}/ and their labels into {LABEL_FOLDERS[0]}/, set "
            "image_ending and label_ending, or take the folder away if nothing is to be in it"
        )
    beside = side_files(folder)
    refuse_strays([beside], images, [*images.values(), *labels.values()], image_ending, label_ending)
    without_label = sorted(images.keys() - labels.keys() - _with_points(beside))
    if without_label and split != "test":
        raise SpocoError(
            f"{images[without_label[0]]}: has no label {without_label[0]}{label_ending}.EXT beside it that is read "
            f"here{alike(folder, without_label[0], [*images.values(), *labels.values()])} ({len(without_label)} such "
            f"images): add the label or points {without_label[0]}{POINTS_ENDING}.csv, say with --label_ending how "
            "labels end, or take the image out"
        )
    without_image = sorted(labels.keys() - images.keys())
    if without_image:
        raise SpocoError(
            f"{labels[without_image[0]]}: has no image {without_image[0]}{image_ending}.EXT beside it "
            f"({len(without_image)} such labels): add the image or take the label out"
        )
    return [_item(_pair(name, images, labels), beside.get(name, {})) for name in sorted(images)]


def _pairs_across(
    images_folder: Path,
    labels_folder: Path,
    split: str,
    image_ending: str,
    label_ending: str,
    foreground_ending: str | None,
) -> list[dict[str, str]]:
    """Pairs of the same name in two folders."""
    files, label_files = _images_in(images_folder), _images_in(labels_folder)
    masks = _masks([*files, *label_files], (COMPLETE_ENDING,), image_ending, label_ending)
    masks |= _masks(files, (foreground_ending,), image_ending, label_ending)
    files, label_files = ([path for path in some if path not in masks] for some in (files, label_files))
    later_channel = [path for path in files if image_name(path).endswith("_0001")]
    if later_channel:
        raise SpocoError(f"{later_channel[0]}: a second channel in a file of its own: save all channels in one file")
    # Only where every name has it is it nnU-Net's channel number and not part of a name.
    ending = _CHANNEL_ENDING if files and all(image_name(path).endswith(_CHANNEL_ENDING) for path in files) else ""
    images = _by_name(images_folder, files, ending)
    labels = _by_name(labels_folder, label_files, "")
    if not images:
        raise SpocoError(f"{images_folder}: holds no image: put the images there")
    beside = [side_files(folder) for folder in (images_folder, labels_folder) if folder.is_dir()]
    called = {name: without_ending(name, image_ending, label_ending) for name in images}
    refuse_strays(beside, called.values(), [*files, *label_files], image_ending, label_ending, _CHANNEL_ENDING)
    with_points = _with_points(*beside)
    missing = sorted(name for name in images.keys() - labels.keys() if called[name] not in with_points)
    if missing and split != "test":
        others = alike(labels_folder, missing[0], [labels[name] for name in labels.keys() & images.keys()])
        raise SpocoError(
            f"{images[missing[0]]}: has no label {missing[0]}.EXT in {labels_folder}{others} ({len(missing)} such "
            f"images): add the label or points {called[missing[0]]}{POINTS_ENDING}.csv, or take the image out"
        )
    extra = sorted(labels.keys() - images.keys())
    if extra:
        raise SpocoError(f"{labels[extra[0]]}: has no image in {images_folder}: add the image or take the label out")
    return [
        _item(_pair(name, images, labels), *(files.get(called[name], {}) for files in beside))
        for name in sorted(images)
    ]


def _images_to_predict(
    source: str | Path | Iterable[str], image_ending: str, label_ending: str, foreground_ending: str | None
) -> list[Path]:
    if not isinstance(source, (str, Path)):
        endings = image_ending, label_ending, foreground_ending
        found = [path for part in source for path in _images_to_predict(part, *endings)]
        if not found:
            raise SpocoError("the list of images is empty: name at least one image")
        return found
    path = Path(source)
    if path.is_file() or is_zarr(path):
        return [path]
    if path.is_dir():
        images = _images_in(path)
        others = (COMPLETE_ENDING, foreground_ending, *PICTURE_ENDINGS)
        masks = _masks(images, others, image_ending, label_ending)
        files = [file for file in images if not image_name(file).endswith(OUTPUT_ENDING) and file not in masks]
        raw = [file for file in files if image_ending and image_name(file).endswith(image_ending)]
        labelled = [file for file in files if label_ending and image_name(file).endswith(label_ending)]
        # In a folder of pairs only the images of the pairs are meant.
        chosen = raw if raw and labelled else [file for file in files if file not in labelled]
        if not chosen:
            raise SpocoError(
                f"{path}: holds no image that is read here ({' '.join(IMAGE_SUFFIXES)}){held(path)}: give another "
                f"folder, a file, or a pattern such as {path}/**/*.tif for folders in it"
            )
        say_passed_over(path)
        return _one_per_set(chosen)
    found = glob.glob(str(source), recursive=True)
    if not found and path.parent.is_dir():  # a folder whose own name holds brackets
        found = glob.glob(os.path.join(glob.escape(str(path.parent)), path.name), recursive=True)
    matches = [Path(match) for match in sorted(found)]
    images = [match for match in matches if match.is_file() or is_zarr(match)]
    masks = _masks(images, (foreground_ending, *PICTURE_ENDINGS), image_ending)
    files = [match for match in images if not image_name(match).endswith(OUTPUT_ENDING) and match not in masks]
    if not files:
        others = f" but {matches[0]}, which is no image" if matches else ""
        raise SpocoError(f"{source}: no file, folder or match of this name{others}: check the path")
    return _one_per_set(files)


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if not path.name.startswith(".") and is_image(path)
    )


def _masks(files: Sequence[Path], mask_endings: Sequence[str | None], *endings: str) -> set[Path]:
    """Those of the files that are a mask of another one: ``NAME_complete``, or NAME + ``foreground_ending``."""
    names = {image_name(path) for path in files}
    others = (*endings, _CHANNEL_ENDING, "")
    return {
        path
        for ending in mask_endings
        if ending and ending not in endings  # else it is how images or labels are called
        for path in files
        if image_name(path).endswith(ending)
        and any(image_name(path).removesuffix(ending) + other in names for other in others)
    }


def _with_points(*folders: Mapping[str, Mapping[str, Path]]) -> set[str]:
    """NAMEs with points among the side files of these folders."""
    return {name for folder in folders for name, files in folder.items() if "points" in files}


def _one_per_set(images: list[Path]) -> list[Path]:
    """Leaves out the further files of one image, each of which would be read as the whole of it."""
    kept: list[Path] = []
    owner: dict[Path, Path] = {}
    for path in images:
        first = owner.get(path.resolve())
        if first is not None:
            logger.info("%s: holds a part of the image that begins with %s, and is read with it", path, first)
            continue
        kept.append(path)
        owner |= {file.resolve(): path for file in files_of_set(path)}
    return kept


def _ends(path: Path, ending: str, other: str) -> bool:
    """Whether a name has this ending, and not the other one where that is longer."""
    name = image_name(path)
    return name.endswith(ending) and not (len(other) > len(ending) and name.endswith(other))


def _by_name(folder: Path, files: Iterable[Path], ending: str) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in files:
        name = image_name(path).removesuffix(ending)
        if name in named:
            raise SpocoError(f"{folder}: {named[name].name} and {path.name} share the name {name!r}: rename one")
        named[name] = path
    return named


def _pair(name: str, images: Mapping[str, Path], labels: Mapping[str, Path]) -> list[Path]:
    """The image of this name, and its label if there is one."""
    return [files[name] for files in (images, labels) if name in files]


def _item(pair: Sequence[Path], *beside: Mapping[str, Path]) -> dict[str, str]:
    """An image, its label if there is one, and their side files."""
    files = dict(zip(("image", "label"), pair, strict=False))
    for folder in beside:
        files |= {key: path for key, path in folder.items() if path not in pair}
    return {key: os.path.abspath(path) for key, path in files.items()}


def _each_once(items: list[dict[str, str]], once: bool) -> list[dict[str, str]]:
    """Items, where ``once`` without those that name the same file again, as by a folder and a pattern or by a link.

    Raises:
        SpocoError: if two images share a name.
    """
    seen: dict[str, str] = {}
    places: set[str] = set()
    kept = []
    for item in items:
        item["image"] = os.path.abspath(item["image"])
        place = os.path.realpath(item["image"])
        if once and place in places:
            continue
        places.add(place)
        kept.append(item)
        name = image_name(item["image"])
        if name in seen:
            raise SpocoError(
                f"{item['image']} and {seen[name]} share the name {name!r}, their results would overwrite each other: "
                "rename one or process them apart"
            )
        seen[name] = item["image"]
    return kept
