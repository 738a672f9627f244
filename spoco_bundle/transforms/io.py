"""From files to tensors, and from instance labels to files."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import PIXEL
from spoco_bundle.core.plain_tensors import plain
from spoco_bundle.dataset.datalist import OUTPUT_ENDING, image_name
from spoco_bundle.dataset.resume import TABLE_ENDING
from spoco_bundle.formats.files import check_intensities, check_result, read_image, write_instances
from spoco_bundle.formats.geometry import (
    Image,
    assumption_message,
    checked_spacing,
    column_spacing,
    length_unit,
    replacement_message,
    voxel_volume,
)
from spoco_bundle.formats.label_ids import as_label_ids
from spoco_bundle.formats.names import result_suffix
from spoco_bundle.formats.objects_table import objects_table, write_objects_table
from spoco_bundle.transforms.serving import SERVED

logger = logging.getLogger(__name__)


class LoadVolumed(MapTransform):
    """Reads image and label files into MetaTensors, channel first, z, y, x.

    Images become (C, *spatial) float32, labels (1, *spatial) int32. The affine goes from the array's index order to the
    world; its column norms are the spacing, in micrometres, or 1 per axis where it is unknown. ``meta`` holds what
    collates: ``filename_or_obj`` (str), ``length_unit`` (str, what the affine is measured in: "micrometer", "pixel", or
    "unknown" for numbers whose unit the file leaves out), ``file_unit``, ``file_format`` and ``stated_size`` (see
    ``Image``), and ``file_affine`` ((D + 1, D + 1) float64, of the grid on disk, whatever is resampled later).

    Args:
        keys: entries of the sample that are paths.
        spatial_dims: 3 for volumes, 2 for single images.
        in_channels: channels that images must have; None takes any number.
        spacing: micrometres along z, y, x (or y, x), in place of what the files state or leave out; one line says so.
        assumed_spacing: micrometres along z, y, x (or y, x) where the file states none: those of the files that a model
            learned from, which a resampling to another spacing starts from.
        axes: see ``read_image``.
        channel: see ``read_image``.
        time: see ``read_image``.
        label_keys: those of ``keys`` that hold labels. Others than "label" are masks of "image", and come after it.
        allow_missing_keys: whether a sample without one of the keys passes through, as at inference without labels.

    Raises:
        SpocoError: if the spacing does not fit; when called, whatever ``read_image`` says of the file, or if an image
            has another number of channels, voxels beyond float32, or another shape than its mask.
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        spatial_dims: int = 3,
        in_channels: int | None = None,
        spacing: Sequence[float] | None = None,
        assumed_spacing: Sequence[float] | None = None,
        axes: str | None = None,
        channel: int | None = None,
        time: int | None = None,
        label_keys: Sequence[str] = ("label",),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.spacing = None if spacing is None else checked_spacing(spacing, spatial_dims)
        self.assumed = None if assumed_spacing is None else checked_spacing(assumed_spacing, spatial_dims)
        self.axes = axes
        self.channel = channel
        self.time = time
        self.label_keys = tuple(label_keys)
        self._said = False

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a copy of the sample with paths replaced by MetaTensors."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = self._load(sample[key], "label" if key in self.label_keys else "image")
            if key in self.label_keys and key != "label":
                sample[key] = _on_grid(sample[key], sample["image"])
        return sample

    def _read(self, path: str | Path, kind: str) -> Image:
        volume = read_image(path, kind, self.spatial_dims, self.spacing, self.axes, self.channel, self.time)
        replaced = replacement_message(self.spacing, volume.stated_size, str(path))
        if kind == "image" and replaced is not None and not self._said:
            self._said = True
            logger.info("%s", replaced)
        return volume

    def _load(self, path: str | Path | Image, kind: str) -> MetaTensor:
        volume = path if isinstance(path, Image) else self._read(path, kind)
        if volume.spacing is None and self.assumed is not None:
            volume = replace(volume)  # what was handed over stays as it is
            volume.take_spacing(self.assumed)
            if not self._said:
                self._said = True
                logger.info("%s", assumption_message(self.assumed, str(volume.path)))
        channels = volume.array.shape[0]
        if kind == "image" and self.in_channels not in (None, channels):
            one = (
                f"choose one of 0 to {channels - 1} with --channel" if self.in_channels == 1 else "save it with as many"
            )
            raise SpocoError(
                f"{volume.path}: has {channels} channels where in_channels is {self.in_channels}: {one}, or train with "
                f"--in_channels {channels}"
            )
        affine = torch.from_numpy(volume.affine.copy())
        with np.errstate(over="ignore"):
            array = np.array(volume.array, dtype=np.int32 if kind == "label" else np.float32, order="C")
        if kind == "image" and volume.array.dtype.itemsize > 4:  # which float32 holds only in part
            check_intensities(array, f"{volume.path} (as float32)")
        return MetaTensor(
            torch.from_numpy(array),
            affine=affine,
            meta={
                "filename_or_obj": volume.path,
                "length_unit": length_unit(volume.spacing, volume.file_unit),
                "file_unit": volume.file_unit,
                # of no more use where an option replaced it
                "stated_size": volume.stated_size if self.spacing is None else "",
                "file_format": volume.file_format,
                "file_affine": affine.clone(),
            },
        )


