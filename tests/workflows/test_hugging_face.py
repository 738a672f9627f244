"""The bundle to Hugging Face and back with MONAI's functions, against a stand-in for the hub on this machine."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from support import run_python

NAME = "spoco_instance_segmentation"
REPOSITORY = "someone/spoco"

PUSH = """
import sys
from monai.bundle import push_to_hf_hub
repository, name, folder = sys.argv[1:]
print(push_to_hf_hub(repo=repository, name=name, bundle_dir=folder, token="hf_" + "x" * 34, version="0.1.0"))
"""

PULL = """
import sys
from monai.bundle import download
repository, name, folder = sys.argv[1:]
download(name=name, bundle_dir=folder, source="huggingface_hub", repo=repository, version="0.1.0")
"""
COMMIT = "0" * 40


class Hub(ThreadingHTTPServer):
    """What the client talks to when it makes a repository, uploads files, tags and downloads them.

    Weights go through LFS on their way up.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Requests)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.created: dict = {}
        self.tags: list[str] = []
        self.stored: dict[str, bytes] = {}  # LFS objects by their SHA-256
        self.files: dict[str, bytes] = {}  # what the commit holds
        self.through_lfs: set[str] = set()
        self.unknown: list[str] = []


class Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, content, status=200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self):
        data = self.body()
        self.server.stored[hashlib.sha256(data).hexdigest()] = data
        self.answer({})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.body()
        path = unquote(self.path.split("?")[0])
        start = f"/{REPOSITORY}/resolve/{COMMIT}/"
        if path == f"/api/models/{REPOSITORY}/revision/0.1.0":
            self.answer(
                {"id": REPOSITORY, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.server.files]}
            )
        elif path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
            files = self.server.files.items()
            entries = [
                {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for n, d in files
            ]
            self.answer(entries)
        elif path.startswith(start) and path.removeprefix(start) in self.server.files:
            data = self.server.files[path.removeprefix(start)]
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)
        else:
            self.server.unknown.append(self.path)
            self.answer({"error": "not found"}, 404)

    def do_POST(self):
        hub, path, body = self.server, self.path.split("?")[0], self.body()
        repository = f"/api/models/{REPOSITORY}"
        if path == "/api/repos/create":
            hub.created = json.loads(body)
            self.answer({"url": f"{hub.address}/{REPOSITORY}", "name": REPOSITORY, "id": REPOSITORY})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path == f"{repository}/preupload/main":
            files = json.loads(body)["files"]
            modes = {file["path"]: "lfs" if file["path"].endswith(".pt") else "regular" for file in files}
            answer = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            self.answer({"files": answer})
        elif path == f"/{REPOSITORY}.git/info/lfs/objects/batch":
            wanted = json.loads(body)["objects"]
            objects = [{**item, "actions": {"upload": {"href": f"{hub.address}/lfs/{item['oid']}"}}} for item in wanted]
            self.answer({"transfer": "basic", "objects": objects})
        elif path == f"{repository}/commit/main":
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.stored[value["oid"]]
                    hub.through_lfs.add(value["path"])
            commit = {"commitOid": COMMIT, "commitUrl": f"{hub.address}/{REPOSITORY}/commit/{COMMIT}"}
            self.answer({"success": True, **commit})
        elif path == f"{repository}/tag/main":
            hub.tags.append(json.loads(body)["tag"])
            self.answer({})
        else:
            hub.unknown.append(path)
            self.answer({"error": f"{path} is not known here"}, 404)


@pytest.fixture
def hub():
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("huggingface_hub"), reason="needs the extra 'hub'")
def test_the_hub_gets_the_bundle_and_gives_it_back(hub, bundle_root, tmp_path):
    packed = run_python([bundle_root / "scripts" / "package_zoo.py", tmp_path, "--quick"], cwd=tmp_path)
    assert packed.returncode == 0, packed.stderr
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    # large files by the LFS protocol; the hub's own chunk store has no open stand-in
    settings["HF_HUB_DISABLE_XET"] = "1"
    result = run_python(["-c", PUSH, REPOSITORY, NAME, tmp_path / "models"], cwd=tmp_path, **settings)
    assert result.returncode == 0, result.stderr[-3000:] + str(hub.unknown)
    assert hub.address in result.stdout
    assert (hub.created["organization"], hub.created["name"]) == tuple(REPOSITORY.split("/"))
    # older clients say it the other way
    assert hub.created.get("visibility") == "private" or hub.created.get("private") is True
    assert hub.tags == ["0.1.0"]

    folder = tmp_path / "models" / NAME
    sent = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert hub.files == sent
    weights = {f"{place}/{name}" for place in ("models", "models/2d") for name in ("model.pt", "model_student.pt")}
    assert hub.through_lfs == weights
    # the model card that MONAI makes of docs/README.md
    card = sent["README.md"].decode()
    assert card.startswith("---\n") and "# Model Overview" in card

    result = run_python(["-c", PULL, REPOSITORY, NAME, tmp_path / "pulled"], cwd=tmp_path, **settings)
    assert result.returncode == 0, result.stderr[-3000:] + str(hub.unknown)
    folder = tmp_path / "pulled" / NAME
    got = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {name: data for name, data in got.items() if not name.startswith(".cache/")} == sent
