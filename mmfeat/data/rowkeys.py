"""Row keys: digests of samples' own bytes, and a memory of them that saves reading unchanged files again."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmfeat.data.sources import ImageSources, Location
from mmfeat.errors import DataError
from mmfeat.files import atomic_path, digest_json
from mmfeat.progress import progress

_FORMAT = b"1"
_RACY_NS = 2_000_000_000  # a file changed so shortly before it was read may change again within one clock tick
_BLOCK = 512


@dataclass(frozen=True)
class RowKeys:
    """What each row's features are filed under.

    Attributes
    ----------
    keys : np.ndarray
        `(N, 32)` uint8 SHA-256; zeros where not present.
    present : np.ndarray
        `(N,)` bool: False for a blank caption, an image that is not there or cannot be read.
    reasons : dict of int to str
        Row to the reason why its image is not present.
    """

    keys: np.ndarray
    present: np.ndarray
    reasons: dict[int, str] = field(default_factory=dict)


def caption_keys(captions: np.ndarray) -> RowKeys:
    """Keys of captions: digests of their UTF-8."""
    keys = np.zeros((len(captions), 32), np.uint8)
    present = np.array([bool(caption.strip()) for caption in captions], dtype=bool)
    for row in np.flatnonzero(present):
        keys[row] = np.frombuffer(hashlib.sha256(captions[row].encode("utf-8", "surrogatepass")).digest(), np.uint8)
    return RowKeys(keys, present)


def image_keys(images: np.ndarray, sources: ImageSources, memory: DigestMemory | None = None) -> RowKeys:
    """Keys of images: digests of their files' bytes, read only where memory has none.

    A name that is empty is a row without an image; one that is nowhere is not present and has its reason.
    """
    keys = np.zeros((len(images), 32), np.uint8)
    present = np.zeros(len(images), dtype=bool)
    reasons: dict[int, str] = {}
    rows, locations = [], []
    for row, name in enumerate(images):
        if name:
            location = sources.locate(name)
            if location is None:
                reasons[row] = "no such image"
            else:
                rows.append(row)
                locations.append(location)
    stamps = sources.stamps(locations)
    known = memory.recall(locations, stamps) if memory else {}
    unread = [i for i in range(len(rows)) if i not in known]
    digests = dict(known)
    if unread:
        with progress("reading images", len(unread), "images") as bar:
            for i, digest in _read(sources, locations, unread, bar):
                digests[i] = digest
    for i, row in enumerate(rows):
        if isinstance(digests[i], bytes):
            keys[row], present[row] = np.frombuffer(digests[i], np.uint8), True
        else:
            reasons[row] = digests[i]
    if memory and unread:
        memory.remember(
            locations, stamps, [d if isinstance(d, bytes) else None for d in (digests[i] for i in range(len(rows)))]
        )
    return RowKeys(keys, present, reasons)


def _read(sources: ImageSources, locations: list[Location], unread: list[int], bar: object):
    """Digest, or the reason why there is none, of each location asked for."""

    def digest(block: list[int]) -> list[tuple[int, bytes | str]]:
        found: list[tuple[int, bytes | str]] = []
        for i in block:
            try:
                found.append((i, hashlib.sha256(sources.read(locations[i])).digest()))
            except (OSError, DataError) as error:
                found.append((i, getattr(error, "strerror", None) or str(error)))
        return found

    blocks = [unread[start : start + _BLOCK] for start in range(0, len(unread), _BLOCK)]
    with ThreadPoolExecutor() as pool:
        for found in pool.map(digest, blocks):
            yield from found
            bar.advance(len(found))


class DigestMemory:
    """Digests by place and stamp (size, time, inode), as git's index keeps them.

    Only a shortcut: absent, damaged or of another version it is empty. A file that changed within two seconds before it
    was read is not remembered, since a further change might leave its stamp as it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def recall(self, locations: list[Location], stamps: list[tuple[int, ...] | None]) -> dict[int, bytes]:
        """Number in the list to digest, for those that are remembered."""
        try:
            table = pq.read_table(self.path)
            if (table.schema.metadata or {}).get(b"format") != _FORMAT:
                return {}
            known = dict(zip(table["place"].to_pylist(), table["digest"].to_pylist(), strict=True))
        except (OSError, KeyError, ValueError, pa.ArrowException):
            return {}
        found = {}
        for i, (location, stamp) in enumerate(zip(locations, stamps, strict=True)):
            digest = known.get(_place(location, stamp)) if stamp else None
            if digest is not None and len(digest) == 32:
                found[i] = digest
        return found

    def remember(
        self, locations: list[Location], stamps: list[tuple[int, ...] | None], digests: list[bytes | None]
    ) -> None:
        """Keep the digests of these places instead of what was kept before."""
        settled = time.time_ns() - _RACY_NS
        kept = [
            (_place(location, stamp), digest)
            for location, stamp, digest in zip(locations, stamps, digests, strict=True)
            if digest is not None and stamp is not None and stamp[1] < settled
        ]
        places, values = zip(*kept, strict=True) if kept else ((), ())
        table = pa.table({"place": pa.array(places, pa.binary()), "digest": pa.array(values, pa.binary())})
        with atomic_path(self.path) as temporary:
            pq.write_table(table.replace_schema_metadata({"format": _FORMAT.decode()}), temporary)


def _place(location: Location, stamp: tuple[int, ...]) -> bytes:
    """Sixteen bytes for a place in its present state."""
    return bytes.fromhex(digest_json([location.file, location.member, *stamp])[:32])
