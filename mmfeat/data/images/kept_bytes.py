"""Bytes of images that were read for their digests, kept until they are decoded, so that a new image is read once."""

from __future__ import annotations

import threading

LIMIT = 256 * 10**6  # bytes in memory; images beyond it are read again


class KeptBytes:
    """The bytes of some rows, up to a limit; thread-safe. Each is given once.

    The kept bytes are those that the digest was computed from. A file that changes later does not matter to them.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._left, self._bytes, self._lock = limit, {}, threading.Lock()

    def keep(self, row: int, data: bytes) -> None:
        """Keep a row's bytes if there is room for them."""
        with self._lock:
            if len(data) <= self._left:
                self._left -= len(data)
                self._bytes[row] = data

    def take(self, row: int) -> bytes | None:
        """A row's bytes, which are forgotten; None if they were not kept, or already taken."""
        with self._lock:
            data = self._bytes.pop(row, None)
            self._left += len(data or b"")
            return data

    def clear(self) -> None:
        """Forget all bytes."""
        with self._lock:
            self._left += sum(map(len, self._bytes.values()))
            self._bytes = {}
