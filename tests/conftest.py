"""What many tests share: offline, a cache of their own, small projects made from the demo's data."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of tiny arrays, threads cost several times what they save

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Machines that others use at the same time are slow now and then, which says nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

SHARED = Path(__file__).resolve().parents[2] / "shared"
COCO18 = SHARED / "data" / "coco18"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def short_rounds(monkeypatch):
    """Rounds of self-training whose fits have few epochs."""
    monkeypatch.setattr("mmfeat.selftraining.rounds.MOST_EPOCHS", 5)


@pytest.fixture(scope="session")
def coco18() -> Path:
    if not (COCO18 / "train.csv").is_file():
        pytest.skip(f"{COCO18} is not there")
    return COCO18


def run_cli(*arguments: str, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
    """Run the installed entry point."""
    command = [str(Path(sys.executable).with_name("mmfeat")), *arguments]
    env = {**os.environ, "COLUMNS": "200", **environment}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=env, timeout=600)
    if check:
        assert done.returncode == 0, done.stderr + done.stdout
        assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="session")
def small_source(tmp_path_factory) -> Path:
    """A Kaggle folder of a few dozen images: the demo's data, cut short."""
    import csv

    from mmfeat.data.demo_data import make_demo

    folder = tmp_path_factory.mktemp("source")
    make_demo(folder, seed=1, n_labelled=60, n_unlabelled=20)
    rows = list(csv.reader((folder / "train.csv").open(encoding="utf-8")))
    assert len(rows) == 61
    return folder


TINY = """\
schema = 1
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


@pytest.fixture
def project_folder(tmp_path, small_source) -> Path:
    """A project with tiny encoders, its manifest made, nothing encoded."""
    from mmfeat.project.initialisation import init

    folder = tmp_path / "project"
    folder.mkdir()
    text = json.dumps(str(small_source / "text-encoder"))
    (folder / "mmfeat.toml").write_text(TINY.format(source=json.dumps(str(small_source)), text=text), encoding="utf-8")
    init(folder)
    return folder


@pytest.fixture
def project(project_folder):
    from mmfeat.project.project import Project

    return Project(project_folder)


@pytest.fixture
def extracted(project):
    """The same with frozen outputs and all features cached."""
    from mmfeat.project.encoding import extract
    from mmfeat.project.project import Project
    from mmfeat.workflows.finetune import finetune

    finetune(project, freeze=True)
    extract(Project(project.root))
    return Project(project.root)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, small_source) -> Path:
    """The folder of a project with a head and an ensemble; for tests that only read it."""
    from mmfeat.project.encoding import extract
    from mmfeat.project.initialisation import init
    from mmfeat.project.project import Project
    from mmfeat.workflows.ensemble import ensemble
    from mmfeat.workflows.finetune import finetune
    from mmfeat.workflows.fuse import fuse

    folder = tmp_path_factory.mktemp("trained")
    text = json.dumps(str(small_source / "text-encoder"))
    (folder / "mmfeat.toml").write_text(TINY.format(source=json.dumps(str(small_source)), text=text), encoding="utf-8")
    init(folder)
    finetune(Project(folder), freeze=True)
    extract(Project(folder))
    fuse(Project(folder), "crossattn")
    ensemble(Project(folder), ["fm3"])
    return folder


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory) -> Path:
    """The folder of that project's ensemble as an exported model; for tests that only read it."""
    from mmfeat.project.project import Project
    from mmfeat.workflows.export import export

    return export(Project(trained), "fm3-1", tmp_path_factory.mktemp("exported") / "model").folder


@pytest.fixture(scope="session")
def bases(tmp_path_factory, small_source):
    """What the fault campaigns attack; everything that commands import is imported."""
    from campaign import warm_up
    from campaign_projects import Bases

    found = Bases(tmp_path_factory.mktemp("campaign"), small_source)
    warm_up(found.at("source"))
    return found
