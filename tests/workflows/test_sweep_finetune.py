"""`mmfeat sweep finetune`: what is trained, kept, said and put in use, and that nothing else changes."""

from __future__ import annotations

import csv
import io
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from helpers.edits import contents, invoked

from mmfeat.common.errors import ConfigError, DataError, EncoderError
from mmfeat.encoders.checkpoint import read_checkpoint
from mmfeat.project.project import Project
from mmfeat.report.sweep_table import sweep_csv, sweep_table
from mmfeat.runs.sweep import SweptCell, lowest_loss
from mmfeat.training import sweep_encoders as module
from mmfeat.training.cell_lists import listed_cells
from mmfeat.training.encoder_training import finetune_encoders, resume_file_of
from mmfeat.training.grid import encoder_grid
from mmfeat.training.sweep_encoders import TRAINED
from mmfeat.workflows.finetune import finetune
from mmfeat.workflows.store import find_unreferenced
from mmfeat.workflows.sweep_finetune import sweep_finetune, use_cell

GRID = {"finetune.lr": "1e-4,5e-3", "finetune.text.epochs": "1,1", "finetune.batch_size": "16"}


def kept(folder: Path) -> list[Path]:
    """The checkpoints that a sweep has kept."""
    return sorted((folder / "sweeps").glob("finetune/*/checkpoints/*/checkpoint.json"))


@pytest.fixture(scope="module")
def swept(module_folder) -> tuple[Path, dict[str, bytes]]:
    """A project with a small sweep over two seeds, and its files before that."""
    before = contents(module_folder, "sweeps", "features", "outputs")
    sweep_finetune(module_folder, "text", GRID, seeds=2)
    return module_folder, before


@pytest.fixture
def folder(swept, tmp_path) -> Path:
    """A copy of it."""
    shutil.copytree(swept[0], tmp_path / "project")
    return tmp_path / "project"


def test_nothing_else_changes_and_typed_again_nothing_is_trained(swept, monkeypatch):
    folder, before = swept
    assert contents(folder, "sweeps", "features", "outputs") == before
    table = (folder / "sweeps" / "finetune-text.csv").read_bytes()
    monkeypatch.setattr(module, "finetune_encoders", None)
    again = sweep_finetune(folder, "text", GRID, seeds=2)
    assert (again.n_fits, again.n_trained, len(again.cells)) == (4, 0, 2)
    assert (folder / "sweeps" / "finetune-text.csv").read_bytes() == table
    assert contents(folder, "sweeps", "features", "outputs") == before
    values = [cell.mean("samples_f1") for cell in again.cells]
    assert values == sorted(values, reverse=True)
    assert 1 <= len(kept(folder)) <= 2
    assert again.kept_mb == pytest.approx(
        sum(p.stat().st_size for p in folder.glob("sweeps/finetune/*/checkpoints/**/*") if p.is_file()) / 1e6
    )
    assert not list(folder.glob("sweeps/finetune/*/scratch"))


