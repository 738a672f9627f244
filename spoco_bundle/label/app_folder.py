"""The app's folder: the bundle as MONAI Label looks for it, with the weights that it starts from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from spoco_bundle.app.config import config_folder, find_config, read_configs, shipped_weights
from spoco_bundle.app.config_checks import top_id
from spoco_bundle.app.model_config import model_overlay, write_model_config
from spoco_bundle.core.atomic_files import atomic_write, write_json
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.saved_state import plain_state, save_state

#: the bundle's name in the app; MONAI Label guesses other tasks from deepedit, deepgrow, detection, classification
NAME = "spoco"
#: beside the weights, what they began from
ORIGIN = "origin.json"
MAIN = '''"""The app's door, as MONAI Label looks for it."""

from spoco_bundle.label.app import SpocoApp

__all__ = ["SpocoApp"]
'''


def prepare_app(
    folder: Path, model: str = "", random_weights: bool = False, config: Sequence[Path] = (), **overrides: Any
) -> Path:
    """Makes the app's folder, with the bundle in ``model/spoco``: its configs, merged with what the server needs.

    Weights that are there already, from earlier trainings, stay, with the model and the config that they began from.

    Args:
        folder: of the app.
        model: folder that ``spoco train`` wrote; "" takes the weights that come with the bundle.
        random_weights: start from nothing.
        config: overlays, base first.
        overrides: ids of train.json or inference.json.

    Returns:
        The folder of the bundle in the app.

    Raises:
        SpocoError: if an override is no id of either config, the weights are missing, or the folder holds weights that
            began from others than those named.
    """
    if model and random_weights:
        raise SpocoError(f"--model {model} and --random_weights: give one of them")
    if model and not (Path(model) / "model.pt").is_file():
        raise SpocoError(f"--model {model}: holds no model.pt; name the output folder of `spoco train`")
    bundle = folder / "model" / NAME
    began = _origin(bundle / "models", model, random_weights, config)
    dims = 2 if overrides.get("spatial_dims") == 2 else 3
    beside = model_overlay(began["model"], dims) or model_overlay("", dims)
    own = [*map(Path, began["config"])]
    of_train = [find_config("train"), find_config("label"), *beside]
    parser = read_configs([*of_train, *own], overrides)
    # the images of a training say how large its objects are, when it begins
    train = read_configs([*of_train, find_config("pretrained"), *own], overrides).get()
    default = read_configs([find_config("inference")], {}).get()
    shared = {key: value for key, value in overrides.items() if top_id(key) in default}
    predicting = read_configs([find_config("inference"), *beside, *own], shared).get()
    inference = {key: value for key, value in predicting.items() if key in default}
    merged = {"train": train, "inference": inference, "metadata": _metadata(train)}
    for name in ("train", "inference"):
        merged[name]["ckpt_dir"] = "$str(Path(@bundle_root) / 'models')"  # where the server looks for weights
    for name, content in merged.items():
        write_json(bundle / "configs" / f"{name}.json", content)
    for name in ("multi_gpu_train.json", "logging.conf"):
        shutil.copy(config_folder() / name, bundle / "configs" / name)
    if not (bundle / "models" / "model.pt").is_file():
        source = Path(model) if model else shipped_weights(train["spatial_dims"])
        write_json(bundle / "models" / ORIGIN, began)
        write_model_config(parser, bundle / "models")
        _first_weights(bundle, source, random_weights)
    with atomic_write(folder / "main.py") as path:
        path.write_text(MAIN)
    return bundle


def learnt_kernel(bundle: Path) -> dict[str, float]:
    """How wide an object is in the embedding space: the arguments of ``soft_mask`` that the app's loss was given."""
    parser = ConfigParser(ConfigParser.load_config_file(bundle / "configs" / "train.json"))
    names = parser["loss"].keys() & {"delta_var", "kernel_threshold"}
    return {name: parser.get_parsed_content(f"loss#{name}") for name in names}


def _origin(models: Path, model: str, random_weights: bool, config: Sequence[Path]) -> dict[str, Any]:
    """What the weights of an app begin from; of one that has weights, what was written down when they began."""
    weights = "random weights" if random_weights else str(Path(model).resolve()) if model else ""
    files = [str(Path(file).resolve()) for file in config]
    if not (models / "model.pt").is_file():
        return {"weights": weights, "model": model, "config": files}
    began = {"weights": "others", "config": []}
    if (models / ORIGIN).is_file():
        began = json.loads((models / ORIGIN).read_text())
    if weights and weights != began["weights"]:
        option = "--random_weights" if random_weights else f"--model {model}"
        raise SpocoError(
            f"{option}: {models} holds weights already, which began from "
            f"{began['weights'] or 'those that come with the bundle'}; give another --output, or leave the option out "
            "to go on with them"
        )
    # the config of the model they began from lies beside them
    return {**began, "model": str(models), "config": files or began["config"]}


def _first_weights(bundle: Path, source: Path, random_weights: bool) -> None:
    target = bundle / "models"
    target.mkdir(parents=True, exist_ok=True)
    if random_weights:
        parser = ConfigParser(ConfigParser.load_config_file(bundle / "configs" / "inference.json"))
        torch.manual_seed(int(ConfigParser.load_config_file(bundle / "configs" / "train.json")["seed"]))
        network = parser.get_parsed_content("network_def")
        save_state(plain_state(network.state_dict()), target / "model.pt")
        return
    if not (source / "model.pt").is_file():
        raise SpocoError(f"{source}: holds no model.pt; give --model FOLDER, or --random_weights")
    # the weights in use last: with them the folder counts as complete
    for name in ("model_student.pt", "model.pt"):
        if (source / name).is_file():
            with atomic_write(target / name) as path:
                shutil.copyfile(source / name, path)


def _metadata(train: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a network of other dimensions, by which clients know a 2D model."""
    metadata = json.loads((config_folder() / "metadata.json").read_text())
    image = metadata["network_data_format"]["inputs"]["image"]
    image["spatial_shape"] = image["spatial_shape"][-train["spatial_dims"] :]
    image["num_channels"] = train["in_channels"]
    return metadata
