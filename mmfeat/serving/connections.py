"""Connections that cost nothing but a file handle: how long they may take, and how many there may be."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # for a request's head to arrive
WRITE_SECONDS = 60.0  # for a client to read what it is sent
MOST = 10_000  # connections, whatever the system allows
_KEPT = 16  # file handles that are left to everything else
_LEAST = 4


def most_connections() -> int:
    """Connections that the limit of file handles allows; the soft limit is raised as far as it may be.

    Each connection may need a second handle, for an upload that does not fit in memory, and as many may be about to be
    refused.
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
    """Of asyncio's log: no traceback where a connection waits for a file handle; it is accepted a second later."""
    if record.getMessage().startswith("socket.accept() out of system resource"):
        record.msg, record.args, record.exc_info = (
            "no file handle is free for another connection, which waits",
            (),
            None,
        )
    return True


def protocol_of(
    most: int, head_seconds: float = HEAD_SECONDS, write_seconds: float = WRITE_SECONDS
) -> type[H11Protocol]:
    """Uvicorn's protocol with limits: `most` connections at a time, seconds for a head, and for an answer to be read."""

    class LimitedProtocol(H11Protocol):
        """Closes a connection whose request does not come, or whose answer is not read."""

        _head: asyncio.TimerHandle | None = None
        _write: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > most:
                self._refuse(503, "too many connections are open", transport)
                return
            self._head = self.loop.call_later(head_seconds, self._head_is_late)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            if self._answering():
                self._head = _cancelled(self._head)
            elif self._head is None:  # the beginning of the next request
                self._head = self.loop.call_later(head_seconds, self._head_is_late)

        def on_response_complete(self) -> None:
            self._head = _cancelled(self._head)
            super().on_response_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head, self._write = _cancelled(self._head), _cancelled(self._write)
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._write = _cancelled(self._write) or self.loop.call_later(write_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._write = _cancelled(self._write)

        def _answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _head_is_late(self) -> None:
            self._head = None
            if not self._answering() and not self.transport.is_closing():
                self._refuse(
                    408, f"the head of the request took more than {head_seconds:g} s to arrive", self.transport
                )

        @staticmethod
        def _refuse(status: int, detail: str, transport: asyncio.Transport) -> None:
            body = json.dumps({"detail": detail}).encode()
            head = f"HTTP/1.1 {status} {'Request Timeout' if status == 408 else 'Service Unavailable'}\r\n"
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
            head += "retry-after: 1\r\n\r\n" if status == 503 else "\r\n"
            transport.write(head.encode() + body)
            transport.close()

    return LimitedProtocol


def _cancelled(timer: asyncio.TimerHandle | None) -> Any:
    if timer is not None:
        timer.cancel()
    return None
