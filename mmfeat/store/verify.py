"""Full verification: reads every committed file and compares it with its checksum, without using remembered results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmfeat.common.errors import StoreError
from mmfeat.common.files import TEMPORARY
from mmfeat.common.remembered import stamp_of
from mmfeat.common.verified import VerifiedFiles
from mmfeat.store.commits import EMBEDDINGS, LOGITS, Commit, commit_paths, layout_of, read_commit
from mmfeat.store.encoder_record import RECORD, read_record
from mmfeat.store.segments import open_file
from mmfeat.store.thumbnail_store import open_thumbnails


@dataclass
class Verified:
    """The result of a verification.

    Attributes
    ----------
    n_files, n_rows, n_bytes : int
        Number of valid committed files, of rows of embeddings in them, and of their bytes.
    problems : list of str
        One line for each invalid file.
    uncommitted : list of Path
        Files without a commit; they do not count.
    """

    n_files: int = 0
    n_rows: int = 0
    n_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    uncommitted: list[Path] = field(default_factory=list)


def size_of(folder: Path) -> int:
    """Total bytes of the committed files of an encoder's folder, or of the thumbnails."""
    total = 0
    for path in commit_paths(folder):
        try:
            total += read_commit(path).size
        except (ValueError, OSError, StoreError):
            continue
    return total


def verify_encoder(folder: Path, advance: Callable[[int], None]) -> Verified:
    """Verify an encoder's folder; `advance` is called with the bytes of each file that was read."""
    result = Verified()
    try:
        record = read_record(folder)
        key, width = record.spec.key, record.width
    except FileNotFoundError:
        result.problems.append(f"{folder / RECORD}: missing. mmfeat extract (or store import) writes it again")
        key = width = None
    except StoreError as error:
        result.problems.append(str(error))
        key = width = None
    memory, named = VerifiedFiles(folder), {RECORD}
    commits = _commits(folder, result, named)
    segments: dict[str, np.ndarray] = {}
    for commit in sorted(commits, key=lambda commit: commit.kind != EMBEDDINGS):
        with _counted(folder, commit, result):
            rows = _verify(folder, commit, memory, key=key, width=width, segments=segments)
            result.n_rows += rows if commit.kind == EMBEDDINGS else 0
        advance(commit.size)
    memory.save()
    result.uncommitted = _other_files(folder, named)
    return result


def verify_thumbnails(folder: Path, advance: Callable[[int], None]) -> Verified:
    """Verify the folder of thumbnails, as :func:`verify_encoder` does an encoder's."""
    result, memory, named = Verified(), VerifiedFiles(folder), set()
    for commit in _commits(folder, result, named):
        with _counted(folder, commit, result):
            memory.forget(commit)
            open_thumbnails(folder / commit.file, commit, memory.check(commit))
            result.n_rows += commit.rows
        advance(commit.size)
    memory.save()
    result.uncommitted = _other_files(folder, named)
    return result


@contextlib.contextmanager
def _counted(folder: Path, commit: Commit, result: Verified) -> Iterator[None]:
    """Count the file that the block verifies, or its fault; a file that was merged or removed meanwhile has none."""
    try:
        yield
        result.n_files += 1
        result.n_bytes += commit.size
    except (ValueError, StoreError) as error:
        if (folder / "commits" / commit.name).exists():
            result.problems.append(f"{folder / commit.file}: {error}")


def _commits(folder: Path, result: Verified, named: set[str]) -> list[Commit]:
    """The readable commits of a folder; adds damaged ones to the problems, and the names of commits and their files to `named`."""
    commits = []
    for path in commit_paths(folder):
        named.add(f"commits/{path.name}")
        try:
            commits.append(read_commit(path))
        except FileNotFoundError:  # the file was merged or removed meanwhile
            continue
        except (ValueError, StoreError) as error:
            result.problems.append(f"{path}: {error}")
    named.update(commit.file for commit in commits)
    return commits


def _other_files(folder: Path, named: set[str]) -> list[Path]:
    """Files that no commit names, except unfinished ones."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [
        path
        for path in files
        if path.relative_to(folder).as_posix() not in named and not path.name.startswith(TEMPORARY)
    ]


def _verify(
    folder: Path,
    commit: Commit,
    memory: VerifiedFiles,
    *,
    key: str | None,
    width: int | None,
    segments: dict[str, np.ndarray],
) -> int:
    """Read one file completely; returns the number of its rows. Raises ValueError for an invalid file."""
    memory.forget(commit)
    stamp = memory.check(commit)
    expected = {"encoder_key": key} if key else {}
    expected |= {"output_key": commit.kind} if layout_of(commit.kind) is LOGITS else {}
    file = open_file(folder / commit.file, commit, stamp, expected=expected)
    if commit.kind == EMBEDDINGS:
        if width is not None and file.values.shape[1] != width:
            raise ValueError(f"its embeddings have {file.values.shape[1]} columns, not {width}")
        segments[commit.file] = file.row_key
    elif layout_of(commit.kind) is LOGITS:
        segment = commit.file.rpartition("/")[2][:21] + ".h5"
        if segment in segments and not np.array_equal(segments[segment], file.row_key):
            raise ValueError(f"its rows do not match {segment}")
    if stamp_of((folder / commit.file).stat()) != stamp:
        raise ValueError("it was changed while it was read")
    return commit.rows
