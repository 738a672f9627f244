"""The guard, over real HTTP, before an application that answers with what reaches it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time

import pytest

from spoco_bundle.label.guard import LONGEST_BODY, Guard, is_loopback, served_names

uvicorn = pytest.importorskip("uvicorn", reason="the guard is tested before a real HTTP server")


async def echo(scope, receive, send):
    """Answers every request with its path and body."""
    if scope["type"] == "lifespan":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    answer = json.dumps({"path": scope["path"], "body": body.decode("latin-1")}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture(scope="module")
def doors():
    """Ports of an open guard and of one that asks for a token and lets one other page ask."""
    servers, ports = [], []
    for arguments in ({}, {"token": "s3cret", "origins": ["http://viewer.example:3000"]}):
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(Guard(echo, **arguments), lifespan="off", log_level="error"))
        threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
        servers.append(server)
        ports.append(listening.getsockname()[1])
    while not all(server.started for server in servers):
        time.sleep(0.01)
    yield ports
    for server in servers:
        server.should_exit = True


def ask(port, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.putrequest(method, path, skip_host="Host" in headers)
    body = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    if body is not None:
        headers["Content-Length"] = str(len(body))
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, json.loads(content)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/info/"),
        ("GET", "/"),
        ("PUT", "/datastore/?image=cells"),
        ("PUT", "/datastore/label?image=nuclei%20of%20day%203&tag=final"),
        ("DELETE", "/datastore/label?id=cells&tag=final"),
        ("POST", "/infer/spoco?image=cells&output=image"),
        ("GET", "/model/spoco"),
        ("GET", "/train/?all=true"),
        ("DELETE", "/train/"),
        ("GET", "/logs/?lines=10"),
    ],
)
def test_what_clients_need_passes(doors, method, path):
    assert ask(doors[0], method, path)[0] == 200


@pytest.mark.parametrize(
    "name",
    [
        "../../probe",
        "/etc/passwd",
        "..%2F..%2Fprobe",
        "%2e%2e%2f%2e%2e%2fprobe",
        "%2Fetc%2Fpasswd",
        "..",
        ".hidden",
        "..%5Cprobe",
        "a%00b",
        "x" * 201,
    ],
)
@pytest.mark.parametrize(
    "request_line",
    [
        "PUT /datastore/?image={}",
        "PUT /datastore/image?image=ok&image={}",
        "DELETE /datastore/image?id={}",
        "GET /datastore/image?image={}",
        "GET /datastore/label?label={}&tag=final",
        "PUT /datastore/label?image=cells&tag={}",
        "DELETE /datastore/label?id=cells&tag={}",
        "POST /infer/spoco?image={}",
    ],
)
def test_names_that_are_paths_are_refused(doors, name, request_line):
    method, path = request_line.format(name).split(" ", 1)
    status, answer = ask(doors[0], method, path)
    assert status == 422 and "name" in answer["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/model/spoco"),
        ("DELETE", "/model/spoco"),
        ("PUT", "/session/"),
        ("GET", "/session/1"),
        ("POST", "/infer/wsi/spoco?image=cells"),
        ("POST", "/infer/..%2Fmodel"),
        ("POST", "/infer/spoco?image=cells&session_id=1"),
        ("GET", "/proxy/dicom/wado/studies"),
        ("POST", "/reload"),
        ("POST", "/train/"),
        ("GET", "/static/../../etc/passwd"),
        ("GET", "/static/%2e%2e/%2e%2e/etc/passwd"),
        ("PUT", "//model/spoco"),
        ("TRACE", "/info/"),
    ],
)
def test_what_is_not_served_is_refused(doors, method, path):
    assert ask(doors[0], method, path)[0] == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "10.0.0.7"])
def test_a_name_that_somebody_else_gave_the_server_is_not_answered(doors, host):
    status, answer = ask(doors[0], "GET", "/info/", Host=host)
    assert status == 421 and "--names" in answer["detail"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1:8000", "[::1]:8000"])
def test_the_servers_own_names_are_answered_also_through_a_tunnel(doors, host):
    assert ask(doors[0], "GET", "/info/", Host=host)[0] == 200


def test_web_pages_of_others_may_not_ask(doors):
    host = f"127.0.0.1:{doors[0]}"
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "http://localhost"):
        for method, path in (("GET", "/info/"), ("OPTIONS", "/model/spoco"), ("POST", "/infer/spoco?image=cells")):
            status, answer = ask(doors[0], method, path, Origin=origin, Host=host)
            assert status == 403 and "--origins" in answer["detail"]
    assert ask(doors[0], "GET", "/info/", Origin=f"http://{host}", Host=host)[0] == 200, "its own page of requests"


def test_a_named_page_may_ask_and_brings_the_token(doors):
    page = {"Origin": "http://viewer.example:3000"}
    assert ask(doors[1], "OPTIONS", "/info/", **page)[0] == 200, "a browser asks first, without the token"
    assert ask(doors[1], "GET", "/info/", **page)[0] == 401
    assert ask(doors[1], "GET", "/info/", **page, Authorization="Bearer s3cret")[0] == 200
    assert ask(doors[1], "GET", "/info/", Authorization="Bearer s3cre")[0] == 401
    assert ask(doors[1], "GET", "/info/", Authorization="Bearer \u00fc")[0] == 401
    assert ask(doors[1], "GET", "/info/", Authorization="Basic s3cret")[0] == 401


@pytest.mark.parametrize(
    ("path", "asked", "words"),
    [
        ("/train/spoco", {"max_epochs": "many"}, "max_epochs 'many': give a whole number"),
        ("/train/spoco", {"max_epochs": "$__import__('os').getcwd()"}, "max_epochs"),
        ("/train/spoco", {"device": "cuda:77"}, "this machine has none such; choose one of cpu"),
        ("/train/spoco", {"device": "$1"}, "is none; choose one of cpu"),
        ("/train/spoco", {"device": {"_target_": "os.getcwd"}}, "choose one of cpu"),
        ("/train/spoco", {"gpus": "0;ls"}, "numbers with commas"),
        ("/train/spoco", {"pretrained": "no"}, "true or false"),
        ("/train/spoco", [1], "JSON object"),
        ("/train/spoco", b"{", "no JSON"),
        ("/activelearning/disagreement", {"count": 0}, "whole number from 1"),
        ("/batch/infer/spoco", {"label_tag": "../../x"}, "plain name"),
    ],
)
def test_parameters_that_make_no_sense_are_answered_before_anything_starts(doors, path, asked, words):
    status, answer = ask(doors[0], "POST", path, asked)
    assert status == 422 and words in answer["detail"] and "\n" not in answer["detail"]


def test_only_known_parameters_reach_the_server(doors):
    asked = {"max_epochs": "3", "pretrained": True, "model": "other", "bundle_path": "/tmp", "tracking_uri": "http://x"}
    status, answer = ask(doors[0], "POST", "/train/spoco", asked)
    assert status == 200 and json.loads(answer["body"]) == {"max_epochs": 3, "pretrained": True}
    assert json.loads(ask(doors[0], "POST", "/train/spoco")[1]["body"]) == {}
    assert ask(doors[0], "POST", "/train/spoco", b" " * (LONGEST_BODY + 1))[0] == 413
    upload = b"\x00" * 3_000_000
    assert len(ask(doors[0], "PUT", "/datastore/?image=cells", upload)[1]["body"]) == len(upload), "uploads pass"


def test_addresses_and_names():
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("127.0.0.1.evil.example")
    assert served_names("10.1.2.3", ["lab-pc"]) == ["10.1.2.3", "lab-pc"]
    assert {"localhost", socket.gethostname(), "lab-pc"} <= set(served_names("0.0.0.0", ["lab-pc"]))
