"""What made the results in a folder: written beside them by every door, read by the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from spoco_bundle.app.config import PLACES, read_configs
from spoco_bundle.app.config_checks import running_parser, top_id
from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.datalist import image_name
from spoco_bundle.formats.files import is_zarr

__all__ = ["read_run_record", "record_running_config", "write_run_record"]

RUN_RECORD = "run.json"
#: the whole config of a run that MONAI was told to do, to which its record refers
RUN_CONFIG = "run_config.json"

# written by this process, which knows more of them than the config that MONAI runs then
_written: set[Path] = set()


def write_run_record(command: str, files: Sequence[str | Path], overrides: dict[str, Any], folder: str | Path) -> Path:
    """Writes how the results in a folder are made: the command, its configs and overrides, and the plain ids in force.

    It is ``run.json`` in the folder; of a Zarr result that has a name of its own (``output``), ``NAME_run.json`` beside
    it, as others may lie there too.

    Args:
        command: "train" or "predict".
        files: configs, base first.
        overrides: id to value; those that the configs do not have are kept apart.
        folder: folder of the results.

    Returns:
        The file written.
    """
    known = read_configs(files, {}).get()
    others = {key: value for key, value in overrides.items() if top_id(key) not in known}
    overrides = {key: value for key, value in overrides.items() if key not in others}
    merged = read_configs(files, overrides).get()
    places = {key: str(Path(overrides[key]).resolve()) for key in PLACES if key in overrides}
    record = {
        "command": command,
        "files": [str(Path(file).resolve()) for file in files],
        "overrides": overrides | places,
        "others": others,
        "ids": _plain(merged) | {key: merged[key] for key in overrides if key in merged},
    }
    result = others.get("output")
    if result is not None:
        others["output"] = str(Path(result).resolve())
    _written.add(Path(folder).resolve())
    return _write(_record_file(Path(result)) if result is not None else Path(folder) / RUN_RECORD, record)


def record_running_config(command: str) -> None:
    """Writes the same for the config that MONAI is running, unless this package's own command has done so.

    To be called from the list that MONAI runs, see ``check_running_config``.

    Args:
        command: "train" or "predict".
    """
    parser = running_parser()
    if parser is None or idist.get_rank() != 0:
        return
    folder = Path(parser.get_parsed_content("output_dir"))
    if folder.resolve() in _written:
        return
    places = {key: str(Path(parser.get_parsed_content(key)).resolve()) for key in PLACES if key in parser.get()}
    config = {key: value for key, value in parser.get().items() if key != "_meta_"}
    file = _write(folder / RUN_CONFIG, config)
    record = {"command": command, "files": [str(file.resolve())], "overrides": places, "others": {}}
    _write(folder / RUN_RECORD, {**record, "ids": _plain(config)})


def read_run_record(place: Path) -> dict[str, Any]:
    """The record of the results in a folder, or of a Zarr result.

    Args:
        place: the folder or the Zarr result.

    Returns:
        ``command``, ``files``, ``overrides``, ``others`` and ``ids``, see ``write_run_record``.

    Raises:
        SpocoError: if there is no such place, it has no record, several, or a damaged one.
    """
    if not place.is_dir():
        raise SpocoError(f"{place}: no such folder; name one that `spoco predict` or `spoco train` filled")
    file = _record_file(place) if is_zarr(place) else place / RUN_RECORD
    of_results = sorted(place.glob(f"*_{RUN_RECORD}"))
    if not file.is_file() and len(of_results) == 1:
        file = of_results[0]
    if not file.is_file():
        others = ", ".join(path.name.removesuffix(f"_{RUN_RECORD}") for path in of_results)
        more = f"; name one of the results in it: {others}" if others else ""
        raise SpocoError(
            f"{place}: holds no {RUN_RECORD}: name a folder that `spoco predict` or `spoco train` filled{more}"
        )
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return {key: record[key] for key in ("command", "files", "overrides", "ids")} | {
            "others": record.get("others", {})
        }
    except (ValueError, KeyError, TypeError) as error:
        raise SpocoError(f"{file}: damaged ({type(error).__name__}: {error}); run the command again") from error


def _record_file(result: Path) -> Path:
    return result.with_name(f"{image_name(result)}_{RUN_RECORD}")


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not isinstance(value, (dict, list))}


def _write(file: Path, content: Mapping[str, Any]) -> Path:
    with atomic_write(file) as path:
        path.write_text(json.dumps(content, indent=4, default=str) + "\n", encoding="utf-8")
    return file
