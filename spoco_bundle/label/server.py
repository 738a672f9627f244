"""Everything between a folder of images and a running MONAI Label server: its environment, its app, its process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from spoco_bundle.app.config import config_folder, find_config, model_overlay, read_configs, shipped_weights
from spoco_bundle.app.config_checks import top_id
from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.saved_state import plain_state, save_state

#: the bundle's name in the app; MONAI Label guesses other tasks from deepedit, deepgrow, detection, classification
NAME = "spoco"
CONSTRAINTS = Path(__file__).with_name("constraints.txt")
IMAGE_PATTERNS = [f"*{suffix}" for suffix in ".nii.gz .nii .nrrd .mha .ome.tif .tif .tiff .png .jpg".split()]
MAIN = '''"""The app's door, as MONAI Label looks for it."""

from spoco_bundle.label.app import SpocoApp

__all__ = ["SpocoApp"]
'''


def run_server(
    studies: Path,
    output: Path,
    environment: Path,
    port: int,
    model: str,
    random_weights: bool,
    config: Sequence[Path],
    overrides: Mapping[str, Any],
) -> None:
    """Builds what is missing, prepares the app and runs the server until it is stopped.

    Args:
        studies: folder of the images.
        output: folder of the app.
        environment: folder of the server's environment.
        port: of the server.
        model: see ``prepare_app``, as the following.
        random_weights: start from nothing.
        config: overlays, base first.
        overrides: ids of train.json or inference.json.

    Raises:
        SpocoError: if the studies are no folder, the port is taken, torchvision does not fit torch, the server ends by
            itself, or whatever the parts say.
    """
    if not studies.is_dir():
        raise SpocoError(f"--studies {studies}: no such folder; name the folder that holds the images")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise SpocoError(f"--port {port}: something listens there already; choose another one")
    app = output / "app"
    prepare_app(app, model, random_weights, config, **overrides)
    python = build_environment(environment)
    command, variables = server_command(python, app, studies, port)
    if subprocess.run([python, "-c", "import torchvision"], env=variables, capture_output=True).returncode:
        raise SpocoError(
            f"{environment}: its torchvision does not fit its torch, as PyPI's does not beside a CPU build of torch: "
            f"run {python} -m pip install --force-reinstall --no-deps torchvision from the index that torch came from"
        )
    print(how_to_connect(port, studies), flush=True)
    # in a process group of its own: Ctrl-C comes here alone, and the server, with a training, is told to stop once
    server = subprocess.Popen(command, env=variables, start_new_session=True)
    # Ctrl-C too, which a shell lets background jobs ignore
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        code = server.wait()
    except KeyboardInterrupt:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        return
    raise SpocoError(f"the server ended by itself with code {code}; the lines above say why")


def build_environment(folder: Path) -> Path:
    """Builds the server's own virtual environment where there is none yet: some 4 GB, a few minutes.

    MONAI Label needs older packages than the bundle, so the two cannot share one environment.

    Args:
        folder: of the environment.

    Returns:
        Its Python.

    Raises:
        SpocoError: if the folder holds other things, or an installation fails.
    """
    python = folder.absolute() / "bin" / "python"
    done = folder / "complete"
    wanted = CONSTRAINTS.read_text()
    if done.is_file() and done.read_text() == wanted:
        return python
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise SpocoError(f"--environment {folder}: holds other things; name a new folder, or one built here before")
    print(f"building the server's environment in {folder}: some 4 GB, a few minutes", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    source = config_folder().parent
    bundle = ["--editable", str(source)] if (source / "pyproject.toml").is_file() else ["spoco-bundle"]
    for what in (
        ["setuptools", "wheel", "torch"],
        # its build looks for the installed torch, and for a CUDA compiler unless told not to
        ["--no-build-isolation", "sam2"],
        [*bundle, "monailabel"],
    ):
        command = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS), *what]
        if subprocess.run(command, env={**os.environ, "SAM2_BUILD_CUDA": "0"}, check=False).returncode:
            raise SpocoError(f"{folder}: installing {' '.join(what)} failed, see the lines above; run it again")
    done.write_text(wanted)
    return python


def prepare_app(
    folder: Path, model: str = "", random_weights: bool = False, config: Sequence[Path] = (), **overrides: Any
) -> Path:
    """Makes the app's folder, with the bundle in ``model/spoco``: its configs, merged with what the server needs.

    Weights that are there already, from earlier trainings, stay.

    Args:
        folder: of the app.
        model: folder that ``spoco train`` wrote; "" takes the weights that come with the bundle.
        random_weights: start from nothing.
        config: overlays, base first.
        overrides: ids of train.json or inference.json.

    Returns:
        The folder of the bundle in the app.

    Raises:
        SpocoError: if an override is no id of either config, or the weights are missing.
    """
    bundle = folder / "model" / NAME
    overlays = [*model_overlay(model), *config]
    train = read_configs([find_config("train"), find_config("label"), *overlays], overrides).get()
    default = read_configs([find_config("inference")], {}).get()
    shared = {key: value for key, value in overrides.items() if top_id(key) in default}
    merged = {
        "train": train,
        "inference": _only(read_configs([find_config("inference"), *overlays], shared).get(), default),
        "metadata": _metadata(train),
    }
    for name in ("train", "inference"):
        merged[name]["ckpt_dir"] = "$str(Path(@bundle_root) / 'models')"  # where the server looks for weights
    for name, content in merged.items():
        with atomic_write(bundle / "configs" / f"{name}.json") as path:
            path.write_text(json.dumps(content, indent=4) + "\n")
    for name in ("multi_gpu_train.json", "logging.conf"):
        shutil.copy(config_folder() / name, bundle / "configs" / name)
    weights = bundle / "models" / "model.pt"
    if not weights.is_file():
        source = Path(model) if model else shipped_weights(train["spatial_dims"])
        _first_weights(bundle, source, random_weights)
    with atomic_write(folder / "main.py") as path:
        path.write_text(MAIN)
    return bundle


def server_command(python: Path, app: Path, studies: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """The command that starts the server on this machine's own address, and its environment variables."""
    command = [str(python), "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", str(studies)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    # a zoo source other than "ngc" is asked for over the internet even where the bundle is local
    for key, value in (("models", NAME), ("zoo_source", "ngc"), ("sam2", "false")):
        command += ["--conf", key, value]
    variables = {
        **os.environ,
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps(IMAGE_PATTERNS),
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
    }
    return command, variables


def how_to_connect(port: int, studies: Path) -> str:
    """What a person needs to know to connect a viewer."""
    return f"""
The server will be at http://127.0.0.1:{port} (its pages: /info/, /train/, /logs/?html=false). Stop it with Ctrl-C.

3D Slicer  install the extension MONAILabel, open the module, enter http://127.0.0.1:{port} as the server, press
           Next Sample (strategy "disagreement"), Auto Segmentation: Run. Correct or draw some objects; let the name of
           a segment begin with "confirmed" where the prediction was right, with "no object" where you painted what is
           none. Submit Label, then Train: Start. Segments that you left as they were teach nothing.
QuPath     install the MONAI Label extension, Preferences: MONAI Label server = http://127.0.0.1:{port}. It exchanges
           images and labels of 2D models (--config 2d); as a prediction it asks for outlines, which are not drawn here.
OHIF       reads DICOM from a DICOMweb server; the images of {studies} are files, so use 3D Slicer for them.
"""


def _first_weights(bundle: Path, source: Path, random_weights: bool) -> None:
    target = bundle / "models"
    if random_weights:
        parser = ConfigParser(ConfigParser.load_config_file(bundle / "configs" / "inference.json"))
        torch.manual_seed(int(ConfigParser.load_config_file(bundle / "configs" / "train.json")["seed"]))
        network = parser.get_parsed_content("network_def")
        save_state(plain_state(network.state_dict()), target / "model.pt")
        return
    if not (source / "model.pt").is_file():
        raise SpocoError(f"{source}: holds no model.pt; name the output folder of `spoco train`, or --random_weights")
    target.mkdir(parents=True, exist_ok=True)
    for name in ("model_student.pt", "model.pt"):
        if (source / name).is_file():
            shutil.copy(source / name, target / name)


def _metadata(train: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a network of other dimensions, by which clients know a 2D model."""
    metadata = json.loads((config_folder() / "metadata.json").read_text())
    image = metadata["network_data_format"]["inputs"]["image"]
    image["spatial_shape"] = image["spatial_shape"][-train["spatial_dims"] :]
    image["num_channels"] = train["in_channels"]
    return metadata


def _only(values: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in default}
