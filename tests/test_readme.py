"""What the README says can be typed, and does what it says."""

from __future__ import annotations

import re
import shlex

import click
import pytest
from helpers import ROOT
from helpers.command_line import run_cli

PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "features/README.md")
    ),
    *(ROOT / "docs").rglob("*.md"),
]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def typed_commands() -> list[str]:
    """Every mmfeat command in a code block of the documents."""
    lines = []
    for path in PAGES:
        for line in path.read_text(encoding="utf-8").splitlines():
            if match := re.match(r"(?:    |\$ )(mmfeat [a-z].*)", line):
                lines.append(match[1].partition("#")[0].strip())
    return lines


def test_there_are_commands():
    assert len(typed_commands()) > 10


@pytest.mark.parametrize("line", sorted(set(typed_commands())))
def test_commands_of_the_documents_are_valid(line):
    from mmfeat.cli import group

    name, *arguments = shlex.split(line)[1:]
    command = group.commands[name]
    root = group.make_context("mmfeat", [name, *arguments])
    root.obj = "."
    with click.Context(command, parent=root) as context:
        command.parse_args(context, arguments)


def test_links_lead_somewhere():
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), (path, target)


def test_ci_runs_the_readmes_own_command():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "README.md" in script
    assert sum("bin/pytest" in line for line in README.splitlines()) == 1


@pytest.mark.slow
def test_the_demo(tmp_path):
    """Every model of the table, on rows whose truth was hidden; fusion beats both modalities; typed again it is quick."""
    (tmp_path / "mmfeat-demo" / ".tmp-half").mkdir(parents=True)  # as an interrupted demo leaves it
    done = run_cli("demo", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"on 3,000 unlabelled rows +samples F1 +macro F1 +mAP +samples F1 at 0\.5 +seconds", lines[0])
    f1 = {}
    for line in lines[1:7]:
        label, *figures = re.split(r" {2,}", line.strip())
        f1[label] = float(figures[0].partition(" ")[0])
    assert list(f1) == [
        "image only",
        "text only",
        "mean of both logits",
        "concat",
        "cross-attention",
        "after self-training (transductive)",
    ]
    alone = max(f1["image only"], f1["text only"])
    for label in ("mean of both logits", "concat", "cross-attention"):
        assert f1[label] > alone + 0.02, f1
    assert "Next: cd mmfeat-demo && mmfeat runs" in lines[-1]
    assert "crossattn-1" in run_cli("runs", cwd=tmp_path / "mmfeat-demo").stdout
    again = run_cli("demo", cwd=tmp_path)
    assert again.stdout.splitlines()[:7] == lines[:7]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("keep me")
    refused = run_cli("demo", "--folder", "other", cwd=tmp_path, check=False)
    assert refused.returncode == 1
    assert "was not made by the demo" in refused.stderr
