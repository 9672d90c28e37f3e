"""Files that a command writes for its user. It never replaces inputs, a project's own files or files that mmfeat did not write.

The digest of each written file is kept in `.mmfeat/outputs/` of the project that contains or wrote it. Without a project it is
kept in `.NAME.mmfeat.json` next to the file. A file with a kept digest was written by mmfeat and may be replaced. Any other
file needs `overwrite`. Inputs of the command and files of a project are never replaced.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmfeat.common.errors import MmfeatError, OutputError
from mmfeat.common.exclusive import alone_in
from mmfeat.common.files import atomic_path, digest_bytes, digest_file
from mmfeat.common.remembered import if_possible, recall, remember
from mmfeat.common.text import shown
from mmfeat.common.urls import refuse_url
from mmfeat.config.reader import load_config
from mmfeat.config.schema import FILE_NAME, Config
from mmfeat.report.protected_paths import guards_of_inputs, guards_of_project

FORMAT, KEPT = 1, 50  # digests of one file: an earlier version may come back, for instance by `mmfeat review --undo`
RECORDS = Path(".mmfeat") / "outputs"


@dataclass(frozen=True)
class _Records:
    """The places where digests of one file are kept. New ones go to the first."""

    places: list[Path]

    def digests(self) -> list[str]:
        """All kept digests, newest first."""
        found = [recall(place).get("made") for place in self.places]
        return [one for made in found if isinstance(made, list) for one in made if isinstance(one, str)]

    def add(self, path: Path, digest: str) -> None:
        """Keep one more digest. In a folder that is not writable it is lost, and the file needs `overwrite` the next time."""
        place = self.places[0]
        with if_possible(), alone_in(place.parent, "command", wait=True):  # of two at once, neither digest is lost
            made = list(dict.fromkeys([digest, *self.digests()]))[:KEPT]
            remember(place, {"format": FORMAT, "file": shown(path.name, 200), "made": made})


class Outputs:
    """The files that one command writes.

    Parameters
    ----------
    config : Config, optional
        Configuration of the project that the command works in.
    inputs : iterable of Path
        Files and folders that it reads.
    overwrite : bool
        Whether to replace files that mmfeat did not write or that were changed since.
    """

    def __init__(
        self, config: Config | None = None, inputs: Iterable[Path | str] = (), overwrite: bool = False
    ) -> None:
        self.root = config.root if config is not None else None
        self.overwrite = overwrite
        self._guards = guards_of_inputs(inputs)
        self._guards += guards_of_project(config.root, config) if config is not None else []

    def check(self, path: Path | str, *, own: bool = False, earlier: bool = False, known: bool = False) -> Path:
        """The path to write to, with links resolved. Call this before any work.

        Parameters
        ----------
        own : bool
            Whether the path is a place for mmfeat's own files, such as `runs/`.
        earlier : bool
            Whether a file without kept digests counts as written by an earlier version of mmfeat.
        known : bool
            Whether the command itself has checked that the file may be replaced.

        Raises
        ------
        OutputError
            It is an input, a file of a project, not a plain file, or exists and was not written by mmfeat.
        """
        refuse_url(path)
        given = Path(path).expanduser()
        target = given.resolve()
        digests = self._records(target).digests()
        exists = target.exists()
        if exists and not target.is_file():
            raise OutputError(f"{given}: is {'a folder' if target.is_dir() else 'not a plain file'}. Name a file")
        is_made = exists and bool(digests) and digest_file(target) in digests
        if not own and (what := self._guarded(target, is_made)):
            raise OutputError(f"{given}: is {what}, which is never written over. Name another file")
        if not exists or is_made or known or self.overwrite or (earlier and not digests):
            return target
        what = "has been changed since mmfeat wrote it" if digests else "exists, and was not written by mmfeat"
        raise OutputError(f"{given}: {what}. Move it away or, to replace it, add: --overwrite")

    @contextlib.contextmanager
    def replacing(self, path: Path | str, **where: bool) -> Iterator[Path]:
        """Yield a temporary path that becomes `path` at the end of the block. Raises as :meth:`check`."""
        target = self.check(path, **where)
        records = self._records(target)
        with atomic_path(target) as temporary:
            yield temporary
            if target.is_file() and not records.digests():
                records.add(target, digest_file(target))  # if the process is killed now, the old file is still known
            records.add(target, digest_file(temporary))

    def write(self, path: Path | str, data: bytes | str, **where: bool) -> bool:
        """Write a file, whole or not at all. Raises as :meth:`check`.

        Returns
        -------
        bool
            False if the file had exactly this content.
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
        """Write several files, or none if one of them must not be replaced. Raises as :meth:`check`."""
        for path, data in files.items():
            same = path.is_file() and path.read_bytes() == data and not self._guarded(path.resolve(), True)
            if not same:
                self.check(path)
        for path, data in files.items():
            self.write(path, data)

    def made(self, path: Path) -> bool:
        """Whether mmfeat wrote a file and nobody has changed it since."""
        return path.is_file() and digest_file(path) in self._records(path.resolve()).digests()

    def may_replace(self, path: Path, **where: bool) -> bool:
        """Whether :meth:`check` passes."""
        try:
            self.check(path, **where)
        except OutputError:
            return False
        return True

    def _guarded(self, target: Path, is_made: bool) -> str:
        """A description of a path that must not be written; empty if it may be written."""
        guards = list(self._guards)
        root = _project_above(target)
        if root is not None and root != self.root:
            try:
                config = load_config(root / FILE_NAME)
            except MmfeatError:  # its usual files are guarded
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
    """The folder of the project that contains a path."""
    return next((folder for folder in path.parents if (folder / FILE_NAME).is_file()), None)
