"""`mmfeat serve`: answer HTTP requests with an exported model until a signal ends it."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mmfeat.common.errors import ConfigError, one_line
from mmfeat.common.extras import require
from mmfeat.common.freed_memory import return_memory_when_freed
from mmfeat.common.progress import say
from mmfeat.common.text import shown
from mmfeat.serving.limits import Limits

if TYPE_CHECKING:
    import uvicorn

    from mmfeat.predictor import Predictor
    from mmfeat.serving.app import Service
    from mmfeat.serving.callers import Callers

BACKLOG = 2048  # connections that wait to be accepted
GRACE_SECONDS = 60  # for open requests when the server ends
_NEEDED = ("fastapi", "uvicorn", "python_multipart")


def serve(
    folder: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    engine: str = "auto",
    device: str = "auto",
    limits: Limits | None = None,
    verbose: bool = False,
    allow_hosts: Sequence[str] = (),
    allow_origins: Sequence[str] = (),
) -> int:
    """Answer requests until SIGINT or SIGTERM, then finish the open ones. Returns the number of answers.

    Parameters
    ----------
    engine : str
        Executes the encoders; `auto`: the fastest, which is measured if it is not known on this machine.
    allow_hosts : sequence of str
        Names to accept in the Host header in addition to the loopback names and `host`. `*`: any.
    allow_origins : sequence of str
        Origins whose pages may send requests in addition to the server's own. `*`: any.

    Raises
    ------
    ConfigError
        The extra is not installed, the address cannot be used, or there is no such device, name or origin.
    RunError
        The folder is not an exported model that this version can run.
    """
    for module in _NEEDED:
        require(module, "serve")
    from mmfeat.serving.callers import Callers

    callers = Callers(host, allow_hosts, allow_origins)
    listener = bound(host, port)
    try:
        return_memory_when_freed()
        from mmfeat.predictor import Predictor

        predictor = Predictor.load(folder, device, engine=engine)
        engines = predictor.select_engines()
        server, service = make_server(predictor, limits or Limits(), verbose, callers=callers)
        listener.listen(server.config.backlog)
        name, on, where = shown(predictor.record["run"]["name"]), predictor.networks.device, _url(listener)
        with _ended_by_signals(server):
            by = ", ".join(f"{one} by {what}" for one, what in engines.items())
            say(f"Serving {name} on {on} ({by}): {where}predict, described in {where}docs. Ctrl-C ends it")
            server.run(sockets=[listener])
    finally:
        listener.close()
    return service.answered


def make_server(
    predictor: Predictor, limits: Limits, verbose: bool = False, *, callers: Callers | None = None
) -> tuple[uvicorn.Server, Service]:
    """A server that does not run yet, and its service."""
    import uvicorn

    from mmfeat.serving.app import Service, build_app
    from mmfeat.serving.connections import in_one_line, most_connections, protocol_of

    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)  # on stderr
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a malformed form is the client's mistake
    logging.getLogger("uvicorn.access").setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # so is a malformed request
    logging.getLogger("asyncio").addFilter(in_one_line)
    service = Service(predictor, limits)
    most = most_connections()
    config = uvicorn.Config(
        build_app(service, callers),
        http=protocol_of(most, limits.head_seconds),
        ws="none",
        log_config=None,
        access_log=verbose,
        backlog=min(BACKLOG, most),  # uvicorn accepts as many at once
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return uvicorn.Server(config), service


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


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
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
