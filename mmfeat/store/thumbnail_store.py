"""ThumbnailStore: thumbnails of images, and what their pixels say, filed by row key in a folder of the store.

Its files are written, committed and verified as segments of embeddings are. A damaged file is not read: its thumbnails are
made again. No encoder is involved, so all encoders and projects on the store share one folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from mmfeat.common.errors import StoreError
from mmfeat.common.files import digest_json, remove_leftovers
from mmfeat.common.hdf5_reading import dataset, open_hdf5
from mmfeat.common.remembered import Stamp
from mmfeat.common.verified import VerifiedFiles
from mmfeat.store.commits import (
    JPEGS,
    THUMBNAILS,
    Commit,
    commit_paths,
    new_segment_name,
    read_commit,
    refuse_newer,
)
from mmfeat.store.mapped import MappedArray
from mmfeat.store.rows import Found, MappedRows
from mmfeat.store.segments import write_file
from mmfeat.store.series import SegmentSeries
from mmfeat.store.uncommitted import remove_uncommitted

THUMBNAILS_KEY = digest_json([THUMBNAILS])  # stands for an encoder key in references of projects
MINIATURE = 32  # pixels a side

_FACTS = {"width": "<i4", "height": "<i4", "n_bytes": "<i8", "spread": "<f4"}


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureStatistics:
    """Facts of N pictures; zeros for rows without a readable picture.

    Attributes
    ----------
    known : np.ndarray
        `(N,)` bool: the row has a readable picture.
    width, height : np.ndarray
        `(N,)` int32, in pixels, upright.
    n_bytes : np.ndarray
        `(N,)` int64: size of the file.
    spread : np.ndarray
        `(N,)` float32: the largest standard deviation of a colour channel, from 0 to 127.5. Below 1 the picture has one colour.
    miniature : np.ndarray or MappedRows
        `(N, 32, 32, 3)` uint8 (height, width, colour): the picture scaled to a square; read on access.
    """

    known: np.ndarray
    width: np.ndarray
    height: np.ndarray
    n_bytes: np.ndarray
    spread: np.ndarray
    miniature: Any

    @classmethod
    def none(cls, n: int) -> Self:
        """Statistics of `n` rows without pictures."""
        facts = {name: np.zeros(n, dtype) for name, dtype in _FACTS.items()}
        miniature = np.zeros((n, MINIATURE, MINIATURE, 3), np.uint8)
        return cls(known=np.zeros(n, dtype=bool), miniature=miniature, **facts)


@dataclass(frozen=True, kw_only=True)
class _ThumbnailFile:
    """A committed file, opened: facts in memory, thumbnails and miniatures mapped."""

    name: str
    row_key: np.ndarray
    is_error: np.ndarray
    ends: np.ndarray  # (n,): of each thumbnail in `jpegs`
    facts: dict[str, np.ndarray]
    jpegs: MappedArray
    miniatures: MappedArray
    decoder: int
    decoding: str

    def jpeg(self, row: int) -> bytes:
        """A row's thumbnail."""
        start = int(self.ends[row - 1]) if row else 0
        return self.jpegs[start : int(self.ends[row])].tobytes()


