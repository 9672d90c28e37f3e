"""Limits of connections: how many may be open, and how long a request and the reading of an answer may take."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # for a request's head to arrive
WRITE_SECONDS = 60.0  # for a client to read its answer
MOST = 10_000  # connections, whatever the system allows
_KEPT = 16  # file handles reserved for other uses
_LEAST = 4


def most_connections() -> int:
    """Number of connections that the limit of file handles allows, after raising the soft limit as far as possible.

    Each connection may need a second handle, for an upload that does not fit into memory, and as many again may be about to
    be refused.
    """
    try:
        import resource
    except ImportError:  # Windows
        return MOST
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MOST if hard == resource.RLIM_INFINITY else min(hard, 4 * MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):
            pass
    if soft == resource.RLIM_INFINITY:
        return MOST
    try:
        used = len(os.listdir("/proc/self/fd"))
    except OSError:
        used = 64
    return max(_LEAST, min(MOST, (soft - used - _KEPT) // 3))


def in_one_line(record: logging.LogRecord) -> bool:
    """Filter of asyncio's log: no traceback when a connection waits for a file handle; it is accepted a second later."""
    if record.getMessage().startswith("socket.accept() out of system resource"):
        record.msg, record.args, record.exc_info = (
            "no file handle is free for another connection, which waits",
            (),
            None,
        )
    return True


def protocol_of(
    most: int, head_seconds: float = HEAD_SECONDS, write_seconds: float = WRITE_SECONDS
) -> type[LimitedProtocol]:
    """Uvicorn's protocol with limits: `most` open connections, seconds for a request's head, seconds to read an answer."""
    limits = {"most": most, "head_seconds": head_seconds, "write_seconds": write_seconds}
    return type("LimitedProtocol", (LimitedProtocol,), limits)


class LimitedProtocol(H11Protocol):
    """Closes a connection whose request does not arrive, or whose answer is not read."""

    most = MOST
    head_seconds = HEAD_SECONDS
    write_seconds = WRITE_SECONDS
    _head: asyncio.TimerHandle | None = None
    _write: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Refuse a connection above the limit; otherwise wait for a request's head."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._refuse(503, "too many connections are open", transport)
            return
        self._head = self.loop.call_later(self.head_seconds, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        """Start or stop the clock of a request's head."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._answering():
            self._head = _cancelled(self._head)
        elif self._head is None:  # the beginning of the next request
            self._head = self.loop.call_later(self.head_seconds, self._head_is_late)

    def on_response_complete(self) -> None:
        """Stop the clock of the head."""
        self._head = _cancelled(self._head)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        self._head, self._write = _cancelled(self._head), _cancelled(self._write)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the clock of the answer's reader."""
        super().pause_writing()
        self._write = _cancelled(self._write) or self.loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the clock of the answer's reader."""
        super().resume_writing()
        self._write = _cancelled(self._write)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _head_is_late(self) -> None:
        self._head = None
        if not self._answering() and not self.transport.is_closing():
            late = f"the head of the request took more than {self.head_seconds:g} s to arrive"
            self._refuse(408, late, self.transport)

    @staticmethod
    def _refuse(status: int, detail: str, transport: asyncio.Transport) -> None:
        body = json.dumps({"detail": detail}).encode()
        head = f"HTTP/1.1 {status} {'Request Timeout' if status == 408 else 'Service Unavailable'}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
        head += "retry-after: 1\r\n\r\n" if status == 503 else "\r\n"
        transport.write(head.encode() + body)
        transport.close()


def _cancelled(timer: asyncio.TimerHandle | None) -> Any:
    if timer is not None:
        timer.cancel()
    return None
