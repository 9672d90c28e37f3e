"""Limits of image decoding and the decoder's version, which are recorded with features. Does not import Pillow."""

from __future__ import annotations

from dataclasses import dataclass

from mmfeat.config.schema import Config

DECODER = 2  # version of :mod:`mmfeat.encoders.image_decoding`; 1: mmfeat 0.1.0, which recorded none
MAX_MEGAPIXELS = 178.95697  # Pillow's own limit


@dataclass(frozen=True)
class Decoding:
    """Limits that decide which images are decoded. They never change the pixels of a valid image.

    Attributes
    ----------
    max_megapixels : float
        Largest accepted image. A value above Pillow's own limit raises Pillow's limit in the whole process.
    truncated : str
        How a JPEG without its end is treated: `refuse`, or `accept`, which fills the missing part with grey.
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
