"""The model card: each number in it is what the run really did, for heads, folds, self-training and ensembles of them."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from helpers.command_line import run_cli

from mmfeat.common.lineage import RowUse
from mmfeat.inference.networks import compose, model_record
from mmfeat.project.named_models import find_run
from mmfeat.project.project import Project
from mmfeat.report.selection_notes import about_selection
from mmfeat.runs.run import ROLES
from mmfeat.workflows.ensemble import ensemble
from mmfeat.workflows.export import export
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.selftrain import selftrain

N_FOLDS = 3
NAMES = ("crossattn-1", "concat-1", "selftrain-1", "ensemble-1", "ensemble-2", "text")


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    """A project with a head, a head in folds, self-training with pseudo-labels, and ensembles of them; and their cards."""
    folder = tmp_path_factory.mktemp("cards")
    shutil.copytree(trained, folder / "project")
    project = Project(folder / "project")
    fuse(Project(project.root, {"fuse.folds": N_FOLDS, "fuse.head": "concat"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmfeat.selftraining.round_models.MOST_EPOCHS", 3)
        patch.setattr("mmfeat.selftraining.rounds.is_accepted", lambda *_, **__: True)
        selftrain(Project(project.root, {"fuse.head": "concat", "selftrain.policy": "all", "selftrain.rounds": 1}))
    ensemble(project, ["concat-1", "crossattn-1", "selftrain-1", "text"])
    ensemble(project, ["concat-1", "ensemble-1"])
    ensemble(project, ["crossattn-1", "selftrain-1"], "weighted")
    cards = {}
    for name in (*NAMES, "ensemble-3"):
        model = export(project, name, folder / name).folder
        cards[name] = (
            (model / "README.md").read_text(encoding="utf-8"),
            json.loads((model / "mmfeat.json").read_text(encoding="utf-8")),
        )
    return project, cards


def roles_of(project: Project, name: str) -> dict[str, set[str]]:
    """Ids by role of all heads and probes within a run or an encoder."""
    found = {role: set() for role in ROLES}
    if name in project.config.encoder:
        manifest = project.manifest
        return found | {
            "train": set(manifest.ids[manifest.rows("train")]),
            "val": set(manifest.ids[manifest.rows("val")]),
        }
    run = find_run(project, name)
    if run.kind != "ensemble":
        kept = run.logits()
        return {role: set(kept.ids[kept.roles == number]) for role, number in ROLES.items()}
    for member in run.record["members"]:
        for role, ids in roles_of(project, member["name"]).items():
            found[role] |= ids
    return found


def section(card: str, title: str) -> str:
    return card.split(f"## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_counted_once(made, name):
    project, cards = made
    card, record = cards[name]
    roles, text = roles_of(project, name), section(card, "Data and split")
    labelled = roles["train"] | roles["out-of-fold"]
    pseudo = roles["pseudo-labelled"] - labelled
    and_pseudo = f" and on {len(pseudo)} unlabelled rows with pseudo-labels (transductive)" if pseudo else ""
    assert f"- trained on {len(labelled)} labelled rows{and_pseudo}, each counted once\n" in text
    both = roles["val"] & labelled
    other = f"{len(both)} of which another part was trained on" if both else "which no part was trained on"
    selected = f"- selected on {len(roles['val'])} labelled rows, {other}\n"
    assert (selected in text) == bool(roles["val"])
    assert ("- selected on" in text) == bool(roles["val"])
    rows = {which: len(project.manifest.rows(which)) for which in ("train", "val", "unlabelled")}
    assert f"- rows of the project: {', '.join(f'{n} {which}' for which, n in rows.items())}\n" in text
    assert record["run"]["n_trained"] == len(labelled) + len(pseudo)


def test_each_part_has_what_it_was_trained_and_selected_on(made):
    project, cards = made
    train, val, free = (len(project.manifest.rows(which)) for which in ("train", "val", "unlabelled"))
    lines = {
        "crossattn-1": f"| head `crossattn-1` | {train} labelled rows | epochs: {val} rows |",
        "concat-1": f"| head `concat-1` | {train + val} labelled rows in {N_FOLDS} folds, each head without one "
        "| epochs: rows of the other folds |",
        "selftrain-1": f"| head `selftrain-1`, self-trained | {train} labelled rows and {free} rows with pseudo-labels of "
        f"round 1, by policy all | epochs and rounds: {val} rows |",
        "text": f"| linear probe of `text` | {train} labelled rows | epochs: {val} rows |",
    }
    for name, line in lines.items():
        of_run = [row for row in section(cards[name][0], "Data and split").splitlines() if row.startswith("| ")][1:]
        assert of_run == [line]
    for name in ("ensemble-1", "ensemble-2"):
        rows = [row for row in section(cards[name][0], "Data and split").splitlines() if row.startswith("| ")][1:]
        assert set(rows) == set(lines.values())
        assert len(rows) == len(lines)
    assert f"| weights of `ensemble-3` | - | weights: fitted on {val} rows |" in cards["ensemble-3"][0]


def test_heads_are_counted_by_seeds_and_folds(made):
    project, cards = made
    n = len(project.config.fuse.inputs)
    seeds = find_run(project, "concat-1").record["seeds"]
    in_folds = f"mean of {len(seeds) * N_FOLDS} heads ({len(seeds)} seeds x {N_FOLDS} folds)"
    for name in ("concat-1", "ensemble-1", "ensemble-2"):
        assert f"- head `concat-1`: concat on `image` and `text`, {in_folds}\n" in cards[name][0]
        heads = {name: part for name, part in cards[name][1]["model"]["parts"].items() if part["kind"] == "head"}
        assert heads["concat-1"]["seeds"] == len(seeds) * N_FOLDS
    assert f"`text`, mean of {len(seeds)} seeds\n" in cards["crossattn-1"][0]
    assert f"(standard deviation over {len(seeds)} seeds)" in cards["concat-1"][0]
    assert cards["crossattn-1"][0].count(", only for the unimodal predictions\n") == n
    assert cards["ensemble-1"][0].count(", only for the unimodal predictions\n") == n - 1


def test_metrics_state_how_their_rows_were_used(made):
    _, cards = made
    blind = (
        "Out of fold: all of them are scored by heads that were not trained on the row; "
        "the exported model averages all heads."
    )
    sentences = {
        "crossattn-1": "Epochs were selected on all of them.",
        "concat-1": blind,
        "selftrain-1": "Epochs and rounds were selected on all of them.",
        "ensemble-1": f"Epochs and rounds were selected on all of them. {blind}",
        "ensemble-3": "Epochs, rounds and weights were selected on all of them. The ensemble's weights are cross-fitted: each row "
        "is scored by weights fitted on other rows.",
    }
    for name, sentence in sentences.items():
        card, record = cards[name]
        n = record["run"]["figures"]["n_samples"]
        assert section(card, "Metrics").splitlines()[1] == f"On {n} validation rows. {sentence}"


def test_a_fine_tuned_encoder_is_a_part_that_was_trained(trained, tmp_path):
    from mmfeat.project.encoding import extract
    from mmfeat.workflows.finetune import finetune

    folder = shutil.copytree(trained, tmp_path / "project")
    one_epoch = {"finetune.text.epochs": 1}
    finetune(Project(folder, one_epoch), ["text"])
    extract(Project(folder))
    project = Project(folder, {"fuse.folds": N_FOLDS, "fuse.head": "concat"})
    run = fuse(project).run
    card = (export(project, run.name, tmp_path / "model").folder / "README.md").read_text(encoding="utf-8")
    train, val = (len(project.manifest.rows(which)) for which in ("train", "val"))
    assert f"| encoder `text`, fine-tuned | {train} labelled rows | epochs: {val} rows |" in card
    assert f"- trained on {train + val} labelled rows, each counted once" in card
    assert f"- selected on {val} labelled rows, {val} of which another part was trained on" in card
    assert "Epochs were selected on all of them. Out of fold: all of them are scored by heads" in card
    out = run_cli("fuse", "--folds", str(N_FOLDS), "--head", "concat", cwd=folder).stdout
    assert "concat: out of fold, epochs selected on the other folds, those of its encoders on these rows." in out


def test_metrics_of_another_split_are_not_those_of_the_card(made):
    """The split or the labels of val rows have changed since the run was made: its recorded metrics are of other rows."""
    project, _ = made
    name = "crossattn-1"
    recorded = find_run(project, name).record["figures"]["val"]["n_samples"]
    manifest = project.manifest
    labels = manifest.labels.copy()
    labels[manifest.rows("val")[:3]] = -1
    fewer = project.derived(manifest=type(manifest)(**{**vars(manifest), "labels": labels}))
    record = model_record(fewer, compose(fewer, name))
    assert record["figures"]["n_samples"] == recorded - 3
    assert record["figures_of_seeds"] == []


def test_the_terminal_says_which_models_were_selected_on_the_rows(made):
    project, _ = made
    runs = run_cli("runs", cwd=project.root).stdout
    assert "epochs and rounds were selected on these rows, except for concat-1 (out of fold)." in runs
    both = run_cli("ensemble", "concat-1", "crossattn-1", "text", cwd=project.root).stdout
    assert "epochs of the members were selected on these rows, except for concat-1 (out of fold)." in both
    n = len(project.manifest.rows("val"))
    folds = run_cli("evaluate", "concat-1", cwd=project.root).stdout
    assert f"concat-1: {n} of {n} rows out of fold" in folds
    assert "Epochs and runs were selected" not in folds
    assert "Runs are selected on these rows. For a figure to publish" in folds
    assert "Epochs and runs were selected on these rows." in run_cli("evaluate", "crossattn-1", cwd=project.root).stdout


def test_a_clause_about_selection():
    selected, folds, none = RowUse(9, 0, 9, 0), RowUse(9, 0, 0, 9), RowUse(9, 0, 0, 0)
    assert about_selection({"a": selected}) == "epochs were selected on these rows"
    assert about_selection({"a": selected, "b": folds}, "epochs and rounds").endswith(
        "rows, except for b (out of fold)"
    )
    assert about_selection({"b": folds}) == "nothing was selected on these rows (out of fold)"
    assert about_selection({}) == "nothing was selected on these rows"
    many = about_selection({"a": selected, **{f"b{i}": none for i in range(7)}})
    assert re.search(r"except for b0, b1, b2, b3, b4 and 2 more \(selected on others or not at all\)", many)
