"""The files that `mmfeat init` writes: manifest.parquet, init.log and, for a new project, mmfeat.toml."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.files import remove_leftovers
from mmfeat.common.remembered import Stamp, stamp_of
from mmfeat.config.schema import FILE_NAME
from mmfeat.data.difference import Difference
from mmfeat.data.manifest import Manifest
from mmfeat.project.project_folder import MANIFEST
from mmfeat.report.outputs import Outputs

LOG, CHANGED = "init.log", "Changed since the manifest of before:"


class ManifestFiles:
    """The manifest of a folder, and the files that replace it.

    Parameters
    ----------
    is_new : bool
        Whether to ignore a manifest that is there: the project starts over.

    Attributes
    ----------
    before : Manifest or None
        The manifest in the folder when this object is created; None for a new project.
    """

    def __init__(self, folder: Path, *, is_new: bool = False) -> None:
        self.folder = folder
        self._stamp, self.before = self._current_stamp(), None if is_new else self._current()

    def write(
        self, manifest: Manifest, notes: list[str], *, change: Difference | None, toml: str | None, outputs: Outputs
    ) -> tuple[list[str], list[str]]:
        """Write new and changed files, mmfeat.toml last: with it the folder is a project. Returns the names written and removed.

        If the process is killed in between, at worst the new log remains; the manifest is replaced whole or not at all.

        Raises
        ------
        DataError
            Another process wrote a different manifest in the meantime.
        """
        folder = self.folder
        for place in (folder, folder / ".mmfeat"):
            remove_leftovers(place, below=False)
        current = self.before if self._current_stamp() == self._stamp else self._current()
        up_to_date = _same(current, manifest)
        if current is not self.before and not up_to_date and not _same(current, self.before):
            raise DataError(
                f"{folder / MANIFEST}: another mmfeat init wrote it in the meantime. Run again: mmfeat init"
            )
        written, removed = self._write_log(notes, change, outputs, earlier=current is not None)
        if not up_to_date:
            manifest.save(folder / MANIFEST)
            written.insert(0, MANIFEST)
        if toml is not None:
            # its digest tells whether somebody changes it
            outputs.write(folder / FILE_NAME, toml, own=True, known=True)
            written.insert(0, FILE_NAME)
        return written, removed

    def _write_log(
        self, notes: list[str], change: Difference | None, outputs: Outputs, *, earlier: bool
    ) -> tuple[list[str], list[str]]:
        """Write or remove init.log; `earlier` for a project that an earlier version may have made."""
        log = self.folder / LOG
        old = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        text = "".join(f"{line}\n" for line in [*notes, *_changes(change, old)])
        if text and text != old:
            outputs.write(log, text, own=True, earlier=earlier)
            return [LOG], []
        if not text and log.is_file() and outputs.may_replace(log, own=True, earlier=earlier):
            log.unlink()
            return [], [LOG]
        return [], []

    def _current(self) -> Manifest | None:
        return Manifest.load(self.folder / MANIFEST) if (self.folder / MANIFEST).is_file() else None

    def _current_stamp(self) -> Stamp | None:
        try:
            return stamp_of((self.folder / MANIFEST).stat())
        except OSError:
            return None


def _changes(change: Difference | None, log: str) -> list[str]:
    """The end of the log: the changes, or those in the previous log if nothing has changed."""
    if change is None:
        return []
    if lines := change.lines():
        return [CHANGED, *lines]
    old = log.splitlines()
    return old[old.index(CHANGED) :] if CHANGED in old else []


def _same(a: Manifest | None, b: Manifest | None) -> bool:
    if a is None or b is None:
        return a is b
    arrays = ("ids", "images", "captions", "labels", "split", "groups", "folds")
    return (a.classes, a.columns) == (b.classes, b.columns) and all(
        np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays
    )
