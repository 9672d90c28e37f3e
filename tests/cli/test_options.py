"""No option is ignored: for each option of each command where it acts, and where it is a usage error."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import click
import pytest
from click.testing import CliRunner
from helpers.command_line import leaves
from mmfeat.cli import group
from mmfeat.cli.options import choices_text

TOML = """\
schema = 1
[data]
source = "s.csv"
[selftrain]
policy = "soft"
"""


@dataclass(frozen=True)
class Opt:
    """One option.

    Attributes
    ----------
    value : str or None
        What is typed for it; None for a flag.
    acts : list of list of str
        What else is typed where it acts; as the command is typed, where empty.
    refused : list
        What else is typed where it is a usage error.
    elsewhere : dict of str to list
        Other values of it that are usage errors, with what else is typed.
    reached : str
        The function whose call shows the effect, where that is not the command's own.
    by : str
        The test that shows the effect, where no call does.
    """

    value: str | None = None
    acts: list[list[str]] = field(default_factory=lambda: [[]])
    refused: list[list[str]] = field(default_factory=list)
    elsewhere: dict[str, list[str]] = field(default_factory=dict)
    reached: str = ""
    by: str = ""


@dataclass(frozen=True)
class Spec:
    """A command: what is typed beside the option, what it calls, and its options."""

    base: list[str]
    reached: list[str]
    options: dict[str, Opt]


METRIC, SEED, DEVICE = Opt("map"), Opt("3"), Opt("cpu")
TOP = {"--metric": METRIC, "--seed": SEED, "--device": DEVICE}
SCORED = {"--metric": METRIC, "--device": DEVICE}
OVERWRITE = {"--overwrite": Opt()}
LISTED = {"--cell": Opt("lr=0.1"), "--cells": Opt("cells.toml"), "--earlier": Opt()}  # of a sweep
DECISION = {"--threshold": Opt("0.3"), "--empty": Opt("none"), "--calibration": Opt("temperature")}
# what is fitted is fitted for the metric, and nothing is where the threshold is a number
SHIPPED = {**DECISION, "--metric": Opt("map", acts=[["--threshold", "tuned"]], refused=[[]]), "--device": DEVICE}
ROWS, TABLE, PICTURES, CAPTIONED = [], ["new.csv"], ["photos/"], ["photos/", "--captions", "c.csv"]
ONE, MODEL = ["a.jpg"], ["--model", "m"]
GROUPS, PROJECT = ["--apply", "groups"], ["--project"]
APPLY, UNDO, REVIEWED, SERVE = ["--apply", "f.csv"], ["--undo"], ["crossattn-1"], ["--serve"]


def written(value: str, **more) -> Opt:
    """An option of `review` that acts when a review is written or served."""
    return Opt(value, acts=[[], SERVE], refused=[APPLY, UNDO], **more)


def audited(value: str, **more) -> Opt:
    """An option of `audit` that acts when the data are looked at."""
    return Opt(value, refused=[GROUPS], **more)


def listed(value: str, **more) -> Opt:
    """An option of `runs` that acts on the list."""
    return Opt(value, refused=[["--delete", "x"], ["--rename", "x", "y"]], **more)


NAMING = {"--name": Opt("baseline"), "--note": Opt("a note")}
COMMANDS = {
    "init": Spec(
        ["s.csv"],
        ["init.init"],
        {
            name: Opt("x")
            for name in ("--images", "--id", "--image", "--caption", "--labels", "--group", "--separator", "--classes")
        }
        | {f"--{name}-ids": Opt("x.txt") for name in ("train", "val", "test")}
        | {f"--{name}": Opt("x") for name in ("image-encoder", "image-weights", "text-encoder", "text-weights")}
        | {"--split-column": Opt("x"), "--val-fold": Opt("1"), "--test-fold": Opt("2")}
        | {"--absent": Opt("unknown"), "--val": Opt("0.2"), "--test": Opt("0.2"), "--seed": Opt("3"), **OVERWRITE}
        | {"--preset": Opt("paper")},
    ),
    "encoders list": Spec([], ["encoders.encoders", "encoders.models"], {}),
    "encoders add": Spec(
        ["extra"],
        ["add_encoder.add_encoder"],
        {
            "--model": Opt("resnet18"),
            "--modality": Opt("image", acts=[["--model", "resnet18"]]),
            "--weights": Opt("w.pth", acts=[["--model", "resnet18"]]),
            "--input": Opt(acts=[["--model", "resnet18"]]),
        },
    ),
    "finetune": Spec(
        [],
        ["finetune.finetune", "finetune.plan_finetune"],
        {
            "--freeze": Opt(refused=[["--devices", "cpu:2"]]),
            "--devices": Opt("cpu:2", refused=[["--freeze"], ["--dry-run"], ["--device", "cpu"]]),
            "--dry-run": Opt(refused=[["--devices", "cpu:2"]]),
            "--recipe": Opt("paper", refused=[["--freeze"]]),
            "--synonyms": Opt("s.txt", refused=[["--freeze"], ["image"]]),
            **TOP,
            "--device": dataclasses.replace(DEVICE, refused=[["--devices", "cpu:2"]]),
            "--set": Opt(
                "finetune.image.epochs=2", refused=[["--freeze"], ["text"]], elsewhere={"fuse.head=linear": []}
            ),
        },
    ),
    "extract": Spec(
        [],
        ["extract.extract", "extract.plan_extract"],
        {
            "--shard": Opt("1/2", acts=[[], ["--dry-run"]]),
            "--devices": Opt("cpu:2", refused=[["--dry-run"], ["--tune"], ["--device", "cpu"]]),
            "--on-error": Opt("stop", refused=[["--dry-run"]]),
            "--tune": Opt(refused=[["--dry-run"], ["--devices", "cpu:2"]]),
            "--dry-run": Opt(),
            "--rehash": Opt(acts=[[], ["--dry-run"]]),
            "--engine": Opt("torch", acts=[[], ["--dry-run"]]),
            "--device": dataclasses.replace(DEVICE, refused=[["--devices", "cpu:2"]]),
        },
    ),
    "status": Spec(
        [],
        ["status.status"],
        {
            "--config": Opt(),
            "--rehash": Opt(refused=[["--config"]]),
            "--store": Opt(refused=[["--config"]], by="test_status_shows_the_store_where_it_is_asked_for"),
            "--metric": Opt("map", acts=[["--config"]], refused=[[]]),
            "--seed": Opt("3", acts=[["--config"]], refused=[[]]),
            "--device": Opt("cpu", acts=[["--config"]], refused=[[]]),
            "--set": Opt("fuse.seeds=7", acts=[["--config"]], refused=[[]]),
        },
    ),
    "fuse": Spec(
        [],
        ["fuse.fuse"],
        {
            "--head": Opt("linear"),
            "--inputs": Opt("image"),
            "--seeds": Opt("1"),
            "--folds": Opt("2"),
            "--from": Opt("crossattn-1"),
            "--threshold": Opt("tuned"),
            **TOP,
            **NAMING,
            "--set": Opt(
                "fuse.crossattn.lr=0.1",
                refused=[["--head", "mlp"]],
                elsewhere={"selftrain.rounds=2": [], "fuse.head=mlp": ["--head", "linear"]},
            ),
        },
    ),
    "sweep fuse": Spec(
        [],
        ["sweep_fuse.sweep_fuse"],
        {
            "--head": Opt("linear,mlp"),
            "--lr": Opt("0.1,0.2"),
            "--dropout": Opt("0.1"),
            "--inputs": Opt("image"),
            "--seeds": Opt("1"),
            "--threshold": Opt("tuned"),
            **TOP,
            **LISTED,
            **OVERWRITE,
            "--set": Opt("fuse.mlp.hidden=3,4", elsewhere={"fuse.folds=2": [], "selftrain.rounds=2": []}),
        },
    ),
    "sweep finetune": Spec(
        ["text"],
        ["sweep_finetune.sweep_finetune"],
        {
            "--seeds": Opt("2"),
            "--use": Opt("best", by="test_a_cell_or_an_encoder_is_put_in_use_where_it_is_asked_for"),
            "--lr": Opt("0.1,0.2"),
            "--batch-size": Opt("2,3"),
            "--optimizer": Opt("adam"),
            "--epochs": Opt("2"),
            "--threshold": Opt("tuned"),
            **TOP,
            **LISTED,
            **OVERWRITE,
            "--set": Opt("finetune.clip=2", elsewhere={"fuse.head=linear": [], "selftrain.rounds=2": []}),
        },
    ),
    "ensemble": Spec(
        ["image", "text"],
        ["ensemble.ensemble"],
        {
            "--method": Opt("weighted"),
            "--threshold": Opt("tuned"),
            **SCORED,
            **NAMING,
            "--set": Opt("predict.threshold=0.3", elsewhere={"fuse.head=linear": [], "seed=3": []}),
        },
    ),
    "selftrain": Spec(
        [],
        ["selftrain.plan_selftrain"],
        {
            "--rounds": Opt("1"),
            "--encoder-every": Opt("1"),
            "--policy": Opt("all"),
            "--teacher": Opt("fm3", acts=[["--policy", "paper"]], refused=[[]]),
            **NAMING,
            "--head": Opt("linear"),
            "--inputs": Opt("image"),
            "--seeds": Opt("1"),
            "--threshold": Opt("tuned"),
            **TOP,
            "--set": Opt(
                "selftrain.yes=0.9",
                acts=[["--policy", "confident"]],
                refused=[[]],
                elsewhere={"fuse.folds=3": [], "fuse.mlp.lr=1": []},
            ),
            "--yes": Opt(
                acts=[["--encoder-every", "1"]], refused=[[]], by="test_encoder_rounds_are_asked_for_without_yes"
            ),
        },
    ),
    "audit": Spec(
        [],
        ["audit.audit", "apply_groups.apply_groups"],
        {
            "--fail-on": audited("leakage,label"),
            "--out": audited("x.csv"),
            "--apply": Opt("groups"),
            "--folds": audited("3"),
            "--threshold": audited("0.3"),
            "--metric": audited("map"),
            "--seed": audited("3"),
            "--device": audited("cpu"),
            "--overwrite": Opt(acts=[[], GROUPS]),
            "--set": audited("fuse.linear.lr=0.1", elsewhere={"selftrain.rounds=2": []}),
        },
    ),
    "review": Spec(
        [],
        ["review.review", "serve_review.serve_review", "apply_review.apply_review", "apply_review.undo_review"],
        {
            "--n": written("3"),
            "--split": written("train"),
            "--format": Opt("coco", refused=[APPLY, UNDO, SERVE]),
            "--out": written("x.csv"),
            "--serve": Opt(refused=[APPLY, UNDO]),
            "--port": Opt("8123", acts=[SERVE], refused=[[], APPLY, UNDO]),
            "--no-browser": Opt(acts=[SERVE], refused=[[], APPLY, UNDO]),
            "--apply": Opt("f.csv", refused=[UNDO]),
            "--undo": Opt(),
            "--overwrite": Opt(acts=[[], APPLY, UNDO], refused=[SERVE]),
            "--threshold": written("0.3"),
            "--empty": written("none"),
            "--calibration": written("temperature"),
            "--device": written("cpu"),
            "--set": written("predict.threshold=0.3"),
            "--metric": Opt("map", acts=[[], [*REVIEWED, "--threshold", "tuned"]], refused=[REVIEWED, APPLY, UNDO]),
        },
    ),
    "report": Spec(
        [],
        ["report.report"],
        {
            "--project": Opt(),
            "--split": Opt("train", refused=[PROJECT]),
            "--no-images": Opt(refused=[PROJECT]),
            "--no-captions": Opt(refused=[PROJECT]),
            "--out": Opt("x.html", acts=[[], PROJECT]),
            **OVERWRITE,
            **DECISION,
            **SCORED,
            "--set": Opt("predict.threshold=0.3", elsewhere={"seed=3": []}),
        },
    ),
    "search": Spec(
        [],
        ["search.search"],
        {
            "--like": Opt("2"),
            "--caption": Opt("a dog"),
            "--encoder": Opt("image"),
            "--split": Opt("val"),
            "--n": Opt("3"),
            "--html": Opt("x.html"),
            **OVERWRITE,
            "--engine": Opt("torch"),
            "--device": DEVICE,
            "--set": Opt("engine=torch", elsewhere={"seed=3": []}),
        },
    ),
    "predict": Spec(
        [],
        ["predict.predict", "predict.predict_new"],
        {
            "--caption": Opt("a dog", acts=[[], ONE, MODEL], refused=[TABLE, PICTURES, CAPTIONED]),
            "--captions": Opt("c.csv", acts=[PICTURES, [*PICTURES, *MODEL]], refused=[ROWS, TABLE, ONE]),
            "--images": Opt("photos", acts=[TABLE, [*TABLE, *MODEL]], refused=[ROWS, PICTURES, ONE]),
            "--column": Opt("caption=T", acts=[TABLE, CAPTIONED], refused=[ROWS, PICTURES, ONE]),
            "--model": Opt("m", acts=[TABLE, PICTURES, CAPTIONED, ONE], refused=[ROWS]),
            "--split": Opt("val", refused=[TABLE, PICTURES, CAPTIONED, ONE]),
            "--top-k": Opt("2", acts=[ROWS], by="test_top_k_acts_on_new_rows_too"),
            "--format": Opt("jsonl", acts=[ROWS, TABLE, PICTURES, CAPTIONED], refused=[ONE]),
            "--out": Opt("o.csv", acts=[ROWS, TABLE, PICTURES, CAPTIONED], refused=[ONE]),
            "--overwrite": Opt(acts=[ROWS, TABLE, PICTURES, CAPTIONED], refused=[ONE]),
            "--threshold": Opt(
                "0.3",
                acts=[ROWS, TABLE, PICTURES, ONE, [*ONE, *MODEL], [*ONE, "--top-k", "2"]],
                refused=[["--top-k", "2"], [*TABLE, "--top-k", "2"]],
            ),
            "--empty": Opt("none", acts=[ROWS, TABLE, ONE], refused=[["--top-k", "2"], [*TABLE, *MODEL]]),
            "--calibration": Opt("temperature", acts=[ROWS, TABLE, ONE], refused=[[*TABLE, *MODEL]]),
            "--metric": Opt(
                "map", acts=[ROWS, TABLE, ONE], refused=[[*TABLE, *MODEL], ["crossattn-1"], ["crossattn-1", *TABLE]]
            ),
            "--engine": Opt("torch", acts=[TABLE, ONE, [*TABLE, *MODEL]], refused=[ROWS]),
            "--device": Opt("cpu", acts=[ROWS, TABLE, ONE, [*TABLE, *MODEL]]),
            "--set": Opt(
                "predict.threshold=0.3",
                acts=[ROWS, TABLE, ONE],
                refused=[[*TABLE, *MODEL]],
                elsewhere={"fuse.head=linear": [], "seed=3": TABLE},
            ),
        },
    ),
    "evaluate": Spec(
        [],
        ["evaluate.evaluate"],
        {
            "--split": Opt("test"),
            "--honest": Opt(),
            **DECISION,
            **SCORED,
            **OVERWRITE,
            "--set": Opt("predict.threshold=0.3", elsewhere={"seed=3": []}),
        },
    ),
    "compare heads": Spec(
        [],
        ["compare_heads.compare_heads"],
        {
            "--inputs": Opt("image"),
            "--seeds": Opt("1"),
            "--threshold": Opt("tuned"),
            **TOP,
            **OVERWRITE,
            "--set": Opt("fuse.mlp.lr=0.1", refused=[["concat"]], elsewhere={"fuse.folds=2": [], "fuse.head=mlp": []}),
        },
    ),
    "compare encoders": Spec(
        [],
        ["compare_encoders.compare_encoders"],
        {
            "--freeze": Opt(),
            "--seeds": Opt("2"),
            "--use": Opt("best", by="test_a_cell_or_an_encoder_is_put_in_use_where_it_is_asked_for"),
            "--threshold": Opt("tuned"),
            **TOP,
            **OVERWRITE,
            "--set": Opt("finetune.image.epochs=2", refused=[["--freeze"]], elsewhere={"fuse.head=mlp": []}),
        },
    ),
    "runs": Spec(
        [],
        ["runs.runs", "runs.rename", "runs.delete", "runs.annotate"],
        {
            "--sort": listed("map"),
            "--rename": Opt("a b", refused=[["--delete", "x"]], by="test_a_run_is_renamed_deleted_or_annotated"),
            "--delete": Opt("x", refused=[["--note", "x", "y"]]),
            "--note": Opt("a b", refused=[["--rename", "x", "y"]], by="test_a_run_is_renamed_deleted_or_annotated"),
            "--threshold": listed("0.3"),
            "--empty": listed("none"),
            "--calibration": listed("temperature"),
            "--metric": listed("map"),
            "--device": listed("cpu"),
            "--set": listed("predict.threshold=0.3", elsewhere={"fuse.head=mlp": []}),
        },
    ),
    "export": Spec(
        ["crossattn-1", "DIR"],
        ["export.export"],
        {
            "--dtype": Opt("float16"),
            "--heads-dtype": Opt("float16"),
            "--format": Opt("onnx"),
            **SHIPPED,
            "--set": Opt("predict.threshold=0.3", elsewhere={"seed=3": []}),
        },
    ),
    "serve": Spec(
        ["DIR"],
        ["serve.serve"],
        {
            "--host": Opt("0.0.0.0"),
            "--port": Opt("1234"),
            "--engine": Opt("torch"),
            "--device": DEVICE,
            "--max-mb": Opt("3"),
            "--max-megapixels": Opt("3"),
            "--max-waiting": Opt("3"),
            "--verbose": Opt(),
            "--allow-host": Opt("a.example"),
            "--allow-origin": Opt("http://a.example"),
        },
    ),
    "store verify": Spec([], ["store.verify_store"], {}),
    "store gc": Spec(
        [], ["store.find_unreferenced"], {"--yes": Opt(by="test_gc_asks_without_yes"), "--forget": Opt("/x")}
    ),
    "store export": Spec(["x"], ["store.export_features"], {"--format": Opt("h5"), "--split": Opt("val")}),
    "store import": Spec(
        ["n", "f.npy"], ["store_import.import_embeddings"], {"--ids": Opt("i.txt"), "--array": Opt("a")}
    ),
    "reproduce": Spec(
        [],
        ["api.reproduce"],
        {
            "--tables": Opt("1,2"),
            "--self-training": Opt(),
            "--scale": Opt("small"),
            "--dry-run": Opt(),
            "--overwrite": Opt(),
        },
    ),
    "demo": Spec([], ["api.demo"], {"--folder": Opt("x"), "--seed": Opt("3")}),
}
PAIRS = (("runs", "--rename"), ("runs", "--note"))  # options of two values
PROJECT_REFUSED = [["demo"], ["serve", "DIR"], ["encoders", "mobilenet"], ["predict", "new.csv", "--model", "m"]]


class Reached(Exception):
    """A workflow was called: this is what with."""


LEAVES = {" ".join(words): command for words, command in leaves(group).items()}
CASES = [(name, option) for name, spec in COMMANDS.items() for option in spec.options]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A project of which nothing but its settings is there; and what is predicted."""
    (tmp_path / "mmfeat.toml").write_text(TOML, encoding="utf-8")
    (tmp_path / "runs" / "crossattn-1").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "cells.toml").write_text("[[cell]]\nlr = 0.1\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plain(value):
    """An argument as it can be compared: of a project its settings."""
    if hasattr(value, "config"):
        return (value.dry, value.config.dotted())
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return None if callable(value) else value


def called(monkeypatch, reached: list[str], words: list[str]):
    """What a command calls its workflow with; its output, where it calls none."""

    def caught(*args, **kwargs):
        raise Reached([[plain(one) for one in args], plain(kwargs)])

    for name in reached:
        module, _, function = name.rpartition(".")
        place = f"mmfeat.api.{function}" if module == "api" else f"mmfeat.workflows.{module}"
        monkeypatch.setattr(importlib.import_module(place), function, caught)
    done = CliRunner().invoke(group, words)
    if isinstance(done.exception, Reached):
        return done.exception.args[0]
    return done.exit_code, done.output


def words_of(name: str, option: str, value: str | None, more: list[str]) -> list[str]:
    return [*name.split(), *COMMANDS[name].base, *more, *option_of(name, option, value)]


def option_of(name: str, option: str, value: str | None) -> list[str]:
    return [option, *([] if value is None else value.split() if (name, option) in PAIRS else [value])]


def test_the_table_has_every_option_of_every_command():
    assert set(COMMANDS) == set(LEAVES)
    for name, command in LEAVES.items():
        options = {one.opts[0] for one in command.params if isinstance(one, click.Option)}
        output = {"--quiet"} if name == "serve" else {"--json", "--quiet"}  # tests/cli/test_output.py
        assert options == set(COMMANDS[name].options) | output, name
    assert {one.opts[0] for one in group.params} == {"--project", "--version"}
    assert all(opt.by in globals() for spec in COMMANDS.values() for opt in spec.options.values() if opt.by)


def test_the_table_has_every_mode_in_which_an_option_is_refused():
    for name, command in LEAVES.items():
        for modes in command.modes:
            for parameter, acts in modes.acts.items():
                if parameter == "folder":
                    continue
                option = next(one.opts[0] for one in command.params if one.name == parameter)
                if len(acts) < len(modes.texts) and option.startswith("--"):
                    assert COMMANDS[name].options[option].refused, (name, option)


@pytest.mark.parametrize(("name", "option"), CASES)
def test_every_option_acts_or_is_refused(folder, monkeypatch, name, option):
    spec, opt = COMMANDS[name], COMMANDS[name].options[option]
    for more in opt.acts if not opt.by else ():
        with monkeypatch.context() as patched:
            without = called(patched, spec.reached, [*name.split(), *spec.base, *more])
            typed = called(patched, spec.reached, words_of(name, option, opt.value, more))
        assert typed != without, more
        assert isinstance(typed, list) or typed[0] == 0, (more, typed)
    refused = [(more, opt.value) for more in opt.refused] + [(more, value) for value, more in opt.elsewhere.items()]
    for more, value in refused:
        with monkeypatch.context() as patched:
            typed = called(patched, spec.reached, words_of(name, option, value, more))
        assert isinstance(typed, tuple), (more, value, typed)
        assert typed[0] == 2, (more, value, typed)
        assert (
            "no effect" in typed[1]
            or "cannot be used with" in typed[1]
            or "needs" in typed[1]
            or "given twice" in typed[1]
            or "what to predict" in typed[1]
        ), typed


@pytest.mark.parametrize(("name", "option"), [(n, o) for n, o in CASES if COMMANDS[n].options[o].value is not None])
def test_an_option_typed_twice_or_empty_is_refused(folder, monkeypatch, name, option):
    parameter = next(one for one in LEAVES[name].params if option in one.opts)
    if not parameter.multiple:
        value = COMMANDS[name].options[option].value
        done = called(
            monkeypatch, COMMANDS[name].reached, [*words_of(name, option, value, []), *option_of(name, option, value)]
        )
        assert done[0] == 2
        assert "given twice" in done[1]
    if (
        not parameter.name.startswith("set")
        and parameter.type is click.STRING
        and (name, option) not in PAIRS
        and parameter.name not in LEAVES[name].free
    ):
        done = called(monkeypatch, COMMANDS[name].reached, words_of(name, option, "", []))
        assert done[0] == 2
        assert "is empty" in done[1]


def test_the_projects_folder_acts_or_is_refused(folder, monkeypatch):
    for name, spec in COMMANDS.items():
        words = [*name.split(), *spec.base]
        if words[0] == "init" or any(words[: len(one)] == one for one in PROJECT_REFUSED):
            continue
        done = CliRunner().invoke(group, ["--project", "nowhere", *words])
        assert done.exit_code == 2, (name, done.output)
        assert "--project nowhere: no such folder" in done.output, name
    here, there = (called(monkeypatch, ["init.init"], [*where, "init", "s.csv"]) for where in ([], ["--project", "x"]))
    assert here != there
    for words in (["--project", "x", "--project", "y"], ["--project", ""]):
        assert called(monkeypatch, ["init.init"], [*words, "init", "s.csv"])[0] == 2
    for words in PROJECT_REFUSED:
        done = CliRunner().invoke(group, ["--project", ".", *words])
        assert done.exit_code == 2, words
        assert "--project cannot be used with" in done.output


def test_a_run_is_refused_where_none_is_read(folder, monkeypatch):
    for more in (APPLY, UNDO):
        done = called(monkeypatch, COMMANDS["review"].reached, ["review", *REVIEWED, *more])
        assert done[0] == 2
        assert "[RUN] cannot be used with" in done[1]
    done = called(monkeypatch, COMMANDS["predict"].reached, ["predict", *REVIEWED, *TABLE, *MODEL])
    assert done[0] == 2
    assert "--model is used without a run" in done[1]


def test_one_key_given_twice_is_refused(folder, monkeypatch):
    for more in (["--set", "fuse.seeds=1", "--set", "fuse.seeds=2"], ["--seeds", "1", "--set", "fuse.seeds=2"]):
        assert called(monkeypatch, ["fuse.fuse"], ["fuse", *more])[0] == 2
    twice = ["predict", "new.csv", "--column", "id=a", "--column", "id=b"]
    assert called(monkeypatch, ["predict.predict_new"], twice)[0] == 2


# -- effects that no call shows


def test_status_shows_the_store_where_it_is_asked_for(folder, monkeypatch):
    result = SimpleNamespace(
        problems=[],
        encoders=[],
        checkpoints={},
        failures={},
        n_rows=1,
        n_runs=1,
        flat=[],
        damaged=[],
        unsealed="",
        relabelled=[],
    )
    monkeypatch.setattr("mmfeat.workflows.status.status", lambda *_: result)
    monkeypatch.setattr("mmfeat.project.project.Project.manifest", SimpleNamespace(classes=()))
    assert called(monkeypatch, ["status.store_status"], ["status"])[0] == 0
    assert isinstance(called(monkeypatch, ["status.store_status"], ["status", "--store"]), list)


@pytest.mark.parametrize(
    ("words", "module", "use", "proposing"),
    [
        (["sweep", "finetune", "text"], "sweep_finetune", "use_cell", ("best_is_in_use", False)),
        (["compare", "encoders"], "compare_encoders", "use_encoders", ("advises_best", True)),
    ],
)
def test_a_cell_or_an_encoder_is_put_in_use_where_it_is_asked_for(folder, monkeypatch, words, module, use, proposing):
    numbers = dict.fromkeys(("n_val", "n_fits", "n_trained", "kept_mb"), 1)
    result = MagicMock(failed={}, files=[], lines=[], effects=[], **numbers)
    monkeypatch.setattr(f"mmfeat.workflows.{module}.{module}", lambda *_, **__: result)
    monkeypatch.setattr(f"mmfeat.workflows.{module}.{proposing[0]}", lambda *_: proposing[1])
    for name in ("sweep_table", "effects_table"):
        monkeypatch.setattr(f"mmfeat.report.sweep_table.{name}", lambda *_, **__: "")
    assert called(monkeypatch, [f"{module}.{use}"], words)[0] == 0
    assert isinstance(called(monkeypatch, [f"{module}.{use}"], [*words, "--use", "best"]), list)


def test_encoder_rounds_are_asked_for_without_yes(folder, monkeypatch):
    from mmfeat.common.errors import MmfeatError
    from mmfeat.training.encoder_rounds import EncoderCost

    cost = EncoderCost(times=1, names=["image"], n_rows=2, seconds=1.0, mb=1.0)

    def selftrain(project, plan):
        raise Reached([])

    monkeypatch.setattr("mmfeat.workflows.selftrain.plan_selftrain", lambda *_: SimpleNamespace(cost=lambda: cost))
    monkeypatch.setattr("mmfeat.workflows.selftrain.selftrain", selftrain)
    words = ["selftrain", "--encoder-every", "1"]
    assert isinstance(CliRunner().invoke(group, words, input="n\n").exception, MmfeatError)
    assert isinstance(CliRunner().invoke(group, [*words, "--yes"]).exception, Reached)


def test_a_run_is_renamed_deleted_or_annotated(folder, monkeypatch):
    for words, reached in (
        (["--rename", "crossattn-1", "baseline"], "runs.rename"),
        (["--note", "crossattn-1", "of May"], "runs.annotate"),
    ):
        found = called(monkeypatch, [reached], ["runs", *words])
        assert found[0][1:] == words[1:]


def test_gc_asks_without_yes(folder, monkeypatch):
    garbage = SimpleNamespace(name="x", n_bytes=1, why="")
    found = SimpleNamespace(others=[], garbage=[garbage], n_bytes=1, settled=SimpleNamespace(waiting=[]))
    monkeypatch.setattr("mmfeat.workflows.store.find_unreferenced", lambda *_: found)
    removed = ["store.remove_unreferenced"]
    assert not isinstance(called(monkeypatch, removed, ["store", "gc"]), list)
    assert isinstance(called(monkeypatch, removed, ["store", "gc", "--yes"]), list)


def test_top_k_acts_on_new_rows_too(folder, monkeypatch):
    for more, asked in ([], None), (["--top-k", "2"], 2):
        reached = called(monkeypatch, ["predict.predict_new"], ["predict", "new.csv", *more])
        assert reached[1]["top_k"] == asked
    rows = called(monkeypatch, ["predict.predict"], ["predict", "--top-k", "2"])
    assert rows != called(monkeypatch, ["predict.predict"], ["predict"])


# -- help


def test_help_lists_the_choices_of_every_setting():
    from mmfeat.config.schema import HEADS, METHODS, METRICS, POLICIES

    for command in LEAVES.values():
        for parameter in command.params:
            if parameter.name.startswith("set_"):
                choices = choices_text(parameter.name.removeprefix("set_").replace("__", "."))
                assert choices[1:] in parameter.help
    for words, choices in {
        "selftrain": (*POLICIES, *HEADS, *METRICS, "cuda:1"),
        "ensemble": METHODS,
        "predict": ("tuned-per-class", "most-probable", "temperature"),
        "finetune": ("best", "paper"),
    }.items():
        text = " ".join(one.help for one in LEAVES[words].params if isinstance(one, click.Option))
        assert all(choice in text for choice in choices), words


@pytest.mark.parametrize(
    "words",
    [
        ["init", "https://example.com/train.csv"],
        ["init", "s.csv", "--images", "s3://bucket/x.zip"],
        ["predict", "https://example.com/a.jpg"],
        ["predict", "data:image/png;base64,iVBORw0KGgo="],
        ["predict", "new.csv", "--out", "https://example.com/o.csv"],
        ["predict", "new.csv", "--images", "http://a/b.zip"],
        ["store", "import", "x", "https://example.com/e.npy"],
        ["store", "export", "gs://bucket/x"],
        ["review", "--apply", "file:///tmp/review.csv"],
        ["export", "crossattn-1", "s3://b/m"],
        ["serve", "https://h/m"],
        ["sweep", "fuse", "--cells", "https://example.com/c.toml"],
        ["finetune", "--synonyms", "https://example.com/s.txt"],
        ["compare", "encoders", "m=https://a/b.pth"],
    ],
)
def test_a_url_for_a_path_is_one_line(folder, words):
    from mmfeat.common.errors import MmfeatError

    error = CliRunner().invoke(group, words).exception
    assert isinstance(error, MmfeatError)
    assert "is a URL: download it first" in str(error) or "is a data URI: save it" in str(error)
    if "https://" in " ".join(words):
        assert "https://" in str(error)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["finetune", "--threshold", "0.3"], "--set predict.threshold=..."),
        (["fuse", "--dropout", "0.1"], "--set fuse.crossattn.dropout=... or --set fuse."),
        (["selftrain", "--batch-size", "8"], "--set fuse.crossattn.batch_size=..."),
    ],
)
def test_an_unknown_option_that_is_a_key_of_the_file_says_how_to_set_it(words, said):
    result = CliRunner().invoke(group, words)
    assert result.exit_code == 2
    assert said in result.output
    assert "Did you mean" not in result.output
    assert "--set" not in CliRunner().invoke(group, ["extract", "--threshold", "0.3"]).output  # it has no --set
