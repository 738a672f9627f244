"""Running the bundle's configs from Python: where they lie, how overlays merge, which ids may be overridden."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from spoco_bundle.app.config_checks import (
    check_components,
    check_ids,
    check_together,
    config_folder,
    nearest,
    referred_ids,
    shipped_ids,
)
from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.errors import SpocoError, unwrapped

#: file beside a trained model that names the ids a later prediction needs
MODEL_CONFIG = "model.json"

#: file in a folder of results that says how they were made

#: ids that name files and folders
PLACES = ("bundle_root", "dataset_dir", "ckpt_dir", "output_dir")


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


def read_configs(files: Sequence[str | Path], overrides: dict[str, Any]) -> ConfigParser:
    """Merges config files and overrides as ``monai.bundle run`` does, but refuses unknown ids.

    Args:
        files: base config first, overlays after it.
        overrides: id to value; ``#`` in an id goes one level down.

    Raises:
        SpocoError: if a file is no JSON, or an override names an id that no file defines (the nearest id is named).
    """
    parser = ConfigParser()
    merged = []
    for file in files:
        merged.append(str(_checked_json(file)))
        try:
            parser.read_config(merged)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise SpocoError(f"{file}: an id lies below one that does not exist ({error}); correct the file") from error
    known = set(parser.get())
    for file in files:
        if Path(file).parent != config_folder():
            check_ids(_content(file), shipped_ids() | referred_ids(parser.get()), f"{file}: ")
    for key in overrides:
        top, *rest = key.replace("::", "#").split("#")
        if top not in known:
            raise SpocoError(f"--{key}: no such id{nearest(top, known)}")
        # arguments of a component may be added, since its defaults need not stand in the config
        if rest and not isinstance(parser.get(top), (dict, list)):
            raise SpocoError(f"--{key}: {top} is a single value; set --{top}")
    check_ids({key: value for key, value in overrides.items() if key in known}, known, "--")
    for key, value in overrides.items():
        try:
            parser[key] = value
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise SpocoError(f"--{key}: no such place in the config; see configs/ for the ids") from error
    check_together(parser.get(), "--")
    check_components(parser.get(), "--")
    return parser


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
    read_configs(files, overrides)
    workflow = ConfigWorkflow(
        config_file=[str(file) for file in files],
        meta_file=str(config_folder() / "metadata.json"),
        logging_file=False,
        workflow_type=workflow_type,
        **overrides,
    )
    with unwrapped():
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    return workflow


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
    own = {*PLACES, "imports", "device", "load", "announce", "record", "initialize", "run"}
    shared = {k: v for k, v in trained.items() if k in default and k not in own and v != default[k]}
    target = Path(folder) / MODEL_CONFIG
    with atomic_write(target) as path:
        path.write_text(json.dumps(shared, indent=4) + "\n")
    return target


def model_overlay(model: str | Path) -> list[Path]:
    """The config beside a trained model; none for the bundle's own model, or where there is none."""
    file = Path(model) / MODEL_CONFIG
    return [file] if model and file.is_file() else []


def _checked_json(file: str | Path) -> str | Path:
    try:
        content = _content(file)
    except (OSError, ValueError, RecursionError) as error:
        raise SpocoError(f"{file}: not a JSON config ({error}); correct the file") from error
    if not isinstance(content, dict):
        raise SpocoError(f"{file}: holds {type(content).__name__} where ids with values are expected; correct the file")
    return file


def _content(file: str | Path) -> Any:
    return json.loads(Path(file).read_text(encoding="utf-8"))
