"""SPOCO as a MONAI bundle: instance segmentation of 2D and 3D images from a few annotated objects.

    from spoco_bundle import segment, train

    model = train("mydata", output="mymodel")
    found = segment("newimages/cells.tif", model=model)
    found.labels, found.objects, found.confidence

Everything heavy is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spoco_bundle.app.segmentation import Segmentation, segment
    from spoco_bundle.app.training import train
    from spoco_bundle.losses import SpocoLoss
    from spoco_bundle.metrics import instance_scores

__version__ = "0.1.0"
__all__ = ["Segmentation", "SpocoLoss", "instance_scores", "segment", "train"]

_PLACES = {
    "Segmentation": "spoco_bundle.app.segmentation",
    "SpocoLoss": "spoco_bundle.losses",
    "instance_scores": "spoco_bundle.metrics",
    "segment": "spoco_bundle.app.segmentation",
    "train": "spoco_bundle.app.training",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
