"""Row keys: digests of samples' own bytes, and a memory of them that saves reading unchanged files again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmfeat.data.imagenames import Location
from mmfeat.data.sources import ImageSources
from mmfeat.errors import DataError
from mmfeat.files import atomic_path
from mmfeat.machine import usable_cores
from mmfeat.progress import progress

_FORMAT = b"3"  # 3: names that match by their ends or without extension
_BLOCK = 512
_PLACE = 16  # bytes


@dataclass(frozen=True)
class RowKeys:
    """What each row's features are filed under.

    Attributes
    ----------
    keys : np.ndarray
        `(N, 32)` uint8 SHA-256; zeros where not present.
    present : np.ndarray
        `(N,)` bool: False for a blank caption, an image that is not there or cannot be read.
    missing : dict of int to str
        Row to the reason why its image is not there.
    refused : dict of int to str
        Row to the reason why its image is there and cannot be read.
    """

    keys: np.ndarray
    present: np.ndarray
    missing: dict[int, str] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)

    @property
    def reasons(self) -> dict[int, str]:
        """Row to the reason why its image is not present, in the order of the rows."""
        return dict(sorted({**self.missing, **self.refused}.items()))


def caption_keys(captions: np.ndarray) -> RowKeys:
    """Keys of captions: digests of their UTF-8."""
    present = np.fromiter((bool(caption.strip()) for caption in captions), bool, len(captions))
    keys = np.zeros((len(captions), 32), np.uint8)
    digests = b"".join(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in captions[present])
    keys[present] = np.frombuffer(digests, np.uint8).reshape(-1, 32)
    return RowKeys(keys, present)


def id_keys(ids: Sequence[str] | np.ndarray) -> np.ndarray:
    """Keys `(N, 32)` uint8 of ids, digests of their UTF-8: what imported embeddings are filed under."""
    digests = b"".join(hashlib.sha256(i.encode("utf-8", "surrogatepass")).digest() for i in ids)
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)


def image_keys(images: np.ndarray, sources: ImageSources, memory: DigestMemory | None = None) -> RowKeys:
    """Keys of images: digests of their files' bytes, read only where memory has none.

    A name that is empty is a row without an image; one that is nowhere is not present and has its reason.

    Parameters
    ----------
    images : np.ndarray
        `(N,)` object array of names.

    Raises
    ------
    DataError
        An archive is damaged, or a name is there several times.
    """
    state = _state(images, sources) if memory else None
    keys = memory.recall_all(state, len(images)) if state else None
    if keys is not None:
        return _row_keys(images, keys, {})
    locations = [sources.locate(name) if name else None for name in images]
    places = [_place(*pair) for pair in zip(locations, sources.stamps(locations), strict=True)]
    keys = memory.recall(places) if memory else np.zeros((len(images), 32), np.uint8)
    unread = [row for row in np.flatnonzero(~keys.any(1)).tolist() if locations[row] is not None]
    refused: dict[int, str] = {}
    if unread:
        with progress("reading images", len(unread), "images") as bar:
            for row, digest in _digests(sources, locations, unread, bar):
                if isinstance(digest, bytes):
                    keys[row] = np.frombuffer(digest, np.uint8)
                else:
                    refused[row] = digest
        after = sources.stamps(locations[row] for row in unread)
        for row, stamp in zip(unread, after, strict=True):
            if _place(locations[row], stamp) != places[row]:  # it changed while it was read
                places[row] = None
    if memory and (unread or state):
        whole = all(place is not None for place, location in zip(places, locations, strict=True) if location)
        settled = state is not None and whole and not refused and state == _state(images, sources)
        memory.remember(places, keys, state if settled else b"")
    return _row_keys(images, keys, refused)


def _row_keys(images: np.ndarray, keys: np.ndarray, refused: dict[int, str]) -> RowKeys:
    present = keys.any(1)
    absent = np.flatnonzero(~present).tolist()
    missing = {row: "no such image" for row in absent if images[row] and row not in refused}
    return RowKeys(keys, present, missing, refused)


def _digests(
    sources: ImageSources, locations: list[Location | None], unread: list[int], bar: object
) -> Iterator[tuple[int, bytes | str]]:
    """Digest, or the reason why there is none, of each row asked for."""

    def digest(block: list[int]) -> list[tuple[int, bytes | str]]:
        found: list[tuple[int, bytes | str]] = []
        for row in block:
            try:
                found.append((row, hashlib.sha256(sources.read(locations[row])).digest()))
            except (OSError, DataError) as error:
                found.append((row, getattr(error, "strerror", None) or str(error)))
        return found

    blocks = [unread[start : start + _BLOCK] for start in range(0, len(unread), _BLOCK)]
    with ThreadPoolExecutor(usable_cores() + 4) as pool:  # they wait for the disk rather than for a core
        for found in pool.map(digest, blocks):
            yield from found
            bar.advance(len(found))


class DigestMemory:
    """Digests by place and stamp (size, time, inode), as git's index keeps them, and the state of archives they are for.

    Only a shortcut: absent, damaged or of another version it is empty. What has no stamp that can be trusted
    (see :meth:`ImageSources.stamps`) is not remembered.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def recall_all(self, state: bytes, n: int) -> np.ndarray | None:
        """Digests `(N, 32)` uint8 of all rows where names and archives are in the state that was remembered."""
        found = self._read()
        return found[2].copy() if found and found[0] == state and len(found[2]) == n else None

    def recall(self, places: list[bytes | None]) -> np.ndarray:
        """Digests `(N, 32)` uint8 of places; zeros where a place is None or not remembered."""
        digests = np.zeros((len(places), 32), np.uint8)
        found = self._read()
        if found:
            at = {place: row for row, place in enumerate(found[1].view(f"V{_PLACE}").ravel().tolist())}
            known = np.fromiter((at.get(place, -1) for place in places), np.int64, len(places))
            digests[known >= 0] = found[2][known[known >= 0]]
        return digests

    def remember(self, places: list[bytes | None], digests: np.ndarray, state: bytes = b"") -> None:
        """Keep the digests `(N, 32)` of these places instead of what was kept before.

        Parameters
        ----------
        state : bytes
            What :meth:`recall_all` will ask for; empty where another time may give other digests.
        """
        data = b"".join(place or bytes(_PLACE) for place in places)
        columns = {"place": (_PLACE, data), "digest": (32, np.ascontiguousarray(digests))}
        table = pa.table(
            {
                name: pa.Array.from_buffers(pa.binary(width), len(places), [None, pa.py_buffer(values)])
                for name, (width, values) in columns.items()
            }
        )
        with atomic_path(self.path) as temporary:
            pq.write_table(
                table.replace_schema_metadata({"format": _FORMAT, "state": state.hex()}),
                temporary,
                compression="none",
                use_dictionary=False,
            )

    def forget(self) -> None:
        """Remember nothing, so that everything is read again."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> tuple[bytes, np.ndarray, np.ndarray] | None:
        """State, places `(M, 16)` and digests `(M, 32)`, uint8."""
        try:
            table = pq.read_table(self.path)
            metadata = table.schema.metadata or {}
            if metadata.get(b"format") != _FORMAT:
                return None
            state = bytes.fromhex(metadata[b"state"].decode())
            return state, _matrix(table["place"], _PLACE), _matrix(table["digest"], 32)
        except (OSError, KeyError, ValueError, TypeError, pa.ArrowException):
            return None


def _matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """A column of `width` bytes a row as `(M, width)` uint8."""
    values = column.cast(pa.binary(width)).combine_chunks()
    return np.frombuffer(values.buffers()[1], np.uint8).reshape(-1, width)[values.offset :][: len(values)]


def _state(images: np.ndarray, sources: ImageSources) -> bytes | None:
    """Digest of all that row keys depend on, where archives' stamps tell it."""
    state = sources.state()
    if state is None:
        return None
    names = "\0".join([*images, repr(state)])
    return hashlib.sha256(names.encode("utf-8", "surrogatepass")).digest()


def _place(location: Location | None, stamp: tuple[int, ...] | None) -> bytes | None:
    """Sixteen bytes for a place in its present state; None where it has no stamp."""
    if location is None or stamp is None:
        return None
    text = "\0".join((location.file, location.member or "", *map(str, stamp)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_PLACE]
