"""From a folder of images to a running MONAI Label server."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spoco_bundle.app.early_checks import readable_dimensions
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.datalist import IMAGE_SUFFIXES
from spoco_bundle.label.app_folder import NAME, prepare_app
from spoco_bundle.label.client_input import SUFFIXES
from spoco_bundle.label.environment import build_environment
from spoco_bundle.label.guard import EVERY_ADDRESS, is_loopback, served_names
from spoco_bundle.label.studies import adopt_labels

#: environment variable that holds the arguments of the guard before the server
GUARD_VARIABLE = "SPOCO_LABEL_GUARD"
#: environment variable with a token, for whom the command line is too public
TOKEN_VARIABLE = "SPOCO_LABEL_TOKEN"


@dataclass(frozen=True)
class Door:
    """Who reaches the server, and as whom.

    Attributes:
        port: to listen on.
        host: address to listen on; only this machine's own by default.
        names: see ``served_names``.
        origins: see ``Guard``.
        token: see ``Guard``.
    """

    port: int
    host: str = "127.0.0.1"
    names: Sequence[str] = ()
    origins: Sequence[str] = ()
    token: str = ""

    def guard(self) -> dict[str, Any]:
        """Arguments of the guard."""
        return {"hosts": served_names(self.host, self.names), "origins": list(self.origins), "token": self.token}


def run_server(
    studies: Path,
    output: Path,
    environment: Path,
    door: Door,
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
        door: address and who may pass.
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
    _check_address(door)
    door = replace(door, token=door.token or os.environ.get(TOKEN_VARIABLE, ""))
    app = output / "app"
    images = sorted(path for path in studies.iterdir() if path.name.lower().endswith(tuple(IMAGE_SUFFIXES)))
    dims = {} if model else {"spatial_dims": readable_dimensions(images, {})}
    prepare_app(app, model, random_weights, config, **{**dims, **overrides})
    adopted = adopt_labels(studies)
    if adopted:
        print(f"labels beside {len(adopted)} images are copied to {studies / 'labels' / 'final'} and go on there")
    python = build_environment(environment)
    command, variables = server_command(python, app, studies, door)
    if subprocess.run([python, "-c", "import torchvision"], env=variables, capture_output=True).returncode:
        raise SpocoError(
            f"{environment}: its torchvision does not fit its torch, as PyPI's does not beside a CPU build of torch: "
            f"run {python} -m pip install --force-reinstall --no-deps torchvision from the index that torch came from"
        )
    print(how_to_connect(door, studies), flush=True)
    if not is_loopback(door.host):
        print(who_may_connect(door), flush=True)
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


def server_command(python: Path, app: Path, studies: Path, door: Door) -> tuple[list[str], dict[str, str]]:
    """The command that starts the server, and its environment variables."""
    command = [str(python), "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", str(studies)]
    command += ["--host", door.host, "--port", str(door.port), "--uvicorn_app", "spoco_bundle.label.guarded:app"]
    # a zoo source other than "ngc" is asked for over the internet even where the bundle is local
    for key, value in (("models", NAME), ("zoo_source", "ngc"), ("sam2", "false")):
        command += ["--conf", key, value]
    variables = {
        **os.environ,
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        GUARD_VARIABLE: json.dumps(door.guard()),
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps([f"*{suffix}" for suffix in SUFFIXES]),
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
        "MONAI_LABEL_SESSIONS": "false",
    }
    return command, variables


def how_to_connect(door: Door, studies: Path) -> str:
    """What a person needs to know to connect a viewer."""
    host = "127.0.0.1" if door.host in EVERY_ADDRESS else f"[{door.host}]" if ":" in door.host else door.host
    address = f"http://{host}:{door.port}"
    return f"""
The server will be at {address} (its pages: /info/, /train/, /logs/?html=false). Stop it with Ctrl-C.

3D Slicer  install the extension MONAILabel, open the module, enter {address} as the server, press
           Next Sample (strategy "disagreement"), Auto Segmentation: Run. Correct or draw some objects; let the name of
           a segment begin with "confirmed" where the prediction was right, with "slices", "strokes" or "points" where
           you drew only that of an object, with "no object" where you painted what is none. Submit Label, then Train:
           Start. Segments that you left as they were teach nothing.
QuPath     install the MONAI Label extension, Preferences: MONAI Label server = {address}. It exchanges
           images and labels of 2D models; as a prediction it asks for outlines, which are not drawn here.
OHIF       reads DICOM from a DICOMweb server; the images of {studies} are files, so use 3D Slicer for them.
"""


def who_may_connect(door: Door) -> str:
    """What a person needs to know whose server is reached from other machines."""
    reached = "every address of this machine" if door.host in EVERY_ADDRESS else door.host
    who = (
        "Whoever reaches it with the token" if door.token else "Whoever reaches it, for want of a token (--token TEXT),"
    )
    return f"""WARNING: the server listens on {reached}, port {door.port}.
{who} may see, change and remove the images and labels. What is sent is not encrypted. Safer: leave --host out, and let
each person run `ssh -L {door.port}:127.0.0.1:{door.port} THIS_MACHINE` and connect to http://127.0.0.1:{door.port}.
"""


def _check_address(door: Door) -> None:
    if not 0 < door.port < 2**16:
        raise SpocoError(f"--port {door.port}: give a number from 1 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(door.host or "0.0.0.0", door.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SpocoError(f"--port {door.port}: something listens there already; choose another one") from error
        raise SpocoError(f"--host {door.host}: is no address of this machine ({error.strerror or error})") from error
