"""`mmfeat serve`: answer HTTP requests with an exported model until a signal ends it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmfeat.common.extras import require
from mmfeat.common.freed_memory import return_memory_when_freed
from mmfeat.common.progress import say
from mmfeat.common.text import shown
from mmfeat.serving.limits import Limits
from mmfeat.serving.listening import bound, ended_by_signals, server_of, url_of

if TYPE_CHECKING:
    import uvicorn

    from mmfeat.predictor import Predictor
    from mmfeat.serving.app import Service
    from mmfeat.serving.callers import Callers

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
        name, on, where = shown(predictor.record["run"]["name"]), predictor.networks.device, url_of(listener)
        with ended_by_signals(server):
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
    from mmfeat.serving.app import Service, build_app

    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a malformed form is the client's mistake
    service = Service(predictor, limits)
    return server_of(build_app(service, callers), head_seconds=limits.head_seconds, access_log=verbose), service
