"""Running the bundle's configs from Python: where they lie, how overlays merge, which ids may be overridden."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from spoco_bundle.data.whole_files import written_whole
from spoco_bundle.errors import SpocoError

#: file beside a trained model that names the ids a later prediction needs
MODEL_CONFIG = "model.json"


def config_folder() -> Path:
    """The folder of the JSON configs: of the bundle folder this package lies in, else of the installed package."""
    beside = Path(__file__).resolve().parent.parent / "configs"
    return beside if (beside / "train.json").is_file() else Path(__file__).resolve().parent / "configs"


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


def read_configs(files: Sequence[str | Path], overrides: dict[str, Any]) -> ConfigParser:
    """Merges config files and overrides as ``monai.bundle run`` does, but refuses unknown ids.

    Args:
        files: base config first, overlays after it.
        overrides: id to value; ``#`` in an id goes one level down.

    Raises:
        SpocoError: if a file is no JSON, or an override names an id that no file defines (the nearest id is named).
    """
    for file in files:
        try:
            json.loads(Path(file).read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise SpocoError(f"{file}: not a JSON config ({error}); correct the file") from error
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    for key in overrides:
        top, *rest = key.replace("::", "#").split("#")
        known = parser.get()
        if top not in known:
            raise SpocoError(f"--{key}: no such id in {Path(files[0]).name}{_nearest(top, known)}")
        # arguments of a component may be added, since its defaults need not stand in the config
        if rest and not isinstance(known[top], (dict, list)):
            raise SpocoError(f"--{key}: {top} is a single value in {Path(files[0]).name}; set --{top}")
    parser.update(overrides)
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
    try:
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except Exception as error:
        mendable = user_error(error)
        if mendable is None:
            raise
        raise mendable from error
    return workflow


def user_error(error: BaseException) -> SpocoError | None:
    """The error of this package inside a chain of wrapping exceptions, if there is one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, SpocoError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


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
    own = {"imports", "bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "device", "load", "initialize", "run"}
    shared = {k: v for k, v in trained.items() if k in default and k not in own and v != default[k]}
    target = Path(folder) / MODEL_CONFIG
    with written_whole(target) as path:
        path.write_text(json.dumps(shared, indent=4) + "\n")
    return target


def _nearest(key: str, known: dict[str, Any]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean --{near[0]}?" if near else "; see the file for the ids"
