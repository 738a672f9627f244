"""What is written of an image: pairs to train on, parts of it, models."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from spoco_bundle.annotation.complete import read_complete
from spoco_bundle.annotation.rectangles import complete_elsewhere, write_rectangles
from spoco_bundle.annotation.side_files import files_beside
from spoco_bundle.core.atomic_files import atomic_folder, write_json
from spoco_bundle.formats.files import write_instances
from spoco_bundle.formats.geometry import Image
from spoco_bundle.formats.lazy import open_volume
from spoco_bundle.formats.names import is_zarr, result_suffix
from spoco_bundle.formats.ome_zarr import write_image
from spoco_bundle.napari.annotations import Contents, write_annotations

#: voxels along z, y, x around what is annotated of a large image that are cut out with it to train on
AROUND = (32, 64, 64)


def write_pair(contents: Contents, image: Image, label: Path, folder: Path) -> Path:
    """Writes what a training reads; of an OME-Zarr image only the part around what is annotated.

    Args:
        contents: what is known of the image.
        image: the image.
        label: where its annotations are kept; beside it may lie a mask of where they are complete.
        folder: what is written goes there.

    Returns:
        The datalist.
    """
    source, shape = Path(image.path), image.spatial_shape
    region = (slice(None),) * len(shape)
    if is_zarr(source):
        region = region_to_train(contents)
        # in the format of the image, which holds a voxel size without a unit too
        source = folder / "annotations_raw.ome.zarr"
        write_image(source, open_volume(image.path, len(shape)).read(region), image.spacing, image.file_unit)
    suffix, starts = result_suffix(source), [part.start or 0 for part in region]
    part = replace(contents, labels=contents.labels[region], points=contents.points - starts, rectangles=())
    target = folder / f"annotations_label{suffix}"
    write_annotations(target, part, source)
    table = complete_elsewhere(label)
    if len(contents.rectangles):
        table = write_rectangles(folder / "regions.csv", contents.rectangles)
    if table is not None:
        complete = read_complete(table, shape)[region]
        write_instances(folder / f"annotations_complete{suffix}", complete.astype(np.uint8), source)
    return write_datalist(folder / "datalist.json", source, target)


def region_to_train(contents: Contents) -> tuple[slice, ...]:
    """The part of an image around what is annotated."""
    shape = contents.labels.shape
    axes = range(len(shape))
    places = [np.flatnonzero(contents.labels.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]
    if len(contents.points):
        clicks = np.floor(contents.points + 0.5).astype(int)
        places = [np.concatenate([place, along]) for place, along in zip(places, clicks.T)]
    return tuple(
        slice(max(0, int(place.min()) - around), min(size, int(place.max()) + 1 + around))
        for place, around, size in zip(places, AROUND[-len(shape) :], shape)
    )


def write_datalist(path: Path, image: Path, label: Path) -> Path:
    """A datalist of one image, which is its own validation: objects are held out of it, not images.

    Args:
        path: the JSON file.
        image: the image.
        label: its label, which may be missing; the files beside it are listed too.
    """
    files = {"image": image, "label": label, **files_beside(label)}
    pair = {key: str(file) for key, file in files.items() if file.exists()}
    return write_json(path, {"training": [pair], "validation": [pair]})


def copy_folder(source: Path, target: Path) -> Path:
    """Copies a folder beside its place and moves it there, so that a model is never there by half."""
    with atomic_folder(target) as partial:
        shutil.copytree(source, partial)
    return target
