"""`--dry-run`: it says what would be done, comes near to what it takes, and leaves no trace."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import run_cli

from mmfeat.common.errors import ConfigError, DataError
from mmfeat.project.encoding import ExtractionOptions, extract
from mmfeat.project.project import Project
from mmfeat.training.dry_run import plan_extract, plan_finetune
from mmfeat.workflows.finetune import finetune
from mmfeat.workflows.store_import import import_embeddings


def snapshot(folder: Path) -> dict[str, tuple]:
    """Every file and folder with its size, time and bytes."""
    paths = sorted(p for p in folder.rglob("*") if not p.is_symlink())
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in paths}


def dry(project: Project, overrides: dict | None = None) -> Project:
    return Project(project.root, overrides, dry=True)


@pytest.fixture
def store_bytes():
    return lambda project: sum(p.stat().st_size for p in project.store.path.rglob("part-*.h5"))


def test_a_fresh_project_stays_as_it_was(project):
    before = snapshot(project.root)
    plan_extract(dry(project), options=ExtractionOptions(rehash=True))
    plan_finetune(dry(project))
    plan_finetune(dry(project), freeze=True)
    assert snapshot(project.root) == before
    assert not project.store.path.exists()


def test_a_project_at_work_stays_as_it_was(extracted):
    shutil.rmtree(next(extracted.store.path.glob("test_efficientnet-*")))
    before = snapshot(extracted.root)
    plans = plan_extract(dry(extracted))
    plan_finetune(dry(extracted))
    assert snapshot(extracted.root) == before
    assert {plan.name: bool(plan.to_encode) for plan in plans} == {"image": True, "text": False}


def test_what_was_copied_goes_with_the_dry_run(extracted):
    one = dry(extracted)
    copy = one.memory
    assert (copy / "encoders.json").is_file()
    assert not copy.is_relative_to(extracted.root)
    del one
    assert not copy.exists()


@pytest.mark.parametrize("tokens", [0, 3])
def test_the_counts_and_megabytes_are_those_of_the_extraction(project, store_bytes, tokens):
    file = project.root / "mmfeat.toml"
    file.write_text(file.read_text().replace("size = 32", f"size = 32\ntokens = {tokens}"))
    plans = {plan.name: plan for plan in plan_extract(dry(project))}
    project = Project(project.root)
    done = extract(project)
    for one in done.encoders:
        plan = plans[one.name]
        assert (plan.to_encode, plan.cached, plan.absent) == (one.encoded, 0, one.absent)
        assert plan.missing == one.encoded + one.repeated
        assert plan.seconds > 0
        features = project.store.encoder(done.identities[one.name].spec)
        data = sum(commit.size for commit in features.commits)
        assert plan.mb * 1e6 < data < plan.mb * 1e6 + 20_000 * len(features.commits)  # what HDF5 adds to each file
    assert [plan.nothing for plan in plan_extract(dry(project))] == [True, True]


def test_a_shard_is_its_share(project):
    whole = plan_extract(dry(project), ["text"])[0].to_encode
    parts = [plan_extract(dry(project), ["text"], ExtractionOptions(shard=(k, 3)))[0].to_encode for k in (1, 2, 3)]
    assert sum(parts) == whole
    assert max(parts) < whole


def test_logits_alone_are_said(project):
    extract(project)
    finetune(Project(project.root), freeze=True)
    plans = plan_extract(dry(project))
    assert [plan.to_encode for plan in plans] == [0, 0]
    assert all(plan.to_logits > 0 and plan.mb > 0 for plan in plans)
    assert extract(Project(project.root)).logits == {plan.name: plan.to_logits for plan in plans}


def test_fine_tuning_is_planned_and_then_made_before(project):
    image, text = plan_finetune(dry(project, {"finetune.image.epochs": 7}))
    n_train = len(project.manifest.rows("train"))
    assert (image.what, text.what) == (f"{n_train} rows, up to 7 epochs", f"{n_train} rows, up to 2 epochs")
    assert image.seconds > 0
    assert image.store_mb > 0
    assert not image.nothing
    planned = plan_finetune(dry(project))
    made = finetune(project).encoders
    for plan, one in zip(planned, made, strict=True):
        size = sum(path.stat().st_size for path in one.checkpoint.folder.glob("*.safetensors"))
        assert plan.checkpoint_mb == pytest.approx(size / 1e6, rel=0.05, abs=0.05)
    again = plan_finetune(dry(project))
    assert [(plan.nothing, plan.made) for plan in again] == [(True, "image-1"), (True, "text-1")]
    assert plan_finetune(dry(project, {"seed": 5}))[0].made == ""


def test_a_fine_tuning_that_was_interrupted_has_fewer_epochs_left(project, monkeypatch):
    from mmfeat.encoders.finetuning.validated_epochs import EncoderFit

    keep = EncoderFit._keep

    def killed(self):
        keep(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(EncoderFit, "_keep", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune(project, ["image"])
    before = snapshot(project.root)
    (plan,) = plan_finetune(dry(project), ["image"])
    assert re.search(r"up to 2 epochs, (\d+) of \d+ steps done$", plan.what)
    assert snapshot(project.root) == before


def test_a_checkpoint_that_would_become_the_latest_again_is_said(project):
    finetune(project, ["text"], freeze=True)
    finetune(Project(project.root, {"fuse.linear.epochs": 2}), ["text"], freeze=True)
    (plan,) = plan_finetune(dry(project), ["text"], freeze=True)
    assert not plan.nothing
    assert plan.what.startswith("made before; it becomes the latest again")
    assert plan.checkpoint_mb > 0


def test_freezing_after_fine_tuning_encodes_with_the_pretrained_weights(project):
    """The linear output is fitted on the encoder as it was before; so is what lies in the store under its key."""
    spec = project.pretrained("image").spec
    keys = project.row_keys("image").keys
    finetune(project, ["image"])
    finetune(Project(project.root), ["image"], freeze=True)
    features = Project(project.root).store.encoder(spec)
    with_checkpoints = np.asarray(features.embeddings(features.lookup(keys))[:])
    shutil.rmtree(project.root / "checkpoints")
    shutil.rmtree(project.store.path)
    finetune(Project(project.root), ["image"], freeze=True)
    features = Project(project.root).store.encoder(spec)
    assert np.array_equal(np.asarray(features.embeddings(features.lookup(keys))[:]), with_checkpoints)


def test_what_cannot_be_done_is_an_error_before_anything_is_measured(project, tmp_path):
    ids = [str(i) for i in project.manifest.ids]
    np.save(tmp_path / "clip.npy", np.ones((len(ids), 3), np.float32))
    (tmp_path / "clip.txt").write_text("\n".join(ids))
    made = import_embeddings(project, "clip", tmp_path / "clip.npy", tmp_path / "clip.txt")
    with (project.root / "mmfeat.toml").open("a") as file:
        file.write(f"\n{made.table}\n")
    with pytest.raises(ConfigError, match="imported embeddings have no network"):
        plan_finetune(dry(project))
    (plan,) = plan_extract(dry(project), ["clip"])
    assert (plan.imported, plan.nothing, plan.cached) == (True, True, len(ids))
    unlabelled = dry(project)
    unlabelled.manifest.labels[:] = -1
    with pytest.raises(DataError, match="no labelled row"):
        plan_finetune(unlabelled)


@pytest.mark.parametrize("command", ["plan_extract(project)", "plan_finetune(project, freeze=True)"])
def test_with_nothing_to_do_no_torch_is_imported(extracted, command):
    for name in extracted.config.encoder:
        extracted.pretrained(name)  # `finetune` remembered it in the project that this is a copy of
    code = (
        "import sys\nfrom mmfeat.project.project import Project\n"
        "from mmfeat.training.dry_run import plan_extract, plan_finetune\n"
        f"project = Project('.', dry=True)\nassert all(plan.nothing for plan in {command})\n"
        "heavy = {'torch', 'timm', 'transformers', 'PIL'} & set(sys.modules)\nsys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=extracted.root)


def test_the_commands_say_what_to_type_next(project):
    before = snapshot(project.root)
    done = run_cli("extract", "text", "--dry-run", "--shard", "1/2", cwd=project.root)
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(
        r"Nothing was written\. It would take about .+ and add [\d.]+ MB to features/\. "
        r"Next: mmfeat extract text --shard 1/2",
        last,
    )
    done = run_cli("finetune", "--dry-run", "--set", "finetune.image.epochs=3", cwd=project.root)
    assert "up to 3 epochs" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("Next: mmfeat finetune --set finetune.image.epochs=3")
    assert run_cli("extract", "--dry-run", "--tune", cwd=project.root, check=False).returncode == 2
    assert snapshot(project.root) == before


def test_the_commands_say_at_once_that_there_is_nothing_to_do(extracted):
    done = run_cli("extract", "--dry-run", cwd=extracted.root)
    assert "there is nothing to do. Next: mmfeat fuse --head crossattn" in done.stdout
    done = run_cli("finetune", "--freeze", "--dry-run", cwd=extracted.root)
    assert "Already made: checkpoints/image-1 and checkpoints/text-1. Next: mmfeat fuse --head" in done.stdout
