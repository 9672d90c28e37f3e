"""Apply and undo reviews: labels that a person gave are added to corrections.csv and the manifest.

reviews/applied-<n>/ holds:
record.json                         the applied file, and digests of the project's files before and after
corrections.csv, manifest.parquet, init.log     copies from before, if they existed
<the table>                         the table with the filled-in labels

A review that was undone is renamed to `undone-<n>`. If `--apply` is killed midway, type it again to complete it.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfeat.common.errors import DataError
from mmfeat.common.exclusive import alone_in
from mmfeat.common.files import bytes_of, digest_bytes, publish_folder, staging_folder, write_atomic
from mmfeat.common.json_shapes import Number, Shape
from mmfeat.common.seals import read_record, seal_folder, write_sealed
from mmfeat.common.text import counted, utc_time
from mmfeat.common.urls import refuse_url
from mmfeat.data.corrections import FILE as CORRECTIONS
from mmfeat.data.corrections import add_answers
from mmfeat.data.difference import difference
from mmfeat.data.review_files import read_review
from mmfeat.project.changes import required_work
from mmfeat.project.initialisation import init
from mmfeat.project.manifest_files import LOG
from mmfeat.project.project import Project
from mmfeat.project.project_folder import MANIFEST
from mmfeat.project.staleness import state_of
from mmfeat.report.data_summary import about_answers, about_changes
from mmfeat.report.result import Result
from mmfeat.runs.run import all_runs

FOLDER, RECORD, FORMAT = "reviews", "record.json", 1
KEPT = (CORRECTIONS, MANIFEST, LOG)
_DIGEST: Shape = (str, None)  # None: there was no such file
_SHAPE: dict[str, Shape] = {
    "file": str,
    "n_answers": Number(int, low=0),
    "before": dict.fromkeys(KEPT, _DIGEST),
    "after": {CORRECTIONS: _DIGEST, f"?{MANIFEST}": _DIGEST, f"?{LOG}": _DIGEST},
    "?applied": str,
}


@dataclass(frozen=True, kw_only=True, repr=False)
class AppliedReview(Result):
    """The changes made by applying or undoing a review.

    Attributes
    ----------
    changed : bool
        Whether anything changed.
    lines : list of str
        The changes, and commands to run because of them.
    made : str
        The changes in one sentence.
    after : str
        The command to type next.
    """

    changed: bool
    lines: list[str]
    made: str
    after: str

    def _about(self) -> str:
        return "\n".join([self.made, *self.lines])


def apply_review(project: Project, file: Path | str, overwrite: bool = False) -> AppliedReview:
    """Write the labels of a review to corrections.csv, and bring the manifest up to date as `mmfeat init` does.

    Everything is checked before anything is changed. If the manifest cannot be made, no file changes.

    Raises
    ------
    DataError
        A row or a class is unknown; also the errors of `mmfeat init`.
    """
    refuse_url(file)
    with alone_in(project.root, "mmfeat review"):
        return _apply(project, Path(file), overwrite)


def _apply(project: Project, file: Path, overwrite: bool) -> AppliedReview:
    root, before = project.root, project.manifest
    separator, corrections = project.config.data.separator, root / CORRECTIONS
    answers = read_review(file, before, separator=separator)
    if not answers.given:
        what = "Answer some of its rows" if file.suffix.lower() in (".json", ".jsonl") else "Fill in its column labels"
        raise DataError(f"{file}: no row is filled in. {what}, then: mmfeat review --apply {file}")
    data = add_answers(corrections, answers.given, before.columns, separator=separator)
    _forget_unstarted(root)
    states = _states(project)
    if fresh := data != bytes_of(corrections):
        _remember(root, file, data, len(answers.given))
        write_atomic(corrections, data)
    try:
        made = init(root, overwrite=overwrite)
    except Exception:
        if fresh:
            _put_back(_last(root), (LOG, CORRECTIONS))
            shutil.rmtree(_last(root))
        raise
    _remember_after(root)
    if not fresh and made.unchanged:
        made_line = f"Nothing to do: {CORRECTIONS} has all {counted(len(answers.given), 'answer')} of {file.name}."
        return AppliedReview(changed=False, lines=[], made=made_line, after="mmfeat review")
    now = project.reopened()
    change = difference(before, now.manifest)
    lines = about_answers(answers, before, now.manifest, change=change)
    lines += about_changes(change) if change.unencoded or change.gone else []  # the source has changed too
    necessary, after = required_work(now.config, change, now.manifest)
    lines += [*necessary, *_about_runs(now, states)]
    what = counted(len(answers.given), "answer")
    made_line = f"Applied {what} of {file.name}: {CORRECTIONS} and {MANIFEST} (to undo: mmfeat review --undo)."
    return AppliedReview(changed=True, lines=lines, made=made_line, after=after)


def undo_review(project: Project, overwrite: bool = False) -> AppliedReview:
    """Undo the last applied review: corrections.csv and the manifest are restored byte for byte.

    If the manifest has changed since, it is made again without the labels of the review.

    Raises
    ------
    DataError
        No review was applied, or corrections.csv has been changed since.
    """
    with alone_in(project.root, "mmfeat review"):
        return _undo(project, overwrite)


def _undo(project: Project, overwrite: bool) -> AppliedReview:
    root, folder = project.root, _last(project.root)
    if folder is None:
        raise DataError(f"{root / FOLDER}: there is no applied review to undo")
    record = _record(folder)
    now, applied = _digests(root), _applied_at(folder, record)
    if now[CORRECTIONS] not in (record["before"][CORRECTIONS], record["after"][CORRECTIONS]):
        raise DataError(
            f"{root / CORRECTIONS}: has been changed since {record['file']} was applied, and these changes would be lost. "
            f"Remove the lines yourself, then run: mmfeat init"
        )
    same = all(now[name] in (record["before"][name], record["after"].get(name)) for name in KEPT)
    before, states = project.manifest, _states(project)
    _put_back(folder, (MANIFEST, LOG, CORRECTIONS) if same else (CORRECTIONS,))
    if not same:
        init(root, overwrite=overwrite)
    publish_folder(folder, folder.parent, "undone")
    fresh = project.reopened()
    change = difference(before, fresh.manifest)
    necessary, after = required_work(fresh.config, change, fresh.manifest, restored=applied)
    lines = [*necessary, *_about_runs(fresh, states)]
    if not same:
        lines.insert(0, f"  {MANIFEST} had changed since, so it was made again without these labels")
    what = f"{counted(record['n_answers'], 'answer')} of {record['file']}"
    made_line = f"Undid {what}: {CORRECTIONS} and {MANIFEST} are as before."
    return AppliedReview(changed=True, lines=lines, made=made_line, after=after)


def _last(root: Path) -> Path | None:
    """The folder of the review that was applied last."""
    folders = [p for p in (root / FOLDER).glob("applied-*") if p.name[8:].isdecimal() and (p / RECORD).is_file()]
    return max(folders, key=lambda p: int(p.name[8:]), default=None)


def _record(folder: Path) -> dict[str, Any]:
    try:
        return read_record(folder / RECORD, FORMAT, _SHAPE, "Remove the folder")
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from None


def _remember(root: Path, file: Path, corrections: bytes, n_answers: int) -> None:
    """Keep copies of the project's files before a review is applied."""
    with staging_folder(root / FOLDER) as staged:
        for name in KEPT:
            if (content := bytes_of(root / name)) is not None:
                (staged / name).write_bytes(content)
        shutil.copyfile(file, staged / f"filled-in{file.suffix}")
        after = {CORRECTIONS: digest_bytes(corrections)}
        record = {
            "format": FORMAT,
            "file": file.name,
            "n_answers": n_answers,
            "before": _digests(staged),
            "after": after,
            "applied": utc_time(time.time_ns()),
        }
        seal_folder(staged, RECORD, record)
        publish_folder(staged, root / FOLDER, "applied")


