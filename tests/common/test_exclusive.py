"""Two processes in one folder: the second is told, and what one has moved the other does not take for absent."""

from __future__ import annotations

import os
import shutil

import pytest

from mmfeat.common.errors import DataError, MmfeatError
from mmfeat.common.exclusive import alone_in
from mmfeat.project import applied_reviews as answers
from mmfeat.project.applied_reviews import apply_review, undo_review
from mmfeat.project.project import Project


def test_the_second_is_told_and_a_process_that_ended_holds_nothing(tmp_path):
    folder = tmp_path / "sweeps"
    with alone_in(folder, "mmfeat sweep"):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with alone_in(folder, "mmfeat sweep"):
                    pass
            except MmfeatError as error:
                code = 0 if "another mmfeat sweep is running" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with alone_in(folder, "mmfeat sweep"):
        pass
    assert list(folder.iterdir()) == []


@pytest.fixture
def applied(project):
    rows = project.manifest.rows("unlabelled")[:2]
    file = project.root / "answers.csv"
    file.write_text("id,labels\n" + "".join(f"{project.manifest.ids[i]},circle\n" for i in rows))
    apply_review(project, file)
    return Project(project.root)


def test_a_review_that_another_process_takes_back_meanwhile_removes_no_manifest(applied, monkeypatch):
    """The other process renames the folder between the look at it and the copying."""
    root, states = applied.root, answers._states

    def meanwhile(project):
        found = states(project)
        folder = answers._last(root)
        for name in answers.KEPT:
            (folder / name).unlink(missing_ok=True)
        return found

    before = (root / "manifest.parquet").read_bytes()
    monkeypatch.setattr(answers, "_states", meanwhile)
    with pytest.raises(DataError, match="nothing can be undone"):
        undo_review(applied)
    assert (root / "manifest.parquet").read_bytes() == before
    assert (root / "corrections.csv").is_file()


def test_two_reviews_at_once_are_one_after_the_other(applied):
    shutil.copy(applied.root / "corrections.csv", applied.root / "copy.csv")
    with alone_in(applied.root, "mmfeat review"), pytest.raises(MmfeatError, match="is running"):
        undo_review(applied)
    assert (applied.root / "copy.csv").read_bytes() == (applied.root / "corrections.csv").read_bytes()
