"""Full verification: every committed file is read and compared with its checksum, whatever is remembered."""

from __future__ import annotations

from collections.abc import Callable
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


@dataclass
class Verified:
    """What verification found.

    Attributes
    ----------
    n_files, n_rows, n_bytes : int
        Committed files that are right, the rows of embeddings in them, and their bytes.
    problems : list of str
        A line for each file that is not.
    uncommitted : list of Path
        Files that no commit names; they do not count.
    """

    n_files: int = 0
    n_rows: int = 0
    n_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    uncommitted: list[Path] = field(default_factory=list)


def size_of(folder: Path) -> int:
    """Bytes that the commits of an encoder's folder speak of: what there is to verify."""
    total = 0
    for path in commit_paths(folder):
        try:
            total += read_commit(path).size
        except (ValueError, OSError, StoreError):
            continue
    return total


def verify_encoder(folder: Path, advance: Callable[[int], None]) -> Verified:
    """Verify an encoder's folder; `advance` is told the bytes of each file that has been read."""
    result = Verified()
    try:
        record = read_record(folder)
        key, width = record.spec.key, record.width
    except FileNotFoundError:
        result.problems.append(f"{folder / RECORD}: it is not there. mmfeat extract (or store import) writes it again")
        key = width = None
    except StoreError as error:
        result.problems.append(str(error))
        key = width = None
    memory, commits, named = VerifiedFiles(folder), [], {RECORD}
    for path in commit_paths(folder):
        named.add(f"commits/{path.name}")
        try:
            commits.append(read_commit(path))
        except FileNotFoundError:  # merged or removed meanwhile
            continue
        except (ValueError, StoreError) as error:
            result.problems.append(f"{path}: {error}")
    parts: dict[str, np.ndarray] = {}
    for commit in sorted(commits, key=lambda commit: commit.kind != EMBEDDINGS):
        named.add(commit.file)
        try:
            rows = _verify(folder, commit, memory, key, width, parts)
            result.n_files += 1
            result.n_bytes += commit.size
            result.n_rows += rows if commit.kind == EMBEDDINGS else 0
        except (ValueError, StoreError) as error:
            if (folder / "commits" / commit.name).exists():
                result.problems.append(f"{folder / commit.file}: {error}")
        advance(commit.size)
    memory.save()
    files = (path for path in folder.rglob("*") if path.is_file())
    result.uncommitted = [
        path
        for path in files
        if path.relative_to(folder).as_posix() not in named and not path.name.startswith(TEMPORARY)
    ]
    return result


def _verify(
    folder: Path,
    commit: Commit,
    memory: VerifiedFiles,
    key: str | None,
    width: int | None,
    parts: dict[str, np.ndarray],
) -> int:
    """Read one file in full; returns its rows. Raises ValueError with what is wrong."""
    memory.forget(commit)
    stamp = memory.check(commit)
    expected = {"encoder_key": key} if key else {}
    expected |= {"output_key": commit.kind} if layout_of(commit.kind) is LOGITS else {}
    file = open_file(folder / commit.file, commit, stamp, expected)
    if commit.kind == EMBEDDINGS:
        if width is not None and file.values.shape[1] != width:
            raise ValueError(f"its embeddings have {file.values.shape[1]} columns, not {width}")
        parts[commit.file] = file.row_key
    elif layout_of(commit.kind) is LOGITS:
        part = commit.file.rpartition("/")[2][:21] + ".h5"
        if part in parts and not np.array_equal(parts[part], file.row_key):
            raise ValueError(f"its rows are not those of {part}")
    if stamp_of((folder / commit.file).stat()) != stamp:
        raise ValueError("it was changed while it was read")
    return commit.rows
