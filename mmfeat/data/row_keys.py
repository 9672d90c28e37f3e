"""Row keys: digests of samples' bytes, and a memory of them so that unchanged files are not read again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.machine import usable_cores
from mmfeat.common.progress import progress
from mmfeat.common.remembered_rows import RememberedRows, Rows
from mmfeat.data.images.image_bytes import PIXEL_DIGEST, deep, pixel_digest
from mmfeat.data.images.image_names import Location
from mmfeat.data.images.image_sources import ImageSources
from mmfeat.data.images.kept_bytes import KeptBytes
from mmfeat.data.images.missing_images import NO_IMAGE

_FORMAT = "4"  # since 4: names that look the same, image types by content, linked folders
_BEFORE = "3"  # its digests by place are still valid, but a name may now refer to another place
_BLOCK = 512
_PLACE = 16  # bytes
_FACTS = PIXEL_DIGEST + 1  # bytes: digest of the image data, then one of
_UNKNOWN, _SHALLOW, _DEEP = range(3)


@dataclass(frozen=True, kw_only=True)
class RowKeys:
    """The row keys of one modality, under which features are stored.

    Attributes
    ----------
    keys : np.ndarray
        `(N, 32)` uint8 SHA-256; zeros if missing.
    present : np.ndarray
        `(N,)` bool: False for a blank caption, and for an image that does not exist or cannot be read.
    missing : dict of int to str
        Rows whose image does not exist, with the reason.
    refused : dict of int to str
        Rows whose image exists and cannot be read, with the reason.
    facts : np.ndarray or None
        `(N, 17)` uint8, other properties of the images' bytes; read them with `pixels` and `deep`.
    """

    keys: np.ndarray
    present: np.ndarray
    missing: dict[int, str] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    facts: np.ndarray | None = None

    @property
    def pixels(self) -> np.ndarray:
        """Digests `(N, 16)` uint8 of the image data without metadata; of all bytes if those are unknown."""
        if self.facts is None:
            return self.keys[:, :PIXEL_DIGEST]
        known = self.facts[:, PIXEL_DIGEST:] != _UNKNOWN
        return np.where(known, self.facts[:, :PIXEL_DIGEST], self.keys[:, :PIXEL_DIGEST])

    @property
    def deep(self) -> np.ndarray:
        """Which images may have more than 8 bits per channel, `(N,)` bool."""
        if self.facts is None:
            return np.zeros(len(self.present), dtype=bool)
        return self.present & (self.facts[:, PIXEL_DIGEST] == _DEEP)

    @property
    def lacks_facts(self) -> np.ndarray:
        """Images of which only the key is known, `(N,)` bool."""
        return self.present & (self.facts is None or self.facts[:, PIXEL_DIGEST] == _UNKNOWN)

    @property
    def reasons(self) -> dict[int, str]:
        """Rows whose image is missing or refused, with the reason, in order."""
        return dict(sorted({**self.missing, **self.refused}.items()))


def caption_keys(captions: np.ndarray) -> RowKeys:
    """Row keys of captions: digests of their UTF-8 bytes."""
    present = np.fromiter((bool(caption.strip()) for caption in captions), bool, len(captions))
    keys = np.zeros((len(captions), 32), np.uint8)
    digests = b"".join(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in captions[present])
    keys[present] = np.frombuffer(digests, np.uint8).reshape(-1, 32)
    return RowKeys(keys=keys, present=present)


def id_keys(ids: Sequence[str] | np.ndarray) -> np.ndarray:
    """Row keys `(N, 32)` uint8 of imported embeddings: digests of the ids' UTF-8 bytes."""
    digests = b"".join(hashlib.sha256(i.encode("utf-8", "surrogatepass")).digest() for i in ids)
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)


def image_keys(
    images: np.ndarray,
    sources: ImageSources,
    memory: DigestMemory | None = None,
    *,
    facts: bool = False,
    kept: KeptBytes | None = None,
) -> RowKeys:
    """Row keys of images: digests of their files' bytes. Only files without a digest in memory are read.

    A row with an empty name has no image. A name that matches no file is missing, with a reason.

    Parameters
    ----------
    images : np.ndarray
        `(N,)` object array of names.
    facts : bool
        Whether `pixels` and `deep` are needed too: files of which memory has only the key are then read again.
    kept : KeptBytes, optional
        Receives the bytes that are read.

    Raises
    ------
    DataError
        An archive is damaged, or a name matches several images.
    """
    state = _state(images, sources) if memory else None
    found = memory.recall_all(state, len(images)) if state else None
    if found is not None and not (facts and found.lacks_facts.any()):
        return _row_keys(images, found, {})
    locations = [sources.locate(name) if name else None for name in images]
    places = [_place(*pair) for pair in zip(locations, sources.stamps(locations), strict=True)]
    found = memory.recall(places) if memory else Digests.empty(len(images))
    lacks = found.lacks_facts | ~found.known if facts else ~found.known
    unread = [row for row in np.flatnonzero(lacks).tolist() if locations[row] is not None]
    refused: dict[int, str] = {}
    if unread:
        with progress("reading images", len(unread), "images") as bar:
            facts = facts or memory is not None
            for row, digest in _digests(sources, locations, unread, bar=bar, facts=facts, kept=kept):
                if isinstance(digest, bytes):
                    found.rows[row] = np.frombuffer(digest, np.uint8)
                else:
                    refused[row] = digest
        after = sources.stamps(locations[row] for row in unread)
        for row, stamp in zip(unread, after, strict=True):
            if _place(locations[row], stamp) != places[row]:  # the file changed while it was read
                places[row] = None
    if memory and (unread or state):
        whole = all(place is not None for place, location in zip(places, locations, strict=True) if location)
        settled = state is not None and whole and not refused and state == _state(images, sources)
        memory.remember(places, found, state if settled else b"")
    return _row_keys(images, found, refused)


