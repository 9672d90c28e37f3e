"""An encoder without torch, whose result does not depend on the batch, and an extraction that can be killed.

`python -m helpers.fakes STORE LOG ROWS SECONDS` encodes samples 0 to ROWS and logs the key of each at the moment it is encoded.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.encoders.batches import Encoded, UndecodableSample
from mmfeat.extraction import Session, extract_encoder
from mmfeat.store import EncoderSpec, FeatureStore

WIDTH, TOKENS = 8, 4
SPEC = EncoderSpec("image", "fake", "0a" * 32, {"size": 1}, "mean", {"precision": "float32"})


def sample_of(number: int) -> bytes:
    return f"sample {number}".encode()


def keys_of(n: int) -> np.ndarray:
    """Row keys `(n, 32)` of the first n samples."""
    return np.frombuffer(b"".join(hashlib.sha256(sample_of(i)).digest() for i in range(n)), np.uint8).reshape(-1, 32)


def embedding_of(sample: bytes) -> np.ndarray:
    """Small whole numbers, which float16 holds exactly."""
    return np.frombuffer(hashlib.sha256(b"e" + sample).digest()[:WIDTH], np.uint8).astype(np.float32)


def tokens_of(sample: bytes) -> tuple[np.ndarray, int]:
    digest = hashlib.sha256(b"t" + sample).digest()
    return np.frombuffer(digest[: TOKENS * 2], np.uint8).astype(np.float32).reshape(TOKENS, 2), digest[-1] % (
        TOKENS + 1
    )


class OutOfMemory(Exception):
    pass


class FakeEncoder:
    """Encodes bytes; counts what it encodes, can be slow, odd, or short of memory."""

    modality, width = "image", WIDTH

    def __init__(self, seconds: float = 0.0, log: Callable[[bytes], None] | None = None, memory: int = 10**9) -> None:
        self.seconds, self.log, self.memory = seconds, log, memory
        self.batches: list[int] = []
        self.encoded: list[bytes] = []

    def prepare(self, sample: bytes) -> bytes:
        if sample.startswith(b"odd"):
            raise UndecodableSample(ValueError("odd"))
        return sample

    def is_flat(self, prepared: bytes) -> bool:
        return False

    def collate(self, prepared: list[bytes]) -> dict[str, np.ndarray]:
        return {"samples": np.array(prepared, dtype=object)}

    def encode(self, inputs: dict[str, np.ndarray], device: Any, tokens: int = 0) -> Encoded:
        samples = inputs["samples"].tolist()
        if len(samples) > self.memory:
            raise OutOfMemory
        time.sleep(self.seconds)
        self.batches.append(len(samples))
        self.encoded += samples
        for sample in samples if self.log else ():
            self.log(sample)
        embeddings = np.stack([embedding_of(sample) for sample in samples])
        if not tokens:
            return Encoded(embeddings)
        values, lengths = zip(*map(tokens_of, samples), strict=True)
        return Encoded(embeddings, np.stack(values), np.array(lengths))

    def out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, OutOfMemory)


def run(
    store: FeatureStore,
    n: int,
    encoder: FakeEncoder | None = None,
    read: Callable[[int], bytes] = sample_of,
    **more: Any,
) -> Any:
    """Extract the first n samples; `more` goes to `extract_encoder`."""
    encoder = encoder or FakeEncoder()
    batch_size, engine = more.pop("batch_size", 8), more.pop("engine", None)
    present = more.pop("present", np.ones(n, dtype=bool))
    start = lambda rows: Session(encoder, "cpu", batch_size, {"host": "here"}, engine=engine)  # noqa: E731
    return extract_encoder(store.encoder(SPEC), start, keys_of(n), present=present, read=read, name="image", **more)


def main(folder: str, log: str, n: str, seconds: str) -> None:
    """What the fault injection kills: an extraction in small parts, merged after every quarter."""
    from mmfeat.extraction import writer
    from mmfeat.store.merge import merge_segments

    writer.SEGMENT_ROWS = 16
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    store = FeatureStore(Path(folder))
    encoder = FakeEncoder(float(seconds), lambda sample: os.write(descriptor, hashlib.sha256(sample).digest()))
    for quarter in range(1, 5):
        run(store, int(n) * quarter // 4, encoder, batch_size=4, tokens=TOKENS)
        merge_segments(store.encoder(SPEC))


if __name__ == "__main__":
    main(*sys.argv[1:])
