"""Whether a training takes the settings for dense tissue: as the user says, or as the annotated objects look."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser
from monai.data import Dataset
from monai.transforms import Compose

from spoco_bundle.app.config import find_config, read_configs
from spoco_bundle.app.config_checks import config_folder
from spoco_bundle.app.model_config import MODEL_CONFIG
from spoco_bundle.core.errors import SpocoError, unwrapped
from spoco_bundle.dataset.tissue import AnnotatedVolume, surroundings_auc
from spoco_bundle.formats.geometry import voxel_spacing

__all__ = ["DECIDED_BY", "TISSUES", "measure_surroundings", "tissue_overlays"]

TISSUES = ("auto", "dense", "gaps")
DENSE = "dense_tissue"

#: ids by which a user decides what is learnt of the background, or brings parts that the dense settings do not fit
DECIDED_BY = frozenset(
    {
        *("objectness", "objectness_target", "objectness_unlabeled_weight"),
        *("loss#objectness", "loss#objectness_target", "loss#objectness_unlabeled_weight"),
        *("coordinate_channels", "coordinate_scale", "coordinate_radii", "clustering#method"),
        *("network_def", "network", "loss", "clustering"),
    }
)

logger = logging.getLogger(__name__)


def tissue_overlays(
    overlays: Sequence[Path], overrides: dict[str, Any], tissue: str, folder: str | Path, threshold: float = 0.72
) -> list[Path]:
    """The overlays of a training, with ``dense_tissue.json`` among them where every voxel belongs to some cell.

    It goes behind the shipped overlays, and before those of the user that follow them, which therefore win. With
    "auto", a training that goes on takes what it began with; one whose ids decide the matter, or that goes on from
    given weights, is left as it is; for any other the annotated objects are compared with what lies around them.

    Args:
        overlays: configs on top of ``train.json``.
        overrides: ids that the user set, ``dataset_dir`` among them.
        tissue: "auto", "dense" or "gaps".
        folder: folder of the model, with the config of the training that goes on.
        threshold: area under the curve below which objects and what lies around them look alike. Measured: at most 0.68
            in tissue, at least 0.74 elsewhere (``scripts/tissue_table.py``).

    Raises:
        SpocoError: if ``tissue`` is none of the three, a config or an image is bad, or the model's config cannot be
            read.
    """
    choice = tissue.lower()
    if choice not in TISSUES:
        raise SpocoError(f"--tissue {tissue}: give auto, dense or gaps")
    if choice == "auto":
        parser = read_configs([find_config("train"), *overlays], overrides)
        resume = parser.get_parsed_content("resume")
        if resume:
            named = Path(str(resume))
            choice = _chosen_before([*([named.parent] if named.is_file() else []), Path(folder)])
        elif _decided(parser, overlays, overrides):
            choice = "gaps"
        else:
            choice = _said(measure_surroundings(parser), threshold)
    shipped = [overlay.resolve().parent == config_folder() for overlay in overlays]
    if choice != "dense" or find_config(DENSE) in [overlay.resolve() for overlay in overlays]:
        return list(overlays)
    behind = len(overlays) - shipped[::-1].index(True) if any(shipped) else 0
    return [*overlays[:behind], find_config(DENSE), *overlays[behind:]]


def measure_surroundings(
    parser: ConfigParser, max_volumes: int = 6, max_objects: int = 60, seed: int = 0
) -> float | None:
    """Compares the annotated objects of a training with what lies around them; builds no network.

    Args:
        parser: the merged config.
        max_volumes: volumes read, spread over the list.
        max_objects: see ``surroundings_auc``.
        seed: see ``surroundings_auc``.

    Returns:
        Area under the curve, see ``surroundings_auc``; None too where the config does not have its samples in the
        places of ``train.json``.

    Raises:
        SpocoError: for bad input, as the training itself would.
    """
    if not all(place in parser for place in ("train#dataset#data", "train#deterministic_transforms")):
        return None
    with unwrapped():
        special = {parser.get_parsed_content(key) for key in ("ignore_label", "background_label")} - {None}
        items = parser.get_parsed_content("train#dataset#data")
        chosen = np.unique(np.linspace(0, len(items) - 1, min(max_volumes, len(items))).round().astype(int))
        load = Compose([*parser.get_parsed_content("train#deterministic_transforms"), _annotated_volume])
        with _training_says_it():
            volumes = Dataset([items[index] for index in chosen], load)
            return surroundings_auc(volumes, special, max_objects=max_objects, seed=seed)


def _annotated_volume(sample: dict[str, Any]) -> AnnotatedVolume:
    image, label = sample["image"], np.asarray(sample["label"])[0]
    return AnnotatedVolume(np.asarray(image), label, voxel_spacing(image, label.ndim))


def _decided(parser: ConfigParser, overlays: Sequence[Path], overrides: dict[str, Any]) -> bool:
    """Whether the user has decided on the background, or goes on from weights that are made for one way."""
    # that one says what flat images need, of whatever they show
    chosen = [overlay for overlay in overlays if overlay.resolve() != find_config("2d")]
    said = [key for overlay in chosen for key in json.loads(overlay.read_text(encoding="utf-8"))]
    if DECIDED_BY & {key.lstrip("+").replace("::", "#") for key in (*said, *overrides)}:
        return True
    return (
        parser.get_parsed_content("supervision") == "dense"
        or parser.get_parsed_content("background_label") is not None
        or parser.get("pretrained") is not None
    )


def _chosen_before(folders: Sequence[Path]) -> str:
    """What the run that goes on began with, by the config beside its model in the first of the folders that has one."""
    found = [folder / MODEL_CONFIG for folder in folders if (folder / MODEL_CONFIG).is_file()]
    if not found:
        return "gaps"
    try:
        # an id that prediction needs, of the overlay alone
        return "dense" if json.loads(found[0].read_text(encoding="utf-8")).get("extent_threshold") == 0 else "gaps"
    except (OSError, ValueError, AttributeError) as error:
        raise SpocoError(
            f"{found[0]}: is no config of a model ({error}); say --tissue dense or --tissue gaps as it began with"
        ) from error


def _said(auc: float | None, threshold: float) -> str:
    """The choice, said in one line."""
    if auc is None:
        logger.info("too few annotated objects to tell whether they have gaps between them; --tissue dense if not")
    elif auc < threshold:
        logger.info(
            "annotated objects and what lies around them look alike (area under the curve %.2f): dense tissue, "
            "--tissue gaps if not",
            auc,
        )
        return "dense"
    else:
        logger.info(
            "annotated objects and what lies around them differ (area under the curve %.2f): objects with gaps between "
            "them, --tissue dense if not",
            auc,
        )
    return "gaps"


@contextmanager
def _training_says_it() -> Iterator[None]:
    """Keeps back what the training will say of the same images."""
    noisy = logging.getLogger("spoco_bundle.transforms")
    before = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        yield
    finally:
        noisy.setLevel(before)
