"""The config beside a trained model: which ids a later prediction needs, and no code but the bundle's own."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spoco_bundle.app.config import find_config, json_content, read_configs, shipped_weights
from spoco_bundle.app.config_checks import PLACES, code_in, is_expression, levels, shipped_configs, top_id
from spoco_bundle.core.atomic_files import write_json
from spoco_bundle.core.errors import SpocoError

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

logger = logging.getLogger(__name__)

#: file beside a trained model that names the ids a later prediction needs
MODEL_CONFIG = "model.json"

#: ids that the profile of a training decides, see ``app.plan``
PLANNED = (
    *("spatial_dims", "in_channels", "object_diameter", "large_diameter", "target_spacing", "dense"),
    *("strides", "kernel_sizes", "convolutions", "channels", "crop_size", "batch_size", "pasted_crops"),
    *("embedding_channels", "coordinate_channels"),
    *("objectness_target", "objectness_weight", "objectness_unlabeled_weight", "objectness_unlabeled_relative"),
    *("objectness_shell", "objectness_threshold", "extent_threshold", "merge_distance", "min_fraction"),
)

#: ids that no model decides; the voxel size and the time point are of the images, and the weights carry the training's
_NOT_A_MODELS = frozenset(
    {
        *PLACES,
        "_meta_",
        "imports",
        "device",
        "load",
        "summary",
        "record",
        "initialize",
        "run",
        "clustering#keep_field",
        "spacing",
        "time",
    }
)


def foreign_code(key: str, value: Any) -> str:
    """The first thing in a config id that would run code which no shipped config runs; an empty text if none does."""
    # the last level of a key may name a component's target
    named = {levels(key)[-1]: value}
    return next((text for text in code_in(named) if text not in _shipped_code()), "")


def check_data(
    content: Mapping[str, Any], file: Path, remedy: str = "take it out, or, if you trust it, give it with --config"
) -> None:
    """Refuses a config that would run what no shipped config runs: it may come from anybody.

    Raises:
        SpocoError: that names the file, the id and what it would run.
    """
    for key, value in content.items():
        code = foreign_code(key, value)
        if code:
            raise SpocoError(f"{file}: {key} would run {code[:80]!r}: {remedy}")


@cache
def _shipped_code() -> frozenset[str]:
    """Expressions, references and targets of components in the shipped configs."""
    return frozenset(text for file in shipped_configs() for text in code_in(json_content(file)))


def resolved(parser: ConfigParser, key: str) -> Any:
    """The plain value of an id that the config computes."""
    value = parser.get_parsed_content(key)
    return list(value) if isinstance(value, tuple) else value


def write_model_config(parser: ConfigParser, folder: str | Path, instead: Mapping[str, Any] | None = None) -> Path:
    """Writes the ids beside a model that prediction, evaluation and further training need to be given.

    These are all that the profile decided, and those in which the training differs from the defaults of inference.

    Args:
        parser: the config of the training.
        folder: folder of the model.
        instead: values of ids in place of those of the training.

    Returns:
        The file written, itself an overlay of ``inference.json``.
    """
    trained = parser.get()
    default = read_configs([find_config("inference")], {}).get()
    shared: dict[str, Any] = {key: resolved(parser, key) for key in PLANNED if key in default and key in trained}
    for key in trained.keys() & default.keys() - _NOT_A_MODELS - shared.keys():
        value, usual = trained[key], default[key]
        if isinstance(value, dict) and isinstance(usual, dict) and value.get("_target_") == usual.get("_target_"):
            # of a component its own arguments alone: prediction has others that training does not know
            own = {f"{key}#{name}": inner for name, inner in value.items() if not alike(inner, usual.get(name))}
            shared |= {name: inner for name, inner in own.items() if name not in _NOT_A_MODELS}
        elif not alike(value, usual):
            shared[key] = value
    if trained["spacing"] is not None and shared["target_spacing"] is not None:
        shared["assumed_spacing"] = trained["spacing"]
    left_out = sorted(key for key, value in shared.items() if foreign_code(key, value))
    if left_out:
        logger.warning(
            "%s holds code of your own config and is not kept with the model: give that config to `spoco predict` too",
            ", ".join(left_out),
        )
    shared = {key: shared[key] for key in sorted(shared) if key not in left_out} | dict(instead or {})
    return write_json(Path(folder) / MODEL_CONFIG, shared)


def alike(value: Any, usual: Any) -> bool:
    """Whether two values say the same; MONAI writes ``::`` for ``#`` in the references of a config that runs."""
    return json.dumps(value, default=str).replace("::", "#") == json.dumps(usual, default=str).replace("::", "#")


def config_beside(weights: str | Path | None) -> Path | None:
    """The config beside a file of weights, None where there is none; see ``model_overlay``."""
    return None if weights is None else next(iter(model_overlay(Path(str(weights)).parent)), None)


def model_overlay(model: str | Path, spatial_dims: int = 3) -> list[Path]:
    """The config beside a model; none where there is none.

    Args:
        model: folder of the model, "" for the one that comes with the bundle.
        spatial_dims: 2 or 3, which of those that come with the bundle.

    Raises:
        SpocoError: if it is no JSON, or holds what this program does not write there, such as code of its own: models
            are passed on, and using one must not run what its folder says.
    """
    file = (Path(model) if model else shipped_weights(spatial_dims)) / MODEL_CONFIG
    if not file.is_file():
        return []
    bases = map(find_config, ("inference", "inference_blockwise"))
    known = {top_id(key) for base in bases for key in json_content(base)}
    stored = json_content(file)
    content = stored if "object_diameter" in stored else _up_to_date(stored)
    for key in content:
        if key in _NOT_A_MODELS or top_id(key) not in known:
            raise SpocoError(f"{file}: {key} is no setting of a model: take it out, or give it with --config")
    check_data(content, file)
    if content != stored:
        write_json(file, content)
        logger.info("%s was written by version 0.1: brought up to date", file)
    return [file]


def _up_to_date(content: dict[str, Any]) -> dict[str, Any]:
    """The config of a model of version 0.1, which kept whole components, and sizes of its images."""
    default = json_content(find_config("inference"))
    kept: dict[str, Any] = {}
    for key, value in content.items():
        usual = default.get(key)
        if isinstance(value, dict) and isinstance(usual, dict) and value.get("_target_") == usual.get("_target_"):
            for name, inner in value.items():
                plain = not isinstance(inner, (dict, list)) and not is_expression(inner)
                if plain and inner != usual.get(name):
                    kept[f"{key}#{name}"] = inner
        elif key == "spacing" and "target_spacing" in content:
            kept["assumed_spacing"] = value
        elif key not in ("spacing", "time"):
            kept[key] = value
    return {key: default[key] for key in PLANNED if key in default} | kept
