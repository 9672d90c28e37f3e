"""The state of a review page: rows to look at, answers that are saved one by one, and their pictures."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.spelling import normal_name
from mmfeat.data.corrections import FILE as CORRECTIONS
from mmfeat.data.corrections import corrected_labels
from mmfeat.data.review_answers import AnswerNames
from mmfeat.data.review_items import ReviewItem
from mmfeat.data.review_journal import ReviewJournal
from mmfeat.inference.desk_pictures import DeskPictures
from mmfeat.inference.review_queue import given_labels
from mmfeat.inference.similar_rows import Query, similar_rows
from mmfeat.project.applied_reviews import AppliedReview, apply_review
from mmfeat.project.project import Project

_EXCERPT = 120  # characters of a caption in the list
_SIMILAR = 12  # rows to compare with


class ReviewDesk:
    """Rows and their answers. Its methods may be called from several threads.

    Parameters
    ----------
    items : sequence of ReviewItem
        The rows, in the order in which they are shown.
    journal : ReviewJournal
        Where answers are saved.
    run : str
        The run whose predictions are shown; empty without one.
    notes : sequence of str
        What the user should know about the rows.

    Attributes
    ----------
    pictures : DeskPictures
        The pictures of the rows.
    applied : AppliedReview or None
        The last applied review.
    """

    def __init__(
        self,
        project: Project,
        items: Sequence[ReviewItem],
        journal: ReviewJournal,
        *,
        run: str = "",
        notes: Sequence[str] = (),
    ) -> None:
        self._project, self._items, self._journal = project, items, journal
        self._run, self._notes = run, list(notes)
        self._position = {item.id: at for at, item in enumerate(items)}
        self._class_at = {name: k for k, name in enumerate(project.manifest.classes)}
        self._row_of: dict[str, int] | None = None
        self._lock = threading.Lock()
        self.pictures = DeskPictures(project, [item.row for item in items])
        self._pending = unapplied(project, journal.given())
        self.applied: AppliedReview | None = None

    @property
    def n_pending(self) -> int:
        """Answers that are not in corrections.csv."""
        return len(self._pending)

    def overview(self) -> dict[str, Any]:
        """All rows in short, the answers, and the names that they refer to by number; JSON values."""
        kinds = list(dict.fromkeys(reason.kind for item in self._items for reason in item.reasons))
        kind_at = {kind: at for at, kind in enumerate(kinds)}
        with self._lock:
            state = self._state()
        return {
            "project": self._project.root.name,
            "run": self._run,
            "file": self._journal.file.name,
            "notes": self._notes,
            "classes": list(self._project.manifest.classes),
            "kinds": kinds,
            "ids": [item.id for item in self._items],
            "rows": [item.row if item.image else -1 for item in self._items],  # -1: without a picture
            "captions": [item.caption[:_EXCERPT] for item in self._items],
            "splits": [item.split for item in self._items],
            "row_kinds": [sorted({kind_at[reason.kind] for reason in item.reasons}) for item in self._items],
            "row_classes": [self._classes_of(item) for item in self._items],
            "state": state,
        }

    def details(self, first: int, n: int) -> list[dict[str, Any]]:
        """Up to n rows in full; JSON values."""
        return [self._detail(item) for item in self._items[first : first + n]]

    def similar(self, at: int) -> list[dict[str, Any]]:
        """The rows that are most similar to one of the rows, the nearest first; JSON values. Test rows are left out.

        Raises
        ------
        IndexError
            There is no such row.
        MmfeatError
            There are no embeddings to compare.
        """
        found = similar_rows(self._project, Query(like=self._items[at].id), n=2 * _SIMILAR)
        places = zip(found.rows.tolist(), found.scores.tolist(), strict=True)
        shown = [(row, score) for row, score in places if self._project.manifest.split[row] != "test"][:_SIMILAR]
        others = self._others([row for row, _ in shown])
        return [{**one, "score": round(score, 3)} for one, (_, score) in zip(others, shown, strict=True)]

    def answer(
        self, sample: str, labels: Sequence[str] | None, *, seen: int, undo: bool = False
    ) -> tuple[bool, dict[str, Any]]:
        """Save an answer (None: take it back). It is on the disk when this returns.

        Parameters
        ----------
        seen : int
            The revision of the row's answer that the page has shown; 0 without one.

        Returns
        -------
        tuple of bool and dict
            False if another page has answered the row since, and then nothing is saved; and the row's answer now.

        Raises
        ------
        KeyError
            There is no such row or class.
        UnwritableFile
            The answer could not be saved.
        """
        at = self._position[sample]
        wanted = None if labels is None else tuple(sorted(set(labels), key=self._class_at.__getitem__))
        with self._lock:
            saved = self._journal.get(sample)
            fits = saved.labels == wanted or saved.revision == seen
            if fits and saved.labels != wanted:
                saved = self._journal.add(sample, wanted, undo=undo)
                self._pending.discard(sample)
                self._pending |= set() if wanted is None else {sample}
            now = {"row": at, "revision": saved.revision, "labels": self._numbers(saved.labels)}
            return fits, {**now, "n_pending": self.n_pending}

    def changes(self, since: int) -> dict[str, Any]:
        """The answers after a revision; JSON values."""
        with self._lock:
            return self._state(since)

    def thumbnail(self, row: int) -> bytes | None:
        """A small JPEG of a row of the manifest; None without a readable picture."""
        return self.pictures.thumbnail(row)

    def picture(self, row: int) -> bytes | None:
        """A large JPEG of a row of the manifest; None without a readable picture."""
        return self.pictures.picture(row)

    def apply(self) -> dict[str, Any]:
        """Apply all answers, as `mmfeat review --apply` does; what was made, as JSON values.

        Raises
        ------
        MmfeatError
            An answer cannot be applied, or another command is running in the project. Nothing is changed then.
        """
        applied = apply_review(self._project.reopened(), self._journal.file)
        self.applied = applied
        with self._lock:
            self._pending = unapplied(self._project, self._journal.given())
            return {"made": applied.made, "lines": applied.lines, "after": applied.after, "n_pending": self.n_pending}

    def _state(self, since: int = 0) -> dict[str, Any]:
        changed = [
            [self._position[sample], saved.revision, self._numbers(saved.labels)]
            for sample, saved in self._journal.answers.items()
            if saved.revision > since and sample in self._position
        ]
        state = {"revision": self._journal.revision, "answers": changed, "n_pending": self.n_pending}
        if since == 0:
            history = [one for one in self._journal.history if one[0] in self._position]
            state["history"] = [[self._position[sample], self._numbers(before)] for sample, before in history]
        return state

    def _numbers(self, names: Sequence[str] | None) -> list[int] | None:
        return None if names is None else [self._class_at[name] for name in names if name in self._class_at]

    def _classes_of(self, item: ReviewItem) -> list[int]:
        about = [reason.class_name for reason in item.reasons if reason.class_name]
        return self._numbers(sorted({*(item.given or ()), *(item.proposed or ()), *about})) or []

    def _detail(self, item: ReviewItem) -> dict[str, Any]:
        return {
            "id": item.id,
            "row": item.row,
            "image": bool(item.image),
            "caption": item.caption,
            "split": item.split,
            "given": self._numbers(item.given),
            "proposed": self._numbers(item.proposed),
            "probabilities": [[self._class_at[name], round(p, 4)] for name, p in item.probabilities.items()],
            "reasons": [
                {"kind": one.kind, "text": one.text, "class": self._class_at.get(one.class_name, -1)}
                for one in item.reasons
            ],
            "related": self._related(item),
        }

    def _related(self, item: ReviewItem) -> list[dict[str, Any]]:
        names = dict.fromkeys(sample for reason in item.reasons for sample in reason.related)
        if not names:
            return []
        manifest = self._project.manifest
        if self._row_of is None:
            self._row_of = {sample: row for row, sample in enumerate(manifest.ids.tolist())}
        return self._others([self._row_of[sample] for sample in names if sample in self._row_of][:_SIMILAR])

    def _others(self, rows: list[int]) -> list[dict[str, Any]]:
        """Rows of the manifest to compare with."""
        manifest = self._project.manifest
        given = given_labels(manifest.labels[np.array(rows, dtype=np.int64)], manifest.classes)
        return [
            {
                "id": manifest.ids[row],
                "row": row,
                "image": bool(manifest.images[row]),
                "caption": manifest.captions[row],
                "split": manifest.split[row] if labels is not None else "unlabelled",
                "given": self._numbers(labels),
            }
            for row, labels in zip(rows, given, strict=True)
        ]


def unapplied(project: Project, answers: dict[str, list[str]]) -> set[str]:
    """The ids of answers that corrections.csv does not have."""
    file, separator = project.root / CORRECTIONS, project.config.data.separator
    applied = corrected_labels(file, project.manifest.columns, separator=separator)
    return {
        sample
        for sample, names in answers.items()
        if sample not in applied or set(map(normal_name, names)) != set(applied[sample])
    }


def open_journal(project: Project, file: Path) -> ReviewJournal:
    """The journal in a file with its answers; a new one if all of them are applied.

    Raises
    ------
    DataError
        The file is not a journal, or has answers that do not fit the manifest.
    """
    journal = ReviewJournal(file)
    given = journal.given()
    open_ones = unapplied(project, given)
    if journal.revision and not open_ones:
        journal.close()
        file.unlink()
        return ReviewJournal(file)
    names = AnswerNames(project.manifest.ids, project.manifest.classes, otherwise="move the file away")
    try:
        for sample in sorted(open_ones):
            names.sample(str(file), str(file), sample)
            names.labels(str(file), sample, given[sample])
    except DataError:
        journal.close()
        raise
    return journal
