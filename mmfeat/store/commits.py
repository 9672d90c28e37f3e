"""Commits: the record that makes a file of an encoder's folder count, and the names of files of each kind."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mmfeat.common.errors import StoreError
from mmfeat.common.files import temporary_name
from mmfeat.common.seals import read_sealed, write_sealed

FORMAT = 1
EMBEDDINGS = "embeddings"
THUMBNAILS = "thumbnails"  # kind of file, and its folder in the store
FOLDER_NAME = re.compile(r"-[0-9a-f]{12}$")  # of an encoder's folder
_FILE = re.compile(
    r"(?:(?P<tokens>tokens-\d+)/)?part-[0-9a-f]{16}\.h5|logits-(?P<output>[0-9a-f]{12})/part-[0-9a-f]{16}-[0-9a-f]{8}\.h5"
)


class Layout(NamedTuple):
    """The contents of files of one kind, beside `row_key`."""

    encoding: str  # the attribute `encoding-type`
    values: str  # name of the large data set
    dtypes: tuple[str, ...]
    n_axes: int


SEGMENT = Layout(encoding="mmfeat-part", values=EMBEDDINGS, dtypes=("<f2", "<f4"), n_axes=2)
TOKENS = Layout(encoding="mmfeat-tokens", values="tokens", dtypes=("<f2", "<f4"), n_axes=3)
LOGITS = Layout(encoding="mmfeat-logits", values="logits", dtypes=("<f4",), n_axes=2)
JPEGS = Layout(encoding="mmfeat-thumbnails", values="jpegs", dtypes=("|u1",), n_axes=1)
_LAYOUTS = {EMBEDDINGS: SEGMENT, THUMBNAILS: JPEGS}


def layout_of(kind: str) -> Layout:
    """The layout of a kind: `embeddings`, `thumbnails`, `tokens-<number>`, or an output key."""
    return _LAYOUTS.get(kind) or (TOKENS if kind.startswith("tokens-") else LOGITS)


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A committed file, as its JSON record in commits/ describes it.

    Attributes
    ----------
    file : str
        Path relative to the encoder's folder.
    kind : str
        `embeddings`, `thumbnails`, `tokens-<number>`, or the output key of a file of logits.
    size : int
        Size in bytes.
    sha256 : str
        Digest of the whole file.
    """

    file: str
    kind: str
    rows: int
    errors: int
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """Name of the commit's file."""
        return self.file.replace("/", "-") + ".json"


def tokens_kind(number: int) -> str:
    """The kind of the tokens of the setting `tokens = number`."""
    return f"tokens-{number}"


def new_segment_name(kind: str = EMBEDDINGS) -> str:
    """A unique name for a segment."""
    return f"{'' if kind in _LAYOUTS else f'{kind}/'}part-{secrets.token_hex(8)}.h5"


def new_logits_name(output_key: str, segment: str) -> str:
    """A unique name for the logits of a segment."""
    return f"{logits_prefix(output_key, segment)}{secrets.token_hex(4)}.h5"


def logits_prefix(output_key: str, segment: str) -> str:
    """The common prefix of the names of a segment's logits."""
    return f"logits-{output_key[:12]}/{segment.removesuffix('.h5')}-"


def commit_paths(folder: Path) -> list[Path]:
    """The commits of an encoder's folder, sorted, without those that are being written.

    Raises
    ------
    OSError
        The folder cannot be read; a missing folder has no commits.
    """
    try:
        names = os.listdir(folder / "commits")
    except FileNotFoundError:
        return []
    return [folder / "commits" / name for name in sorted(names) if name.endswith(".json") and not name.startswith(".")]


def write_commit(folder: Path, commit: Commit) -> None:
    """Commit a written file.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    write_sealed(folder / "commits" / commit.name, {"format": FORMAT, **vars(commit)})


def read_commit(path: Path) -> Commit:
    """Read a commit.

    Raises
    ------
    FileNotFoundError
        The commit has been removed.
    ValueError
        The commit is damaged.
    StoreError
        It was written by a newer mmfeat.
    """
    try:
        values = read_sealed(path)
        refuse_newer(path, values.pop("format"))
        commit = Commit(**values)
        match = _FILE.fullmatch(commit.file)
        kind = commit.kind[:12] if match["output"] else commit.kind
        named = match["output"] or match["tokens"]
        right_kind = kind == named if named else kind in _LAYOUTS
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"damaged ({type(error).__name__})") from None
    counts = (commit.rows, commit.errors, commit.size)
    typed = all(isinstance(n, int) for n in counts) and isinstance(commit.sha256, str)
    if not right_kind or commit.name != path.name or not typed:
        raise ValueError("damaged: it does not match its name")
    return commit


def refuse_newer(path: Path, version: int) -> None:
    """Raise StoreError for a file written by a newer mmfeat."""
    if version > FORMAT:
        raise StoreError(f"{path}: has format {version}, this mmfeat reads up to {FORMAT}. Update mmfeat")


def remove(paths: Iterable[Path]) -> None:
    """Remove files and folders in order, commits before their files; missing ones are skipped.

    Raises
    ------
    UnwritableStore
        The system refuses to remove a file.
    """
    for path in paths:
        try:
            if path.is_dir():  # renamed first, so that no reader sees half an encoder
                shutil.rmtree(path.rename(path.with_name(temporary_name())))
            else:
                path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unwritable(path, error) from None


class UnwritableStore(StoreError):
    """The store's folder cannot be written: no permission, or a full disk."""


def unwritable(path: Path, error: Exception) -> UnwritableStore:
    """The error for a refused write, as one line."""
    what = getattr(error, "strerror", None) or " ".join(str(error).split())
    return UnwritableStore(f"{path}: cannot be written: {what}. Nothing half-written counts")


def now() -> str:
    """The current time in the format of the store's records."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
