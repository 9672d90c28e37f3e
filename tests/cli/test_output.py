"""`--json` and `--quiet` of every command, and tables that fit the terminal."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from helpers.command_line import leaves, run_cli
from mmfeat.cli import group
from mmfeat.cli.printing import FORMAT

EXPORTED = "../exported"
COMMANDS = {
    "init": ["init"],
    "encoders": ["encoders", "list"],
    "encoders PATTERN": ["encoders", "list", "resnet18"],
    "finetune": ["finetune", "--freeze"],
    "finetune --dry-run": ["finetune", "--dry-run"],
    "extract": ["extract"],
    "extract --dry-run": ["extract", "--dry-run"],
    "status": ["status", "--store"],
    "status --config": ["status", "--config"],
    "fuse": ["fuse", "--head", "linear"],
    "fuse --folds": ["fuse", "--head", "linear", "--folds", "2"],
    "ensemble": ["ensemble", "image", "text", "--method", "weighted"],
    "ensemble per class": ["ensemble", "image", "text", "--method", "per-class"],
    "selftrain": ["selftrain", "--head", "linear", "--rounds", "1"],
    "sweep fuse": ["sweep", "fuse", "--head", "linear", "--lr", "1e-3,1e-2", "--seeds", "2"],
    "sweep finetune": ["sweep", "finetune", "text", "--lr", "1e-4,5e-4", "--epochs", "1"],
    "audit": ["audit", "--folds", "2", "--set", "fuse.head=linear"],
    "review": ["review", "--n", "3"],
    "report": ["report", "crossattn-1"],
    "report --project": ["report", "--project"],
    "search": ["search", "--caption", "a red circle"],
    "predict": ["predict"],
    "predict one": ["predict", "--caption", "a red circle"],
    "evaluate": ["evaluate", "crossattn-1", "image"],
    "compare heads": ["compare", "heads", "linear", "--seeds", "1"],
    "compare encoders": ["compare", "encoders", "text", "--freeze"],
    "runs": ["runs"],
    "export": ["export", "crossattn-1", EXPORTED],
    "store verify": ["store", "verify"],
    "store gc": ["store", "gc", "--yes"],
    "store export": ["store", "export", "../arrays.h5"],
    "reproduce": ["reproduce", "--dry-run", "--tables", "3"],
    "store import": ["store", "import", "clip", "../embeddings.npy", "--ids", "../ids.txt"],
}
WITHOUT_TABLE = {
    "init",
    "review",
    "report",
    "report --project",
    "predict",
    "export",
    "store gc",
    "store import",
    "demo",
}


@pytest.fixture(scope="module")
def answered(trained, tmp_path_factory):
    """Every command once with --json, then once with --quiet; gives what they printed."""
    import numpy as np

    folder = tmp_path_factory.mktemp("answered") / "project"
    shutil.copytree(trained, folder)
    np.save(folder.parent / "embeddings.npy", np.random.default_rng(0).standard_normal((70, 6)).astype(np.float32))
    (folder.parent / "ids.txt").write_text("\n".join(f"{i:04d}.jpg" for i in range(70)) + "\n")
    return {
        name: (run_cli(*words, "--json", cwd=folder), run_cli(*words, "--quiet", cwd=folder))
        for name, words in COMMANDS.items()
    }


def test_every_command_is_here():
    typed = {" ".join(words) for words in leaves(group)}
    assert {name for name in typed if any(" ".join(c).startswith(name) for c in COMMANDS.values())} == typed - {
        "serve",  # has no results
        "demo",  # takes long: the README's test runs it
        "encoders add",  # works once for a name
    }
    for words, command in leaves(group).items():
        options = {option for one in command.params for option in one.opts}
        assert {"--quiet", "-q"} <= options
        assert ("--json" in options) == (words != ("serve",))


def test_list_need_not_be_typed(trained):
    assert json.loads(run_cli("encoders", "resnet18", "--json", cwd=trained).stdout)["tables"]
    assert json.loads(run_cli("encoders", "--json", cwd=trained).stdout)["command"] == "encoders list"


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_one_document_with_values_in_full_precision(answered, name):
    done = answered[name][0]
    found = json.loads(done.stdout, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert done.stdout.count("\n") == 1
    assert list(found) == ["command", "format", "tables", "lines", "made", "next"]
    assert found["format"] == FORMAT
    assert " ".join(COMMANDS[name]).startswith(found["command"])
    assert bool(found["tables"]) == (name not in WITHOUT_TABLE)
    for table in found["tables"]:
        assert set(table) == {"title", "columns", "rows"}
        names = [column["name"] for column in table["columns"]]
        assert all(names)
        assert len(set(names)) == len(names)
        assert all(set(column) <= {"name", "unit"} for column in table["columns"])
        assert all(len(row) == len(names) for row in table["rows"])
        for value in (value for row in table["rows"] for value in row):
            assert not (isinstance(value, str) and re.fullmatch(r"[+-]?[\d,]+(\.\d+)?( ± .*)?|-", value)), value
    assert not re.search(r" ± |Next: ", done.stderr)


def test_json_has_what_a_narrow_table_leaves_out(answered):
    table = json.loads(answered["runs"][0].stdout)["tables"][0]
    names = [column["name"] for column in table["columns"]]
    wanted = {"samples F1", "samples F1 ±", "micro F1", "macro F1", "mAP", "loss", "MB", "state", "created", "note"}
    assert wanted <= set(names)
    assert {"name": "MB", "unit": "MB"} in table["columns"]
    numbers = [value for row in table["rows"] for value in row if isinstance(value, float)]
    assert any(len(str(value)) > 10 for value in numbers)


@pytest.mark.parametrize("name", COMMANDS)
def test_quiet_leaves_results_alone(answered, name):
    done = answered[name][1]
    assert not done.stderr
    assert "Next: " not in done.stdout
    assert "95 % bootstrap" not in done.stdout
    if name not in WITHOUT_TABLE:
        assert done.stdout.strip()


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "nothing-1"],
        ["runs", "--sort", "nothing"],
        ["export", "crossattn-1", "."],
        ["compare", "heads", "nothing"],
        ["compare", "encoders", "text", "--freeze", "--use", "nothing"],  # fails after its tables
    ],
)
def test_an_error_prints_no_json(trained, tmp_path, words):
    folder = shutil.copytree(trained, tmp_path / "project")
    done = run_cli(*words, "--json", "--quiet", cwd=folder, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("width", [80, 120, 200])
def test_tables_fit_the_terminal_and_hidden_columns_are_named_once(trained, tmp_path, monkeypatch, width):
    monkeypatch.setattr("mmfeat.cli.printing.terminal_width", lambda: width)
    folder = shutil.copytree(trained, tmp_path / "project")
    for words in (
        ["runs"],
        ["evaluate", "crossattn-1", "fm3-1"],
        ["status", "--store"],
        ["encoders"],
        ["compare", "heads", "linear", "crossattn", "--seeds", "1"],
    ):
        lines = run_cli(*words, cwd=folder).stdout.splitlines()
        hints = [line for line in lines if line.startswith("Columns without room here: ")]
        assert len(hints) <= 1
        if width != 120:
            assert bool(hints) == (width == 80), (words, hints)
        tables = [line for line in lines if re.search(r"\S {3,}\S", line)]
        assert tables
        assert max(map(len, tables)) <= width, words
        assert any("samples F1" in line for line in tables) or words[0] in ("status", "encoders")


def test_files_and_pipes_get_every_column(trained):
    text = run_cli("evaluate", "crossattn-1", cwd=trained, COLUMNS="80").stdout
    assert "ECE" in text
    assert "Columns without room" not in text
