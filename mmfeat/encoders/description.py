"""Sizes of an encoder, and whether its weights are on disk; imports neither torch nor the encoder's library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RANDOM = "random"


@dataclass(frozen=True)
class Description:
    """An encoder as `mmfeat encoders` lists it.

    Attributes
    ----------
    parameters : int or None
        Number of parameters without classifier or pooler; None if it is unknown before the download.
    size_mb : float or None
        Megabytes (10^6 bytes) of its tensors in float32.
    takes : str
        The size of its images, or the highest number of tokens of a text.
    source : str
        The package that builds it.
    places : list of str
        Files or folders where its weights are, or will be after the download; `random` for random weights.
    fetched : bool
        Whether the weights are downloaded if they are not on disk.
    """

    model: str
    modality: str
    parameters: int | None = None
    size_mb: float | None = None
    width: int | None = None
    takes: str = ""
    source: str = ""
    places: tuple[str, ...] = ()
    fetched: bool = True
    note: str = ""

    @property
    def weights(self) -> str:
        """`on disk`, `to fetch`, `none`, `missing` or `random`; empty if the encoder has no weights."""
        if RANDOM in self.places:
            return RANDOM
        if any(on_disk(Path(place)) for place in self.places):
            return "on disk"
        if not self.fetched:
            return "missing" if self.places else "none"
        return "to fetch" if self.places else ""


def on_disk(place: Path) -> bool:
    """Whether a file exists, or a folder of the hub's cache or of transformers contains weights."""
    if not place.is_dir():
        return place.is_file()
    folders = [place, *place.glob("snapshots/*")]
    return any(file.suffix in (".safetensors", ".bin") for folder in folders for file in folder.iterdir())
