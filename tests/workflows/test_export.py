"""mmfeat export: whole or not at all, each encoder once, checked before it appears."""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch
from helpers.command_line import run_cli

from mmfeat import Predictor
from mmfeat.common.errors import DataError, EncoderError, RunError
from mmfeat.inference import model_export as exporting
from mmfeat.predictor.card import _with_interval, limit_text
from mmfeat.project.encoding import extract
from mmfeat.project.project import Project
from mmfeat.workflows.export import export
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.runs import runs


@pytest.mark.parametrize("name", ["fm3-1", "crossattn-1", "image"])
def test_what_is_written_is_the_run(trained, tmp_path, name):
    result = export(Project(trained), name, tmp_path / "model")
    assert result.n_checked > 0
    assert result.difference < 1e-4
    record = json.loads((result.folder / "mmfeat.json").read_text(encoding="utf-8"))
    assert record["run"]["name"] == name
    assert set(record["files"]) == {
        p.relative_to(result.folder).as_posix() for p in result.folder.rglob("*") if p.is_file()
    } - {"mmfeat.json"}
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_an_ensemble_has_each_encoder_once(exported):
    assert sorted(p.name for p in (exported / "encoders").iterdir()) == ["image", "text"]
    assert len(list(exported.rglob("weights.safetensors"))) == 2


def test_half_the_size_is_near(trained, tmp_path, exported):
    half = export(Project(trained), "fm3-1", tmp_path / "half", dtype="float16")
    whole = sum(p.stat().st_size for p in exported.rglob("*.safetensors"))
    assert sum(p.stat().st_size for p in half.folder.rglob("*.safetensors")) < 0.55 * whole
    assert half.difference < 0.02


def test_a_weight_that_float16_cannot_hold_is_named(tmp_path):
    from mmfeat.encoders.portable import save_tensors

    with pytest.raises(EncoderError, match=r"float16 cannot hold big: its largest value is 7e\+04"):
        save_tensors({"big": torch.tensor([7e4])}, tmp_path / "a.safetensors", "float16")


