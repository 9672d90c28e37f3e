"""Garbage in a store: features that no project refers to, and files that are not committed.

Projects record in the store what they refer to (see `references`). A file without a commit may be about to be committed, so
it is garbage only when its process is gone (see `uncommitted`). Garbage that a project has begun to refer to meanwhile stays:
a folder is renamed first, and renamed back if a reference has appeared.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmfeat.common.errors import StoreError
from mmfeat.common.files import remove_leftovers, temporary_name
from mmfeat.common.text import counted
from mmfeat.common.verified import VerifiedFiles
from mmfeat.store.commits import (
    EMBEDDINGS,
    LOGITS,
    THUMBNAILS,
    TOKENS,
    Commit,
    commit_paths,
    layout_of,
    logits_prefix,
    read_commit,
    remove,
    unwritable,
)
from mmfeat.store.encoder_record import encoder_folders
from mmfeat.store.keys import FRONT
from mmfeat.store.references import References, all_references
from mmfeat.store.thumbnail_store import THUMBNAILS_KEY
from mmfeat.store.uncommitted import is_being_written, uncommitted_files


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """A folder or files to remove.

    Attributes
    ----------
    paths : tuple of Path
        A folder, or files with commits first.
    n_bytes : int
        Bytes that removal frees.
    why : str
        Why it is not needed.
    folder : str
        The encoder's folder, if a reference would keep it; empty for files that are not committed.
    kind : str
        An output key or `tokens-<number>`; empty for the whole encoder.
    """

    name: str
    paths: tuple[Path, ...]
    n_bytes: int
    why: str
    folder: str = ""
    kind: str = ""


def find_garbage(store: Path, references: Sequence[References]) -> list[Garbage]:
    """Find features that no project refers to, and files that are not committed; nothing is removed.

    Raises
    ------
    StoreError
        The store cannot be read, or has files of a newer mmfeat.
    """
    found = []
    thumbnails = store / THUMBNAILS
    for folder in [*encoder_folders(store), *([thumbnails] if thumbnails.is_dir() else [])]:
        kinds = _wanted(folder.name, references)
        if kinds is None:
            why = f"no project refers to {_title(folder.name)}"
            found.append(
                Garbage(
                    name=folder.name, paths=(folder,), n_bytes=_size(folder.rglob("*")), why=why, folder=folder.name
                )
            )
        else:
            found += _inside(folder, kinds)
    return found


def remove_garbage(store: Path, garbage: Sequence[Garbage], own: References) -> int:
    """Remove garbage that no project refers to by now; returns the freed bytes.

    Parameters
    ----------
    own : References
        References of the project that runs this command, recorded or not.

    Raises
    ------
    StoreError
        The store cannot be written, or the references of a project are unknown.
    """
    freed = 0
    for one in garbage:
        if not one.folder:
            remove(one.paths)
        elif one.kind:
            if one.kind in (_wanted(one.folder, [own, *all_references(store)]) or ()):
                continue
            remove(one.paths)
        elif not _remove_folder(store, store / one.folder, own):
            continue
        freed += one.n_bytes
    remove_leftovers(store)
    return freed


def _title(folder: str) -> str:
    if folder == THUMBNAILS:
        return "these thumbnails"
    return "these cached layers" if folder.startswith(FRONT) else "this encoder"


def _wanted(folder: str, references: Sequence[References]) -> set[str] | None:
    """The kinds of an encoder, or of thumbnails, that projects refer to; None if no project refers to them."""
    found = [kinds for one in references for key, kinds in one.encoders.items() if _is_of(folder, key)]
    return set().union(*found) if found else None


def _is_of(folder: str, key: str) -> bool:
    return key == THUMBNAILS_KEY if folder == THUMBNAILS else folder.endswith(f"-{key[:12]}")


def _remove_folder(store: Path, folder: Path, own: References) -> bool:
    """Remove an encoder's folder unless a project refers to it by now; returns whether it was removed.

    A writer records its reference before it looks at the folder. If both run at once, either this process sees the
    reference, or the writer sees no folder and makes it again.
    """
    aside = folder.with_name(temporary_name())
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise unwritable(folder, error) from None
    try:
        wanted = _wanted(folder.name, [own, *all_references(store)]) is not None
    except StoreError:
        _put_back(aside, folder)
        raise
    if wanted:
        _put_back(aside, folder)
        return False
    try:
        shutil.rmtree(aside)
    except OSError as error:
        raise unwritable(folder, error) from None
    return True


def _put_back(aside: Path, folder: Path) -> None:
    """Rename a folder back; if a new one exists meanwhile, move the files into it, commits last."""
    try:
        try:
            aside.rename(folder)
            return
        except OSError:
            files = [path for path in aside.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.parent.name == "commits"):
            to = folder / path.relative_to(aside)
            to.parent.mkdir(parents=True, exist_ok=True)
            path.rename(to)
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise unwritable(folder, error) from None


def _inside(folder: Path, kinds: set[str]) -> list[Garbage]:
    """Garbage within a needed encoder: outputs and tokens without references, and files that are not committed."""
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
    segments = {commit.file for commit in commits.values() if commit.kind == EMBEDDINGS} - damaged
    for path, commit in commits.items():
        file = folder / commit.file
        named.add(file)
        alone = layout_of(commit.kind) is LOGITS and not any(
            commit.file.startswith(logits_prefix(commit.kind, segment)) for segment in segments
        )
        of_front = layout_of(commit.kind) is TOKENS and folder.name.startswith(FRONT)  # captions' activations
        if commit.kind != EMBEDDINGS and commit.kind not in kinds and not of_front:
            unwanted.setdefault(commit.kind, []).extend((path, file))
        elif commit.file in damaged or (
            alone and not is_being_written(file, by_others=True)
        ):  # otherwise a merge is running
            lost.extend((path, file))
    found = []
    for kind, paths in unwanted.items():
        what = "these tokens" if kind.startswith("tokens-") else "this output"
        name = f"{folder.name}/{kind if kind.startswith('tokens-') else f'logits-{kind[:12]}'}"
        why = f"no encoder, checkpoint or run refers to {what}"
        found.append(
            Garbage(name=name, paths=tuple(paths), n_bytes=_size(paths), why=why, folder=folder.name, kind=kind)
        )
    lost += [path for path in uncommitted_files(folder) if path not in named]
    if lost:
        name = f"{folder.name}: {counted(len(lost), 'file')}"
        found.append(
            Garbage(
                name=name,
                paths=tuple(lost),
                n_bytes=_size(lost),
                why="damaged, replaced or never committed",
            )
        )
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
