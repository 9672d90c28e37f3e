"""EncoderFolder: the folder of one encoder, with its committed files verified and opened.

Only committed files count. Damaged files are not read: their rows count as missing, and `problems` lists the files.
"""

from __future__ import annotations

import contextlib
import functools
import time
from pathlib import Path

import numpy as np

from mmfeat.common.errors import StoreError
from mmfeat.common.files import remove_leftovers
from mmfeat.common.verified import VerifiedFiles
from mmfeat.store import commits as naming
from mmfeat.store.commits import EMBEDDINGS, Commit
from mmfeat.store.encoder_record import RECORD, read_record, write_record
from mmfeat.store.keys import EncoderSpec
from mmfeat.store.segments import StoredFile, open_file
from mmfeat.store.series import SegmentSeries
from mmfeat.store.uncommitted import remove_uncommitted

_TICK = 2_000_000_000  # ns: the coarsest time stamps of file systems
_ATTEMPTS = 20  # to read the folder while other processes merge segments


class EncoderFolder:
    """The committed files of one encoder.

    Parameters
    ----------
    folder : Path
        Its folder in the store; it is made at the first write.
    dtype : str
        Type of written embeddings: `float16` or `float32`.

    Attributes
    ----------
    problems : list of str
        Damaged files that are not read, one line each.

    Raises
    ------
    StoreError
        The folder's encoder.json is damaged, or belongs to another encoder.
    """

    def __init__(self, folder: Path, spec: EncoderSpec, dtype: str) -> None:
        self.folder = folder
        self.spec = spec
        self.dtype = dtype
        self.problems: list[str] = []
        self.commits: list[Commit] = []
        self.series = {EMBEDDINGS: SegmentSeries(EMBEDDINGS)}  # series of tokens are added on request
        self._read_at: int | None = None  # the commit folder's time when its commits were read
        self._vanished = False  # a file was removed between reading its commit and opening it
        self._swept = False
        self._width: int | None = None
        with contextlib.suppress(FileNotFoundError):
            record = read_record(folder)
            self._width = record.width
            if record.spec.key != spec.key:
                raise StoreError(
                    f"{folder}: belongs to another encoder, key {record.spec.key[:16]}… Move that folder away"
                )

    def prepare(self, width: int) -> None:
        """Make the folder and its encoder.json, and remove files of killed writers."""
        try:
            write_record(self.folder, self.spec, width)
            self._width = width
            self.sweep()
        except OSError as error:
            raise naming.unwritable(self.folder, error) from None

    def sweep(self) -> None:
        """Remove files of killed writers, once per object."""
        if not self._swept:
            remove_leftovers(self.folder)
            remove_uncommitted(self.folder)
            self._swept = True

    def forget(self) -> None:
        """Read all commits again at the next refresh."""
        self._read_at = None

    def refresh(self) -> None:
        """Open files that any process has committed since the last refresh."""
        for _ in range(_ATTEMPTS):
            if not self._read_commits():
                return
            verified = VerifiedFiles(self.folder)
            for series in self.series.values():
                series.update(self.commits, functools.partial(self.open, verified))
            verified.save()
            if not self._vanished:
                break
            self.forget()  # the segment was merged meanwhile: its successor is committed by now
        segments = self.series[EMBEDDINGS].current_files
        if segments:
            self._width = segments[0].values.shape[1]
        if segments and not (self.folder / RECORD).exists():  # the record was removed: write it again if possible
            with contextlib.suppress(StoreError):
                self.prepare(self._width)

    def _read_commits(self) -> bool:
        """Read the commits if the folder has changed; returns whether there is anything to update."""
        folder = self.folder / "commits"
        try:
            changed_at = folder.stat().st_mtime_ns
            if changed_at == self._read_at:
                return False
            paths = naming.commit_paths(self.folder)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(f"{folder}: cannot be read: {error.strerror or error}") from None
        self._vanished = False
        self.commits = [commit for path in paths if (commit := self._commit(path)) is not None]
        # If the folder changed just now, a coarse clock may give another commit the same time.
        self._read_at = changed_at if time.time_ns() - changed_at > _TICK else None
        return True

    def _commit(self, path: Path) -> Commit | None:
        try:
            return naming.read_commit(path)
        except FileNotFoundError:
            self._vanished = True
        except ValueError as error:
            self._problem(path, str(error))
        return None

    def open(self, verified: VerifiedFiles, commit: Commit) -> StoredFile | None:
        """Verify and open a committed file; None (and a line in `problems`) if it is damaged."""
        expected = {"encoder_key": self.spec.key}
        if naming.layout_of(commit.kind) is naming.LOGITS:
            expected["output_key"] = commit.kind
        path = self.folder / commit.file
        try:
            file = open_file(path, commit, verified.check(commit), expected=expected)
            if commit.kind == EMBEDDINGS and file.values.shape[1] != (self._width or file.values.shape[1]):
                raise ValueError(f"its embeddings have {file.values.shape[1]} columns, not {self._width}")
            file.values.open()
        except (ValueError, StoreError) as error:
            if not (self.folder / "commits" / commit.name).exists():
                self._vanished = True
                return None
            if isinstance(error, StoreError):
                raise
            self._problem(path, str(error))
            return None
        if commit.kind == EMBEDDINGS:
            self._width = file.values.shape[1]
        return file

    def _problem(self, path: Path, what: str) -> None:
        shown = str(path) if str(path).isprintable() else repr(str(path))
        line = f"{shown}: {what}. It is not read; to make its rows again, run: {self.spec.remedy}"
        if line not in self.problems:
            self.problems.append(line)

    def logits_files(self, output_key: str) -> list[StoredFile | None]:
        """For each file of embeddings, the file of its logits with the same rows, or None."""
        self.refresh()
        verified = VerifiedFiles(self.folder)
        files: list[StoredFile | None] = []
        for segment in self.series[EMBEDDINGS].files:
            prefix = naming.logits_prefix(output_key, segment.name)
            commits = [c for c in self.commits if c.file.startswith(prefix) and c.kind == output_key]
            opened = (self.open(verified, commit) for commit in commits)
            files.append(
                next((file for file in opened if file and np.array_equal(file.row_key, segment.row_key)), None)
            )
        verified.save()
        return files
