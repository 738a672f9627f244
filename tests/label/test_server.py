import json
import socket
from pathlib import Path

import pytest

from door import run_warm
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.label import server
from spoco_bundle.label.app_folder import NAME
from spoco_bundle.label.server import Door


def test_the_name_names_no_other_task_and_the_server_stays_on_this_machine(tmp_path):
    assert not [word for word in ("deepedit", "deepgrow", "detection", "classification") if word in NAME]
    command, variables = server.server_command(tmp_path / "bin" / "python", tmp_path, tmp_path, Door(8123))
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--uvicorn_app") + 1] == "spoco_bundle.label.guarded:app"
    assert json.loads(variables[server.GUARD_VARIABLE]) == {
        "hosts": ["127.0.0.1", "::1", "localhost"],
        "origins": [],
        "token": "",
    }
    assert variables["MONAI_LABEL_SESSIONS"] == "false"
    assert "*.tiff" in json.loads(variables["MONAI_LABEL_DATASTORE_FILE_EXT"])
    for word in ("127.0.0.1:8123", "3D Slicer", "QuPath", "OHIF", "confirmed", "no object"):
        assert word in server.how_to_connect(server.Door(8123), tmp_path)


def test_an_address_that_others_reach_is_warned_of():
    for door, words in ((Door(8000, "0.0.0.0"), "want of a token"), (Door(8000, "10.0.0.1", token="x"), "the token")):
        warning = server.who_may_connect(door)
        assert warning.startswith("WARNING") and words in warning and "ssh -L" in warning


def test_wrong_folders_and_addresses_are_named_before_anything_is_built(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for studies, door, words in (
            (tmp_path / "missing", Door(port), "no such folder"),
            (tmp_path, Door(port), "listens there"),
            (tmp_path, Door(70000), "from 1 to 65535"),
            (tmp_path, Door(port, "192.0.2.1"), "is no address of this machine"),
        ):
            with pytest.raises(SpocoError, match=words):
                server.run_server(studies, tmp_path / "out", tmp_path / "env", door, "", False, (), {})
    assert not (tmp_path / "env").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_nothing_of_the_bundle_but_the_app_needs_monai_label():
    # a room that imported it would not even load in the bundle's own environment
    code = "import spoco_bundle.cli, spoco_bundle.label.client, sys; assert 'monailabel' not in sys.modules"
    assert run_warm(["-c", code], cwd=Path.cwd()).returncode == 0


@pytest.mark.parametrize(
    ("host", "named"), [("192.168.1.5", "192.168.1.5"), ("0.0.0.0", "127.0.0.1"), ("fe80::1", "[fe80::1]")]
)
def test_the_address_that_is_told_is_one_where_it_listens(host, named, tmp_path):
    assert f"The server will be at http://{named}:8123 " in server.how_to_connect(Door(8123, host), tmp_path)
