"""Which images are decoded, and by which version of the rules: what stored features record. Imports no Pillow."""

from __future__ import annotations

from dataclasses import dataclass

from mmfeat.config.schema import Config

DECODER = 2  # version of the rules in `pictures`; 1: mmfeat 0.1.0, which recorded none
MAX_MEGAPIXELS = 178.95697  # Pillow's own limit


@dataclass(frozen=True)
class Decoding:
    """Which images are taken; no setting changes the pixels of an image that is taken without it.

    Attributes
    ----------
    max_megapixels : float
        Of one image. A limit above Pillow's own raises that one in the whole process.
    truncated : str
        A JPEG whose end is missing: `refuse`, or `accept`, and what is missing is grey.
    """

    max_megapixels: float = MAX_MEGAPIXELS
    truncated: str = "refuse"

    @classmethod
    def of(cls, config: Config) -> Decoding:
        """What `[data]` says."""
        return cls(config.data.max_megapixels, config.data.truncated)

    @property
    def max_pixels(self) -> int:
        """The limit in pixels."""
        return round(self.max_megapixels * 1e6)

    @property
    def record(self) -> dict[str, str | int]:
        """What features are stored with: attributes of each part."""
        settings = f"max_megapixels={self.max_megapixels:.12g} truncated={self.truncated}"
        return {"decoder": DECODER, "decoding": settings}


USUAL = Decoding()
