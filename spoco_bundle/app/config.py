"""Running the bundle's configs from Python: where they lie, how overlays merge, which ids may be overridden."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spoco_bundle.app.config_checks import (
    PATHS,
    check_components,
    check_ids,
    check_together,
    config_folder,
    levels,
    referred_ids,
    shipped_configs,
    shipped_ids,
    top_id,
)
from spoco_bundle.app.config_effect import check_effect
from spoco_bundle.core.errors import SpocoError, unwrapped

if TYPE_CHECKING:
    from monai.bundle import ConfigParser, ConfigWorkflow

logger = logging.getLogger(__name__)


def find_config(name: str | Path) -> Path:
    """Finds a config by its path or by the bare name of a shipped one, such as ``demo``.

    Raises:
        SpocoError: if there is neither; the message lists the shipped names.
    """
    shipped = config_folder() / f"{name}.json"
    if shipped.is_file():
        return shipped
    if Path(name).is_file():
        return Path(name)
    known = ", ".join(file.stem for file in shipped_configs())
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
    contents = {str(file): json_content(file) for file in files}
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
        top, *rest = levels(key)
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


def plain(value: Any) -> Any:
    """A value as a config holds it: numbers and arrays of other libraries as Python's own."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


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

    # it sets a level of its own when it is imported, and then says which files it takes for logging
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
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


def _literal_paths(overrides: dict[str, Any]) -> dict[str, Any]:
    return {key: literal(value) if key in PATHS else value for key, value in overrides.items()}


def json_content(file: str | Path) -> dict[str, Any]:
    """Ids and values of a config file.

    Raises:
        SpocoError: if it is no JSON, or no object.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpocoError(f"{file}: not a JSON config ({error}); correct the file") from error
    if not isinstance(content, dict):
        raise SpocoError(f"{file}: holds {type(content).__name__} where ids with values are expected; correct the file")
    return content