def _remember_after(root: Path) -> None:
    """Complete the last review's record once the manifest is made."""
    if (folder := _last(root)) and (record := _record(folder))["after"].keys() != set(KEPT):
        write_sealed(folder / RECORD, {**record, "after": _digests(root)})


def _forget_unstarted(root: Path) -> None:
    """Remove the copies kept for a review that was killed before corrections.csv was written."""
    if (folder := _last(root)) is None or (record := _record(folder))["after"].keys() == set(KEPT):
        return
    if _digests(root)[CORRECTIONS] == record["before"][CORRECTIONS]:
        shutil.rmtree(folder)


def _put_back(folder: Path, names: tuple[str, ...]) -> None:
    """Restore files of the project from their copies, after checking that no copy is damaged."""
    before, kept = _record(folder)["before"], {name: bytes_of(folder / name) for name in names}
    for name, content in kept.items():
        if _digest(content) != before[name]:
            what = "is gone" if content is None else "has been changed"
            raise DataError(
                f"{folder / name}: {what}, so nothing can be undone. Remove the labels from {CORRECTIONS} yourself, "
                f"then run: mmfeat init"
            )
    for name, content in kept.items():
        file = folder.parent.parent / name
        if content is None:
            file.unlink(missing_ok=True)
        else:
            write_atomic(file, content)


def _digest(content: bytes | None) -> str | None:
    return None if content is None else digest_bytes(content)


def _digests(folder: Path) -> dict[str, str | None]:
    return {name: _digest(bytes_of(folder / name)) for name in KEPT}


def _states(project: Project) -> dict[str, str]:
    return {run.name: state_of(project, run) for run in all_runs(project.runs_folder)}


def _about_runs(project: Project, states: dict[str, str]) -> list[str]:
    """Lines about runs whose state has changed."""
    lines = []
    for name, now in _states(project).items():
        if now != states.get(name):
            lines.append(f"  {name}: {now}" + (" again" if now == "current" else ""))
    return lines


def _applied_at(folder: Path, record: dict[str, Any]) -> str:
    """The time at which a review was applied; records of earlier versions have only the time of their file."""
    return record.get("applied") or utc_time((folder / RECORD).stat().st_mtime_ns)
