"""What stands before the server: who may ask, from where, for what; anything else is answered with a refusal.

MONAI Label itself answers every web page and every name that it is reached by, reads and writes outside the studies
where a name says so, and hands what a client sends to the configuration of a training, where an expression is code.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.label.client_input import check_name, proposal_request, several_images_request, training_request

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: addresses that mean every address of the machine
EVERY_ADDRESS = ("0.0.0.0", "::", "")
#: parameters of a query that become names of files and folders
NAMES = ("image", "id", "label", "tag")
#: bytes of the parameters of a training, a batch or a proposal
LONGEST_BODY = 1_000_000

_OF_BODY = (b"content-length", b"content-type", b"transfer-encoding")
_MODEL = r"[\w-]+"
#: what is served: methods, path, and what becomes of the JSON that comes with it
_ROUTES: list[tuple[str, str, Callable[[dict[str, Any]], dict[str, Any]] | None]] = [
    ("GET HEAD", r"/|/docs|/openapi\.json|/favicon\.ico|/info/?|/logs/?|/static/.+", None),
    ("GET HEAD PUT DELETE", r"/datastore/?|/datastore/(image|label)(/info)?|/datastore/updatelabelinfo", None),
    ("GET", r"/datastore/dataset", None),
    ("POST", rf"/infer/{_MODEL}", None),
    ("GET", rf"/model/(info/)?{_MODEL}", None),
    ("GET DELETE", r"/train/?|/batch/infer/?", None),
    ("GET", r"/scoring/?", None),
    ("POST", rf"/train/{_MODEL}", training_request),
    ("POST", rf"/batch/infer/{_MODEL}", several_images_request),
    ("POST", rf"/activelearning/{_MODEL}", proposal_request),
]


class _RefusedError(Exception):
    def __init__(self, status: int, detail: str):
        super().__init__(status, detail)
        self.status, self.detail = status, detail


class Guard:
    """An ASGI application before another one.

    Every request must name the server by an address under which it is served, so that no name that somebody else gave
    it (DNS rebinding) is answered; come from no web page, from one of the server itself, or from one of ``origins``;
    bring the token, if there is one; ask for what is served here: neither sessions nor proxies, nor a change of the
    weights from outside; and name images, labels and tags by names, not by paths.

    Args:
        app: the application that is guarded.
        hosts: names and addresses of the server, without a port; capital letters make no difference.
        origins: web pages of other servers that may ask, such as ``http://viewer.example:3000``.
        token: what every request has to bring as ``Authorization: Bearer TOKEN``; "" asks for none.
    """

    def __init__(self, app: Callable, hosts: Sequence[str] = LOOPBACK, origins: Sequence[str] = (), token: str = ""):
        self.app = app
        self.hosts = {host.lower() for host in hosts}
        self.origins = {origin.rstrip("/").lower() for origin in origins}
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands a request on, or answers it with 401, 403, 421 or 422 and one line that says why."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            check = self._check(scope)
            if check is not None:
                scope, receive = await _with_checked_json(scope, receive, check)
        except _RefusedError as refusal:
            logger.warning("refused: %s %s: %s", scope["method"], scope["path"], refusal.detail)
            await _answer(send, refusal.status, refusal.detail)
            return
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
        headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        host = self._check_host([value for name, value in headers if name == b"host"])
        self._check_origins([value for name, value in headers if name == b"origin"], host)
        method, path = scope["method"], scope["path"]
        if method == "OPTIONS":
            return None  # a browser asks before it sends what counts, without a token
        self._check_token([value for name, value in headers if name == b"authorization"])
        found = [
            check
            for methods, route, check in _ROUTES
            if method in methods.split() and re.fullmatch(route, path) and ".." not in path
        ]
        if not found:
            raise _RefusedError(403, f"{method} {path}: is not served here")
        _check_query(scope["query_string"].decode("latin-1"))
        return found[0]

    def _check_host(self, named: Sequence[str]) -> str:
        host = named[0] if len(named) == 1 else ""
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            name = None
        if name not in self.hosts:
            raise _RefusedError(
                421, f"Host {host!r}: the server is not reached by this name; start it with --names to add one"
            )
        return host.lower()

    def _check_origins(self, origins: Sequence[str], host: str) -> None:
        own = {f"http://{host}", f"https://{host}"}
        for origin in origins:
            if origin.lower() not in own | self.origins:
                raise _RefusedError(
                    403,
                    f"Origin {origin!r}: web pages from there may not ask; start the server with --origins to allow",
                )

    def _check_token(self, brought: Sequence[str]) -> None:
        expected = f"Bearer {self.token}"
        if self.token and not any(hmac.compare_digest(one.encode(), expected.encode()) for one in brought):
            raise _RefusedError(401, "the server asks for a token: send the header 'Authorization: Bearer TOKEN'")


def served_names(host: str, names: Sequence[str] = ()) -> list[str]:
    """Names and addresses that a server on an address of this machine is reached by.

    Args:
        host: address that it listens on; ``0.0.0.0`` stands for all of them.
        names: further names, such as that of a machine in the network.
    """
    found = {*names}
    if host in EVERY_ADDRESS:
        own = socket.gethostname()
        found |= {*LOOPBACK, own, socket.getfqdn()}
        try:
            found |= {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(own, None)}
        except OSError:
            # a machine whose name nobody resolves is reached by its addresses, which --names can tell
            logger.warning("the addresses of %s are not known: name those in use with --names", own)
    else:
        found |= {*LOOPBACK} if is_loopback(host) else {host}
    return sorted(found)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK


def _check_query(query: str) -> None:
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key == "session_id" and value:
            raise _RefusedError(403, "sessions are not served here: name an image among the studies")
        if key in NAMES and value:
            try:
                check_name(key, value)
            except SpocoError as error:
                raise _RefusedError(422, str(error)) from error


async def _with_checked_json(
    scope: Scope, receive: Receive, check: Callable[[dict[str, Any]], dict[str, Any]]
) -> tuple[Scope, Receive]:
    """The request with what a check leaves of its JSON."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > LONGEST_BODY:
            raise _RefusedError(413, f"parameters of more than {LONGEST_BODY:,} bytes")
    try:
        content = json.loads(body or b"{}")
        content = {} if content is None else content
        if not isinstance(content, dict):
            raise _RefusedError(422, "parameters: give a JSON object, such as {}")
        checked = json.dumps(check(content)).encode()
    except (ValueError, RecursionError) as error:
        # SpocoError is a ValueError too, and says what is wrong
        detail = str(error) if isinstance(error, SpocoError) else f"parameters: no JSON ({error})"
        raise _RefusedError(422, detail) from error
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in _OF_BODY]
    headers += [(b"content-length", str(len(checked)).encode()), (b"content-type", b"application/json")]
    waiting = [{"type": "http.request", "body": checked, "more_body": False}]

    async def replay() -> dict[str, Any]:
        return waiting.pop() if waiting else await receive()

    return {**scope, "headers": headers}, replay


async def _answer(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    # what was not read of an upload must not be taken for the next request
    headers += [(b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
