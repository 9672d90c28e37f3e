"""Which projects use a store, and which features each of them refers to: small files that never change, one a reference.

Every project notes what it refers to before it adds or reads features, so that none removes what another still needs. A
reference is a file of its own, named by what it says: any number of processes and machines note theirs at once, without
a lock, and none can take away another's. Files of the first version, one for each project, are read as well.
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
IMPORT_SECONDS = 30 * DAY  # how long an import is kept that no table of mmfeat.toml has named yet
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass
class References:
    """What one project refers to.

    Attributes
    ----------
    encoders : dict of str to set of str
        Encoder key to the kinds that are wanted beside its embeddings: output keys, `tokens-<number>`.
    """

    project: str
    host: str
    encoders: dict[str, set[str]] = field(default_factory=dict)

    @property
    def gone(self) -> bool:
        """Whether it is known that the project is not there any more; one of another machine may be."""
        return self.host == platform.node() and not Path(self.project).is_dir()

    @property
    def place(self) -> tuple[str, str]:
        """Which project it is: its folder and machine."""
        return self.project, self.host

    def add(self, encoder_key: str, *kinds: str | None) -> bool:
        """Refer to an encoder's features; returns whether that is new."""
        new = encoder_key not in self.encoders or any(k and k not in self.encoders[encoder_key] for k in kinds)
        self.encoders.setdefault(encoder_key, set()).update(k for k in kinds if k)
        return new

    def pairs(self) -> list[tuple[str, str]]:
        """Encoder keys and kinds, one a reference; the kind is empty for the embeddings."""
        return [(key, kind) for key, kinds in sorted(self.encoders.items()) for kind in ("", *sorted(kinds))]


@dataclass(frozen=True, kw_only=True)
class _Note:
    """One file: what it refers to, when it was noted, and the name of an import that mmfeat.toml may not name yet."""

    path: Path
    references: References
    noted: str
    imported: str

    @property
    def pair(self) -> tuple[str, str] | None:
        """Its only reference; None of a file of the first version, which has all of a project."""
        return self.references.pairs()[-1] if "-" in self.path.stem else None

    @property
    def waits(self) -> bool:
        """Whether it is of an import that is so fresh that it counts though the project's files do not name it."""
        return bool(self.imported) and _age(self.noted) < IMPORT_SECONDS


def new_references(project: Path) -> References:
    """A project of this machine that refers to nothing yet."""
    return References(str(project), platform.node())


def note_reference(store: Path, project: Path, encoder_key: str, *kinds: str | None, imported: str = "") -> None:
    """Note that a project refers to an encoder's embeddings, and to some kinds of what goes with them.

    Parameters
    ----------
    imported : str
        The name under which embeddings have just been imported: mmfeat.toml does not name them yet. Such a reference
        counts for thirty days, or until the project notes an ordinary one.

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
    """Note all that a project refers to.

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
    """What a project has noted, beside what its files refer to now.

    Attributes
    ----------
    waiting : list of str
        Names of imports that count although nothing of the project names them yet.
    stale : list of Path
        Notes that say what is not so any more.
    """

    waiting: list[str]
    stale: list[Path]

    def drop(self) -> None:
        """Remove the stale notes; what others have noted since stays."""
        for path in self.stale:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def settle_references(store: Path, own: References) -> Settled:
    """Note all that a project refers to now, and add imports that still wait for their table to `own`.

    Raises
    ------
    StoreError
        A note cannot be read.
    """
    notes, derived = [note for note in _notes(store) if note.references.place == own.place], set(own.pairs())
    waiting = [note for note in notes if note.waits and note.pair not in derived]
    stale = [note.path for note in notes if note not in waiting and (note.imported or note.pair not in derived)]
    try:
        write_references(store, own)
    except OSError:  # a full disk: no note is dropped before those in its place are there
        stale = []
    for note in waiting:
        own.add(*note.pair)
    return Settled(waiting=[note.imported for note in waiting], stale=stale)


def forget_references(store: Path, references: References) -> None:
    """Drop a project's notes."""
    for note in _notes(store):
        if note.references.place == references.place:
            note.path.unlink(missing_ok=True)


def all_references(store: Path) -> list[References]:
    """What every project has noted, one for each project.

    Raises
    ------
    StoreError
        A note cannot be read: what it refers to is unknown.
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
                f"{path}: damaged ({type(error).__name__}), so what that project refers to is unknown. "
                f"Run mmfeat status in that project, or remove the file"
            ) from None
    return found


def _is_noted(path: Path) -> bool:
    """Whether the note is there; a damaged one is written again."""
    try:
        _read(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def _file(store: Path, references: References, encoder_key: str, *, kind: str, imported: bool = False) -> Path:
    said = [encoder_key, kind, "import"] if imported else [encoder_key, kind]
    return store / FOLDER / f"{digest_json([references.host, references.project])[:16]}-{digest_json(said)[:16]}.json"


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
    """Seconds since a note was made; a time that cannot be read is long past."""
    try:
        return time.time() - calendar.timegm(time.strptime(noted, _TIME))
    except ValueError:
        return float("inf")
