"""Training and prediction sets: lists of files, checks on annotations, and the crops that training draws.

Imported when they are first used: lists of files are checked before torch and MONAI are loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spoco_bundle.dataset.annotation_kinds import is_partial
    from spoco_bundle.dataset.batch_dataset import BatchDataset
    from spoco_bundle.dataset.crop_dataset import SparseCropDataset
    from spoco_bundle.dataset.datalist import build_datalist, image_name, stored_dimensions
    from spoco_bundle.dataset.epoch_sampler import EpochSampler
    from spoco_bundle.dataset.label_checks import check_labels
    from spoco_bundle.dataset.profile import measure_profile
    from spoco_bundle.dataset.read_once import ReadOnce
    from spoco_bundle.dataset.resume import unfinished
    from spoco_bundle.dataset.validation import validation_split

__all__ = [
    "BatchDataset",
    "EpochSampler",
    "ReadOnce",
    "SparseCropDataset",
    "build_datalist",
    "check_labels",
    "image_name",
    "is_partial",
    "measure_profile",
    "stored_dimensions",
    "unfinished",
    "validation_split",
]

_PLACES = {
    "BatchDataset": "batch_dataset",
    "EpochSampler": "epoch_sampler",
    "ReadOnce": "read_once",
    "SparseCropDataset": "crop_dataset",
    "build_datalist": "datalist",
    "check_labels": "label_checks",
    "image_name": "datalist",
    "is_partial": "annotation_kinds",
    "measure_profile": "profile",
    "stored_dimensions": "datalist",
    "unfinished": "resume",
    "validation_split": "validation",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
