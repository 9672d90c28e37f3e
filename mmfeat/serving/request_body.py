"""The body of a request: received up to a limit, and refused in one line if it does not fit a schema."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import HTTPException, Request
from pydantic import BaseModel, ValidationError

from mmfeat.common.text import shown
from mmfeat.serving.limits import Limits

DRAIN_SECONDS = 5.0
_TAIL = 1024  # last bytes of a form, which must contain its final boundary


class Body:
    """The incoming body of a request; more than the limit is refused, whatever its headers declare."""

    def __init__(self, request: Request, limits: Limits) -> None:
        self._receive: Callable[[], Awaitable[MutableMapping[str, Any]]] = request.receive
        self._limits = limits
        self._until = asyncio.get_running_loop().time() + limits.seconds
        self._size = 0
        self.finished = False
        self.tail = b""

    async def receive(self) -> MutableMapping[str, Any]:
        """The next ASGI message."""
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._next()
        except TimeoutError:
            raise HTTPException(408, f"the body took more than {self._limits.seconds:g} s to arrive") from None
        if self._size > self._limits.body:
            raise too_large(self._limits)
        self.tail = (self.tail + message.get("body", b"")[-_TAIL:])[-_TAIL:]
        return message

    async def drain(self) -> None:
        """Discard the rest for some seconds: a client that is still sending does not read the answer."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self.finished:
                    await self._next()
        except TimeoutError:
            pass

    async def gone(self) -> None:
        """Wait until the client has closed its connection. Only valid when nothing else reads the body."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _next(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        self.finished = not message.get("more_body", False)
        return message


def too_large(limits: Limits) -> HTTPException:
    """The refusal of a body over the limit."""
    return HTTPException(413, f"the body is larger than {limits.megabytes:g} MB")


@asynccontextmanager
async def receiving(request: Request, limits: Limits) -> AsyncIterator[Body]:
    """The body of a request. If the request is refused before all of it has arrived, the rest is discarded."""
    body = Body(request, limits)
    try:
        yield body
    except HTTPException as refusal:
        if not body.finished:
            if refusal.status_code != 408 and "expect" not in request.headers:  # no body follows
                await body.drain()
            refusal.headers = {**(refusal.headers or {}), "Connection": "close"}
        raise


def invalid(error: ValidationError, schema: type[BaseModel]) -> HTTPException:
    """The refusal of a body that does not fit its schema, by its first mistake."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    known = ", ".join(schema.model_fields)
    reason = f"no such field. There are: {known}" if first["type"] == "extra_forbidden" else first["msg"]
    status = 400 if first["type"] == "json_invalid" else 422
    return HTTPException(status, shown(f"{where}: {reason}" if where else reason, 200))
