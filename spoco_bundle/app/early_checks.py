"""What a command looks at before torch and MONAI are loaded: ids, values, files, and which of the models is meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spoco_bundle.app.config import check_settings, shipped_weights
from spoco_bundle.app.config_checks import config_folder, is_expression
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist, validation_split
from spoco_bundle.formats import image_dimensions


def readable_dimensions(images: Iterable[str | Path], overrides: Mapping[str, Any]) -> int:
    """2 or 3, which of the models that come with the bundle is meant: as was said, or as the images are.

    Args:
        images: files; the first that can be read decides. A bad one among good ones is named when its turn comes.
        overrides: ids that the user set.

    Returns:
        2 or 3; 3 where there is no image.

    Raises:
        SpocoError: if no image can be read, what is wrong with the first.
    """
    if "spatial_dims" in overrides:
        return 2 if overrides["spatial_dims"] == 2 else 3
    problem = None
    for image in images:
        try:
            return image_dimensions(image, *(overrides.get(name) for name in ("axes", "channel", "time")))
        except SpocoError as error:
            problem = problem or error
    if problem is not None:
        raise problem
    return 3


def weights_of(model: str, spatial_dims: int = 3) -> dict[str, str]:
    """The ids that say where a model lies, "" for the one that comes with the bundle.

    Raises:
        SpocoError: if the folder holds no weights.
    """
    if not model:
        return {"bundle_root": str(config_folder().parent), "ckpt_dir": str(shipped_weights(spatial_dims))}
    if not (Path(model) / "model.pt").is_file():
        raise SpocoError(f"--model {model}: holds no model.pt; name the output folder of `spoco train`")
    return {"ckpt_dir": model}


def check_early(files: Sequence[Path], overrides: dict[str, Any], splits: Sequence[str]) -> list[str]:
    """Refuses wrong ids and missing files before torch loads, the images too where the ids about them are plain.

    Args:
        files: configs, overlays last.
        overrides: id to value.
        splits: ids that say which split of the folder is read.

    Returns:
        The images of the splits; none of those that only the run itself can name.
    """
    merged = check_settings(files, overrides)
    source = merged["dataset_dir"]
    endings = {name: merged[name] for name in ("image_ending", "label_ending", "foreground_ending") if name in merged}
    # a path that the user gave is what was typed, whatever it begins with
    computed = [*endings.values()] if "dataset_dir" in overrides else [source, *endings.values()]
    if any(map(is_expression, computed)):
        return []
    chosen = [_nested(merged, name) for name in splits]
    chosen = [validation_split(source) if split == "@validation_split" else split for split in chosen]
    plain = [split for split in dict.fromkeys(chosen) if isinstance(split, str) and not is_expression(split)]
    return [item["image"] for split in plain for item in build_datalist(source, split, **endings)]


def _nested(merged: dict[str, Any], name: str) -> Any:
    """Value of an id such as ``train#dataset``; where an overlay sets ``train#dataset``, that wins over ``train``.

    None where a config of one's own has no such place, as with another kind of data set.
    """
    parts = name.split("#")
    for length in range(len(parts), 0, -1):
        key = "#".join(parts[:length])
        if key in merged:
            value = merged[key]
            for part in parts[length:]:
                value = value.get(part) if isinstance(value, dict) else None
            return value
    return None
