"""The limits of a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of single requests, and of all requests together.

    Attributes
    ----------
    megabytes : float
        Size of a request's body in 10^6 bytes, in any encoding.
    megapixels : float
        Size of an image, by its header.
    caption : int
        Characters of a caption.
    waiting : int
        Requests in progress at a time; further ones are refused and may try again.
    seconds : float
        Time for a body to arrive.
    head_seconds : float
        Time for a request's first line and headers to arrive.
    """

    megabytes: float = 16.0
    megapixels: float = 50.0
    caption: int = 10_000
    waiting: int = 256
    seconds: float = 60.0
    head_seconds: float = 10.0

    @property
    def body(self) -> int:
        """Largest body in bytes."""
        return int(self.megabytes * 1e6)

    @property
    def pixels(self) -> int:
        """Largest image in pixels."""
        return int(self.megapixels * 1e6)
