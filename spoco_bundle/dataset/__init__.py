"""Training and prediction sets: lists of files, checks on annotations, and the crops that training draws.

Imported when they are first used: lists of files are checked before torch and MONAI are loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

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