def test_a_sweep_goes_on_where_it_stopped_and_trains_only_what_is_new(folder, monkeypatch):
    shutil.rmtree(folder / "sweeps")
    calls = []

    def interrupted(project, names):
        calls.append(resume_file_of(project, names[0]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return finetune_encoders(project, names)

    monkeypatch.setattr(module, "finetune_encoders", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep_finetune(folder, "text", GRID)
    result = sweep_finetune(folder, "text", GRID)
    assert result.n_trained == 1
    assert calls[2] == calls[1] != calls[0]  # the state of the one that was interrupted lies where it is looked for
    assert folder / "sweeps" in calls[0].parents
    assert sweep_finetune(folder, "text", {**GRID, "finetune.lr": "1e-4,5e-3,1e-2"}).n_trained == 1
    one = next((folder / "sweeps" / "finetune").glob("*.json"))
    one.write_text(one.read_text().replace('"figures"', '"shapes"'))
    assert sweep_finetune(folder, "text", {**GRID, "finetune.lr": "1e-4,5e-3,1e-2"}).n_trained == 1  # damaged


def test_the_best_in_use_is_what_finetune_makes_of_the_settings(folder):
    result = sweep_finetune(folder, "text", GRID, seeds=2)
    used, lines = use_cell(result, "best")
    assert (used.made, used.lines) == ("Made checkpoints/text-2", [])
    settings = tomllib.loads("\n".join(lines))["finetune"]["text"]
    assert settings == result.cells[0].values
    own = {f"finetune.text.{key}": value for key, value in settings.items()}
    made = finetune(Project(folder, own), ["text"]).encoders[0]
    assert (made.made, made.checkpoint.name) == (False, "text-2")
    figures = result.cells[0].fits[0]["figures"]
    assert made.metrics.scores.samples_f1 == pytest.approx(figures["samples_f1"])
    assert made.metrics.scores.loss == pytest.approx(figures["loss"])
    assert use_cell(result, "1")[0].made == "Already made: checkpoints/text-2"


def test_in_sample_figures_are_of_rows_that_were_trained_on(folder, monkeypatch):
    monkeypatch.setattr("mmfeat.training.in_sample.IN_SAMPLE", 7)
    shutil.rmtree(folder / "sweeps")
    result = sweep_finetune(folder, "text", {"finetune.lr": "2e-3"})
    (record,) = result.cells[0].fits
    assert record["n_train_scored"] == 7
    monkeypatch.setattr("mmfeat.training.in_sample.IN_SAMPLE", 10**6)
    shutil.rmtree(folder / "sweeps")
    (record,) = sweep_finetune(folder, "text", {"finetune.lr": "2e-3"}).cells[0].fits
    project = Project(folder)
    train = project.manifest.rows("train")
    assert record["n_train_scored"] == len(train)
    checkpoint = read_checkpoint(kept(folder)[0].parent)
    assert checkpoint.learned().among(project.manifest.ids[train])[0].all()
    assert record["train_loss"] > 0
    assert 0 <= record["train_samples_f1"] <= 1


def test_a_cell_that_fails_is_a_line_with_the_reason_and_is_not_tried_again(folder, monkeypatch):
    def fails(project, names):
        if project.config.finetune_of("text").lr == 7.0:
            raise EncoderError("encoder.text: the loss is nan. Set a lower lr")
        return finetune_encoders(project, names)

    monkeypatch.setattr(module, "finetune_encoders", fails)
    grid = {**GRID, "finetune.lr": "7,5e-3"}
    result = sweep_finetune(folder, "text", grid)
    assert [cell.error for cell in result.cells] == ["", "encoder.text: the loss is nan"]
    monkeypatch.setattr(module, "finetune_encoders", None)
    assert sweep_finetune(folder, "text", grid).cells == result.cells
    with pytest.raises(ConfigError, match="the loss is nan"):
        use_cell(result, "2")
    text = str(sweep_table("15 val rows", result.cells, result.metric, in_sample=True)).splitlines()
    assert text[2].endswith("encoder.text: the loss is nan")
    assert text[1].endswith("lowest loss")


def test_only_the_best_and_the_lowest_loss_are_kept(folder, swept):
    result = sweep_finetune(folder, "text", {**GRID, "finetune.lr": "1e-5,1e-4,1e-3,5e-3"})
    lowest = result.cells.index(lowest_loss(result.cells))
    assert len(kept(folder)) == len({0, lowest})
    others = [number for number in range(1, 5) if number - 1 not in (0, lowest)]
    with pytest.raises(ConfigError, match=r"Run: mmfeat finetune text --set finetune.text.lr="):
        use_cell(result, str(others[0]))
    for wrong in ("0", "5", "first"):
        with pytest.raises(ConfigError, match=r"Use best, or a number from 1 to 4"):
            use_cell(result, wrong)
    key = read_checkpoint(kept(folder)[0].parent).encoder_key
    garbage = [one.name for one in find_unreferenced(Project(folder), (str(swept[0]),)).garbage]
    assert not [name for name in garbage if key[:12] in name]


def test_what_cannot_be_swept(folder, monkeypatch):
    for overrides, message in (
        ({"finetune.lrs": "1"}, "no key of .finetune.text.*Nearest: lr"),
        ({"finetune.image.lr": "1"}, "the sweep fine-tunes text"),
        ({"finetune.lr": "1e-3,"}, "a value is empty"),
        ({"finetune.optimizer": "adam,sgdx"}, "Use one of: adam, adamw"),
    ):
        with pytest.raises(ConfigError, match=message):
            sweep_finetune(folder, "text", overrides)
    with pytest.raises(ConfigError, match="no encoder 'sound'"):
        sweep_finetune(folder, "sound", {})
    manifest = Project(folder).manifest
    monkeypatch.setattr(Project, "manifest", property(lambda self: manifest))
    monkeypatch.setattr(manifest.__class__, "rows", lambda self, which: np.zeros(0, int))
    with pytest.raises(DataError, match="no val rows"):
        sweep_finetune(folder, "text", GRID)


def test_cells_of_a_grid(folder):
    grid = encoder_grid(folder, "text", {**GRID, "finetune.recipe": "paper,best", "finetune.lr": "1e-4,0.0001"})
    assert [cell.values["recipe"] for cell in grid.cells] == ["paper", "best"]  # what is the same is one cell
    assert grid.cells[0].settings(grid.fixed)[:2] == ["[finetune]", 'recipe = "paper"']
    typed = encoder_grid(folder, "text", {"metric": "loss", "finetune.lr": "1e-4"})
    assert grid.project.config.metric == "samples-f1"
    assert typed.cells[0].settings(typed.fixed) == ['metric = "loss"', "[finetune.text]", "lr = 0.0001"]


LISTED = listed_cells(["lr=1e-4,batch_size=8", {"lr": 5e-3, "optimizer": "adam"}])


def test_listed_cells_are_no_product_and_all_have_the_values_of_all_keys(folder):
    grid = encoder_grid(folder, "text", {"finetune.epochs": "1"}, LISTED)
    assert [cell.values for cell in grid.cells] == [
        {"epochs": 1, "lr": 1e-4, "batch_size": 8, "optimizer": "adamw"},
        {"epochs": 1, "lr": 5e-3, "batch_size": 16, "optimizer": "adam"},
    ]
    assert grid.cells[1].words() == [
        *("--set", "finetune.text.epochs=1"),
        *("--set", "finetune.text.lr=0.005"),
        *("--set", "finetune.text.optimizer=adam"),
    ]
    assert grid.cells[0].settings(grid.fixed) == ["[finetune.text]", "epochs = 1", "lr = 0.0001", "batch_size = 8"]
    both = encoder_grid(folder, "text", {"finetune.epochs": "1,2"}, LISTED)
    assert [(cell.values["epochs"], cell.values["lr"]) for cell in both.cells] == [
        (1, 1e-4),
        (2, 1e-4),
        (1, 5e-3),
        (2, 5e-3),
    ]


def test_a_list_of_cells_from_a_file_and_its_mistakes(tmp_path, folder):
    file = tmp_path / "cells.toml"
    file.write_text('[[cell]]\nlr = 5e-4\noptimizer = "adam"\naugment = false\n[[cell]]\nbatch_size = 60\n')
    found = listed_cells([], file)
    assert found == [{"lr": "0.0005", "optimizer": "adam", "augment": "false"}, {"batch_size": "60"}]
    for text, message in {
        "lr = 1": r"write a table \[\[cell\]\] for each cell",
        "[[cell]]": r"\[\[cell\]\] number 1: no key",
        "[[cell]]\nlr = [1, 2]": "lr has no single value",
        "[[cell]": "cannot be read",
    }.items():
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            listed_cells([], file)
    for text in ("lr", "lr=", "lr=1,lr=2", "", "=3"):
        with pytest.raises(ConfigError, match="write each key once, with its value"):
            listed_cells([text])
    with pytest.raises(ConfigError, match=r"finetune.text.lr is in a cell and in an option"):
        encoder_grid(folder, "text", {"finetune.lr": "1"}, [{"lr": "2"}])
    with pytest.raises(ConfigError, match=r"no key of \[finetune.text\].*Nearest: lr"):
        encoder_grid(folder, "text", {}, [{"lrr": "2"}])


def test_adamw_without_decay_would_be_adam_and_has_its_own(folder):
    swept = {"finetune.recipe": "paper", "finetune.optimizer": "adam,adamw"}
    grid = encoder_grid(folder, "text", swept)
    decays = [(cell.values["optimizer"], cell.values["weight_decay"]) for cell in grid.cells]
    assert decays == [("adam", 0.0), ("adamw", 0.01)]
    assert grid.notes == []
    for cell in grid.cells:  # what is shown is what is trained
        assert cell.project.config.finetune_of("text").weight_decay == cell.values["weight_decay"]
    same = encoder_grid(folder, "text", {**swept, "finetune.weight_decay": "0"})
    assert [cell.values["weight_decay"] for cell in same.cells] == [0.0, 0.0]
    assert "adam and adamw are the same optimizer" in same.notes[0]
    best = encoder_grid(folder, "text", {"finetune.recipe": "best", "finetune.optimizer": "adam,adamw"})
    assert [cell.project.config.finetune_of("text").weight_decay for cell in best.cells] == [0.05, 0.05]


def test_one_table_has_the_cells_of_earlier_sweeps(folder, monkeypatch):
    first = sweep_finetune(folder, "text", GRID, seeds=2)
    more = sweep_finetune(folder, "text", {}, cells=LISTED[1:], earlier=True)
    assert (more.n_trained, len(more.cells)) == (1, 3)
    assert {cell.values["lr"] for cell in more.cells} == {1e-4, 5e-3}
    assert all(set(cell.values) == {"lr", "epochs", "optimizer"} for cell in more.cells)
    monkeypatch.setattr(module, "finetune_encoders", None)
    alone = sweep_finetune(folder, "text", {}, earlier=True)
    assert (alone.n_trained, len(alone.cells)) == (0, 3)
    rows = list(csv.DictReader((folder / "sweeps" / "finetune-text.csv").open(encoding="utf-8")))
    assert len(rows) == 3
    assert rows[0]["train_macro_f1"]
    both = sweep_finetune(folder, "text", GRID, seeds=2, earlier=True)  # the third has one seed
    assert [cell.scores("map") for cell in both.cells] == [cell.scores("map") for cell in first.cells]
    with pytest.raises(ConfigError, match="--earlier: no fit of an earlier sweep is kept for these rows"):
        sweep_finetune(folder, "text", {"seed": "5"}, earlier=True)


def test_every_cell_keeps_f1_and_accuracy_by_class(swept):
    folder, _ = swept
    classes = Project(folder).manifest.classes
    for cell in sweep_finetune(folder, "text", GRID, seeds=2).cells:
        for name in ("class_f1", "class_accuracy"):
            assert set(cell.by_class(name)) == set(classes)
        known = [value for value in cell.by_class("class_accuracy").values() if np.isfinite(value)]
        assert all(0 <= value <= 1 for value in known)
        assert cell.fits[0]["class_f1"] != {}


def test_a_cell_of_one_fit_has_intervals_over_rows(swept):
    folder, _ = swept
    for cell in sweep_finetune(folder, "text", GRID, seeds=1).cells:
        for name in ("samples_f1", "macro_f1", "loss"):
            low, high = cell.interval(name)
            assert low < cell.mean(name) < high
    assert all(cell.interval("loss") is None for cell in sweep_finetune(folder, "text", GRID, seeds=2).cells)


def test_tables_have_every_cell():
    def fit(f1: float, loss: float) -> dict:
        figures = {"samples_f1": f1, "micro_f1": f1, "macro_f1": f1, "map": f1, "loss": loss}
        return {"figures": figures, "best_epoch": 2, "seconds": 3.0, "train_samples_f1": 0.99, "train_loss": 0.01}

    cells = [
        SweptCell(name="text", values={"lr": 1e-3}, fits=[fit(0.8, 0.3), fit(0.9, 0.4)]),
        SweptCell(name="text", values={"lr": 1e-4}, fits=[fit(0.7, 0.2), fit(0.7, 0.2)]),
        SweptCell(name="text", values={"lr": 10.0}, fits=[{"error": "nan"}, fit(0.9, 0.1)]),
    ]
    assert lowest_loss(cells) is cells[1]
    assert lowest_loss(cells[2:]) is None
    lines = str(sweep_table("9 val rows", cells, "samples-f1", in_sample=True)).splitlines()
    assert "0.850 ± 0.071" in lines[1]
    assert "in-sample samples F1" in lines[0]
    assert [line.endswith("lowest loss") for line in lines[1:]] == [False, True, False]
    rows = list(csv.DictReader(io.StringIO(sweep_csv(cells, "samples-f1", title="encoder", numbers=TRAINED))))
    assert [row["encoder"] for row in rows] == ["text"] * 3
    assert float(rows[0]["train_samples_f1"]) == 0.99
    assert (rows[2]["train_loss"], rows[2]["error"]) == ("", "nan")


def test_the_command(folder):
    command = ["sweep", "finetune", "text", "--lr", "1e-4,5e-3", "--epochs", "1"]
    command += ["--batch-size", "16", "--seeds", "2"]
    done = invoked(folder, *command)
    assert "Already made: sweeps/finetune-text.csv (4 fits, 0 trained now" in done.output
    assert "lowest loss" in done.output
    used = invoked(folder, *command, "--use", "best")
    assert f"Made checkpoints/text-2. Next: mmfeat --project {folder} extract" in used.output
    assert "--use best" not in invoked(folder, *command).output.splitlines()[-1]  # it is in use
