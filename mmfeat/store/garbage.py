"""What can be removed from a store: what no project refers to, and what does not count.

Projects note in the store what they refer to (see references). A file without a commit may be one that a process is about
to commit, so it is only garbage when it is a day old.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmfeat.files import DAY, remove_leftovers
from mmfeat.store.commits import (
    EMBEDDINGS,
    LOGITS,
    Commit,
    commit_paths,
    layout_of,
    logits_prefix,
    read_commit,
    remove,
)
from mmfeat.store.record import encoder_folders
from mmfeat.store.references import References
from mmfeat.store.verified import VerifiedFiles
from mmfeat.texts import counted


@dataclass(frozen=True)
class Garbage:
    """Something to remove.

    Attributes
    ----------
    paths : tuple of Path
        A folder, or files, commits first.
    n_bytes : int
        What removing it frees.
    why : str
        Why nobody needs it.
    """

    name: str
    paths: tuple[Path, ...]
    n_bytes: int
    why: str


def find_garbage(store: Path, references: Sequence[References]) -> list[Garbage]:
    """What none of the projects refers to, and what does not count; nothing is removed.

    Raises
    ------
    StoreError
        The store cannot be read, or holds files of a newer mmfeat.
    """
    wanted: dict[str, set[str]] = {}
    for project in references:
        for key, kinds in project.encoders.items():
            wanted.setdefault(key, set()).update(kinds)
    found = []
    for folder in encoder_folders(store):
        keys = [key for key in wanted if folder.name.endswith(f"-{key[:12]}")]
        if not keys:
            found.append(Garbage(folder.name, (folder,), _size(folder.rglob("*")), "no project refers to this encoder"))
        else:
            found += _inside(folder, set().union(*(wanted[key] for key in keys)))
    return found


def remove_garbage(store: Path, garbage: Sequence[Garbage]) -> int:
    """Remove it; returns the bytes that were freed.

    Raises
    ------
    StoreError
        The store cannot be written.
    """
    remove(path for one in garbage for path in one.paths)
    remove_leftovers(store)
    return sum(one.n_bytes for one in garbage)


def _inside(folder: Path, kinds: set[str]) -> list[Garbage]:
    """Garbage of an encoder that is wanted: outputs and tokens that are not, and files that do not count."""
    unwanted: dict[str, list[Path]] = {}
    lost, named = [], set()
    commits = {}
    for path in commit_paths(folder):
        try:
            commits[path] = read_commit(path)
        except FileNotFoundError:
            continue
        except ValueError:
            lost.append(path)
    verified = VerifiedFiles(folder)
    damaged = {commit.file for commit in commits.values() if not _is_right(verified, commit)}
    verified.save()
    parts = {commit.file for commit in commits.values() if commit.kind == EMBEDDINGS} - damaged
    for path, commit in commits.items():
        file = folder / commit.file
        named.add(file)
        alone = layout_of(commit.kind) is LOGITS and not any(
            commit.file.startswith(logits_prefix(commit.kind, part)) for part in parts
        )
        if commit.kind != EMBEDDINGS and commit.kind not in kinds:
            unwanted.setdefault(commit.kind, []).extend((path, file))
        elif alone or commit.file in damaged:
            lost.extend((path, file))
    found = []
    for kind, paths in unwanted.items():
        what = "these tokens" if kind.startswith("tokens-") else "this output"
        name = f"{folder.name}/{kind if kind.startswith('tokens-') else f'logits-{kind[:12]}'}"
        found.append(Garbage(name, tuple(paths), _size(paths), f"no encoder, checkpoint or run refers to {what}"))
    old = time.time() - DAY
    lost += [path for path in folder.rglob("part-*.h5") if path not in named and path.stat().st_mtime < old]
    if lost:
        name = f"{folder.name}: {counted(len(lost), 'file')}"
        found.append(Garbage(name, tuple(lost), _size(lost), "they do not count: damaged, replaced or never committed"))
    return found


def _is_right(verified: VerifiedFiles, commit: Commit) -> bool:
    try:
        verified.check(commit)
    except ValueError:
        return False
    return True


def _size(paths: object) -> int:
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
