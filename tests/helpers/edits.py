"""Projects changed: their settings, their manifest, and what commands say of them then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from mmfeat.cli import group

from mmfeat.data.manifest import Manifest
from mmfeat.inference.run_ranking import ranked_runs
from mmfeat.project.project import Project


def edited(project: Project, old: str, new: str, count: int = 1) -> Project:
    """The project with other text in its mmfeat.toml: once, or everywhere with a count of -1."""
    path = project.root / "mmfeat.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, count), encoding="utf-8")
    return Project(project.root)


def contents(folder: Path, *without: str) -> dict[str, bytes]:
    """All files below a folder but those in folders of these names."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {*without} & set(path.parts)
    }


def save(project: Project, **changes) -> Project:
    """Replace parts of the manifest."""
    m = project.manifest
    values = {
        n: changes.get(n, getattr(m, n)) for n in ("ids", "images", "captions", "labels", "split", "classes", "columns")
    }
    Manifest(**values).save(project.root / "manifest.parquet")
    return Project(project.root)


def invoked(folder: Path, *arguments: str) -> Result:
    """A command of a project that succeeds, in this process."""
    done = CliRunner().invoke(group, ["--project", str(folder), *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def typed(project: Project, *arguments: str) -> str:
    """What it prints."""
    return invoked(project.root, *arguments).output


def line_of(project: Project, name: str):
    return next(line for line in ranked_runs(project) if line.name == name)


def moved(project: Project, old: str, new: str, n: int) -> Project:
    """Some rows of one split in another."""
    split = project.manifest.split.copy()
    split[project.manifest.rows(old)[:n]] = new
    return save(project, split=split)


def with_blank_captions(project: Project, n: int = 3) -> tuple[Project, np.ndarray]:
    """Some val rows and some unlabelled rows without a caption."""
    rows = np.concatenate([project.manifest.rows("val")[:n], project.manifest.rows("unlabelled")[:n]])
    captions = project.manifest.captions.copy()
    captions[rows] = ""
    return save(project, captions=captions), rows
