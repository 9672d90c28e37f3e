"""Commits: which files of an encoder's folder count, of which kind each is, and how they are named."""

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
FOLDER_NAME = re.compile(r"-[0-9a-f]{12}$")  # of an encoder
_FILE = re.compile(
    r"(?:(?P<tokens>tokens-\d+)/)?part-[0-9a-f]{16}\.h5|logits-(?P<output>[0-9a-f]{12})/part-[0-9a-f]{16}-[0-9a-f]{8}\.h5"
)


class Layout(NamedTuple):
    """What the files of a kind hold beside `row_key`."""

    encoding: str  # their encoding-type
    values: str  # the large data set
    dtypes: tuple[str, ...]
    n_axes: int


PART = Layout("mmfeat-part", EMBEDDINGS, ("<f2", "<f4"), 2)
TOKENS = Layout("mmfeat-tokens", "tokens", ("<f2", "<f4"), 3)
LOGITS = Layout("mmfeat-logits", "logits", ("<f4",), 2)


def layout_of(kind: str) -> Layout:
    """The layout of a commit's kind: `embeddings`, `tokens-<number>`, or an output key."""
    return PART if kind == EMBEDDINGS else TOKENS if kind.startswith("tokens-") else LOGITS


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A file that counts, as its JSON in commits/ says.

    Attributes
    ----------
    file : str
        Path below the encoder's folder.
    kind : str
        `embeddings`, `tokens-<number>`, or the output key of a file of logits.
    size : int
        Bytes.
    sha256 : str
        Of the whole file.
    """

    file: str
    kind: str
    rows: int
    errors: int
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """Name of the commit's own file."""
        return self.file.replace("/", "-") + ".json"


def tokens_kind(number: int) -> str:
    """The kind of the tokens that `tokens = number` asks for."""
    return f"tokens-{number}"


def new_segment_name(kind: str = EMBEDDINGS) -> str:
    """The name of a part, which no other writer chooses."""
    return f"{'' if kind == EMBEDDINGS else f'{kind}/'}part-{secrets.token_hex(8)}.h5"


def new_logits_name(output_key: str, part: str) -> str:
    """A name for the logits of a part, which no other writer chooses."""
    return f"{logits_prefix(output_key, part)}{secrets.token_hex(4)}.h5"


def logits_prefix(output_key: str, part: str) -> str:
    """How the names of all files with a part's logits begin."""
    return f"logits-{output_key[:12]}/{part.removesuffix('.h5')}-"


def commit_paths(folder: Path) -> list[Path]:
    """The commits of an encoder's folder, sorted; not those that a process is just writing.

    Raises
    ------
    OSError
        The folder cannot be read; one that is not there has no commits.
    """
    try:
        names = os.listdir(folder / "commits")
    except FileNotFoundError:
        return []
    return [folder / "commits" / name for name in sorted(names) if name.endswith(".json") and not name.startswith(".")]


def write_commit(folder: Path, commit: Commit) -> None:
    """Make a written file count.

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
        It has been removed.
    ValueError
        It is damaged.
    StoreError
        A newer mmfeat wrote it.
    """
    try:
        values = read_sealed(path)
        refuse_newer(path, values.pop("format"))
        commit = Commit(**values)
        match = _FILE.fullmatch(commit.file)
        kind = commit.kind[:12] if match["output"] else commit.kind
        right_kind = kind == (match["output"] or match["tokens"] or EMBEDDINGS)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"damaged ({type(error).__name__})") from None
    counts = (commit.rows, commit.errors, commit.size)
    if not right_kind or commit.name != path.name or not all(isinstance(n, int) for n in counts):
        raise ValueError("damaged: it is not the commit of its name")
    return commit


def refuse_newer(path: Path, version: int) -> None:
    """Raise StoreError where a newer mmfeat wrote a file."""
    if version > FORMAT:
        raise StoreError(f"{path}: has format {version}, this mmfeat reads up to {FORMAT}. Update mmfeat")


def remove(paths: Iterable[Path]) -> None:
    """Remove files and folders in their order, commits before what they speak of; what is gone already is no matter.

    Raises
    ------
    UnwritableStore
        The system refuses.
    """
    for path in paths:
        try:
            if path.is_dir():  # renamed first: no reader sees half an encoder
                shutil.rmtree(path.rename(path.with_name(temporary_name())))
            else:
                path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unwritable(path, error) from None


class UnwritableStore(StoreError):
    """The store's folder cannot be written: no leave, or a full disk."""


def unwritable(path: Path, error: Exception) -> UnwritableStore:
    """What the system refused, as one line."""
    what = getattr(error, "strerror", None) or " ".join(str(error).split())
    return UnwritableStore(f"{path}: cannot be written: {what}. Nothing half-written counts")


def now() -> str:
    """The time, as the store records it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
