"""Checks of callers: host names of the server (against DNS rebinding), and origins of pages that may post to it."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse

from mmfeat.common.errors import ConfigError
from mmfeat.common.text import quoted, shown

DRAIN_SECONDS = 5.0
ANY = "*"
_EVERYWHERE = ("0.0.0.0", "::", "")
_READS = ("GET", "HEAD")
_NAME = re.compile(r"[\w.:\[\]-]+")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Callers:
    """The accepted host names and origins.

    Parameters
    ----------
    bound : str
        The address that the server listens on, as given by the user.
    hosts : sequence of str
        Further accepted names in the Host header, without a port; `*`: any.
    origins : sequence of str
        Further accepted origins of pages, such as `https://example.org` or `http://localhost:3000`; `*`: any.
    command : str
        The command whose options accept further ones, for messages; empty if there is none.

    Raises
    ------
    ConfigError
        A host is not a name, or an origin is invalid.
    """

    def __init__(
        self,
        bound: str = "127.0.0.1",
        hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
        *,
        command: str = "mmfeat serve",
    ) -> None:
        for host in hosts:
            if host != ANY and not (_NAME.fullmatch(host) and _split(host)[0] == _name(host)):
                raise ConfigError(
                    f"--allow-host {quoted(host)}: give a name or address without port, such as example.org"
                )
        for origin in origins:
            if origin != ANY and (not _authority(origin) or origin.rstrip("/").count("/") != 2):
                raise ConfigError(
                    f"--allow-origin {quoted(origin)}: give a scheme and a host, such as http://localhost:3000"
                )
        self.everywhere = bound in _EVERYWHERE
        named = {"localhost", _name(bound), *map(_name, hosts)}
        self.hosts = named | {_name(socket.gethostname())} if self.everywhere else named
        self._command = command
        self.origins = tuple(origin.rstrip("/").lower() for origin in origins)

    def answers_to(self, host: str) -> bool:
        """Whether a Host header names this server. Addresses are accepted: only names can be rebound."""
        name, _ = _split(host)
        if name in self.hosts or ANY in self.hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or self.everywhere

    def refusal(self, method: str, headers: Sequence[tuple[bytes, bytes]]) -> tuple[int, str] | None:
        """Status and reason if a request is refused, otherwise None. Browsers always send these headers."""
        given = {
            name: value.decode("latin-1") for name, value in headers if name in (b"host", b"origin", b"sec-fetch-site")
        }
        host = given.get(b"host", "localhost")
        if not self.answers_to(host):
            name = shown(_split(host)[0])
            remedy = f" To let it: {self._command} --allow-host {name}" if self._command else ""
            return 421, f"this server does not answer to the name {quoted(host)}.{remedy}"
        origin = given.get(b"origin")
        if origin is None:
            other = given.get(b"sec-fetch-site", "none") in ("cross-site", "same-site") and method not in _READS
            return (403, "pages of other sites may not post here: the request has no Origin") if other else None
        if _authority(origin) == _split(host) or origin.lower() in self.origins or ANY in self.origins:
            return None
        remedy = f" To let them: {self._command} --allow-origin {shown(origin)}" if self._command else ""
        return 403, f"pages of {quoted(origin)} may not ask here.{remedy}"


class CheckedCallers:
    """ASGI middleware that checks callers; refused requests do not reach the application."""

    def __init__(self, app: Any, callers: Callers) -> None:
        self.app, self.callers = app, callers

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Handle an ASGI connection."""
        refused = self.callers.refusal(scope["method"], scope["headers"]) if scope["type"] == "http" else None
        if refused is None:
            await self.app(scope, receive, send)
            return
        if not any(name == b"expect" for name, _ in scope["headers"]):  # no body follows
            await _drain(receive)
        answer = JSONResponse({"detail": refused[1]}, refused[0], headers={"Connection": "close"})
        await answer(scope, receive, send)


async def _drain(receive: Receive) -> None:
    """Discard a body for some seconds: a client that is still sending does not read the answer."""
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass


def _name(host: str) -> str:
    """The normal form of a host: lower case, without brackets and trailing dot."""
    return host.strip("[]").rstrip(".").lower()


def _split(host: str) -> tuple[str, int | None]:
    """Name and port of `name`, `name:port`, `[::1]:port` or `::1`; the port is None for the scheme's default."""
    name, colon, port = host.rpartition(":")
    if not colon or "]" in port or (":" in name and not name.endswith("]")):
        name, port = host, ""
    if port and not (port.isascii() and port.isdecimal()):
        return "", None
    number = int(port) if port else None
    return _name(name), None if number in (80, 443) else number


def _authority(origin: str) -> tuple[str, int | None] | None:
    """Name and port of an origin; None for `null` and invalid origins."""
    try:
        parts = urlsplit(origin)
        known = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
        return _split(parts.netloc) if known else None
    except ValueError:
        return None
