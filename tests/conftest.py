"""What many tests share: offline, a cache of their own, small projects made from the demo's data."""

from __future__ import annotations

import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of tiny arrays, threads cost several times what they save

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.projects import Shared, copy_project, make_extracted, make_project, make_source, make_trained
from hypothesis import HealthCheck, settings

# Machines that others use at the same time are slow now and then, which says nothing about the code.
ANY_MACHINE = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fast", max_examples=40, **ANY_MACHINE)
settings.register_profile("exhaustive", max_examples=1000, **ANY_MACHINE)  # for .ci/exhaustive
settings.load_profile("fast")

COCO18 = ROOT.parent / "shared" / "data" / "coco18"

# Folders whose tests run whole commands. They begin, so that no worker is left with one of them at the end.
LONGEST = ("training", "predictor", "workflows", "journeys", "serving", "inference", "cli", "api", "estimator")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files by folder; the tests of a file stay together."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.relative_to(ROOT / "tests").parts[0], len(order)))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory) -> Iterator[None]:
    """No test reads or writes the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The folder of a cache that only this test reads and writes."""
    monkeypatch.setattr("mmfeat.common.verified.user_cache_path", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache"


@pytest.fixture
def short_rounds(monkeypatch):
    """Rounds of self-training whose fits have few epochs."""
    monkeypatch.setattr("mmfeat.selftraining.rounds.MOST_EPOCHS", 5)


@pytest.fixture(scope="session")
def coco18() -> Path:
    if not (COCO18 / "train.csv").is_file():
        pytest.skip(f"{COCO18} is not there")
    return COCO18


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Shared:
    """What the workers of this session have in common."""
    return Shared(tmp_path_factory)


@pytest.fixture(scope="session")
def small_source(shared) -> Path:
    """A Kaggle folder of a few dozen images; for tests that only read it."""
    return shared.made("source", make_source)


@pytest.fixture(scope="session")
def text_folder(small_source) -> Path:
    """A tiny text encoder and its tokenizer; for tests that only read it."""
    return small_source / "text-encoder"


@pytest.fixture(scope="session")
def session_project(shared, small_source) -> Path:
    """The project that `project` is a copy of."""
    return shared.made("project", make_project, small_source)


@pytest.fixture(scope="session")
def session_extracted(shared, session_project) -> Path:
    """The project that `extracted` is a copy of."""
    return shared.made("extracted", make_extracted, session_project)


@pytest.fixture(scope="session")
def trained(shared, session_extracted, tmp_path_factory) -> Path:
    """The folder of a project with a head and an ensemble; for tests that only read it."""
    made = shared.made("trained", make_trained, session_extracted)
    return copy_project(made, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def exported(shared, trained) -> Path:
    """The folder of that project's ensemble as an exported model; for tests that only read it."""
    from mmfeat.project.project import Project
    from mmfeat.workflows.export import export

    def make(folder: Path) -> None:
        export(Project(trained), "fm3-1", folder / "model")

    return shared.made("exported", make) / "model"


@pytest.fixture(scope="session")
def predictor(exported):
    """That model, loaded; for tests that only read it."""
    from mmfeat.predictor import Predictor

    return Predictor.load(exported, "cpu")


@pytest.fixture
def own(trained, tmp_path):
    """A copy of the trained project, to change."""
    from mmfeat.project.project import Project

    return Project(shutil.copytree(trained, tmp_path / "project"))


@pytest.fixture
def project_folder(tmp_path, session_project) -> Path:
    """A project with tiny encoders, its manifest made, nothing encoded."""
    return copy_project(session_project, tmp_path / "project")


@pytest.fixture
def project(project_folder):
    from mmfeat.project.project import Project

    return Project(project_folder)


@pytest.fixture
def extracted(tmp_path, session_extracted):
    """The same with frozen outputs and all features cached."""
    from mmfeat.project.project import Project

    return Project(copy_project(session_extracted, tmp_path / "project"))


@pytest.fixture(scope="session")
def bases(tmp_path_factory, small_source):
    """What the fault campaigns attack; everything that commands import is imported."""
    from helpers.fault_cases import Bases
    from helpers.faults import warm_up

    found = Bases(tmp_path_factory.mktemp("campaign"), small_source)
    warm_up(found.at("source"))
    return found
