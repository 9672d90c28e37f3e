"""What many tests share: offline, a cache of their own, small projects made from the demo's data."""

from __future__ import annotations

import json
import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests may import onnxruntime themselves
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of tiny arrays, threads cost several times what they save

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.browser import Browser, browsing
from helpers.projects import TUNED, Shared, copy_project, make_extracted, make_project, make_source, make_trained
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real browser, shared by the tests of a file. Where there is none, these tests are skipped."""
    with browsing() as one:
        yield one


@pytest.fixture(autouse=True, scope="session")
def undrawn() -> Iterator[Callable]:
    """Plots are composed, and an empty PNG is written: rendering is a quarter of the time of tests of whole commands."""
    from mmfeat.common.files import atomic_path
    from mmfeat.report import plots

    def write_blank(figure, path: Path) -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"\x89PNG\r\n\x1a\n")

    render = plots._save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "_save", write_blank)
        yield render


@pytest.fixture
def drawn(undrawn, monkeypatch):
    """Plots are rendered after all."""
    monkeypatch.setattr("mmfeat.report.plots._save", undrawn)


@pytest.fixture(autouse=True, scope="session")
def short_rounds() -> Iterator[None]:
    """Rounds of self-training whose fits have few epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmfeat.selftraining.round_models.MOST_EPOCHS", 2)
        yield


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
def exported_onnx(shared, trained) -> Path:
    """The same as ONNX, with thresholds and temperatures of its own; beside it checked.json, what the export compared."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from mmfeat.project.project import Project
    from mmfeat.workflows.export import export

    def make(folder: Path) -> None:
        result = export(Project(trained, TUNED), "fm3-1", folder / "model", format="onnx")
        counts = {"n_checked": result.n_checked, "n_run": result.n_run}
        differences = {"difference": result.difference, "runtime_difference": result.runtime_difference}
        (folder / "checked.json").write_text(json.dumps(counts | differences), encoding="utf-8")

    return shared.made("exported-onnx", make) / "model"


@pytest.fixture(scope="session")
def predictor(exported):
    """That model, loaded; for tests that only read it."""
    from mmfeat.predictor import Predictor

    return Predictor.load(exported, "cpu")


@pytest.fixture
def own_folder(trained, tmp_path) -> Path:
    """The folder of a copy of the trained project, to change."""
    return shutil.copytree(trained, tmp_path / "project")


@pytest.fixture(scope="module")
def module_folder(trained, tmp_path_factory) -> Path:
    """The same, for the fixtures of one module."""
    return shutil.copytree(trained, tmp_path_factory.mktemp("module") / "project")


@pytest.fixture
def own(own_folder):
    """A copy of the trained project, to change."""
    from mmfeat.project.project import Project

    return Project(own_folder)


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