def test_a_destination_that_is_there_is_left_alone(trained, tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(DataError, match="exists"):
        export(Project(trained), "fm3-1", tmp_path / "model")
    assert not list((tmp_path / "model").iterdir())


def test_what_does_not_predict_as_the_run_does_not_appear(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(RunError, match="Nothing was made"):
        export(Project(trained), "fm3-1", tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_at_the_tolerance_of_mixed_a_wrong_export_does_not_appear(project_folder, tmp_path, monkeypatch):
    """Where engines may compute in different arithmetic, the limit is wider; classes in another order exceed it."""
    path = project_folder / "mmfeat.toml"
    text = path.read_text(encoding="utf-8").replace(
        'pretrained = "random"\n', 'pretrained = "random"\nprecision = "mixed"\n'
    )
    path.write_text(text.replace("[fuse.linear]\nepochs = 3", "[fuse.linear]\nepochs = 40"), encoding="utf-8")
    project = Project(project_folder, {"fuse.head": "linear"})
    extract(project)
    run, limits = fuse(project).run, []
    write, compare = exporting.write_model, exporting._compared
    monkeypatch.setattr(
        exporting, "_compared", lambda *given, **named: limits.append(named["limit"]) or compare(*given, **named)
    )
    right = export(project, run.name, tmp_path / "right")
    assert limits == [pytest.approx(0.15)]
    assert right.n_checked > 0
    assert right.difference < exporting.TOLERANCE

    def reordered(folder, encoders, composition, **named):
        composition = copy.deepcopy(composition)
        with torch.no_grad():
            for parameter in composition.parameters():
                if parameter.ndim and parameter.shape[0] == composition.n_classes:
                    parameter.copy_(parameter.roll(1, 0))
        return write(folder, encoders, composition, **named)

    monkeypatch.setattr(exporting, "write_model", reordered)
    with pytest.raises(RunError, match="Nothing was made"):
        export(project, run.name, tmp_path / "wrong")
    assert [folder.name for folder in tmp_path.iterdir() if folder.name in ("right", "wrong")] == ["right"]


def test_an_interrupted_export_leaves_nothing(trained, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(Project(trained), "fm3-1", tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_stale_run_and_one_that_is_none_are_refused(trained, tmp_path):
    project = Project(trained)
    with pytest.raises(RunError, match="no run or encoder 'nothing-1'"):
        export(project, "nothing-1", tmp_path / "model")
    table = project.config.encoder["image"]
    object.__setattr__(table, "size", 48)
    with pytest.raises(RunError, match="crossattn-1 is stale: encoder image has changed"):
        export(project, "crossattn-1", tmp_path / "model")


def test_without_the_images_it_is_made_and_says_that_it_was_not_compared(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_some_rows", lambda project: [])
    result = export(Project(trained), "fm3-1", tmp_path / "model")
    assert (result.n_checked, result.unchecked) == (0, "no row could be read")
    assert Predictor.load(result.folder).classes


def test_the_model_card_says_what_the_run_recorded(exported, trained):
    card = (exported / "README.md").read_text(encoding="utf-8")
    figures = json.loads((trained / "runs" / "fm3-1" / "run.json").read_text())["figures"]["val"]
    for name in ("samples_f1", "map"):
        low, high = figures[f"{name}_interval"]
        assert f"| {figures[name]:.3f} ({low:.3f} to {high:.3f}) |" in card
    assert _with_interval({"map": 0.5}, "map") == "0.500"  # of a run that recorded none
    assert f"On {figures['n_samples']} validation rows" in card
    assert "- trained on 45 labelled rows, each counted once\n- selected on 15 labelled rows, which no part was" in card
    assert "license:" in card
    assert "within the limit of 100 MB" in card


def test_the_limit_is_said_either_way():
    assert limit_text(12.34, 100) == "12.3 MB, within the limit of 100 MB by 87.7 MB."
    assert limit_text(117.0, 100) == "117.0 MB, over the limit of 100 MB by 17.0 MB."
    assert limit_text(100.04, 100).endswith("by 0.04 MB.")
    assert limit_text(117.0, 0) == "117.0 MB."


def test_heads_alone_in_float16(trained, tmp_path, exported):
    project = Project(trained, {"heads_dtype": "float16"})
    result = export(project, "fm3-1", tmp_path / "model")

    def size(folder, pattern):
        return sum(p.stat().st_size for p in folder.rglob(pattern))

    assert size(result.folder, "heads.safetensors") < 0.6 * size(exported, "heads.safetensors")
    assert size(result.folder, "weights.safetensors") == size(exported, "weights.safetensors")
    assert result.difference < 0.02
    assert (
        "crossattn on `image` and `text`, mean of 2 seeds, weights kept in float16"
        in (result.folder / "README.md").read_text()
    )
    assert not export(project, "fm3-1", tmp_path / "model").made
    with pytest.raises(DataError, match="was made from something else"):
        export(Project(trained), "fm3-1", tmp_path / "model")
    done = run_cli(
        *("--project", str(trained), "export", "fm3-1", "other", "--heads-dtype", "float16", "--set", "limit_mb=1"),
        cwd=tmp_path,
    )
    assert "fm3-1: image, text in float32, heads in float16; " in done.stdout
    whole, half = (
        {line.name: line.size_mb for line in runs(Project(trained, {"heads_dtype": dtype})).runs}
        for dtype in ("float32", "float16")
    )
    head_mb = json.loads((trained / "runs" / "fm3-1" / "run.json").read_text())["head_mb"]
    assert whole["fm3-1"] - half["fm3-1"] == pytest.approx(head_mb / 2)


def test_runs_say_by_how_much_the_limit_is_met_or_missed(trained):
    def about(limit):
        return runs(Project(trained, {"limit_mb": str(limit)})).about_limit

    sizes = sorted(line.size_mb for line in runs(Project(trained)).runs)
    assert about(0) == ""
    assert (
        about(sizes[-1] + 2)
        == f"All 4 models are within the limit of {sizes[-1] + 2:g} MB (limit_mb) by 2.0 MB or more."
    )
    assert about(sizes[0] / 2).startswith(f"4 of 4 models are over the limit of {sizes[0] / 2:g} MB (limit_mb) by ")


def test_the_limit_is_a_setting_that_runs_and_export_judge_by(trained, tmp_path):
    listed = run_cli("--project", str(trained), "runs", "--set", "limit_mb=0.5", cwd=tmp_path).stdout
    assert "2 of 4 models are over the limit of 0.5 MB (limit_mb) by " in listed
    assert "over the limit" not in run_cli("--project", str(trained), "runs", cwd=tmp_path).stdout
    words = ["export", "crossattn-1", "model", "--set", "limit_mb=0.5"]
    done = run_cli("--project", str(trained), *words, cwd=tmp_path)
    assert "MB, over the limit of 0.5 MB by " in done.stdout
    assert "--dtype float16" in done.stdout
    assert "over the limit of 0.5 MB by " in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    again = run_cli("--project", str(trained), "export", "crossattn-1", "model", cwd=tmp_path)
    assert "Already made from the same" in again.stdout  # the limit changes no model


def test_the_command_says_what_it_made(trained, tmp_path):
    done = run_cli("--project", str(trained), "export", "crossattn-1", "model", cwd=tmp_path)
    how = "(differ from those of the cached features by at most [1-9].*|are those of the cached features)$"
    assert re.search(rf"read again: probabilities {how}", done.stdout, re.MULTILINE)
    assert done.stdout.rstrip().endswith(f"mmfeat predict new.csv --model {tmp_path / 'model'}")
    again = run_cli("--project", str(trained), "export", "crossattn-1", "model", cwd=tmp_path)
    assert again.stdout.startswith(f"Already made from the same: {tmp_path / 'model'} (")
    other = run_cli("--project", str(trained), "export", "fm3-1", "model", cwd=tmp_path, check=False)
    assert other.returncode == 1
    assert "exists and was made from something else" in other.stderr


def test_a_disk_that_is_full_is_one_line(trained, tmp_path, monkeypatch):
    import errno

    from safetensors import SafetensorError

    for error in (OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left")):

        def full(*_, error=error, **__):
            raise error

        monkeypatch.setattr(exporting, "write_model", full)
        with pytest.raises(RunError, match=r"model: cannot be written: .*No space left"):
            export(Project(trained), "fm3-1", tmp_path / "model")
    assert not list(tmp_path.iterdir())