def _row_keys(images: np.ndarray, found: Digests, refused: dict[int, str]) -> RowKeys:
    found.rows[list(refused)] = 0
    present = found.known
    absent = np.flatnonzero(~present).tolist()
    missing = {row: NO_IMAGE for row in absent if images[row] and row not in refused}
    return RowKeys(keys=found.keys, present=present, missing=missing, refused=refused, facts=found.facts)


def _digests(
    sources: ImageSources,
    locations: list[Location | None],
    unread: list[int],
    *,
    bar: object,
    facts: bool,
    kept: KeptBytes | None,
) -> Iterator[tuple[int, bytes | str]]:
    """Key and facts (49 bytes) of each row to read, or the reason why it cannot be read."""

    def digest(block: list[int]) -> list[tuple[int, bytes | str]]:
        found: list[tuple[int, bytes | str]] = []
        for row in block:
            try:
                data = sources.read(locations[row])
                key = hashlib.sha256(data).digest()
                found.append((row, key + (_facts(data, key) if facts else bytes(_FACTS))))
                if kept is not None:
                    kept.keep(row, data)
            except (OSError, DataError) as error:
                found.append((row, getattr(error, "strerror", None) or str(error)))
        return found

    blocks = [unread[start : start + _BLOCK] for start in range(0, len(unread), _BLOCK)]
    with ThreadPoolExecutor(usable_cores() + 4) as pool:  # the threads mostly wait for the disk
        for found in pool.map(digest, blocks):
            yield from found
            bar.advance(len(found))


def _facts(data: bytes, key: bytes) -> bytes:
    return (pixel_digest(data) or key[:PIXEL_DIGEST]) + bytes([_DEEP if deep(data) else _SHALLOW])


@dataclass(frozen=True, eq=False, kw_only=True)
class Digests:
    """Keys and facts of images: `rows (N, 49)` uint8, zeros if unknown."""

    rows: np.ndarray

    @classmethod
    def empty(cls, n: int) -> Digests:
        """Digests of `n` unknown images."""
        return cls(rows=np.zeros((n, 32 + _FACTS), np.uint8))

    @property
    def keys(self) -> np.ndarray:
        """`(N, 32)` uint8."""
        return np.ascontiguousarray(self.rows[:, :32])

    @property
    def facts(self) -> np.ndarray:
        """`(N, 17)` uint8."""
        return self.rows[:, 32:]

    @property
    def known(self) -> np.ndarray:
        """Images with a key, `(N,)` bool."""
        return self.rows[:, :32].any(1)

    @property
    def lacks_facts(self) -> np.ndarray:
        """Images with a key and no facts, as mmfeat 0.1.0 remembered them, `(N,)` bool."""
        return self.known & (self.rows[:, -1] == _UNKNOWN)


class DigestMemory:
    """A file of digests by place and stamp (size, time, inode), like git's index, and the state of their archives.

    It only saves time: a missing or damaged file, or one of another version, counts as empty. Images without a reliable
    stamp (see :meth:`ImageSources.stamps`) are not remembered.
    """

    def __init__(self, path: Path) -> None:
        widths = {"place": _PLACE, "digest": 32, "facts": _FACTS}  # mmfeat 0.1.0 remembered no facts
        self._rows = RememberedRows(path, (_FORMAT, _BEFORE), widths)

    def recall_all(self, state: bytes, n: int) -> Digests | None:
        """Digests of all rows where names and archives are in the state that was remembered."""
        found = self._rows.read()
        same = found is not None and found.format == _FORMAT and found.state == state.hex()
        return _digests_of(found) if same and len(found.columns["place"]) == n else None

    def recall(self, places: list[bytes | None]) -> Digests:
        """Digests of places; zeros if a place is None or not remembered."""
        digests = Digests.empty(len(places))
        found = self._rows.read()
        if found is not None:
            at = {place: row for row, place in enumerate(found.columns["place"].view(f"V{_PLACE}").ravel().tolist())}
            known = np.fromiter((at.get(place, -1) for place in places), np.int64, len(places))
            digests.rows[known >= 0] = _digests_of(found).rows[known[known >= 0]]
        return digests

    def remember(self, places: list[bytes | None], digests: Digests, state: bytes = b"") -> None:
        """Replace the file's content by the digests of these places.

        Parameters
        ----------
        state : bytes
            The state for :meth:`recall_all`; empty if the same state may give other digests later.
        """
        data = np.frombuffer(b"".join(place or bytes(_PLACE) for place in places), np.uint8).reshape(-1, _PLACE)
        columns = {"place": data, "digest": digests.keys, "facts": digests.facts}
        self._rows.write(columns, state=state.hex())

    def forget(self) -> None:
        """Remember nothing, so that everything is read again."""
        self._rows.forget()


def _digests_of(found: Rows) -> Digests:
    return Digests(rows=np.concatenate([found.columns["digest"], found.columns["facts"]], axis=1))


def _state(images: np.ndarray, sources: ImageSources) -> bytes | None:
    """Digest of the names and of the archives' stamps; None if row keys depend on anything else."""
    state = sources.state()
    if state is None:
        return None
    names = "\0".join([*images, repr(state)])
    return hashlib.sha256(names.encode("utf-8", "surrogatepass")).digest()


def _place(location: Location | None, stamp: tuple[int, ...] | None) -> bytes | None:
    """Digest (16 bytes) of a place and its stamp; None without a stamp."""
    if location is None or stamp is None:
        return None
    text = "\0".join((location.file, location.member or "", *map(str, stamp)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_PLACE]
