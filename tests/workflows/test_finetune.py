"""`mmfeat finetune` where there is little to learn from, or where something was made before."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import torch
from helpers.command_line import run_cli
from helpers.edits import save

from mmfeat.common.errors import DataError, EncoderError
from mmfeat.encoders.batches import UndecodableSample
from mmfeat.encoders.finetuning import gradient_steps
from mmfeat.encoders.finetuning import validated_epochs as encoders
from mmfeat.encoders.finetuning.optimisation import training_precision
from mmfeat.encoders.preparation import ImagePreparation
from mmfeat.project.encoding import extract
from mmfeat.project.project import Project
from mmfeat.training import encoder_training as workflow
from mmfeat.workflows.finetune import finetune


def edit(project: Project, pattern: str, new: str) -> Project:
    path = project.root / "mmfeat.toml"
    text, n = re.subn(pattern, new, path.read_text(encoding="utf-8"), count=1)
    assert n
    path.write_text(text, encoding="utf-8")
    return Project(project.root)


def refuse(monkeypatch, project: Project, rows: np.ndarray) -> None:
    """From here on the images of these rows are no images."""
    bad = {project.reader("image")(row) for row in rows.tolist()}
    decode = ImagePreparation.decode

    def picky(self, sample):
        if sample in bad:
            raise UndecodableSample(ValueError("no image"))
        return decode(self, sample)

    monkeypatch.setattr(ImagePreparation, "decode", picky)


def test_what_was_made_before_is_in_use_again(project):
    (first,) = finetune(project, ["text"], freeze=True).encoders
    (second,) = finetune(Project(project.root), ["text"]).encoders
    (third,) = finetune(Project(project.root), ["text"], freeze=True).encoders
    assert [one.checkpoint.name for one in (first, second, third)] == ["text-1", "text-2", "text-3"]
    assert Project(project.root).identity("text").checkpoint == "text-3"
    assert third.checkpoint.frozen
    assert third.checkpoint.output().key == first.checkpoint.output().key
    assert not third.made
    assert third.metrics.as_dict() == first.metrics.as_dict()
    (again,) = finetune(Project(project.root), ["text"], freeze=True).encoders
    assert again.checkpoint.name == "text-3"
    (tuned,) = finetune(Project(project.root), ["text"]).encoders
    assert (tuned.checkpoint.name, tuned.made) == ("text-4", False)
    assert Project(project.root).identity("text").checkpoint == "text-4"


@pytest.mark.parametrize("named", ["none", "checkpoints/text-1"])
def test_a_checkpoint_that_the_file_does_not_take_is_said(project, named):
    finetune(project, ["text"], freeze=True)
    project = edit(project, r"(?<=\[encoder.text\]\n)", f'checkpoint = "{named}"\n')
    done = run_cli("finetune", "text", cwd=project.root)
    assert "checkpoints/text-2 is not in use. In mmfeat.toml under [encoder.text] set: checkpoint =" in done.stdout
    done = run_cli("finetune", "text", "--freeze", cwd=project.root)
    assert ("is not in use" in done.stdout) == (named == "none")
    assert sorted(path.name for path in project.checkpoints.glob("text-*")) == ["text-1", "text-2"]


@pytest.mark.parametrize("freeze", [False, True])
def test_without_val_rows_the_last_epoch_counts(project, freeze):
    split = project.manifest.split.copy()
    split[:] = "train"
    found = finetune(save(project, split=split), ["text"], freeze=freeze)
    (result,), baseline = found.encoders, found.baseline
    assert (result.metrics, baseline) == (None, None)
    history = result.checkpoint.record["history"]
    assert result.checkpoint.record["best_epoch"] == len(history) == (3 if freeze else 2)


def test_val_rows_that_cannot_be_encoded_are_as_none(project, monkeypatch):
    refuse(monkeypatch, project, project.manifest.rows("val"))
    (result,) = finetune(project, ["image"]).encoders
    assert result.metrics is None
    assert result.checkpoint.record["best_epoch"] == 2


@pytest.mark.parametrize("freeze", [False, True])
def test_no_row_to_train_on_that_can_be_encoded_is_one_line(project, monkeypatch, freeze):
    refuse(monkeypatch, project, project.manifest.rows("train"))
    with pytest.raises((DataError, EncoderError), match=r"encoder.image: no labelled row to train on can be"):
        finetune(project, ["image"], freeze=freeze)


def test_an_encoder_whose_modality_no_row_has_is_refused_before_any_work(project):
    captions = np.full(project.manifest.n_samples, "", dtype=object)
    project = edit(save(project, captions=captions), r'model = ".*text-encoder"', 'model = "google/none-such"')
    with pytest.raises(DataError, match=r"encoder.text: no labelled row .* a caption. Use: mmfeat finetune image"):
        finetune(project)
    assert not project.checkpoints.exists()
    images = np.full(project.manifest.n_samples, "", dtype=object)
    with pytest.raises(DataError, match=r"encoder.image: no labelled row .* a readable image"):
        finetune(save(project, images=images), ["image"])


def test_float16_is_not_trained_on_a_cpu(project):
    project = edit(project, r"(?<=\[encoder.text\]\n)", 'precision = "float16"\n')
    with pytest.raises(EncoderError, match=r'encoder.text: .*Set: precision = "bfloat16" or "float32"'):
        finetune(project)
    assert not project.checkpoints.exists()
    assert training_precision("auto", "bfloat16", torch.device("cpu")) == "bfloat16"
    assert training_precision("float16", "float32", torch.device("cuda")) == "float16"
    (result,) = finetune(project, ["text"], freeze=True).encoders  # encoding in float16 is another matter
    assert result.metrics is not None


def test_float16_scales_its_loss_and_resumes_with_its_scale(project, monkeypatch):
    """On a CPU too, where it is only too slow and coarse to be of use; stopped and resumed it ends with the same bytes."""
    for module in (gradient_steps, workflow):
        monkeypatch.setattr(module, "training_precision", lambda *_: "float16")
    project = edit(project, r"(?<=\[encoder.text\]\n)", 'precision = "float16"\n')
    scales = []
    keep = encoders.EncoderFit._keep

    def watched(self):
        keep(self)
        scales.append(self.state.scaler["scale"])
        if len(scales) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(encoders.EncoderFit, "_keep", watched)

    def tensors() -> bytes:
        (result,) = finetune(Project(project.root), ["text"]).encoders
        assert np.isfinite([epoch["train_loss"] for epoch in result.checkpoint.record["history"]]).all()
        return (result.checkpoint.folder / "encoder.safetensors").read_bytes()

    straight = tensors()
    shutil.rmtree(project.checkpoints)
    with pytest.raises(KeyboardInterrupt):
        tensors()
    assert tensors() == straight
    assert scales[0] == scales[2] > 1
    assert scales[1] == scales[3]


def test_a_checkpoint_of_another_class_list_serves_without_its_output(project):
    (tuned,) = finetune(project, ["text"]).encoders
    extract(project)
    keep = list(project.manifest.classes)[:-1]
    m = project.manifest
    fewer = save(project, labels=np.where(m.labels[:, :1] < 0, np.int8(-1), m.labels), classes=(*keep, "another"))
    assert Project(project.root).identity("text").checkpoint == tuned.checkpoint.name
    done = run_cli("evaluate", "text", cwd=project.root, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is for other classes than the manifest. Run: mmfeat finetune text --freeze" in done.stderr
    (refitted,) = finetune(fewer, ["text"], freeze=True).encoders
    assert "fine-tuned in text-1" in refitted.note
    assert ", 0 encoded" in refitted.note
    assert refitted.checkpoint.encoder_key == tuned.checkpoint.encoder_key
    assert refitted.checkpoint.classes == (*keep, "another")
    again = Project(project.root)
    assert again.identity("text").checkpoint == "text-2"
    assert again.identity("text").spec.key == tuned.checkpoint.encoder_key
    (same,) = finetune(again, ["text"], freeze=True).encoders
    assert (same.checkpoint.name, same.made) == ("text-2", False)


def test_a_class_without_a_positive_is_said_and_learned_as_no(project, capsys):
    labels = project.manifest.labels.copy()
    train = project.manifest.rows("train")
    labels[train, 0] = np.minimum(labels[train, 0], 0)
    (result,) = finetune(save(project, labels=labels), ["text"]).encoders
    assert np.isfinite([record["train_loss"] for record in result.checkpoint.record["history"]]).all()
    name = project.manifest.classes[0]
    assert f"1 class has no positive among the rows to train on: {name!r}" in capsys.readouterr().err
