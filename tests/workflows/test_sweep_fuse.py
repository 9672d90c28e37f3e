"""`mmfeat sweep fuse`: what is trained, kept and said, and that nothing else changes."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.edits import contents
from hypothesis import given
from hypothesis import strategies as st
from mmfeat.cli import group

from mmfeat.common.errors import ConfigError, DataError
from mmfeat.config.schema import MlpConfig
from mmfeat.heads.training.fit_heads import fit_stacks
from mmfeat.project.project import Project
from mmfeat.report.sweep_table import sweep_csv, sweep_table
from mmfeat.runs.sweep import SweptCell, best_first, main_effects
from mmfeat.training import sweep_heads as sweep_module
from mmfeat.training.cell_lists import listed_cells
from mmfeat.training.grid import head_grid
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.sweep_fuse import sweep_fuse

GRID = {"fuse.head": "linear,crossattn", "fuse.lr": "1e-3,3e-3", "fuse.crossattn.hidden": "8,16", "fuse.seeds": "2"}


@pytest.fixture
def folder(own_folder):
    return own_folder


def test_a_sweep_goes_on_where_it_stopped_and_changes_nothing_else(folder, monkeypatch):
    before = contents(folder, ".mmfeat", "sweeps", "projects")

    def interrupted(*arguments, **more):
        yield next(fit_stacks(*arguments, **more))
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_module, "fit_stacks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep_fuse(folder, GRID)
    fitted = []

    def counted(name, data, members, **more):
        fitted.extend(members)
        return fit_stacks(name, data, members, **more)

    monkeypatch.setattr(sweep_module, "fit_stacks", counted)
    result = sweep_fuse(folder, GRID)
    assert result.n_fits == (2 + 4) * 2  # linear has no hidden
    assert 0 < result.n_trained == len(fitted) == result.n_fits - 4  # those of the first pass were kept
    again = sweep_fuse(folder, GRID)
    assert again.n_trained == 0
    assert again.cells == result.cells
    assert again.effects == result.effects
    assert sweep_fuse(folder, {**GRID, "fuse.lr": "1e-3,3e-3,1e-2"}).n_trained == (1 + 2) * 2
    assert contents(folder, ".mmfeat", "sweeps", "projects") == before
    (next((folder / "sweeps" / "fuse").glob("*.json"))).write_text('{"format": 1, "heads": {"x": 3}}')
    assert sweep_fuse(folder, GRID).n_trained > 0  # what is damaged is trained again


def test_a_cell_is_what_fuse_makes_of_its_settings(folder):
    result = sweep_fuse(folder, {**GRID, "fuse.head": "crossattn"})
    best = result.cells[0]
    command = result.after.split()
    assert command[:4] == ["mmfeat", "fuse", "--head", "crossattn"]
    sets = dict(word.split("=") for word in command if "=" in word)
    assert set(sets) == {"fuse.crossattn.lr", "fuse.crossattn.hidden"}
    run = fuse(Project(folder, {"fuse.head": "crossattn", "fuse.seeds": "2", **sets})).run
    seeds = run.record["figures"]["val_seeds"]
    assert best.scores("samples-f1") == pytest.approx([seed["samples_f1"] for seed in seeds])
    assert [head["best_epoch"] for head in best.fits] == run.record["best_epochs"]
    assert sweep_fuse(folder, {**GRID, "fuse.head": "crossattn"}).after == "mmfeat runs"  # the best is made already


def test_a_head_that_diverges_is_a_row_and_not_the_end(folder):
    grid = {
        "fuse.head": "linear",
        "fuse.lr": "10",
        "fuse.weight_decay": "0.01,1e8",
        "fuse.seeds": "1",
        "fuse.clip": "0",
    }
    result = sweep_fuse(folder, grid)
    good, bad = result.cells
    assert not good.error
    assert bad.error.startswith("linear: ")
    assert bad.values["weight_decay"] == 1e8
    assert sweep_fuse(folder, grid).n_trained == 0
    assert "Lower fuse.linear.lr" in str(sweep_table("val", result.cells, "samples-f1"))
    assert sweep_csv(result.cells, "samples-f1").count("\n") == 3
    assert result.effects == []  # nothing to compare with


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fuse.lrr": "1"}, r"option fuse.lrr: no head of crossattn has 'lrr'. Nearest: lr"),
        ({"fuse.head": "linear", "fuse.hidden": "1"}, r"no head of linear has 'hidden'. Known here: lr, "),
        ({"fuse.head": "linear", "fuse.crossattn.hidden": "1"}, r"crossattn is not among the heads linear"),
        ({"fuse.lr": "1e-3,"}, "a value is empty"),
        ({"fuse.lr": "1e-3,x"}, r"fuse.crossattn.lr must be a number, found 'x'"),
        ({"fuse.lr": "1e-3,11"}, r"Use a number from 0 to 10"),
        ({"fuse.head": "linear,lineal"}, r"fuse.head = 'lineal'. Use one of: linear"),
        ({"fuse.dropout": "2"}, r"fuse.crossattn.dropout = 2.0. Use a number from 0 to 0.95"),
        ({"metric": "f1"}, "metric = 'f1'"),
    ],
)
def test_mistakes_are_said_before_any_work(trained, given, message):
    with pytest.raises(ConfigError, match=message):
        head_grid(trained, given)


def test_a_key_that_a_head_lacks_is_swept_for_the_others_and_said(trained):
    grid = head_grid(trained, {"fuse.head": "linear,crossattn,linear", "fuse.hidden": "8,16", "fuse.lr": "1e-3,0.001"})
    assert [(cell.name, cell.values.get("hidden")) for cell in grid.cells] == [
        ("linear", None),
        ("crossattn", 8),
        ("crossattn", 16),
    ]
    assert grid.notes == ["linear has no hidden: it is swept only for crossattn"]
    own = head_grid(trained, {"fuse.head": "linear,crossattn", "fuse.lr": "1e-3,1e-2", "fuse.linear.lr": "0.5"})
    assert [cell.values["lr"] for cell in own.cells] == [0.5, 1e-3, 1e-2]


def test_listed_cells_of_heads_and_the_cells_of_earlier_sweeps(folder):
    cells = listed_cells(["head=linear,lr=1e-3", "head=mlp,hidden=16,lr=1e-3", "head=mlp,hidden=8"])
    fixed = {"fuse.seeds": "1", "fuse.epochs": "2"}
    result = sweep_fuse(folder, fixed, cells=cells)
    values = [(cell.name, cell.values.get("hidden"), cell.values["lr"]) for cell in result.cells]
    assert sorted(values, key=str) == [("linear", None, 1e-3), ("mlp", 16, 1e-3), ("mlp", 8, MlpConfig().lr)]
    assert result.cells[0].by_class("class_f1")
    again = sweep_fuse(folder, {"fuse.head": "mlp,linear", "fuse.seeds": "1"}, earlier=True)
    assert again.n_trained == 0
    assert {cell.fits[0]["figures"]["map"] for cell in again.cells} >= {
        cell.fits[0]["figures"]["map"] for cell in result.cells
    }
    attending = {"fuse.seeds": "1", "fuse.epochs": "1", "fuse.head": "crossattn"}
    sweep_fuse(folder, attending)
    twice = sweep_fuse(folder, attending, earlier=True)  # its query follows from the inputs: it is the same cell
    assert [cell.values for cell in twice.cells].count({"epochs": 1}) == len([*twice.cells]) == 1
    with pytest.raises(ConfigError, match=r"no head of linear has 'hidden'"):
        sweep_fuse(folder, fixed, cells=[{"head": "linear", "hidden": "3"}])


def test_without_val_rows_there_is_nothing_to_compare_on(folder, monkeypatch):
    monkeypatch.setattr("mmfeat.data.manifest.Manifest.rows", lambda self, which: np.zeros(0, int))
    with pytest.raises(DataError, match="no val rows to compare settings on"):
        sweep_fuse(folder, {})


def cell(values, *scores, error=""):
    fits = [
        {
            "figures": dict.fromkeys(("samples_f1", "micro_f1", "macro_f1", "map", "loss"), s),
            "best_epoch": 1,
            "seconds": 1,
        }
        for s in scores
    ]
    return SweptCell(name="linear", values=values, fits=[*fits, *([{"error": error}] if error else [])])


@given(
    st.lists(st.integers(-50, 50), min_size=2, max_size=4, unique=True),
    st.lists(st.integers(-50, 50), min_size=2, max_size=4, unique=True),
)
def test_effects_that_add_up_share_the_variance(a, b):
    cells = [cell({"a": i, "b": j, "c": 0}, x + y, x + y) for i, x in enumerate(a) for j, y in enumerate(b)]
    effects = {effect.key: effect for effect in main_effects(cells, "map")}
    assert set(effects) == {"a", "b"}  # a key of one value explains nothing
    for key, values in (("a", a), ("b", b)):
        assert effects[key].share == pytest.approx(np.var(values) / (np.var(a) + np.var(b)))
        assert effects[key].means[0][0] == int(np.argmax(values))
    lowest = {effect.key: effect for effect in main_effects(cells, "loss")}
    assert lowest["b"].means[-1][1] == pytest.approx(effects["b"].means[0][1])


def test_shares_of_settings_of_one_head_add_up_to_at_most_the_whole():
    cells = [cell({"head": "linear"}, 0.4), *(cell({"head": "mlp", "hidden": n}, f) for n, f in ((8, 0.5), (16, 0.7)))]
    effects = {effect.key: effect.share for effect in main_effects(cells, "map")}
    every = np.array([0.4, 0.5, 0.7])
    total = ((every - every.mean()) ** 2).sum()
    assert effects["hidden"] == pytest.approx(((np.array([0.5, 0.7]) - 0.6) ** 2).sum() / total)
    assert sum(effects.values()) == pytest.approx(1)  # one seed: nothing is left between seeds
    ragged = [
        cell({"a": a, "b": b}, 0.1 * a + 0.2 * b) for a, b in ((0, 0), (0, 1), (1, 1), (1, 2))
    ]  # cells are missing
    assert sum(effect.share for effect in main_effects(ragged, "map")) <= 1 + 1e-9


def test_one_seed_has_no_deviation():
    cells = [cell({"lr": 0.1}, 0.5), cell({"lr": 0.2}, 0.6)]
    assert "±" not in str(sweep_table("15 val rows", cells, "map"))
    assert "± 0.100" in str(sweep_table("15 val rows", [cell({"lr": 0.1}, 0.4, 0.4 + 0.1 * 2**0.5)], "map"))
    assert next(csv.DictReader(io.StringIO(sweep_csv(cells, "map"))))["deviation_of_map"] == ""


def test_the_best_cell_comes_first_and_one_without_figures_last():
    cells = [cell({"a": 1}, error="no"), cell({"a": 2}, 0.3, 0.5), cell({"a": 3}, None), cell({"a": 4}, 0.5)]
    assert [c.values["a"] for c in best_first(cells, "map")][:2] == [4, 2]
    assert [c.values["a"] for c in best_first(cells, "loss")][:2] == [2, 4]
    assert [e.key for e in main_effects(cells, "map")] == ["a"]


def test_the_command_ends_with_what_to_type(folder):
    command = [
        "--project",
        str(folder),
        "sweep",
        "fuse",
        "--head",
        "linear",
        "--lr",
        "1e-3,1e-2",
        "--dropout",
        "0.1,0.3",
    ]
    done = CliRunner().invoke(group, [*command, "--seeds", "1"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "share of variance" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith(
        "Made sweeps/fuse.csv (4 heads, 4 trained now). "
        f"Next: mmfeat --project {folder} fuse --head linear --seeds 1 --set"
    )
    assert (folder / "sweeps" / "fuse.csv").read_text(encoding="utf-8").count("\n") == 5
    assert "Already made" in CliRunner().invoke(group, [*command, "--seeds", "1"]).stdout
