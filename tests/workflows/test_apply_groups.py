"""`audit --apply groups`, and what `init` makes of groups.csv."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from helpers.command_line import run_cli
from helpers.images import textured
from PIL import ImageOps

from mmfeat.audit.findings import Summary
from mmfeat.common.errors import DataError, OutputError
from mmfeat.project.audit_record import AuditRecord, write_audit
from mmfeat.project.initialisation import init
from mmfeat.project.project import Project
from mmfeat.training.head_folds import Folds
from mmfeat.workflows.apply_groups import apply_groups
from mmfeat.workflows.audit import audit

N, COPIED = 40, 8


def write_source(folder: Path, *, copies: bool = True, more: int = 0) -> None:
    """Pictures of two classes; of the first ones a mirrored copy each. `more`: further copies, turned upside down."""
    folder.mkdir(exist_ok=True)
    rows = [(f"{seed}.png", seed % 2) for seed in range(N)]
    for seed in range(N):
        textured(seed).save(folder / f"{seed}.png")
    for seed in range(COPIED if copies else 0):
        ImageOps.mirror(textured(seed)).save(folder / f"copy-{seed}.png")
        rows.append((f"copy-{seed}.png", seed % 2))
    for seed in range(more):
        ImageOps.flip(textured(seed)).save(folder / f"more-{seed}.png")
        rows.append((f"more-{seed}.png", seed % 2))
    with (folder / "photos.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "labels"), *((name, ("cat", "dog")[k]) for name, k in rows)])


@pytest.fixture
def duplicated(tmp_path) -> Path:
    """A project in which copies are in different splits."""
    write_source(tmp_path / "source")
    encoder = {"image_encoder": "test_efficientnet", "image_weights": "random"}
    return start(tmp_path / "project", tmp_path / "source" / "photos.csv", **encoder)


def start(folder: Path, source: Path, **encoder: str) -> Path:
    """A project in which nothing is encoded."""
    init(folder, str(source), val=0.4, **encoder)
    return folder


def splits(folder: Path) -> dict[str, str]:
    manifest = Project(folder).manifest
    return dict(zip(manifest.ids.tolist(), manifest.split.tolist(), strict=True))


def torn(folder: Path) -> int:
    found = splits(folder)
    return sum(found[f"{seed}.png"] != found[f"copy-{seed}.png"] for seed in range(COPIED))


def test_near_duplicates_become_groups_and_stay_together_in_a_new_split(duplicated):
    assert torn(duplicated) > 0
    found = audit(Project(duplicated))
    assert len([one for one in found.findings if one.check == "leakage"]) == torn(duplicated)
    result = apply_groups(Project(duplicated))
    assert result.changed
    assert set(result.clusters) == {(f"{seed}.png", f"copy-{seed}.png") for seed in range(COPIED)}
    assert result.n_torn == torn(duplicated)
    assert not apply_groups(Project(duplicated)).changed
    before = splits(duplicated)
    kept = init(duplicated)
    assert splits(duplicated) == before  # rows that have a split keep it
    assert "groups.csv   16 rows in 8 groups" in kept.summary
    assert f"{result.n_torn} groups in two splits" in kept.summary
    (duplicated / "manifest.parquet").unlink()
    init(duplicated)
    assert torn(duplicated) == 0


def test_a_new_copy_joins_the_split_of_its_group(duplicated, tmp_path):
    apply_groups_after_audit(duplicated)
    (duplicated / "manifest.parquet").unlink()
    init(duplicated)
    before = splits(duplicated)
    write_source(tmp_path / "source", more=COPIED)
    with (duplicated / "groups.csv").open("a", encoding="utf-8") as file:
        file.writelines(f"more-{seed}.png,{seed}.png\n" for seed in range(COPIED))
    init(duplicated)
    after = splits(duplicated)
    assert {sample: after[sample] for sample in before} == before
    assert all(after[f"more-{seed}.png"] == after[f"{seed}.png"] for seed in range(COPIED))


def test_folds_keep_groups_together(duplicated):
    apply_groups_after_audit(duplicated)
    init(duplicated)
    project = Project(duplicated)
    assert len(Folds(project).groups) == N
    names = dict(zip(project.manifest.ids.tolist(), project.manifest.groups.tolist(), strict=True))
    assert all(names[f"copy-{seed}.png"] == names[f"{seed}.png"] == f"{seed}.png" for seed in range(COPIED))


def test_without_a_current_audit_there_is_one_clear_line(duplicated, tmp_path):
    with pytest.raises(DataError, match=r"no audit yet\. Run: mmfeat audit"):
        apply_groups(Project(duplicated))
    audit(Project(duplicated))
    write_source(tmp_path / "source", more=2)
    init(duplicated)
    with pytest.raises(DataError, match=r"the manifest has changed since the audit\. Run: mmfeat audit"):
        apply_groups(Project(duplicated))
    skipped = Summary(check="near_duplicate", title="near-duplicate images", skipped="no row has a readable image")
    write_audit(Project(duplicated), AuditRecord(summaries=(skipped,), findings=()))
    with pytest.raises(DataError, match="did not look for near-duplicates: no row has a readable image"):
        apply_groups(Project(duplicated))


def test_edited_groups_are_not_written_over(duplicated):
    apply_groups_after_audit(duplicated)
    file = duplicated / "groups.csv"
    edited = file.read_text(encoding="utf-8").splitlines()[:-2]
    file.write_text("\n".join(edited) + "\n", encoding="utf-8")
    with pytest.raises(OutputError, match="has been changed since mmfeat wrote it"):
        apply_groups(Project(duplicated))
    assert apply_groups(Project(duplicated), overwrite=True).changed
    assert len(file.read_text(encoding="utf-8").splitlines()) == 2 * COPIED + 1


def test_the_command_says_what_to_do_next(duplicated):
    failed = run_cli("audit", "--apply", "groups", cwd=duplicated, check=False)
    assert (failed.returncode, failed.stdout) == (1, "")
    run_cli("audit", cwd=duplicated)
    done = run_cli("audit", "--apply", "groups", cwd=duplicated)
    assert "Made groups.csv (16 rows in 8 groups). Next: mmfeat init" in done.stdout
    assert "remove manifest.parquet before mmfeat init" in done.stdout
    assert "Already made: groups.csv" in run_cli("audit", "--apply", "groups", cwd=duplicated).stdout
    refused = run_cli("audit", "--apply", "groups", "--fail-on", "leakage", cwd=duplicated, check=False)
    assert "--fail-on" in refused.stderr
    assert refused.returncode != 0
    leaked = run_cli("audit", "--fail-on", "leakage", cwd=duplicated, check=False)
    assert leaked.returncode == 3
    document = json.loads((duplicated / "audit.json").read_text(encoding="utf-8"))
    assert {one["check"] for one in document["findings"]} >= {"leakage", "near_duplicate"}


def apply_groups_after_audit(folder: Path) -> None:
    audit(Project(folder))
    apply_groups(Project(folder))
