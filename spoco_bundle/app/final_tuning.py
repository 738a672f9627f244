"""The end of a training: how its embeddings are clustered, chosen on the validation images within a few minutes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist

from spoco_bundle.app.config import find_config, json_content
from spoco_bundle.app.config_checks import running_parser
from spoco_bundle.app.model_config import MODEL_CONFIG, alike, config_beside
from spoco_bundle.core.atomic_files import write_json

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

#: ids that a training decides last, on its validation images, unless they are given
TUNED = ("objectness_threshold", "min_fraction", "merge_distance")

logger = logging.getLogger(__name__)


def tuned_ids(config: Mapping[str, Any], model: Mapping[str, Any] | None = None) -> list[str]:
    """Those of `TUNED` that a training may choose: what computes them is the config's own.

    Args:
        config: of the training, unresolved.
        model: config of the model that the training starts from; what it says is no choice of the user's.
    """
    model, usual = model or {}, json_content(find_config("train"))
    taken = {
        "objectness_threshold": bool(config["objectness"]),
        "merge_distance": config["clustering"]["method"] == "density_peaks",
        "min_fraction": config["clustering"].get("min_size") is None,
    }
    return [
        name
        for name in TUNED
        if taken[name] and (alike(config[name], usual[name]) or name in model and alike(config[name], model[name]))
    ]


def tune_running_training(folder: str | Path, minutes: float, min_objects: int = 20) -> None:
    """Chooses the clustering of the training that has run, and writes it into the config beside the weights.

    It is what `spoco tune` does, on the images, or the held-out objects, that validated the training. The images are
    looked at as in a prediction, at the size that is estimated for them. To be called from the list that MONAI runs,
    see `check_running_config`.

    Args:
        folder: of the weights.
        minutes: of it all, at most; 0 leaves everything as planned.
        min_objects: of fewer annotated objects no choice is made: they say too little.
    """
    parser = running_parser()
    if not minutes or idist.get_rank() != 0:
        return
    beside = config_beside(parser.get_parsed_content("pretrained"))
    names = tuned_ids(parser.get(), None if beside is None else json_content(beside))
    file = Path(folder) / MODEL_CONFIG
    if not names or not file.with_name("model.pt").is_file():  # no weights where no validation could be scored
        return
    model = json_content(file)
    tuner = _parser_of_tuning(parser, model, names, minutes, min_objects).get_parsed_content("tuner")
    tuned, trials = tuner.search_best()
    chosen = {trial.name: trial for trial in trials if trial.chosen}
    changes = [
        f"{name} {value} instead of {tuner.start[name]} "
        f"({chosen[name].score:.2f}, {chosen[name].score - chosen[name].gain:.2f} before)"
        for name, value in tuned.items()
        if value != tuner.start[name]
    ]
    logger.info("clustering tuned on the validation: %s", ", ".join(changes) or "all stays as planned")
    write_json(file, model | tuned)


def _parser_of_tuning(
    running: ConfigParser, model: Mapping[str, Any], names: list[str], minutes: float, min_objects: int
) -> ConfigParser:
    """The config of `spoco tune` on top of that of the training, with what the plan came to as plain values."""
    from monai.bundle import ConfigParser

    parser = ConfigParser(copy.deepcopy(running.get()))
    overlays = [json_content(find_config(name)) for name in ("evaluate", "tune")]
    search = [entry for entry in overlays[-1]["search"] if entry["id"] in names]
    taken = "holdout_fraction", "held_out", "validation_voxels", "partly_labelled", "key_metric"
    own = {
        # as they validated the training
        **{"split": running.get_parsed_content("validation_split"), "keep_fraction": 1.0},
        **{name: running.get_parsed_content(name) for name in taken},
        **{"search": search, "tuner#minutes": minutes, "tuner#min_objects": min_objects},
    }
    for content in (model, *overlays, own):
        for key, value in content.items():
            parser[key] = value
    return parser
