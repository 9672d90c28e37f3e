"""Work that is done once, and what is imported for it: encoders built, baselines fitted, torch."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import mmfeat.inference.baselines as baselines_module
from mmfeat.encoders.families.image_kind import ImageKind
from mmfeat.encoders.families.text_kind import TextKind
from mmfeat.project.encoding import extract
from mmfeat.project.project import Project
from mmfeat.workflows.export import export
from mmfeat.workflows.finetune import finetune
from mmfeat.workflows.fuse import fuse

HEAVY = ("torch", "timm", "transformers", "sklearn", "matplotlib", "scipy", "PIL", "faiss", "pandas")
CODE = """\
import sys
sys.argv = {argv!r}
from mmfeat.cli import main
main()
found = sorted(set({heavy!r}) & set(sys.modules))
print("IMPORTED " + " ".join(found))
"""


def imported(folder: Path, *arguments: str) -> list[str]:
    """The heavy packages that a command imports."""
    code = CODE.format(argv=["mmfeat", *arguments], heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("arguments", [["status"], ["extract"], ["runs"], ["status", "--store"]], ids=" ".join)
def test_commands_with_nothing_to_compute_import_no_torch(trained, arguments):
    assert imported(trained, *arguments) == []


@pytest.fixture
def builds(monkeypatch) -> Counter:
    """How often each encoder's network is built."""
    found: Counter = Counter()

    def counting(build):
        return lambda kind, config, name: found.update([name]) or build(kind, config, name)

    for kind in (ImageKind, TextKind):
        monkeypatch.setattr(kind, "build", counting(kind.build))
    return found


def test_every_encoder_is_built_once_in_a_command(project, builds, tmp_path):
    once = {"image": 1, "text": 1}
    extract(project)
    assert builds == once
    builds.clear()
    shutil.rmtree(project.root / ".mmfeat")
    shutil.rmtree(project.store.path)
    finetune(Project(project.root), freeze=True)
    assert builds == once
    builds.clear()
    extract(Project(project.root))  # the unlabelled rows
    assert builds == once
    builds.clear()
    extract(Project(project.root))
    fuse(Project(project.root))
    assert not builds
    shutil.rmtree(project.root / ".mmfeat")
    export(Project(project.root), "crossattn-1", tmp_path / "model")
    assert builds["image"] + builds["text"] >= 2
    assert max(builds.values()) <= 2  # once here, and once as the exported folder is read and checked


def test_a_second_head_fits_no_baseline_again(extracted, monkeypatch):
    first = fuse(extracted, "concat")

    def refuse(*args, **kwargs):
        raise AssertionError("a baseline was fitted again")

    with monkeypatch.context() as patch:
        patch.setattr(baselines_module, "fit_head", refuse)
        patch.setattr(baselines_module, "knn_logits", refuse)
        second = fuse(Project(extracted.root), "crossattn")
    n = len(first.lines) - 2
    assert [line.label for line in second.lines[:n]] == [line.label for line in first.lines[:n]]
    assert [line.samples_f1 for line in second.lines[:n]] == [line.samples_f1 for line in first.lines[:n]]
    assert second.run.record["baselines"] == first.run.record["baselines"]


def test_baselines_of_other_labels_rows_or_settings_are_fitted_again(extracted, monkeypatch):
    fuse(extracted, "linear")
    fitted: list[str] = []
    knn = baselines_module.knn_logits
    monkeypatch.setattr(baselines_module, "knn_logits", lambda *a, **k: fitted.append("kNN") or knn(*a, **k))
    fuse(extracted.derived(settings={"predict.threshold": 0.4}), "concat")
    assert len(fitted) == 1
    fuse(extracted.derived(settings={"fuse.inputs": "text"}), "mlp")
    assert len(fitted) == 2
    manifest = extracted.manifest
    labels = manifest.labels.copy()
    row = manifest.rows("train")[0]
    labels[row] = 1 - labels[row]
    path = extracted.root / "manifest.parquet"
    dataclasses.replace(manifest, labels=labels).save(path)
    fuse(Project(extracted.root), "linear")
    assert len(fitted) == 3
    assert json.loads((extracted.root / ".mmfeat" / "baselines.json").read_text())["values"]
