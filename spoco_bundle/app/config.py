"""Running the bundle's configs from Python: where they lie, how overlays merge, which ids may be overridden."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spoco_bundle.app.config_checks import (
    PATHS,
    PLACES,
    check_components,
    check_ids,
    check_together,
    config_folder,
    referred_ids,
    shipped_ids,
    top_id,
)
from spoco_bundle.app.config_effect import check_effect
from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.errors import SpocoError, unwrapped

if TYPE_CHECKING:
    from monai.bundle import ConfigParser, ConfigWorkflow

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
        "announce",
        "record",
        "initialize",
        "run",
        "clustering#keep_field",
        "spacing",
        "time",
    }
)


def find_config(name: str | Path) -> Path:
    """Finds a config by its path or by the bare name of a shipped one, such as ``2d``.

    Raises:
        SpocoError: if there is neither; the message lists the shipped names.
    """
    shipped = config_folder() / f"{name}.json"
    if shipped.is_file():
        return shipped
    if Path(name).is_file():
        return Path(name)
    known = ", ".join(sorted(p.stem for p in config_folder().glob("*.json") if p.stem != "metadata"))
    raise SpocoError(f"config {name}: no such file and none of the shipped ones ({known})")


def find_overlays(config: str) -> list[Path]:
    """Configs by their names or paths, with commas between."""
    return [find_config(name.strip()) for name in config.split(",") if name.strip()]


def shipped_weights(spatial_dims: int) -> Path:
    """Folder of the weights that come with the bundle, for volumes or for images."""
    return config_folder().parent / "models" / ("2d" if spatial_dims == 2 else "")


def check_settings(files: Sequence[str | Path], overrides: dict[str, Any]) -> dict[str, Any]:
    """Refuses unknown ids and plain values out of range, before torch and MONAI are loaded.

    Args:
        files: base config first, overlays after it.
        overrides: id to value; ``#`` in an id goes one level down.

    Returns:
        Value by id at the top level, as the last file or override that names it says.

    Raises:
        SpocoError: if a file is no JSON, or an id is in no file (the nearest id is named).
    """
    contents = {str(file): _checked_content(file) for file in files}
    merged = {key.lstrip("+"): value for content in contents.values() for key, value in content.items()}
    known = {top_id(key) for key in merged}
    for file, content in contents.items():
        if Path(file).parent != config_folder():
            check_ids(content, shipped_ids() | referred_ids(merged), f"{file}: ")
    check_ids(overrides, known, "--")
    return merged | overrides


def read_configs(files: Sequence[str | Path], overrides: dict[str, Any]) -> ConfigParser:
    """Merges config files and overrides as ``monai.bundle run`` does, but refuses unknown ids.

    Args:
        files: base config first, overlays after it.
        overrides: id to value; ``#`` in an id goes one level down.

    Raises:
        SpocoError: if a file is no JSON, or an override names an id that no file defines (the nearest id is named).
    """
    from monai.bundle import ConfigParser

    check_settings(files, overrides)
    parser = ConfigParser()
    merged = []
    for file in files:
        merged.append(str(file))
        try:
            parser.read_config(merged)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise SpocoError(f"{file}: an id lies below one that does not exist ({error}); correct the file") from error
    for key in overrides:
        top, *rest = key.replace("::", "#").split("#")
        # arguments of a component may be added, since its defaults need not stand in the config
        if rest and not isinstance(parser.get(top), (dict, list)):
            raise SpocoError(f"--{key}: {top} is a single value; set --{top}")
    for key, value in _literal_paths(overrides).items():
        try:
            parser[key] = value
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise SpocoError(f"--{key}: no such place in the config; see configs/ for the ids") from error
    check_together(parser.get(), "--")
    check_components(parser.get(), "--")
    check_effect(parser.get(), overrides, "--")
    return parser


def literal(value: Any) -> Any:
    """A path, or a list of paths, in a form that MONAI's config language leaves as it is.

    In plain text that language turns ``#`` into ``::`` and evaluates what begins with ``$``, ``@`` or ``%``.
    """
    if isinstance(value, (list, tuple)):
        return [literal(item) for item in value]
    if not isinstance(value, (str, Path)) or not (set("#@%$") & set(str(value)) or "::" in str(value)):
        return value
    # written as a Python expression in which none of these characters stands
    text = repr(str(value))
    for character in "#@%$:":
        text = text.replace(character, f"\\x{ord(character):02x}")
    return f"${text}"


def path_or_word(text: str) -> str | bool | None:
    """A path as it was typed; Fire takes what follows a ``#`` for a comment. True, False and None are such values."""
    return {"True": True, "False": False, "None": None}.get(text, text)


def run_configs(files: Sequence[str | Path], overrides: dict[str, Any], workflow_type: str) -> ConfigWorkflow:
    """Runs a workflow: initialize, run, finalize.

    Args:
        files: base config first, overlays after it.
        overrides: id to value.
        workflow_type: "train" or "infer".

    Returns:
        The workflow, for what it holds after the run.

    Raises:
        SpocoError: for bad input anywhere on the way, taken out of MONAI's wrapping.
    """
    from monai.bundle import ConfigWorkflow

    read_configs(files, overrides)
    workflow = ConfigWorkflow(
        config_file=[str(file) for file in files],
        meta_file=str(config_folder() / "metadata.json"),
        logging_file=False,
        workflow_type=workflow_type,
        **_literal_paths(overrides),
    )
    with unwrapped():
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    return workflow


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
    return frozenset(text for file in files for text in texts(_checked_content(file)))


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
    known = {top_id(key) for base in bases for key in _checked_content(base)}
    for key, value in _checked_content(file).items():
        if key in _NOT_A_MODELS or top_id(key) not in known:
            raise SpocoError(f"{file}: {key} is no setting of a model: take it out, or give it with --config")
        code = foreign_code(key, value)
        if code:
            raise SpocoError(
                f"{file}: {key} would run {code[:80]!r}: take it out, or, if you trust it, give it with --config"
            )
    return [file]


def _literal_paths(overrides: dict[str, Any]) -> dict[str, Any]:
    return {key: literal(value) if key in PATHS else value for key, value in overrides.items()}


def _checked_content(file: str | Path) -> dict[str, Any]:
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpocoError(f"{file}: not a JSON config ({error}); correct the file") from error
    if not isinstance(content, dict):
        raise SpocoError(f"{file}: holds {type(content).__name__} where ids with values are expected; correct the file")
    return content
