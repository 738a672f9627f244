"""From files to tensors, and from instance labels to files."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.plain_tensors import plain
from spoco_bundle.dataset.datalist import OUTPUT_ENDING, image_name
from spoco_bundle.dataset.resume import TABLE_ENDING
from spoco_bundle.formats.files import file_suffix, read_image, write_instances
from spoco_bundle.formats.geometry import Image, checked_spacing, voxel_spacing
from spoco_bundle.formats.itk_io import LOSSY_SUFFIXES
from spoco_bundle.formats.label_ids import as_label_ids
from spoco_bundle.formats.objects_table import objects_table, write_objects_table
from spoco_bundle.transforms.serving import SERVED


class LoadVolumed(MapTransform):
    """Reads image and label files into MetaTensors, channel first, z, y, x.

    Images become (C, *spatial) float32, labels (1, *spatial) int32. The affine goes from the array's index order to the
    world; its column norms are the spacing, 1 where unknown. ``meta`` holds what collates: ``filename_or_obj`` (str),
    ``spacing_unit`` (str), ``spacing_known`` (0 or 1), ``file_format`` (see ``Image``) and ``file_spacing`` ((D,)
    float64, of the grid on disk, whatever is resampled later).

    Args:
        keys: entries of the sample that are paths.
        spatial_dims: 3 for volumes, 2 for single images.
        in_channels: channels that images must have; None takes any number.
        spacing: spacing along z, y, x (or y, x) for files that state none.
        spacing_unit: unit of ``spacing``.
        override_spacing: take ``spacing`` even where the file states another one.
        axes: letters that replace the axes a TIFF file states, where those are wrong, such as ``"ZYX"``.
        label_keys: those of ``keys`` that hold labels.
        allow_missing_keys: whether a sample without one of the keys passes through, as at inference without labels.

    Raises:
        SpocoError: if the spacing does not fit; when called, whatever ``read_image`` says of the file, or if an image
            has another number of channels.
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        spatial_dims: int = 3,
        in_channels: int | None = None,
        spacing: Sequence[float] | None = None,
        spacing_unit: str = "micrometer",
        override_spacing: bool = False,
        axes: str | None = None,
        label_keys: Sequence[str] = ("label",),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.spacing = None if spacing is None else checked_spacing(spacing, spatial_dims)
        self.spacing_unit = spacing_unit
        self.override_spacing = override_spacing
        self.axes = axes
        self.label_keys = tuple(label_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a copy of the sample with paths replaced by MetaTensors."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = self._load(sample[key], "label" if key in self.label_keys else "image")
        return sample

    def _read(self, path: str | Path, kind: str) -> Image:
        return read_image(
            path, kind, self.spatial_dims, self.spacing, self.spacing_unit, self.override_spacing, self.axes
        )

    def _load(self, path: str | Path | Image, kind: str) -> MetaTensor:
        volume = path if isinstance(path, Image) else self._read(path, kind)
        channels = volume.array.shape[0]
        if kind == "image" and self.in_channels not in (None, channels):
            raise SpocoError(
                f"{path}: has {channels} channels where in_channels is {self.in_channels}: save the image with "
                f"{self.in_channels}, or train with --in_channels {channels}"
            )
        affine = torch.from_numpy(volume.affine.copy())
        array = np.array(volume.array, dtype=np.int32 if kind == "label" else np.float32, order="C")
        tensor = MetaTensor(
            torch.from_numpy(array),
            affine=affine,
            meta={
                "filename_or_obj": volume.path,
                "spacing_unit": volume.spacing_unit,
                "spacing_known": int(volume.spacing is not None),
                "file_format": volume.file_format,
            },
        )
        tensor.meta["file_spacing"] = torch.tensor(voxel_spacing(tensor, self.spatial_dims), dtype=torch.float64)
        return tensor


class SaveInstancesd(MapTransform):
    """Writes the instances of one image and the table of its objects.

    For a source ``NAME.EXT`` these are ``NAME_instances.EXT`` (see ``write_instances``; ``.png`` where EXT is lossy,
    such as ``.jpg``) and ``NAME_objects.csv`` (see ``objects_table``), on the grid of the source file, where the labels
    have to be again by then. Works on single (decollated) samples. MONAI Label writes its results itself, so nothing is
    written for a sample of its requests.

    Args:
        keys: labels (1, *spatial) of whole, non-negative numbers. A confidence per object is taken from the entry
            ``KEY_confidence`` (N,), of id 1 first, where there is one.
        output_dir: folder for the results, made if missing. Nothing is written anywhere else.
        image_key: entry whose metadata name the source, where those of the labels do not.
        axes: as given to ``LoadVolumed``.
        instances_ending: put behind NAME for the labels.
        table_ending: put behind NAME for the table.
        allow_missing_keys: whether a sample without the key passes through.

    Raises:
        SpocoError: when called, if the labels are not on the source's grid, two sources share a name, or a file cannot
            be written.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        output_dir: str | Path = "outputs",
        image_key: str = "image",
        axes: str | None = None,
        instances_ending: str = OUTPUT_ENDING,
        table_ending: str = TABLE_ENDING,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.image_key = image_key
        self.axes = axes
        self.instances_ending = instances_ending
        self.table_ending = table_ending
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
        name, suffix = image_name(source), file_suffix(source)
        if self._sources.setdefault(name, source) != source:
            raise SpocoError(
                f"{source} and {self._sources[name]} share the name {name!r}, their results would overwrite each "
                "other: rename one or process them apart"
            )
        suffix = ".png" if suffix.lower() in LOSSY_SUFFIXES else suffix
        table = self._inside(f"{name}{self.table_ending}.csv")
        # a table beside instances that it does not describe would look like a finished image
        table.unlink(missing_ok=True)
        write_instances(self._inside(f"{name}{self.instances_ending}{suffix}"), ids, source, self.axes)
        spacing = np.asarray(meta["file_spacing"]).tolist() if int(meta["spacing_known"]) else None
        rows = objects_table(
            ids, spacing, str(meta["spacing_unit"]), None if confidence is None else _to_numpy(confidence).ravel()
        )
        write_objects_table(table, rows, ids.ndim)

    def _inside(self, name: str) -> Path:
        """The path of an output, which no name or ending may lead out of the folder."""
        path = self.output_dir / name
        if path.resolve().parent != self.output_dir.resolve():
            raise SpocoError(f"{path}: lies outside the output folder {self.output_dir}: use endings without slashes")
        return path

    def _meta(self, sample: Mapping[Hashable, Any], key: Hashable) -> Mapping[str, Any]:
        for candidate in (sample.get(self.image_key), sample[key]):
            meta = getattr(candidate, "meta", {})
            if "filename_or_obj" in meta and "file_spacing" in meta:
                return meta
        raise ValueError(f"neither {self.image_key!r} nor {key!r} carries the metadata of LoadVolumed")


def _to_numpy(values: Any) -> np.ndarray:
    values = plain(values)
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