class ThumbnailStore:
    """The thumbnails of a store.

    Parameters
    ----------
    store : Path
        The store's folder.

    Attributes
    ----------
    problems : list of str
        Damaged files that are not read, one line each.
    """

    def __init__(self, store: Path) -> None:
        self.folder = store / THUMBNAILS
        self.problems: list[str] = []
        self._series = SegmentSeries(THUMBNAILS)

    def lookup(self, keys: np.ndarray) -> Found:
        """The places of row keys `(N, 32)` uint8; files that other processes have committed meanwhile are found too.

        Raises
        ------
        StoreError
            The folder cannot be read.
        """
        verified = VerifiedFiles(self.folder)
        self._series.update(self._commits(), lambda commit: self._open(verified, commit))
        verified.save()
        return self._series.index.find(keys)

    def untried(self, found: Found, record: dict[str, Any]) -> np.ndarray:
        """Unreadable pictures that were decoded by other rules than those of `record`, `(N,)` bool."""
        rules = [(file.decoder, file.decoding) for file in self._series.files]
        other = np.array([rule != (record["decoder"], record["decoding"]) for rule in rules], dtype=bool)
        untried = found.error.copy()
        untried[untried] = other[found.segment[untried]]
        return untried

    def jpegs(self, found: Found) -> list[bytes | None]:
        """The thumbnails of found rows as JPEG files; None for a missing row and for a picture that cannot be decoded.

        Raises
        ------
        StoreError
            A file has changed since it was verified.
        """
        files = self._series.files
        places = zip(found.segment.tolist(), found.row.tolist(), found.good.tolist(), strict=True)
        return [files[segment].jpeg(row) if good else None for segment, row, good in places]

    def statistics(self, found: Found) -> PictureStatistics:
        """The facts of found rows."""
        files = self._series.files
        if not files:
            return PictureStatistics.none(len(found.segment))
        values = {name: np.zeros(len(found.segment), dtype) for name, dtype in _FACTS.items()}
        for number in np.unique(found.segment[found.good]):
            here = found.good & (found.segment == number)
            for name, column in values.items():
                column[here] = files[number].facts[name][found.row[here]]
        miniature = MappedRows([file.miniatures for file in files], found)
        return PictureStatistics(known=found.good, miniature=miniature, **values)

    def append(
        self,
        keys: np.ndarray,
        jpegs: Sequence[bytes],
        errors: Sequence[str],
        *,
        statistics: PictureStatistics,
        attributes: dict[str, Any],
    ) -> None:
        """Write thumbnails as one file and commit it.

        Parameters
        ----------
        keys : np.ndarray
            `(n, 32)` uint8 row keys.
        jpegs : sequence of bytes
            JPEG files, empty for pictures that cannot be decoded.
        errors : sequence of str
            Why a picture cannot be decoded; empty if it can.
        statistics : PictureStatistics
            Of the n rows.
        attributes : dict
            Recorded with the file: the decoder's version and settings.

        Raises
        ------
        StoreError
            The folder cannot be written.
        """
        ends = np.cumsum([len(jpeg) for jpeg in jpegs], dtype="<i8")
        arrays = {"row_key": keys, "ends": ends, JPEGS.values: np.frombuffer(b"".join(jpegs), np.uint8)}
        arrays |= {name: getattr(statistics, name).astype(dtype) for name, dtype in _FACTS.items()}
        arrays["miniatures"] = statistics.miniature
        write_file(
            self.folder, new_segment_name(THUMBNAILS), THUMBNAILS, arrays=arrays, errors=errors, attributes=attributes
        )

    def sweep(self) -> None:
        """Remove files of killed writers."""
        remove_leftovers(self.folder)
        remove_uncommitted(self.folder)

    def _commits(self) -> list[Commit]:
        try:
            paths = commit_paths(self.folder)
        except OSError as error:
            raise StoreError(f"{self.folder}: cannot be read: {error.strerror or error}") from None
        commits = []
        for path in paths:
            try:
                commits.append(read_commit(path))
            except FileNotFoundError:
                continue
            except ValueError as error:
                self._problem(path, str(error))
        return commits

    def _open(self, verified: VerifiedFiles, commit: Commit) -> _ThumbnailFile | None:
        path = self.folder / commit.file
        try:
            file = open_thumbnails(path, commit, verified.check(commit))
            file.jpegs.open()
        except ValueError as error:
            if (self.folder / "commits" / commit.name).exists():
                self._problem(path, str(error))
            return None
        return file

    def _problem(self, path: Path, what: str) -> None:
        line = f"{path}: {what}. It is not read; its thumbnails are made again when they are needed"
        if line not in self.problems:
            self.problems.append(line)


def open_thumbnails(path: Path, commit: Commit, stamp: Stamp) -> _ThumbnailFile:
    """Open a verified file of thumbnails.

    Raises
    ------
    ValueError
        The file does not match its commit.
    StoreError
        It was written by a newer mmfeat.
    """
    n = commit.rows
    try:
        with open_hdf5(path) as h5:
            refuse_newer(path, int(h5.attrs["encoding-version"]))
            if h5.attrs.get("encoding-type") != JPEGS.encoding:
                raise ValueError("it has another encoding type")
            arrays = {name: dataset(h5, name)[:] for name in ("row_key", "ends", *_FACTS)}
            reasons = dataset(h5, "errors").asstr()[:].tolist()
            mapped = {}
            for name in (JPEGS.values, "miniatures"):
                data = dataset(h5, name)
                offset = data.id.get_offset() if data.size else 0
                if offset is None or data.dtype != np.uint8:
                    raise ValueError(f"its {name} are not contiguous bytes")
                mapped[name] = MappedArray(path=path, stamp=stamp, offset=offset, shape=data.shape, dtype=data.dtype)
            decoder, decoding = int(h5.attrs.get("decoder", 1)), str(h5.attrs.get("decoding", ""))
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"it cannot be read as HDF5 ({type(error).__name__})") from None
    keys, ends, jpegs = arrays.pop("row_key"), arrays.pop("ends"), mapped[JPEGS.values]
    right = keys.shape == (n, 32) and all(len(one) == n for one in (ends, reasons, *arrays.values()))
    right &= mapped["miniatures"].shape == (n, MINIATURE, MINIATURE, 3) and len(jpegs.shape) == 1
    if not right or (np.diff(ends, prepend=0) < 0).any() or (n and ends[-1] != len(jpegs)):
        raise ValueError("its rows do not match its commit")
    return _ThumbnailFile(
        name=commit.file,
        row_key=keys,
        is_error=np.array([bool(reason) for reason in reasons], dtype=bool),
        ends=ends,
        facts=arrays,
        jpegs=jpegs,
        miniatures=mapped["miniatures"],
        decoder=decoder,
        decoding=decoding,
    )
