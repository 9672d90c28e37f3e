"""Names and notes of runs: whatever refers to a run still holds when it is renamed, and nothing is lost by deleting."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from helpers.command_line import run_cli

from mmfeat.common.errors import RunError
from mmfeat.inference.logits import logits_of
from mmfeat.inference.run_ranking import ranked_runs
from mmfeat.project.named_models import find_run
from mmfeat.project.project import Project
from mmfeat.project.staleness import remake_command, state_of
from mmfeat.runs import run_names
from mmfeat.runs.run import all_runs, read_run
from mmfeat.runs.run_names import Naming, delete_run, dependants, note_run, rename_run
from mmfeat.workflows.ensemble import ensemble
from mmfeat.workflows.evaluate import evaluate
from mmfeat.workflows.export import export
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.predict import predict
from mmfeat.workflows.selftrain import selftrain


def renamed(project, old: str, new: str) -> Project:
    rename_run(project.runs_folder, old, new, project.config.encoder)
    return Project(project.root)


def val_logits(project, name: str) -> list:
    return logits_of(project, name, project.manifest.rows("val")).logits.tolist()


def test_ensembles_of_a_renamed_run_hold(own, tmp_path):
    rows = own.manifest.rows("val")
    mean = ensemble(own, ["image", "crossattn-1"]).run
    fitted = ensemble(own, ["image", "crossattn-1"], "weighted").run
    above = ensemble(own, [mean.name, "text"]).run
    names = ["fm3-1", mean.name, fitted.name, above.name]
    export(own, above.name, tmp_path / "model")
    before = [val_logits(own, name) for name in names]
    project = renamed(own, "crossattn-1", "baseline")
    assert not (project.runs_folder / "crossattn-1").exists()
    assert {line.name: line.state for line in ranked_runs(project)} == dict.fromkeys(
        ["baseline", *names, "image", "text"], "current"
    )
    assert [val_logits(project, name) for name in names] == before
    assert next(line.made_from for line in ranked_runs(project) if line.name == "fm3-1") == "image+text+baseline"
    for name, command in (
        ("fm3-1", "mmfeat ensemble fm3"),
        (mean.name, "mmfeat ensemble image baseline"),
        (fitted.name, "mmfeat ensemble --method weighted image baseline"),
    ):
        assert remake_command(project, find_run(project, name)) == command
        made = ensemble(project, *_typed(command))
        assert (made.made, made.run.name) == (False, name)
    assert list(evaluate(project, ["baseline", *names]).metrics) == ["baseline", *names]
    project = renamed(project, mean.name, "both")
    assert not export(project, above.name, tmp_path / "model").made
    assert ensemble(project, ["both", "text"]).run.name == above.name
    project = renamed(project, above.name, "best")
    assert not export(project, "best", tmp_path / "model").made
    assert export(project, "best", tmp_path / "new").made
    assert json.loads((tmp_path / "new" / "mmfeat.json").read_text())["run"]["name"] == "best"
    assert len(rows)


def _typed(command: str) -> tuple[list[str], str]:
    words = command.split()[2:]
    return (words[2:], words[1]) if words[0] == "--method" else (words, "mean")


def test_a_renamed_run_is_the_same_run(own, short_rounds):
    made = selftrain(own).run
    before = [val_logits(own, made.name), find_run(own, made.name).record["rounds"]]
    renamed(own, "crossattn-1", "baseline")
    project = renamed(own, made.name, "rounds")
    assert [val_logits(project, "rounds"), find_run(project, "rounds").record["rounds"]] == before
    again = selftrain(project)
    assert (again.made, again.run.name, again.supervised) == (False, "rounds", "baseline")
    again = fuse(project, "crossattn")
    assert (again.made, again.run.name, again.after) == (False, "baseline", "mmfeat runs")
    assert predict(project, "baseline").run == "baseline"
    assert find_run(project, "baseline").former_names == ["crossattn-1"]
    with pytest.raises(RunError, match="no run 'crossattn-1': it was renamed to 'baseline'"):
        find_run(project, "crossattn-1")
    assert read_run(project.runs_folder / "baseline").damage() == ""
    assert renamed(project, "baseline", "crossattn-1").runs_folder.joinpath("crossattn-1").is_dir()  # and back


def test_a_number_is_not_used_again(own):
    project = renamed(own, "crossattn-1", "baseline").derived(settings={"fuse.seeds": 1})
    assert fuse(project, "crossattn").run.name == "crossattn-2"
    assert state_of(project, find_run(project, "fm3-1")) == "current"


def test_a_new_run_gets_its_name_and_note(own):
    project = own.derived(settings={"fuse.linear.epochs": 2})
    made = fuse(project, "linear", naming=Naming(name="quick", note="two epochs"))
    assert (made.run.name, made.run.note, made.made) == ("quick", "two epochs", True)
    assert (project.runs_folder / "quick" / "run.json").is_file()
    again = fuse(project, "linear", naming=Naming(name="quick", note="two epochs"))
    assert (again.made, "--rename" in again.after) == (False, False)
    other = fuse(project, "linear", naming=Naming(name="other"))
    assert (other.run.name, other.after) == ("quick", "mmfeat runs --rename quick other")
    noted = fuse(project, "linear", naming=Naming(note="it's new"))
    assert noted.after == """mmfeat runs --note quick 'it'"'"'s new'"""
    ensemble(project, ["image", "quick"], naming=Naming(name="both"))
    assert remake_command(project, find_run(project, "both")) == "mmfeat ensemble image quick"
    fm = ensemble(project, ["fm1"], naming=Naming(name="fm2-best"))
    assert remake_command(project, fm.run) == "mmfeat ensemble fm1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "cannot be a run's name"),
        ("../x", "cannot be a run's name"),
        ("a.b", "cannot be a run's name"),
        ("1st", "cannot be a run's name"),
        ("a" * 61, "cannot be a run's name"),
        ("image", "is the name of an encoder"),
        ("FM1", "is the name of a recipe"),
        ("fm3-1", "runs/fm3-1 exists"),
        ("FM3-1", "runs/fm3-1 exists"),
    ],
)
def test_names_that_cannot_be_used(own, name, message):
    with pytest.raises(RunError, match=message):
        renamed(own, "crossattn-1", name)
    if name:
        with pytest.raises(RunError, match=message):
            fuse(own, "linear", naming=Naming(name=name))
    assert [run.name for run in all_runs(own.runs_folder)] == ["crossattn-1", "fm3-1"]


def test_a_former_name_stays_with_its_run(own):
    project = renamed(own, "crossattn-1", "baseline")
    with pytest.raises(RunError, match="crossattn-1 was the name of the run baseline"):
        fuse(project, "linear", naming=Naming(name="crossattn-1"))


def test_deleting_refuses_where_a_run_is_a_member(own):
    ensemble(own, ["image", "crossattn-1"], naming=Naming(name="both"))
    project = renamed(own, "crossattn-1", "baseline")
    assert dependants(project.runs_folder, "baseline") == ["fm3-1", "both"]
    with pytest.raises(RunError, match=r"baseline is a member of 2 runs: fm3-1, both\. Delete them first"):
        delete_run(project.runs_folder, "baseline")
    for name in ("both", "fm3-1", "baseline"):
        delete_run(project.runs_folder, name)
    assert list(project.runs_folder.iterdir()) == []
    for name in ("baseline", "..", "", ".", "x/../fm3-1"):
        with pytest.raises(RunError, match="no run"):
            delete_run(project.runs_folder, name)
    assert project.root.is_dir()


def test_a_damaged_run_can_be_deleted(own):
    (own.runs_folder / "fm3-1" / "run.json").write_text("{")
    delete_run(own.runs_folder, "fm3-1")
    assert [path.name for path in own.runs_folder.iterdir()] == ["crossattn-1"]


def test_an_interrupted_change_leaves_the_run_as_it_was_or_as_it_will_be(own, monkeypatch):
    def interrupted(*arguments, **more):
        raise KeyboardInterrupt

    for change in (
        lambda: rename_run(own.runs_folder, "crossattn-1", "baseline", []),
        lambda: delete_run(own.runs_folder, "fm3-1"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(run_names.os, "rename", interrupted)
            with pytest.raises(KeyboardInterrupt):
                change()
        assert {line.name: line.state for line in ranked_runs(Project(own.root)) if line.run} == dict.fromkeys(
            ["crossattn-1", "fm3-1"], "current"
        )
    with monkeypatch.context() as patched:
        patched.setattr(run_names.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            delete_run(own.runs_folder, "fm3-1")
    assert [run.name for run in all_runs(own.runs_folder)] == ["crossattn-1"]
    rename_run(own.runs_folder, "crossattn-1", "baseline", [])
    assert read_run(own.runs_folder / "baseline").former_names == ["crossattn-1"]
    assert rename_run(own.runs_folder, "crossattn-1", "baseline", []).name == "baseline"  # typed again


def test_a_member_that_is_deleted_meanwhile_leaves_no_ensemble_behind(own, monkeypatch):
    from mmfeat.training import ensemble_runs

    fuse(own, "linear")
    save = ensemble_runs.save_run

    def late(*arguments, **more):
        delete_run(own.runs_folder, "linear-1")
        return save(*arguments, **more)

    monkeypatch.setattr(ensemble_runs, "save_run", late)
    with pytest.raises(RunError, match=r"the member linear-1 was deleted meanwhile\. Nothing was made"):
        ensemble(own, ["image", "linear-1"])
    assert [run.name for run in all_runs(own.runs_folder)] == ["crossattn-1", "fm3-1"]


def test_a_name_that_is_taken_meanwhile(own, monkeypatch):
    from mmfeat.training import head_runs

    save = head_runs.save_run

    def late(*arguments, **more):
        shutil.copytree(own.runs_folder / "fm3-1", own.runs_folder / "quick")
        return save(*arguments, **more)

    monkeypatch.setattr(head_runs, "save_run", late)
    with pytest.raises(RunError, match="runs/quick was made meanwhile by another command"):
        fuse(own, "linear", naming=Naming(name="quick"))


def test_notes(own):
    assert note_run(own.runs_folder, "crossattn-1", "with 2 seeds: é").note == "with 2 seeds: é"
    assert read_run(own.runs_folder / "crossattn-1").damage() == ""
    for note in ("two\nlines", "a" * 501):
        with pytest.raises(RunError, match=r"the note .* cannot be kept"):
            note_run(own.runs_folder, "crossattn-1", note)
    assert note_run(own.runs_folder, "crossattn-1", "").note == ""
    assert state_of(own, find_run(own, "crossattn-1")) == "current"


def test_the_commands(own):
    folder = own.root
    assert (
        "Renamed runs/crossattn-1 to runs/baseline."
        in run_cli("runs", "--rename", "crossattn-1", "baseline", cwd=folder).stdout
    )
    run_cli("runs", "--note", "baseline", "the first", cwd=folder)
    assert "current; the first" in run_cli("runs", cwd=folder).stdout
    failed = run_cli("runs", "--delete", "baseline", cwd=folder, check=False)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == "Error: baseline is a member of 1 run: fm3-1. Delete it first: mmfeat runs --delete fm3-1\n"
    run_cli("runs", "--delete", "fm3-1", cwd=folder)
    by_map = run_cli("runs", "--sort", "mAP", "--json", cwd=folder)
    table = json.loads(by_map.stdout)["tables"][0]
    at = [column["name"] for column in table["columns"]].index("mAP")
    values = [row[at] for row in table["rows"]]
    assert values == sorted(values, reverse=True)
    by_size = json.loads(run_cli("runs", "--sort", "mb", "--json", cwd=folder).stdout)["tables"][0]
    sizes = [row[[column["name"] for column in by_size["columns"]].index("MB")] for row in by_size["rows"]]
    assert sizes == sorted(sizes)
    assert os.listdir(folder / "runs") == ["baseline"]
