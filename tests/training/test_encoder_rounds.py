"""Encoder rounds of self-training: what they learn from, what is in use afterwards, and what a second call does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import run_cli
from helpers.projects import copy_project

from mmfeat.common.errors import ConfigError
from mmfeat.data.manifest import Manifest
from mmfeat.encoders.resolve import Identity
from mmfeat.inference.run_ranking import best_run
from mmfeat.project import encoding as extraction
from mmfeat.project.encoding import extract
from mmfeat.project.project import Project
from mmfeat.project.staleness import is_current
from mmfeat.runs.run import Run
from mmfeat.selftraining import rounds
from mmfeat.training import encoder_rounds
from mmfeat.training.encoder_rounds import CAME_AFTER, as_before
from mmfeat.training.encoder_training import finetune_encoders
from mmfeat.workflows.ensemble import ensemble
from mmfeat.workflows.finetune import finetune
from mmfeat.workflows.predict import predict
from mmfeat.workflows.selftrain import plan_selftrain, selftrain

EVERY = {"selftrain.rounds": 3, "selftrain.encoder_every": 1}


@pytest.fixture
def standing(monkeypatch):
    """Every round stands."""
    monkeypatch.setattr(rounds, "is_accepted", lambda difference, first: True)


@pytest.fixture(scope="module")
def module_tuned(session_project, tmp_path_factory) -> Path:
    """The project that `tuned` is a copy of."""
    folder = copy_project(session_project, tmp_path_factory.mktemp("tuned"))
    finetune(Project(folder))
    extract(Project(folder))
    return folder


@pytest.fixture
def tuned(module_tuned, tmp_path):
    """A project with fine-tuned encoders and all features cached."""
    return Project(copy_project(module_tuned, tmp_path / "tuned"))


@pytest.fixture
def often(tuned, standing):
    return Project(tuned.root, EVERY)


@dataclass(frozen=True, kw_only=True)
class SelfTrained:
    """A project after self-training with encoder rounds, each of which stands; for tests that only read it."""

    folder: Path
    run: Run
    before: dict[str, Identity]
    taught: list[Manifest]


@pytest.fixture(scope="module")
def selftrained(module_tuned, tmp_path_factory) -> SelfTrained:
    folder, taught = copy_project(module_tuned, tmp_path_factory.mktemp("selftrained")), []

    def recorded(overlay, names):
        taught.append(overlay.manifest)
        return finetune_encoders(overlay, names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "is_accepted", lambda difference, first: True)
        patch.setattr(encoder_rounds, "finetune_encoders", recorded)
        often = Project(folder, EVERY)
        before = {name: often.identity(name) for name in ("image", "text")}
        run = selftrain(often).run
    return SelfTrained(folder=folder, run=run, before=before, taught=taught)


@pytest.fixture
def after(selftrained, tmp_path):
    """A copy of it, to change."""
    return Project(copy_project(selftrained.folder, tmp_path / "after"))


def test_encoders_learn_from_pseudo_labels_and_are_in_use_afterwards(selftrained, after):
    manifest, run, taught = after.manifest, selftrained.run, selftrained.taught
    assert [one["refitted"] for one in run.record["rounds"]] == [False, False, True, True][: len(run.record["rounds"])]
    assert len(taught) == len(run.record["rounds"]) - 2 > 0
    unlabelled = manifest.rows("unlabelled")
    for given in taught:
        assert set(given.rows("train")) == {*manifest.rows("train"), *unlabelled}
        labelled = np.setdiff1d(np.arange(manifest.n_samples), unlabelled)
        assert np.array_equal(
            given.labels[labelled], manifest.labels[labelled]
        )  # val rows among them: never pseudo-labelled
    for name in ("image", "text"):
        identity = after.identity(name)
        assert identity.spec.key != selftrained.before[name].spec.key
        assert after.checkpoint(identity).record[CAME_AFTER] == selftrained.before[name].checkpoint
        assert run.encoders[name]["key"] == identity.spec.key
    assert is_current(after, run)
    assert best_run(after).name == run.name
    assert ensemble(after, [run.name, "text"]).run.record["transductive"]
    assert not ensemble(after, ["image", "text"]).run.record["transductive"]
    predict(after)
    assert not (selftrained.folder / "runs" / ".resume-selftrain").exists()


def test_typed_again_it_is_already_made_and_without_encoder_rounds_it_goes_on_from_the_encoders_of_now(
    selftrained, after, standing
):
    again = selftrain(Project(after.root, EVERY))
    assert (again.made, again.run.name) == (False, selftrained.run.name)
    checkpoints = sorted(path.name for path in after.checkpoints.iterdir())
    later = selftrain(Project(after.root, {"selftrain.rounds": 1}))
    assert later.made
    assert later.run.encoders["image"]["key"] == selftrained.run.encoders["image"]["key"]
    assert sorted(path.name for path in after.checkpoints.iterdir()) == checkpoints


def test_as_before_are_the_encoders_before_any_pseudo_label(selftrained):
    before = {name: identity.spec.key for name, identity in selftrained.before.items()}
    now = Project(selftrained.folder, EVERY)
    assert {name: as_before(now).identity(name).spec.key for name in before} == before
    assert {name: now.identity(name).spec.key for name in before} != before


def test_reverted_encoders_are_not_in_use(tuned, monkeypatch):
    monkeypatch.setattr(rounds, "is_accepted", lambda difference, first: first)
    project = Project(tuned.root, EVERY)
    before = {name: project.identity(name) for name in ("image", "text")}
    run = selftrain(project).run
    assert run.record["best_round"] == 1
    assert [one["refitted"] for one in run.record["rounds"]] == [False, False, True]
    now = Project(project.root)
    assert {name: now.identity(name) for name in before} == before
    assert is_current(now, run)


def test_interrupted_while_an_encoder_is_encoded_it_ends_the_same(often, selftrained, monkeypatch):
    original, calls = extraction.encode_missing, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(extraction, "encode_missing", interrupted)
    with pytest.raises(KeyboardInterrupt):
        selftrain(often)
    kept = sorted(path.name for path in (often.runs_folder / ".resume-selftrain").glob("*/encoders-2/checkpoints/*"))
    assert set(kept) >= {"image-1", "text-1"}
    fits = []
    monkeypatch.setattr(extraction, "encode_missing", original)
    monkeypatch.setattr(
        encoder_rounds, "finetune_encoders", lambda *args: fits.append(finetune_encoders(*args)) or fits[-1]
    )
    resumed = selftrain(Project(often.root, EVERY)).run
    assert [result.made for result in fits[0]] == [False, False]
    whole = selftrained.run
    assert whole.record["fingerprint"] == resumed.record["fingerprint"]
    kept, wanted = resumed.logits().logits, whole.logits().logits
    assert np.allclose(kept, wanted, atol=1e-4)  # where memory is aligned otherwise, sums may be


def test_the_cost_is_told_first_and_no_is_no(often):
    cost = plan_selftrain(often).cost()
    assert cost.names == ["image", "text"]
    assert cost.times == 2
    assert cost.n_rows == len(often.manifest.rows("train")) + len(often.manifest.rows("unlabelled"))
    assert cost.seconds > 0
    assert cost.mb > 0
    assert not list(often.runs_folder.glob("selftrain-*"))


def test_on_the_command_line_it_asks_and_goes_on_with_yes(tuned):
    arguments = ("selftrain", "--rounds", "2", "--encoder-every", "1")
    asked = run_cli(*arguments, cwd=tuned.root, check=False)
    assert asked.returncode == 1
    assert "Encoder rounds: up to 1, each fine-tunes image and text on" in asked.stderr
    assert not list(tuned.runs_folder.glob("selftrain-*"))
    done = run_cli(*arguments, "--yes", cwd=tuned.root)
    assert "encoders fine-tuned after every 1 round" in done.stdout
    record = json.loads((tuned.runs_folder / "selftrain-1" / "run.json").read_text(encoding="utf-8"))
    assert len(record["rounds"]) >= 2


PAPER = {"selftrain.rounds": 2, "selftrain.encoder_every": 1, "selftrain.policy": "paper"}


def test_by_the_paper_the_first_round_trains_encoders_and_their_mean_is_judged(tuned, standing):
    project = Project(tuned.root, PAPER)
    assert plan_selftrain(project).cost().times == 2
    before, used = ensemble(project, ["fm1"]).run.record["figures"]["val"], project.identity("image").checkpoint
    run = selftrain(project).run
    rounds = run.record["rounds"]
    assert [one["refitted"] for one in rounds] == [False, *[True] * (len(rounds) - 1)]
    assert len(rounds) > 1
    assert (run.record["policy"], run.record["teacher"]) == ("paper", "fm1")
    now = Project(tuned.root)
    assert now.identity("image").checkpoint != used
    after = ensemble(now, ["fm1"]).run.record["figures"]["val"]  # of the encoders of the best round
    for one, figures in ((rounds[0], before), (rounds[run.record["best_round"]], after)):
        for name in ("samples_f1", "macro_f1", "map", "loss"):
            assert one["figures"][name] == pytest.approx(figures[name], abs=1e-5)


def test_by_the_paper_an_interrupted_first_round_goes_on(tuned, standing, monkeypatch):
    original, fits = encoder_rounds.extract, []

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(encoder_rounds, "extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        selftrain(Project(tuned.root, PAPER))
    monkeypatch.setattr(encoder_rounds, "extract", original)
    monkeypatch.setattr(
        encoder_rounds, "finetune_encoders", lambda *args: fits.append(finetune_encoders(*args)) or fits[-1]
    )
    assert selftrain(Project(tuned.root, PAPER)).made
    assert [fit.made for fit in fits[0]] == [False, False]
    assert not selftrain(Project(tuned.root, PAPER)).made


def test_what_was_kept_frozen_stays_frozen(project, standing):
    finetune(project, ["image"], freeze=True)
    finetune(Project(project.root), ["text"])
    extract(Project(project.root))
    often = Project(project.root, EVERY)
    before = often.identity("image")
    selftrain(often)
    now = Project(project.root)
    assert (now.identity("image"), now.identity("text").checkpoint) == (before, "text-2")


def test_where_nothing_is_fine_tuned_that_is_said(extracted):
    with pytest.raises(
        ConfigError, match=r"no encoder of fuse\.inputs is fine-tuned\. Run: mmfeat finetune image text, or: --enc"
    ):
        selftrain(Project(extracted.root, EVERY))


def test_a_checkpoint_that_is_named_is_said(tuned):
    file = tuned.root / "mmfeat.toml"
    text = file.read_text(encoding="utf-8")
    file.write_text(
        text.replace("[encoder.text]", '[encoder.text]\ncheckpoint = "checkpoints/text-1"'), encoding="utf-8"
    )
    with pytest.raises(
        ConfigError, match=r'encoder\.text\.checkpoint = "checkpoints/text-1".*Set: checkpoint = "latest"'
    ):
        selftrain(Project(tuned.root, EVERY))
