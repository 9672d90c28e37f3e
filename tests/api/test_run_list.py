"""`repr(p)`, `p.runs` and `p.table()`: a project at a glance, its runs as a list, and its ranking."""

from __future__ import annotations

import shutil

import pytest
from helpers.projects import copy_project

import mmfeat as mf
from mmfeat.common.errors import RunError
from mmfeat.workflows.runs import RunsResult


@pytest.fixture
def own(trained, tmp_path):
    return mf.Project(copy_project(trained, tmp_path / "own"), progress=False)


def test_a_project_shows_what_it_holds(own, monkeypatch):
    """Without building an encoder or reading an image."""

    def refused(*_, **__):
        raise AssertionError("an encoder was built, or an image read")

    monkeypatch.setattr("mmfeat.encoders.resolve.build_encoder", refused)
    monkeypatch.setattr("mmfeat.data.images.image_sources.ImageSources.read", refused)
    n = own.manifest.n_samples
    assert repr(own).splitlines() == [
        f"Project {own.root}",
        "80 rows (45 train, 15 val, 20 unlabelled), 10 classes",
        f"encoder image: test_efficientnet, {n} of {n} rows cached",
        f"encoder text: text-encoder, {n} of {n} rows cached",
        "2 runs",
    ]
    assert own._repr_html_().count("<br>") == 4


def test_a_project_without_features_or_a_manifest_shows_so(project_folder):
    p = mf.Project(project_folder, progress=False)
    assert repr(p).splitlines()[2:] == [
        "encoder image: test_efficientnet, 0 of 80 rows cached",
        "encoder text: text-encoder, 0 of 80 rows cached",
        "0 runs",
    ]
    (project_folder / "features").mkdir()
    assert "encoder image: test_efficientnet, cached rows: see p.status()" in repr(p)
    (project_folder / "manifest.parquet").unlink()
    assert "manifest.parquet" in repr(mf.Project(project_folder, progress=False)).splitlines()[1]


def test_the_cached_rows_are_those_of_status(extracted):
    p = mf.Project(extracted.root, progress=False)
    shown = repr(p)
    for one in p.status().encoders:
        assert f"encoder {one.name}: {one.model}, {one.cached} of {p.manifest.n_samples} rows cached" in shown


def test_runs_are_a_list_with_names(own):
    runs = own.runs
    assert runs.names == ["crossattn-1", "fm3-1"]
    assert [run.name for run in runs] == runs.names
    assert len(runs) == 2
    assert all(isinstance(run, mf.Run) for run in runs)
    assert runs[0] == runs["crossattn-1"] == runs[:1][0]
    assert runs[-1].name == "fm3-1"
    assert "fm3-1" in runs
    assert runs[0] in runs
    assert "fm9-1" not in runs
    with pytest.raises(RunError, match=r"no run or encoder .fm9-1.\. There are: crossattn-1, fm3-1, image, text"):
        runs["fm9-1"]
    with pytest.raises(IndexError):
        runs[2]
    metric = runs[0].record["figures"]["val"]["samples_f1"]
    assert repr(runs[0]) == (
        f"Run crossattn-1: crossattn of image, text, samples F1 {metric:.3f} on val when it was made"
    )
    assert repr(runs[1]).startswith("Run fm3-1: ensemble of image, text, crossattn-1, samples F1 ")
    assert own.evaluate(runs[0].name).n_rows == 15


def test_runs_are_a_table(own):
    records = own.runs._table()
    assert [one["run"] for one in records] == own.runs.names
    assert [one["samples F1"] for one in records] == [run.record["figures"]["val"]["samples_f1"] for run in own.runs]
    assert repr(own.runs).splitlines()[0].startswith("2 runs, oldest first")
    assert "<table>" in own.runs._repr_html_()


def test_runs_are_those_of_the_folder_now(own):
    before = own.runs
    own.fuse(head="linear")
    assert own.runs.names == [*before.names, "linear-1"]
    assert before.names == ["crossattn-1", "fm3-1"]
    shutil.rmtree(own.root / "runs")
    assert list(own.runs) == []
    assert "0 runs" in repr(own.runs)


def test_the_table_is_that_of_mmfeat_runs(own):
    found = own.table(metric="map")
    assert isinstance(found, RunsResult)
    assert found.metric == "map"
    pytest.importorskip("pandas")
    frame = found.to_frame()
    assert set(frame["run"]) == {"crossattn-1", "fm3-1", "image", "text"}


def test_results_show_the_interval_of_map_and_the_titles_of_metrics(own):
    line = next(line for line in own.table().runs if line.name == "fm3-1")
    wanted = f"{line.metrics.map_spread:.3f}"
    for result in own.table(metric="map", sort="map-±"), own.evaluate("fm3-1"), own.fuse(head="crossattn"):
        head = next(row for row in str(result).splitlines() if "samples F1" in row)
        assert "mAP ±" in head
    assert wanted in str(own.evaluate("fm3-1"))
    assert "best mAP first" in str(own.table(metric="map"))
    assert "best mAP first" in str(own.sweep_fuse(head="linear", lr=[0.01], seeds=1, metric="map"))
    assert "Made comparisons/heads-1: " in str(own.compare_heads("linear"))
    assert "scored on the other: " in str(own.evaluate(honest=True))


def test_the_former_call_works_with_a_warning(own):
    with pytest.warns(DeprecationWarning, match=r"p\.runs\(\) is p\.table\(\) now"):
        found = own.runs(metric="map")
    assert repr(found) == repr(own.table(metric="map"))
