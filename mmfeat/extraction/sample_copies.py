"""Altered copies of samples, as they occur in collected data, and their embeddings; they calibrate the search for near-duplicates."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import ImageOps

from mmfeat.common.progress import progress
from mmfeat.encoders.batches import Batch, groups_of, in_threads, prepared_batches
from mmfeat.encoders.decoding import Decoding
from mmfeat.extraction.encoding_loop import Session
from mmfeat.extraction.thumbnail_making import decoded, jpeg_of

KINDS = ("re-encoded", "resized", "cropped", "mirrored")
_SIDE = 640  # pixels: longest side of a copy
_GROUP = 8


def copies_of(data: bytes, decoding: Decoding, seed: int) -> list[bytes]:
    """A copy of an image file of each of :data:`KINDS`, as JPEG files.

    Raises
    ------
    UndecodableSample
        The bytes are not an image that `decoding` accepts.
    """
    image = decoded(data, decoding, _SIDE)
    image.thumbnail((_SIDE, _SIDE))
    rng = random.Random(seed)
    width, height = image.size
    part = max(1, round(0.9 * width)), max(1, round(0.9 * height))
    left, top = rng.randint(0, width - part[0]), rng.randint(0, height - part[1])
    smaller = rng.uniform(0.4, 0.8)
    altered = {
        "re-encoded": image,
        "resized": image.resize((max(1, round(smaller * width)), max(1, round(smaller * height)))),
        "cropped": image.crop((left, top, left + part[0], top + part[1])),
        "mirrored": ImageOps.mirror(image),
    }
    return [jpeg_of(altered[kind], rng.randint(30, 90) if kind == "re-encoded" else 85) for kind in KINDS]


def picture_copies(rows: np.ndarray, read: Callable[[int], bytes], decoding: Decoding) -> dict[int, list[bytes]]:
    """Copies of the pictures of some rows; those that cannot be read or decoded are left out."""
    found: dict[int, list[bytes]] = {}

    def load(row: int) -> list[bytes]:
        return copies_of(read(row), decoding, row)

    with progress("calibrating: making copies", len(rows), "images") as bar:
        for batch in prepared_batches(groups_of(rows, _GROUP), load, list):
            found.update(zip(batch.rows.tolist(), batch.inputs or (), strict=True))
            bar.advance(len(batch.rows) + len(batch.undecodable) + len(batch.unread))
    return found


def caption_variants(caption: str) -> list[str]:
    """Copies of a caption: without case and punctuation, without one word, and with two words exchanged."""
    words = caption.split()
    bare = "".join(letter if letter.isalnum() else " " for letter in caption).lower().split()
    middle = len(words) // 2
    exchanged = [*words[:middle], *words[middle : middle + 2][::-1], *words[middle + 2 :]]
    return [" ".join(bare), " ".join(words[:middle] + words[middle + 1 :]), " ".join(exchanged)]


def embeddings_of(session: Session, samples: Sequence[Any], name: str) -> np.ndarray:
    """Embeddings of samples `(n, D)` float32; zeros for those that cannot be decoded."""
    encoder = session.encoder
    found = np.zeros((len(samples), encoder.width), np.float32)
    groups = groups_of(np.arange(len(samples)), session.batch_size)

    def encode(batch: Batch) -> None:
        if batch.inputs is not None:
            found[batch.rows] = session.encode(batch.inputs).embeddings

    batches = prepared_batches(groups, lambda at: encoder.prepare(samples[at]), encoder.collate)
    with progress(f"calibrating: encoder {name}", len(samples), "samples") as bar:
        for batch, _ in in_threads(batches, encode, session.at_once):
            bar.advance(len(batch.rows) + len(batch.undecodable))
    return found
