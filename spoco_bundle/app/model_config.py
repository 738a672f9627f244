"""The config beside a trained model: which ids a later prediction needs, and no code but the bundle's own."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from spoco_bundle.app.config import find_config, json_content, read_configs
from spoco_bundle.app.config_checks import PLACES, config_folder, top_id
from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.errors import SpocoError

__all__ = ["MODEL_CONFIG", "foreign_code", "model_overlay", "write_model_config"]

logger = logging.getLogger(__name__)

#: file beside a trained model that names the ids a later prediction needs
MODEL_CONFIG = "model.json"

#: ids that no model decides; the voxel size and the time point are of the images, and the weights carry the training's
_NOT_A_MODELS = frozenset(
    {
        *PLACES,
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
    return _foreign_code({key.replace("::", "#").split("#")[-1]: value})


def _foreign_code(value: Any) -> str:
    """As ``foreign_code``, of a value.

    Expressions, references and components are all that runs anything.
    """
    if isinstance(value, dict):
        target = value.get("_target_", "")
        found = "" if not target or isinstance(target, str) and target in _shipped_code() else str(target)
        return found or next(filter(None, map(_foreign_code, value.values())), "")
    if isinstance(value, list):
        return next(filter(None, map(_foreign_code, value)), "")
    runs = isinstance(value, str) and value[:1] in ("$", "@", "%") and value not in _shipped_code()
    return value if runs else ""


@cache
def _shipped_code() -> frozenset[str]:
    """Expressions, references and targets of components in the shipped configs."""

    def texts(value: Any) -> Iterator[str]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for item in inner:
            yield from texts(item)
        if isinstance(value, dict) and isinstance(value.get("_target_"), str):
            yield value["_target_"]
        if isinstance(value, str) and value[:1] in ("$", "@", "%"):
            yield value

    files = [file for file in config_folder().glob("*.json") if file.stem != "metadata"]
    return frozenset(text for file in files for text in texts(json_content(file)))


def write_model_config(files: Sequence[str | Path], overrides: dict[str, Any], folder: str | Path) -> Path:
    """Writes the ids in which a training differs from the defaults of inference beside the model.

    With them prediction needs no overlay.

    Args:
        files: configs of the training, base first.
        overrides: overrides of the training.
        folder: folder of the model.

    Returns:
        The file written, itself an overlay of ``inference.json``.
    """
    trained = read_configs(files, overrides).get()
    default = read_configs([find_config("inference")], {}).get()
    shared: dict[str, Any] = {}
    for key in trained.keys() & default.keys() - _NOT_A_MODELS:
        value, usual = trained[key], default[key]
        if isinstance(value, dict) and isinstance(usual, dict) and value.get("_target_") == usual.get("_target_"):
            # of a component its own arguments alone: prediction has others that training does not know
            own = {f"{key}#{name}": inner for name, inner in value.items() if inner != usual.get(name)}
            shared |= {name: inner for name, inner in own.items() if name not in _NOT_A_MODELS}
        elif value != usual:
            shared[key] = value
    if trained["spacing"] is not None and trained["target_spacing"] is not None:
        shared["assumed_spacing"] = trained["spacing"]
    left_out = sorted(key for key, value in shared.items() if foreign_code(key, value))
    if left_out:
        logger.warning(
            "%s holds code of your own config and is not kept with the model: give that config to `spoco predict` too",
            ", ".join(left_out),
        )
    shared = {key: shared[key] for key in sorted(shared) if key not in left_out}
    target = Path(folder) / MODEL_CONFIG
    with atomic_write(target) as path:
        path.write_text(json.dumps(shared, indent=4) + "\n")
    return target


def model_overlay(model: str | Path) -> list[Path]:
    """The config beside a trained model; none for the bundle's own model, or where there is none.

    Raises:
        SpocoError: if it is no JSON, or holds what this program does not write there, such as code of its own: models
            are passed on, and using one must not run what its folder says.
    """
    file = Path(model) / MODEL_CONFIG
    if not model or not file.is_file():
        return []
    bases = map(find_config, ("inference", "inference_blockwise"))
    known = {top_id(key) for base in bases for key in json_content(base)}
    stored = json_content(file)
    content = _up_to_date(stored)
    for key, value in content.items():
        if key in _NOT_A_MODELS or top_id(key) not in known:
            raise SpocoError(f"{file}: {key} is no setting of a model: take it out, or give it with --config")
        code = foreign_code(key, value)
        if code:
            raise SpocoError(
                f"{file}: {key} would run {code[:80]!r}: take it out, or, if you trust it, give it with --config"
            )
    if content != stored:
        with atomic_write(file) as path:
            path.write_text(json.dumps(content, indent=4) + "\n")
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
                plain = not isinstance(inner, (dict, list)) and not str(inner).startswith(("$", "@", "%"))
                if plain and inner != usual.get(name):
                    kept[f"{key}#{name}"] = inner
        elif key == "spacing" and "target_spacing" in content:
            kept["assumed_spacing"] = value
        elif key not in ("spacing", "time"):
            kept[key] = value
    return kept
