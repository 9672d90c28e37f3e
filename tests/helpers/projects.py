"""Small projects made from the demo's data: each kind is made once in a session, and copied for a test that changes it."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

TINY = """\
schema = 1
engine = "torch"
[data]
source = {source}
[split]
val = 0.25
[encoder.image]
model = "test_efficientnet"
pretrained = "random"
size = 32
[encoder.text]
model = {text}
pretrained = "random"
[finetune.image]
epochs = 2
batch_size = 16
head_first = false
[finetune.text]
epochs = 2
batch_size = 16
head_first = false
[fuse]
seeds = 2
[fuse.linear]
epochs = 3
[fuse.concat]
epochs = 3
[fuse.crossattn]
epochs = 3
token_width = 32
hidden = 16
[selftrain]
rounds = 2
"""

TUNED = {"predict.threshold": "tuned-per-class", "predict.calibration": "temperature"}


def settings_for(source: Path) -> str:
    """The mmfeat.toml of a tiny project."""
    return TINY.format(source=json.dumps(str(source)), text=json.dumps(str(source / "text-encoder")))


def make_source(folder: Path) -> None:
    """A Kaggle folder of a few dozen images: the demo's data, cut short."""
    from mmfeat.data.demo_data import make_demo

    make_demo(folder, seed=1, n_labelled=60, n_unlabelled=20)
    rows = list(csv.reader((folder / "train.csv").open(encoding="utf-8")))
    assert len(rows) == 61
    an_hour_ago = time.time() - 3600  # digests of files written just now are not remembered
    for path in folder.rglob("*"):
        os.utime(path, (an_hour_ago, an_hour_ago))


def make_project(folder: Path, source: Path) -> None:
    """Its manifest is made, nothing is encoded."""
    from mmfeat.project.initialisation import init

    (folder / "mmfeat.toml").write_text(settings_for(source), encoding="utf-8")
    init(folder)


def make_extracted(folder: Path, project: Path) -> None:
    """Encoders are frozen, all features are cached."""
    from mmfeat.project.encoding import extract
    from mmfeat.project.project import Project
    from mmfeat.workflows.finetune import finetune

    copy_project(project, folder)
    finetune(Project(folder), freeze=True)
    extract(Project(folder))


def make_trained(folder: Path, extracted: Path) -> None:
    """There are a head and an ensemble."""
    from mmfeat.project.project import Project
    from mmfeat.workflows.ensemble import ensemble
    from mmfeat.workflows.fuse import fuse

    copy_project(extracted, folder)
    fuse(Project(folder), "crossattn")
    ensemble(Project(folder), ["fm3"])


def copy_project(project: Path, folder: Path) -> Path:
    """Copy a project and its store as if it had been made there: the store's notes and what is remembered name the copy."""
    from mmfeat.project.project import Project
    from mmfeat.store.references import all_references, forget_references, new_references, write_references

    shutil.copytree(project, folder, dirs_exist_ok=True)
    store = folder / "features"
    if not store.is_dir():
        return folder
    for old in all_references(store):
        if old.project == str(project):
            new = new_references(folder)
            new.encoders = old.encoders
            write_references(store, new)
            forget_references(store, old)
    copy = Project(folder)
    for name in copy.config.encoder:
        copy.identity(name)
    return folder


class Shared:
    """Folders that one worker makes and every worker of the session reads."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        base = factory.getbasetemp()
        self.folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(self, name: str, make: Callable[..., None], *arguments: Path) -> Path:
        """The folder of that name; `make(folder, *arguments)` fills it when nobody has."""
        folder, done = self.folder / name, self.folder / f"{name}.done"
        with (self.folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.is_file():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder, *arguments)
                done.touch()
        return folder
