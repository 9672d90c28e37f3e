"""Files that a command writes for its user: never over an input or the project, nor over what mmfeat has not made.

Of each file that is written its digest is kept: in `.mmfeat/outputs/` of the project that it lies in, or that wrote it; without
a project beside it, in `.NAME.mmfeat.json`. A file with one of its kept digests is mmfeat's own and may be replaced. Anything
else needs `overwrite`. Inputs of the command and files of a project are never replaced.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmfeat.common.errors import MmfeatError, OutputError
from mmfeat.common.files import atomic_path, digest_bytes, digest_file
from mmfeat.common.remembered import recall, remember
from mmfeat.common.text import shown
from mmfeat.common.urls import refuse_url
from mmfeat.config.reader import load_config
from mmfeat.config.schema import FILE_NAME, Config
from mmfeat.report.protected_paths import guards_of_inputs, guards_of_project

FORMAT, KEPT = 1, 50  # digests of one file: what it was before may come back, as by `mmfeat review --undo`
RECORDS = Path(".mmfeat") / "outputs"


@dataclass(frozen=True)
class _Records:
    """Where the digests of one file are kept; the first is written."""

    places: list[Path]

    def digests(self) -> list[str]:
        """The newest first."""
        found = [recall(place).get("made") for place in self.places]
        return [one for made in found if isinstance(made, list) for one in made if isinstance(one, str)]

    def add(self, path: Path, digest: str) -> None:
        """Keep one more; a folder that cannot be written keeps nothing, and the file needs `overwrite` the next time."""
        made = list(dict.fromkeys([digest, *self.digests()]))[:KEPT]
        remember(self.places[0], {"format": FORMAT, "file": shown(path.name, 200), "made": made})


class Outputs:
    """The files that one command writes.

    Parameters
    ----------
    config : Config, optional
        Of the project that the command works in.
    inputs : iterable of Path
        Files and folders that it reads.
    overwrite : bool
        Whether files that mmfeat has not made, or that were changed since, may be replaced.
    """

    def __init__(
        self, config: Config | None = None, inputs: Iterable[Path | str] = (), overwrite: bool = False
    ) -> None:
        self.root = config.root if config is not None else None
        self.overwrite = overwrite
        self._guards = guards_of_inputs(inputs)
        self._guards += guards_of_project(config.root, config) if config is not None else []

    def check(self, path: Path | str, *, own: bool = False, earlier: bool = False, known: bool = False) -> Path:
        """Where a file is to be written, links followed; to be asked before any work.

        Parameters
        ----------
        own : bool
            Whether the place is mmfeat's own, inside `runs/` for instance, so that it need not be kept from it.
        earlier : bool
            Whether a file of which nothing was kept counts as made by an earlier version.
        known : bool
            Whether the command has found out for itself that the file may be replaced.

        Raises
        ------
        OutputError
            It is an input, a file of a project, not a plain file, or is there and was not made by mmfeat.
        """
        refuse_url(path)
        given = Path(path).expanduser()
        target = given.resolve()
        digests = self._records(target).digests()
        there = target.exists()
        if there and not target.is_file():
            raise OutputError(f"{given}: is {'a folder' if target.is_dir() else 'not a plain file'}. Name a file")
        is_made = there and bool(digests) and digest_file(target) in digests
        if not own and (what := self._guarded(target, is_made)):
            raise OutputError(f"{given}: is {what}, which is never written over. Name another file")
        if not there or is_made or known or self.overwrite or (earlier and not digests):
            return target
        what = (
            "has been changed since mmfeat wrote it" if digests else "is there already, and is not known to be mmfeat's"
        )
        raise OutputError(f"{given}: {what}. Move it away or, to replace it, add: --overwrite")

    @contextlib.contextmanager
    def replacing(self, path: Path | str, **where: bool) -> Iterator[Path]:
        """Give a temporary path to write to, which becomes `path` when the block ends well; raises as :meth:`check`."""
        target = self.check(path, **where)
        records = self._records(target)
        with atomic_path(target) as temporary:
            yield temporary
            if target.is_file() and not records.digests():
                records.add(target, digest_file(target))  # killed before the new one is there, this one is known
            records.add(target, digest_file(temporary))

    def write(self, path: Path | str, data: bytes | str, **where: bool) -> bool:
        """Write a file, whole or not at all; raises as :meth:`check`.

        Returns
        -------
        bool
            False where the file said exactly this already.
        """
        data = data.encode("utf-8") if isinstance(data, str) else data
        target = Path(path).expanduser().resolve()
        free = where.get("own", False) or not self._guarded(target, True)
        if free and target.is_file() and target.read_bytes() == data:
            self._records(target).add(target, digest_bytes(data))
            return False
        with self.replacing(path, **where) as temporary:
            temporary.write_bytes(data)
        return True

    def write_all(self, files: Mapping[Path, bytes]) -> None:
        """Write several files, or none of them where one must not be replaced; raises as :meth:`check`."""
        for path, data in files.items():
            same = path.is_file() and path.read_bytes() == data and not self._guarded(path.resolve(), True)
            if not same:
                self.check(path)
        for path, data in files.items():
            self.write(path, data)

    def made(self, path: Path) -> bool:
        """Whether a file is one that mmfeat has written and nobody has changed."""
        return path.is_file() and digest_file(path) in self._records(path.resolve()).digests()

    def may_replace(self, path: Path, **where: bool) -> bool:
        """Whether :meth:`check` has nothing against it."""
        try:
            self.check(path, **where)
        except OutputError:
            return False
        return True

    def _guarded(self, target: Path, is_made: bool) -> str:
        """What a path must be kept as; empty where it may be written."""
        guards = list(self._guards)
        root = _project_above(target)
        if root is not None and root != self.root:
            try:
                config = load_config(root / FILE_NAME)
            except MmfeatError:  # its files are known by their names
                config = None
            guards += guards_of_project(root, config)
        return next((guard.what for guard in guards if guard.covers(target, is_made)), "")

    def _records(self, target: Path) -> _Records:
        root = _project_above(target) or self.root
        beside = target.with_name(f".{target.name}.mmfeat.json")
        if root is None:
            return _Records([beside])
        key = os.path.relpath(target, root) if target.is_relative_to(root) else str(target)
        return _Records([root / RECORDS / f"{digest_bytes(os.fsencode(key))[:32]}.json", beside])


def _project_above(path: Path) -> Path | None:
    """The project's folder that a path lies in."""
    return next((folder for folder in path.parents if (folder / FILE_NAME).is_file()), None)