def _on_grid(mask: MetaTensor, image: MetaTensor) -> MetaTensor:
    """A mask that lies on the grid of its image, whatever its own file says or leaves out."""
    path, shapes = mask.meta["filename_or_obj"], (tuple(mask.shape[1:]), tuple(image.shape[1:]))
    if shapes[0] != shapes[1]:
        raise SpocoError(f"{path}: has shape {shapes[0]}, its image {shapes[1]}: draw the mask on the image's grid")
    meta = image.meta | {"filename_or_obj": path, "affine": image.affine.clone()}
    return MetaTensor(mask.as_tensor(), meta=meta)


class CheckResultd(MapTransform):
    """Sees before the work that ``SaveInstancesd`` will be able to write the result of an image.

    Args:
        keys: images, MetaTensors from ``LoadVolumed``.
        output_dir: as for ``SaveInstancesd``.
        spatial_dims: 2 or 3.
        axes: as given to ``LoadVolumed``.
        allow_missing_keys: whether a sample without the key passes through.

    Raises:
        SpocoError: when called, if the folder cannot be written to, or the format cannot hold labels with the metadata
            of the image.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        output_dir: str | Path = "outputs",
        spatial_dims: int = 3,
        axes: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.spatial_dims = spatial_dims
        self.axes = axes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a copy of the sample as it is."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            source = str(sample[key].meta["filename_or_obj"])
            result = self.output_dir / f"{image_name(source)}{OUTPUT_ENDING}{result_suffix(source)}"
            check_result(result, source, self.spatial_dims, self.axes)
        return sample


class SaveInstancesd(MapTransform):
    """Writes the instances of one image and the table of its objects.

    For a source ``NAME.EXT`` these are ``NAME_instances.EXT`` (see ``write_instances``, and ``result_suffix`` for
    formats that cannot hold labels in one file) and ``NAME_objects.csv`` (see ``objects_table``), on the grid of the
    source file, where the labels have to be again by then. Works on single (decollated) samples. MONAI Label writes its
    results itself, so nothing is written for a sample of its requests.

    Args:
        keys: labels (1, *spatial) of whole, non-negative numbers. A confidence per object is taken from the entry
            ``KEY_confidence`` (N,), of id 1 first, where there is one.
        output_dir: folder for the results, made if missing. Nothing is written anywhere else.
        axes: as given to ``LoadVolumed``.
        allow_missing_keys: whether a sample without the key passes through.

    Raises:
        SpocoError: when called, if the labels are not on the source's grid, two sources share a name, or a file cannot
            be written.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        output_dir: str | Path = "outputs",
        axes: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.axes = axes
        self._sources: dict[str, str] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Writes the files and returns the sample as it is."""
        sample = dict(data)
        if SERVED in sample:
            return sample
        for key in self.key_iterator(sample):
            self._save(sample[key], sample.get(f"{key}_confidence"), self._meta(sample, key))
        return sample

    def _save(self, labels: Any, confidence: Any, meta: Mapping[str, Any]) -> None:
        source = str(meta["filename_or_obj"])
        ids = as_label_ids(_to_numpy(labels), f"segmentation of {source}")[0]
        name, suffix = image_name(source), result_suffix(source)
        if suffix == ".png" and ids.max(initial=0) >= 2**16:
            suffix = ".nrrd"  # PNG has 16 bits
        if self._sources.setdefault(name, source) != source:
            raise SpocoError(
                f"{source} and {self._sources[name]} share the name {name!r}, their results would overwrite each "
                "other: rename one or process them apart"
            )
        table = self.output_dir / f"{name}{TABLE_ENDING}.csv"
        # a table beside instances that it does not describe would look like a finished image
        table.unlink(missing_ok=True)
        write_instances(self.output_dir / f"{name}{OUTPUT_ENDING}{suffix}", ids, source, self.axes)
        affine = np.asarray(meta["file_affine"], dtype=np.float64)
        rows = objects_table(
            ids,
            None if str(meta["length_unit"]) == PIXEL else column_spacing(affine),
            str(meta["file_unit"]),
            None if confidence is None else _to_numpy(confidence).ravel(),
            voxel_volume(affine),
        )
        write_objects_table(table, rows, ids.ndim)

    def _meta(self, sample: Mapping[Hashable, Any], key: Hashable) -> Mapping[str, Any]:
        for candidate in (sample.get("image"), sample[key]):
            meta = getattr(candidate, "meta", {})
            if "filename_or_obj" in meta and "file_affine" in meta:
                return meta
        raise ValueError(f"neither 'image' nor {key!r} carries the metadata of LoadVolumed")


def _to_numpy(values: Any) -> np.ndarray:
    values = plain(values)
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
