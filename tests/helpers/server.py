"""A server of an exported model, and requests to it."""

from __future__ import annotations

import base64
import json
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection

from mmfeat import Predictor
from mmfeat.serving.limits import Limits
from mmfeat.workflows.serve import bound, make_server

BOUNDARY = "ends-here"

FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}

JSON = {"Content-Type": "application/json"}


@contextmanager
def serving(predictor: Predictor, limits: Limits):
    """A real server on a free port, in a thread of its own; gives the port and the service."""
    listener = bound("127.0.0.1", 0)
    server, service = make_server(predictor, limits)
    with running(server, listener) as port:
        yield port, service


@contextmanager
def running(server, listener):
    """A server in a thread of its own; gives the port."""
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def form(image: bytes | None = None, **fields: str) -> bytes:
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{text}'.encode() for name, text in fields.items()]
    if image is not None:
        parts.append(b'Content-Disposition: form-data; name="image"; filename="../\x07a"\r\n\r\n' + image)
    line = b"--" + BOUNDARY.encode()
    return b"".join(line + b"\r\n" + part + b"\r\n" for part in parts) + line + b"--\r\n"


def as_json(image: bytes | None = None, **fields) -> bytes:
    if image is not None:
        fields["image"] = base64.b64encode(image).decode()
    return json.dumps(fields).encode()


def ask(port: int, body, headers: dict, method: str = "POST", path: str = "/predict", timeout: float = 60):
    """Status, JSON and headers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), dict(answer.getheaders())
    finally:
        connection.close()
