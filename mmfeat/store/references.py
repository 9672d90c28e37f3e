"""References: which features of a store each project uses, recorded as one small immutable file per reference.

A project records its references before it adds or reads features, so that no other project removes features that it needs.
The name of a reference's file is derived from its content, so that processes and machines can write at the same time without
a lock, and cannot remove each other's references. Files of the first version (one per project) are read too.
"""

from __future__ import annotations

import calendar
import contextlib
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

from mmfeat.common.errors import StoreError
from mmfeat.common.files import DAY, digest_json
from mmfeat.common.seals import read_sealed, write_sealed
from mmfeat.store.commits import FORMAT, now, refuse_newer

FOLDER = "projects"
IMPORT_SECONDS = 30 * DAY  # how long an import without a table in mmfeat.toml is kept
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass
class References:
    """The references of one project.

    Attributes
    ----------
    encoders : dict of str to set of str
        For each encoder key, the kinds used in addition to embeddings: output keys, `tokens-<number>`.
    """

    project: str
    host: str
    encoders: dict[str, set[str]] = field(default_factory=dict)

    @property
    def gone(self) -> bool:
        """Whether the project is known to be gone; unknown (False) for projects of other machines."""
        return self.host == platform.node() and not Path(self.project).is_dir()

    @property
    def place(self) -> tuple[str, str]:
        """The project's folder and machine."""
        return self.project, self.host

    def add(self, encoder_key: str, *kinds: str | None) -> bool:
        """Add a reference to an encoder's features; returns whether it is new."""
        new = encoder_key not in self.encoders or any(k and k not in self.encoders[encoder_key] for k in kinds)
        self.encoders.setdefault(encoder_key, set()).update(k for k in kinds if k)
        return new

    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of encoder key and kind, one per reference; the kind is empty for embeddings."""
        return [(key, kind) for key, kinds in sorted(self.encoders.items()) for kind in ("", *sorted(kinds))]


@dataclass(frozen=True, kw_only=True)
class _Note:
    """One file of references: its content, when it was written, and the name of an import without a table in mmfeat.toml."""

    path: Path
    references: References
    noted: str
    imported: str

    @property
    def pair(self) -> tuple[str, str] | None:
        """The file's single reference; None for a file of the first version, with all references of a project."""
        return self.references.pairs()[-1] if "-" in self.path.stem else None

    @property
    def waits(self) -> bool:
        """Whether it belongs to a recent import, which counts even if the project's files do not name it."""
        return bool(self.imported) and _age(self.noted) < IMPORT_SECONDS


def new_references(project: Path) -> References:
    """Empty references of a project on this machine."""
    return References(str(project), platform.node())


def note_reference(store: Path, project: Path, encoder_key: str, *kinds: str | None, imported: str = "") -> None:
    """Record that a project uses an encoder's embeddings, and some outputs or tokens of it.

    Parameters
    ----------
    imported : str
        The name of a new import that mmfeat.toml does not name yet. Such a reference counts for thirty days, or until the
        project records an ordinary one.

    Raises
    ------
    OSError
        The store's folder cannot be written.
    """
    references = new_references(project)
    for kind in ("", *sorted({kind for kind in kinds if kind})):
        path = _file(store, references, encoder_key, kind=kind, imported=bool(imported))
        if imported or not _is_noted(path):
            _write(path, references, encoder_key, kind=kind, imported=imported)
    if not imported:
        _file(store, references, encoder_key, kind="", imported=True).unlink(missing_ok=True)


def write_references(store: Path, references: References) -> None:
    """Record all references of a project.

    Raises
    ------
    OSError
        The store's folder cannot be written.
    """
    for key, kind in references.pairs():
        path = _file(store, references, key, kind=kind)
        if not _is_noted(path):
            _write(path, references, key, kind=kind)


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Differences between a project's recorded references and those of its files.

    Attributes
    ----------
    waiting : list of str
        Names of recent imports that the project does not name yet.
    stale : list of Path
        Files of outdated references.
    """

    waiting: list[str]
    stale: list[Path]

    def drop(self) -> None:
        """Remove the outdated files; references that others have recorded since stay."""
        for path in self.stale:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def settle_references(store: Path, own: References) -> Settled:
    """Record a project's current references, and add recent imports without a table to `own`.

    Raises
    ------
    StoreError
        A file of references cannot be read.
    """
    notes, derived = [note for note in _notes(store) if note.references.place == own.place], set(own.pairs())
    waiting = [note for note in notes if note.waits and note.pair not in derived]
    stale = [note.path for note in notes if note not in waiting and (note.imported or note.pair not in derived)]
    try:
        write_references(store, own)
    except OSError:  # full disk: no file is dropped before its replacement exists
        stale = []
    for note in waiting:
        own.add(*note.pair)
    return Settled(waiting=[note.imported for note in waiting], stale=stale)


def forget_references(store: Path, references: References) -> None:
    """Remove a project's references."""
    for note in _notes(store):
        if note.references.place == references.place:
            note.path.unlink(missing_ok=True)


def all_references(store: Path) -> list[References]:
    """The recorded references of every project.

    Raises
    ------
    StoreError
        A file cannot be read, so its references are unknown.
    """
    found: dict[tuple[str, str], References] = {}
    for note in _notes(store):
        one = found.setdefault(note.references.place, References(*note.references.place))
        for key, kinds in note.references.encoders.items():
            one.add(key, *kinds)
    return list(found.values())


def _notes(store: Path) -> list[_Note]:
    found = []
    for path in sorted((store / FOLDER).glob("*.json")):
        if path.name.startswith("."):
            continue
        try:
            found.append(_read(path))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{path}: damaged ({type(error).__name__}), so the references of that project are unknown. "
                f"Run mmfeat status in that project, or remove the file"
            ) from None
    return found


def _is_noted(path: Path) -> bool:
    """Whether a reference is recorded; a damaged file counts as missing."""
    try:
        _read(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def _file(store: Path, references: References, encoder_key: str, *, kind: str, imported: bool = False) -> Path:
    content = [encoder_key, kind, "import"] if imported else [encoder_key, kind]
    return (
        store / FOLDER / f"{digest_json([references.host, references.project])[:16]}-{digest_json(content)[:16]}.json"
    )


def _write(path: Path, references: References, encoder_key: str, *, kind: str, imported: str = "") -> None:
    values = {
        "format": FORMAT,
        "project": references.project,
        "host": references.host,
        "noted": now(),
        "encoders": {encoder_key: [kind] if kind else []},
        **({"imported": imported} if imported else {}),
    }
    write_sealed(path, values)


def _read(path: Path) -> _Note:
    values = read_sealed(path)
    refuse_newer(path, values["format"])
    encoders = {str(key): {str(kind) for kind in kinds} for key, kinds in values["encoders"].items()}
    references = References(str(values["project"]), str(values["host"]), encoders)
    return _Note(path=path, references=references, noted=str(values["noted"]), imported=str(values.get("imported", "")))


def _age(noted: str) -> float:
    """Seconds since a file was written; very large for an unreadable time."""
    try:
        return time.time() - calendar.timegm(time.strptime(noted, _TIME))
    except ValueError:
        return float("inf")
