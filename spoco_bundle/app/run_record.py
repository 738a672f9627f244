"""How the results in a folder were made: the command, its settings, and which of the results are of other settings."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from spoco_bundle.app.config import find_config, json_content, read_configs
from spoco_bundle.app.config_checks import PATHS, PLACES, config_folder, running_parser, top_id
from spoco_bundle.app.model_config import MODEL_CONFIG, check_data, foreign_code, model_overlay
from spoco_bundle.blockwise.work import digest
from spoco_bundle.core.atomic_files import atomic_write, write_json
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.datalist import image_name
from spoco_bundle.dataset.resume import TABLE_ENDING
from spoco_bundle.formats.files import is_zarr

#: file in a folder of results that says how they were made
RUN_RECORD = "run.json"

TRUSTED = "if you trust it, write its value in its place"

#: ids that decide where and how fast work is done, not what comes out
_WITHOUT_EFFECT = PATHS | {
    *(
        "imports",
        "_meta_",
        "device",
        "summary",
        "initialize",
        "check_ids",
        "run",
        "inference",
        "dataset",
        "dataloader",
    ),
    *("skip_finished", "save_embedding", "processes"),
    *("workers", "scheduler", "network_threads", "retries", "max_memory"),
}

logger = logging.getLogger(__name__)

# folders whose record this process wrote, which knows more of it than the config that MONAI runs then
_written: set[Path] = set()
# folders whose record is written when the config runs, by what the command knows
_later: dict[Path, tuple[Sequence[str | Path], dict[str, Any], str | Path]] = {}


def write_run_record(command: str, files: Sequence[str | Path], overrides: dict[str, Any], folder: str | Path) -> Path:
    """Writes how the results in a folder are made: the command, its configs and overrides, and the plain ids in force.

    It is ``run.json`` in the folder; of a Zarr result that has a name of its own (``output``), ``NAME_run.json`` beside
    it, as others may lie there too. A prediction is added to the list of those that wrote into the folder before.

    Args:
        command: "train" or "predict".
        files: configs, base first.
        overrides: id to value; those that the configs do not have are left out.
        folder: folder of the results.

    Returns:
        The file written.
    """
    result = overrides.get("output") if command == "predict" else None
    target = Path(folder) / RUN_RECORD if result is None else _record_file(Path(result))
    _written.add(Path(folder).resolve())
    known = read_configs(files, {}).get()
    others = {key: value for key, value in overrides.items() if top_id(key) not in known}
    overrides = {key: value for key, value in overrides.items() if key not in others}
    parser = read_configs(files, overrides)
    merged = parser.get()
    plain = {key: value for key, value in merged.items() if not isinstance(value, (dict, list)) or key in overrides}
    plain |= {key: overrides[key] for key in PATHS & set(overrides)}
    places = {key: _resolved(overrides[key]) for key in PLACES if key in overrides}
    record = {
        "command": command,
        "files": [str(Path(file).resolve()) for file in files],
        "overrides": overrides | places,
        "ids": plain,
    }
    if result is not None:
        record["result"] = str(Path(result).resolve())
    if command == "predict":
        settings = {key: _short(value) for key, value in (merged | others).items() if key not in _WITHOUT_EFFECT}
        settings["weights"] = _short([digest(file) for file in _weights(parser) if file.is_file()])
        runs = _runs(target)
        if not runs or runs[-1]["settings"] != settings:
            runs.append({"began": time.time(), "settings": settings})
        record["runs"] = runs
    return write_json(target, record)


def record_later(files: Sequence[str | Path], overrides: dict[str, Any], folder: str | Path) -> None:
    """Has ``record_running_config`` write the record of ``write_run_record``: what is refused leaves the one before."""
    place = Path(overrides.get("output_dir", folder)).resolve()
    _later[place] = (files, overrides, folder)


def record_running_config(command: str) -> None:
    """Writes a record for the config that MONAI is running, unless this package's own command has done so.

    To be called from the list that MONAI runs, see ``check_running_config``. Of the config it holds the values, not the
    components: a record is data, and reading it runs nothing but what the shipped configs say.

    Args:
        command: "train" or "predict".
    """
    parser = running_parser()
    folder = Path(parser.get_parsed_content("output_dir"))
    if idist.get_rank() != 0:
        return
    if folder.resolve() in _later:
        write_run_record(command, *_later.pop(folder.resolve()))
        return
    if folder.resolve() in _written:
        return
    base = find_config("inference" if command == "predict" else "train")
    usual = read_configs([base], {}).get()
    values = {key: value for key, value in parser.get().items() if key in usual and not isinstance(value, dict)}
    own = {
        key: value
        for key, value in values.items()
        if value != usual[key] and key not in _WITHOUT_EFFECT and not foreign_code(key, value)
    }
    places = {key: _resolved(parser.get_parsed_content(key)) for key in PLACES if key in parser.get()}
    record = {"command": command, "files": [str(base)], "overrides": own | places, "ids": values | places}
    with atomic_write(folder / RUN_RECORD) as path:
        path.write_text(json.dumps(record, indent=4, default=str) + "\n")


def _resolved(place: Any) -> Any:
    return [str(Path(path).resolve()) for path in place] if isinstance(place, list) else str(Path(place).resolve())


def read_run_record(place: str | Path) -> dict[str, Any]:
    """The record of a folder, or of a Zarr result.

    Raises:
        SpocoError: if there is no such place, it has no record, several, or a damaged one, or one that would run code
            that no shipped config runs: results are passed on, and looking at them must not run what their folder says.
    """
    place = Path(place)
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
        result = str(record.get("result") or "")
        record = {key: record[key] for key in ("command", "files", "overrides", "ids")} | {"result": result}
        code = {key: foreign_code(key, value) for key, value in record["overrides"].items() if key not in PATHS}
        for config in map(Path, record["files"]):
            if config.name == MODEL_CONFIG:
                model_overlay(config.parent)
            elif config.parent != config_folder():
                check_data(json_content(config), config, TRUSTED)
    except SpocoError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpocoError(f"{file}: damaged ({type(error).__name__}: {error}); run the command again") from error
    for key, text in code.items():
        if text:
            raise SpocoError(f"{file}: {key} would run {text[:80]!r}: {TRUSTED}")
    return record


def forget_outdated(images: Iterable[str], folder: str | Path) -> None:
    """Takes away the tables of results that other settings or weights made, so that these count as unfinished.

    To be called after ``write_run_record``. A result is of the last run that began before its table was written.

    Args:
        images: paths of the images of the run.
        folder: folder of the results.
    """
    runs = _runs(Path(folder) / RUN_RECORD)
    if not runs:
        return
    outdated, differing = [], set()
    for image in images:
        table = Path(folder) / f"{image_name(image)}{TABLE_ENDING}.csv"
        if not table.is_file():
            continue
        written = table.stat().st_mtime
        made = next((run["settings"] for run in reversed(runs) if run["began"] <= written), {})
        now = runs[-1]["settings"]
        if made != now:
            outdated.append(table)
            differing |= {key for key in made.keys() | now.keys() if made.get(key) != now.get(key)} if made else set()
    if outdated:
        other = f"another {', '.join(sorted(differing))}" if differing else "settings that nothing tells of"
        count = (
            f"{len(outdated)} results" if len(outdated) > 1 else outdated[0].name.removesuffix(f"{TABLE_ENDING}.csv")
        )
        logger.info("%s in %s made with %s: made anew", count, folder, other)
    for table in outdated:
        table.unlink()


def _record_file(result: Path) -> Path:
    return result.with_name(f"{image_name(result)}_{RUN_RECORD}")


def _runs(file: Path) -> list[dict[str, Any]]:
    """The predictions that wrote into a folder, oldest first; none where the record cannot be read."""
    try:
        runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
        return [{"began": float(run["began"]), "settings": dict(run["settings"])} for run in runs]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _weights(parser: Mapping[str, Any]) -> list[Path]:
    """The files that a prediction reads its networks from."""
    names = ["weights_file", "second_weights_file"][: 1 + bool(parser.get_parsed_content("agreement"))]
    return [Path(parser.get_parsed_content(name)) for name in names]


def _short(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
