"""Limits on the images that are decoded, and the decoder's version, as stored with features. Imports no Pillow."""

from __future__ import annotations

from dataclasses import dataclass

from mmfeat.config.schema import Config

DECODER = 2  # version of :mod:`mmfeat.encoders.image_decoding`; 1: mmfeat 0.1.0, which recorded none
MAX_MEGAPIXELS = 178.95697  # Pillow's own limit


@dataclass(frozen=True)
class Decoding:
    """Limits on the images that are decoded; they never change the pixels of an image that is decoded without them.

    Attributes
    ----------
    max_megapixels : float
        Largest image. A limit above Pillow's own raises Pillow's in the whole process.
    truncated : str
        A JPEG whose end is missing: `refuse`, or `accept` with a grey rest.
    """

    max_megapixels: float = MAX_MEGAPIXELS
    truncated: str = "refuse"

    @classmethod
    def of(cls, config: Config) -> Decoding:
        """The limits of `[data]`."""
        return cls(config.data.max_megapixels, config.data.truncated)

    @property
    def max_pixels(self) -> int:
        """The limit in pixels."""
        return round(self.max_megapixels * 1e6)

    @property
    def record(self) -> dict[str, str | int]:
        """The attributes that are stored with each segment of features."""
        settings = f"max_megapixels={self.max_megapixels:.12g} truncated={self.truncated}"
        return {"decoder": DECODER, "decoding": settings}


USUAL = Decoding()
