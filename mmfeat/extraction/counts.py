"""The counts of an extraction."""

from __future__ import annotations

from dataclasses import dataclass, field

_WAITING = 0.25  # share of the time from which on decoding counts as the bottleneck
_ADVISED = 10.0  # seconds of encoding from which on shares of the time mean something
_WRITING = 0.1


@dataclass
class Extraction:
    """The counts of one encoder's extraction; every row of the manifest is in one of the counts up to `absent`.

    Attributes
    ----------
    cached : int
        Rows whose embedding was already in the store.
    encoded : int
        Distinct samples that were encoded (two rows with one caption are one sample).
    repeated : int
        Rows that share their sample with an encoded one.
    unreadable : int
        Rows whose sample cannot be read or decoded, now or before.
    left : int
        Rows of other shards.
    absent : int
        Rows without the modality.
    tokens : int
        Samples whose embedding was in the store and that got tokens.
    unread : dict[int, str]
        Rows whose bytes could not be read, with the reason; nothing is stored for them.
    batch_size : int
        Samples encoded at a time, at the end.
    tuned : str
        The fastest settings, if they were measured.
    faster_decoding : str
        Advice besides more CPU cores if decoding limits the speed, as the end of a sentence.
    decoded : bool
        Whether samples are images that are decoded.
    imported : bool
        Whether the embeddings are imported, so that nothing can be encoded.
    shares : dict[str, float]
        Seconds spent waiting for decoded samples, encoding, and waiting for the disk.
    """

    name: str
    cached: int = 0
    encoded: int = 0
    repeated: int = 0
    unreadable: int = 0
    left: int = 0
    absent: int = 0
    tokens: int = 0
    seconds: float = 0.0
    unread: dict[int, str] = field(default_factory=dict)
    batch_size: int = 0
    tuned: str = ""
    faster_decoding: str = ""
    decoded: bool = False
    imported: bool = False
    shares: dict[str, float] = field(default_factory=lambda: {"decoding": 0.0, "encoding": 0.0, "writing": 0.0})

    def add(self, before: Extraction) -> None:
        """Count rows that were encoded before, in another way: here they were found in the store."""
        self.cached -= before.encoded + before.repeated
        self.encoded += before.encoded
        self.repeated += before.repeated
        self.tokens += before.tokens
        self.seconds += before.seconds
        self.batch_size = self.batch_size or before.batch_size
        for name, seconds in before.shares.items():
            self.shares[name] += seconds

    @property
    def advice(self) -> str:
        """Advice on speed; empty if encoding is the bottleneck, as it should be, or if little time was spent.

        In a short extraction, waiting for the first samples and opening files look like a bottleneck.
        """
        total = sum(self.shares.values())
        if total < _ADVISED or self.encoded < 100:
            return ""
        if self.shares["writing"] > _WRITING * total:
            return "the disk is the bottleneck: put [store] path on a faster one"
        if self.decoded and self.shares["decoding"] > _WAITING * total:
            return f"decoding is the bottleneck. Use more CPU cores{self.faster_decoding}"
        return ""
