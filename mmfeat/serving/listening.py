"""Listening at an address until a signal ends it: what all servers of mmfeat share."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mmfeat.common.errors import ConfigError, one_line
from mmfeat.common.text import shown

if TYPE_CHECKING:
    import uvicorn

BACKLOG = 2048  # connections that wait to be accepted
GRACE_SECONDS = 60  # for open requests when the server ends


def server_of(app: Any, *, head_seconds: float, access_log: bool = False) -> uvicorn.Server:
    """A server of an application, with limits of connections. It does not run yet."""
    import uvicorn

    from mmfeat.serving.connections import in_one_line, most_connections, protocol_of

    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)  # on stderr
    logging.getLogger("uvicorn.access").setLevel(logging.INFO if access_log else logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # a malformed request is the client's mistake
    logging.getLogger("asyncio").addFilter(in_one_line)
    most = most_connections()
    config = uvicorn.Config(
        app,
        http=protocol_of(most, head_seconds),
        ws="none",
        log_config=None,
        access_log=access_log,
        backlog=min(BACKLOG, most),  # uvicorn accepts as many at once
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return uvicorn.Server(config)


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address. It refuses connections until it listens.

    Raises
    ------
    ConfigError
        There is no such address, or it is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        other = "--port 0 takes a free one" if getattr(error, "errno", 0) == errno.EADDRINUSE else "Name another"
        raise ConfigError(f"{shown(host)}:{port}: {reason}. {other}") from None
    return listener


def url_of(listener: socket.socket) -> str:
    """The URL of a socket, with a slash at the end."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@contextmanager
def ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """End the server on SIGINT and SIGTERM. uvicorn would raise the signal once more after the last answer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
