"""`Next:`: a command that works, keeps the options that were used, and proposes nothing that exists already."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import click
import pytest
from helpers.command_line import run_cli
from mmfeat.cli import group

from mmfeat.inference.next_commands import _OPTIONS, _TOP, to_predict, with_options
from mmfeat.project.project import Project

MEAN = "ensemble image text crossattn-1"


def hint(folder: Path, *words: str) -> str:
    """The command after `Next:`, without `mmfeat`."""
    last = run_cli(*words, cwd=folder).stdout.splitlines()[-1]
    return last.rpartition("Next: mmfeat ")[2]


def test_options_are_those_of_the_commands():
    for name, options in _OPTIONS.items():
        known = {option for parameter in group.commands[name].params for option in parameter.opts}
        assert set(options.values()) <= known, name
        assert "--set" in known
        assert {"--metric", "--device"} <= known & set(_TOP.values())


def test_hints_lead_through_a_project_and_end(extracted):
    """From cached features to an export. Each proposed command is typed; none is proposed once its result exists."""
    folder, seen, words = extracted.root, [], "extract"
    for _ in range(12):
        words = hint(folder, *shlex.split(words))
        seen.append(words)
        if words.endswith(" DIR"):
            break
    assert seen == [
        "fuse --head crossattn",
        MEAN,
        "runs",
        next(one for one in seen if one.startswith("evaluate ")),
        "selftrain --rounds 5",
        "predict",
        "runs",
        *seen[7:],
    ]
    assert re.fullmatch(r"export [\w-]+ DIR", seen[-1])
    assert seen.count("selftrain --rounds 5") == seen.count("predict") == seen.count(MEAN) == 1
    for again, after in {
        "extract": "runs",
        "fuse": "runs",
        MEAN: "runs",
        "selftrain --rounds 5": "runs",
    }.items():
        assert hint(folder, *again.split()) == after, again
    assert hint(folder, "finetune", "--freeze") == "runs"
    assert hint(folder, "finetune", "--freeze", "--dry-run") == "runs"
    assert hint(folder, "status") == "runs"


def test_used_options_are_kept(extracted):
    folder, device = extracted.root, ["--device", "cpu"]
    fuse = hint(
        folder, "fuse", "--head", "concat", "--metric", "map", "--seeds", "1", "--inputs", "text,image", *device
    )
    assert fuse == "ensemble text image concat-1 --metric map --device cpu"
    assert hint(folder, *shlex.split(fuse)) == "runs --metric map --device cpu"
    runs = hint(folder, "runs", "--metric", "map", "--threshold", "0.4")
    assert re.fullmatch(r"evaluate [\w-]+ [\w-]+ --threshold 0.4 --metric map", runs) or runs.endswith(
        " --metric map --threshold 0.4"
    )
    assert hint(folder, *shlex.split(runs)).startswith("selftrain --rounds 5 ")
    after = hint(folder, "fuse", "--head", "linear", "--inputs", "text", "--set", "fuse.linear.epochs=2")
    assert after == "runs"
    assert hint(folder, "extract", *device) == "runs --device cpu"


def test_keys_that_a_command_does_not_read_are_left_out(extracted):
    project = Project(extracted.root, {"fuse.seeds": 4, "metric": "map", "fuse.crossattn.lr": 0.01, "fuse.folds": 3})
    config = project.config
    assert with_options(config, "mmfeat runs") == "mmfeat runs --metric map"
    assert with_options(config, "mmfeat status") == "mmfeat status"
    fuse = with_options(config, "mmfeat fuse --head crossattn --seeds 2")
    assert fuse == "mmfeat fuse --head crossattn --seeds 2 --metric map --set fuse.crossattn.lr=0.01 --folds 3"
    assert "--folds" not in with_options(config, "mmfeat selftrain --rounds 5")
    for command in (fuse, with_options(config, "mmfeat selftrain --rounds 5")):
        name, *words = shlex.split(command)[1:]
        with click.Context(group, obj=str(extracted.root)) as root:
            group.commands[name].make_context(name, words, parent=root)  # it parses


@pytest.mark.parametrize("words", ["status", "extract", "store verify", "extract --dry-run", "runs", "init"])
def test_a_named_project_is_named_in_the_hint(extracted, tmp_path, words):
    done = run_cli("--project", str(extracted.root), *words.split(), cwd=tmp_path).stdout.splitlines()[-1]
    command = shlex.split(done.rpartition("Next: ")[2])
    assert command[:3] == ["mmfeat", "--project", str(extracted.root)]
    assert command.count("--project") == 1
    run_cli(*command[1:], cwd=tmp_path)


def test_predictions_are_proposed_again_after_a_new_run(own):
    run_cli("predict", cwd=own.root)
    assert to_predict(own) == ""
    run = own.runs_folder / "fm3-1" / "run.json"
    later = (own.root / "predictions.parquet").stat().st_mtime_ns + 10**9
    os.utime(run, ns=(later, later))
    assert to_predict(own) == "mmfeat predict"


def test_rounds_are_counted_as_they_were_asked_for(own, monkeypatch):
    counts = []

    class Bar:
        def advance(self, n: int = 1, note: str = "") -> None:
            counts[-1][1] += n

    def progress(description: str, total: int, unit: str = "rows"):
        import contextlib

        counts.append([total, 0, unit])
        return contextlib.nullcontext(Bar())

    monkeypatch.setattr("mmfeat.workflows.selftrain.progress", progress)
    monkeypatch.setattr("mmfeat.selftraining.round_models.MOST_EPOCHS", 3)
    from mmfeat.workflows.selftrain import selftrain

    run = selftrain(Project(own.root, {"selftrain.rounds": 2})).run
    (total, done, _), *_ = counts
    assert total == 2
    assert done == len(run.record["rounds"]) - 1
