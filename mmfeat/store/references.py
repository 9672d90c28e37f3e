"""Which projects use a store, and which features each of them refers to: one small file for each project.

Every project notes itself before it adds or reads features, so that none removes what another still needs.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path

from mmfeat.errors import StoreError
from mmfeat.files import digest_json
from mmfeat.sealed import read_sealed, write_sealed
from mmfeat.store.commits import FORMAT, now, refuse_newer

FOLDER = "projects"


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

    def add(self, encoder_key: str, *kinds: str | None) -> bool:
        """Refer to an encoder's features; returns whether that is new."""
        new = encoder_key not in self.encoders or any(k and k not in self.encoders[encoder_key] for k in kinds)
        self.encoders.setdefault(encoder_key, set()).update(k for k in kinds if k)
        return new


def new_references(project: Path) -> References:
    """A project of this machine that refers to nothing yet."""
    return References(str(project), platform.node())


def read_references(store: Path, project: Path) -> References:
    """What a project has noted so far; nothing, where it has not or its file is damaged."""
    references = new_references(project)
    try:
        return _read(_file(store, references))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return references


def write_references(store: Path, references: References) -> None:
    """Note a project's references.

    Raises
    ------
    OSError
        The store's folder cannot be written.
    """
    values = {
        "format": FORMAT, "project": references.project, "host": references.host, "noted": now(),
        "encoders": {key: sorted(kinds) for key, kinds in sorted(references.encoders.items())},
    }  # fmt: skip
    write_sealed(_file(store, references), values)


def forget_references(store: Path, references: References) -> None:
    """Drop a project's note."""
    _file(store, references).unlink(missing_ok=True)


def all_references(store: Path) -> list[References]:
    """What every project has noted.

    Raises
    ------
    StoreError
        A note cannot be read: what it refers to is unknown.
    """
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


def _file(store: Path, references: References) -> Path:
    return store / FOLDER / f"{digest_json([references.host, references.project])[:16]}.json"


def _read(path: Path) -> References:
    values = read_sealed(path)
    refuse_newer(path, values["format"])
    encoders = {str(key): {str(kind) for kind in kinds} for key, kinds in values["encoders"].items()}
    return References(str(values["project"]), str(values["host"]), encoders)
