"""What a server takes at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Of one request, and of all together.

    Attributes
    ----------
    megabytes : float
        Of a request's body (10^6 bytes), whatever its encoding.
    megapixels : float
        Of an image, by its header.
    caption : int
        Characters.
    waiting : int
        Requests under way at a time; the next are told to come again.
    seconds : float
        That a body may take to arrive.
    head_seconds : float
        That a request's first line and headers may take.
    """

    megabytes: float = 16.0
    megapixels: float = 50.0
    caption: int = 10_000
    waiting: int = 256
    seconds: float = 60.0
    head_seconds: float = 10.0

    @property
    def body(self) -> int:
        """Bytes of a body."""
        return int(self.megabytes * 1e6)

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return int(self.megapixels * 1e6)
