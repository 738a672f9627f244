"""The few requests that a script needs; MONAI Label's own client asks for its environment."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.label.app_folder import NAME


class LabelClient:
    """Talks to a MONAI Label server.

    Args:
        url: of the server, such as ``http://127.0.0.1:8000``.
        timeout: seconds to wait for an answer.
        token: that the server asks for, if it does.

    Raises:
        SpocoError: by every method, if the server answers with an error; the message holds its status and words.
    """

    def __init__(self, url: str, timeout: float = 600, token: str = ""):
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.token = token

    def wait_until_up(self, seconds: float = 180) -> dict[str, Any]:
        """Waits for a server that starts; returns its description."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self.info()
            except OSError as error:
                if time.monotonic() > end:
                    raise SpocoError(f"{self.url}: no answer after {seconds:g} s; see the server's output") from error
                time.sleep(1)

    def info(self) -> dict[str, Any]:
        """What the server offers."""
        return json.loads(self._call("GET", "/info/"))

    def infer(self, image: str, suffix: str = ".nii.gz", **params: Any) -> bytes:
        """The content of a label file with the prediction for an image."""
        fields = {"params": json.dumps({"result_extension": suffix, **params})}
        return self._call("POST", f"/infer/{NAME}?image={urllib.parse.quote(image)}&output=image", fields=fields)

    def infer_params(self, image: str, **params: Any) -> dict[str, Any]:
        """What comes with a prediction: the names of the objects, durations."""
        fields = {"params": json.dumps(params)}
        path = f"/infer/{NAME}?image={urllib.parse.quote(image)}&output=json"
        return json.loads(self._call("POST", path, fields=fields))

    def save_label(self, image: str, file: Path, tag: str = "final", **params: Any) -> dict[str, Any]:
        """Submits a label."""
        fields, path = {"params": json.dumps(params)}, f"/datastore/label?image={urllib.parse.quote(image)}&tag={tag}"
        return json.loads(self._call("PUT", path, fields=fields, file=file))

    def get_label(self, image: str, tag: str = "final") -> bytes:
        """The content of the label file that is kept for an image."""
        return self._call("GET", f"/datastore/label?label={urllib.parse.quote(image)}&tag={tag}")

    def next_sample(self, strategy: str = "disagreement", **params: Any) -> dict[str, Any]:
        """What to annotate next."""
        return json.loads(self._call("POST", f"/activelearning/{strategy}", content=params))

    def train(self, **params: Any) -> dict[str, Any]:
        """Starts a training."""
        return json.loads(self._call("POST", f"/train/{NAME}", content=params))

    def training(self) -> dict[str, Any]:
        """Status and last lines of the last training."""
        return json.loads(self._call("GET", "/train/"))

    def stop_training(self) -> Any:
        """Stops the running training."""
        return json.loads(self._call("DELETE", "/train/"))

    def wait_for_training(self, seconds: float = 3600) -> dict[str, Any]:
        """Waits until the last training has ended, however it did."""
        end = time.monotonic() + seconds
        while (task := self.training())["status"] in ("SUBMITTED", "RUNNING"):
            if time.monotonic() > end:
                raise SpocoError(f"{self.url}: the training still runs after {seconds:g} s")
            time.sleep(1)
        return task

    def _call(
        self,
        method: str,
        path: str,
        content: Any = None,
        fields: dict[str, str] | None = None,
        file: Path | None = None,
    ) -> bytes:
        body, kind = (None, "") if content is None else (json.dumps(content).encode(), "application/json")
        if fields is not None:
            boundary = uuid.uuid4().hex
            field = 'Content-Disposition: form-data; name="{}"\r\n\r\n{}'
            parts = [field.format(name, value).encode() for name, value in fields.items()]
            if file is not None:
                head = f'Content-Disposition: form-data; name="label"; filename="{file.name}"\r\n\r\n'  # noqa: B907
                parts.append(head.encode() + file.read_bytes())
            body = b"".join(f"--{boundary}\r\n".encode() + part + b"\r\n" for part in parts)
            body += f"--{boundary}--\r\n".encode()
            kind = f"multipart/form-data; boundary={boundary}"
        headers = {"Content-Type": kind} if kind else {}
        headers |= {"Authorization": f"Bearer {self.token}"} if self.token else {}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise SpocoError(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from error
