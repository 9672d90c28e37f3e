"""Digests of captions that find equal and similar ones: of the text without case and punctuation, and of its words."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterable

import numpy as np

from mmfeat.common.files import digest_bytes

SIGNATURE = 64  # values of a signature of words
_PARTS = re.compile(r"[\W_]+")
_PRIME = (1 << 61) - 1


def normal_caption(caption: str) -> str:
    """A caption in lower case, its words separated by single spaces, without punctuation; empty if nothing is left."""
    return _PARTS.sub(" ", unicodedata.normalize("NFKC", caption).casefold()).strip()


def caption_keys(captions: Iterable[str]) -> np.ndarray:
    """SHA-256 of each normal caption, `(N, 32)` uint8; zeros for a caption without words."""
    keys = [
        bytes.fromhex(digest_bytes(text.encode("utf-8", "replace"))) if text else bytes(32)
        for text in _normal(captions)
    ]
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)


def caption_words(captions: Iterable[str]) -> np.ndarray:
    """Signatures of the captions' words, `(N, 64)` uint32; zeros for a caption without words.

    Two captions share about as many values as words, of all words of both (MinHash; Broder, 1997).
    """
    rng = np.random.default_rng(0)
    factor, summand = rng.integers(1, 1 << 31, (2, SIGNATURE), dtype=np.uint64)
    texts = list(_normal(captions))
    found = np.zeros((len(texts), SIGNATURE), np.uint32)
    for row, text in enumerate(texts):
        if text:
            words = np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in set(text.split())], np.uint64)
            found[row] = ((words[:, None] * factor + summand) % _PRIME >> np.uint64(29)).min(0)
    return found


def _normal(captions: Iterable[str]) -> Iterable[str]:
    return map(normal_caption, captions)
