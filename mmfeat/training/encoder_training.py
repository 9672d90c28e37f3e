"""Fine-tuning the encoders of a project, or fitting only their linear probes on cached features."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.devices import provenance, torch_device
from mmfeat.common.errors import DataError, EncoderError
from mmfeat.common.lineage import Lineage
from mmfeat.common.progress import clock, say
from mmfeat.common.randomness import id_numbers
from mmfeat.common.text import counted, quoted
from mmfeat.data.manifest import Manifest
from mmfeat.data.synonyms import load_synonyms, replace_two
from mmfeat.encoders.checkpoint import Checkpoint, LastEpoch, LinearProbe, copy_checkpoint, save_checkpoint
from mmfeat.encoders.families.tfidf import TfidfEncoder
from mmfeat.encoders.finetuning.augmentation import ImageAugmentation
from mmfeat.encoders.finetuning.fit_encoder import FittedEncoder, fit_encoder
from mmfeat.encoders.finetuning.optimisation import training_precision
from mmfeat.encoders.finetuning.resume_state import forget_state
from mmfeat.encoders.finetuning.training_samples import Samples
from mmfeat.encoders.resolve import Identity, build_encoder, words_of
from mmfeat.heads.training.epochs import FittedHead
from mmfeat.heads.training.fit_heads import fit_data, fit_head
from mmfeat.inference.fitted_rules import metrics_on_val
from mmfeat.inference.logits import encoder_logits, probe_logits
from mmfeat.metrics.metric_rows import Metrics
from mmfeat.project.encoding import complete_logits, encode_missing
from mmfeat.project.project import Project
from mmfeat.project.tfidf_vocabulary import fitted_words, identity_of
from mmfeat.report.plots import plot_learning
from mmfeat.store.feature_table import FeatureTable
from mmfeat.training.finetune_plan import FitPlan, check_fit_plans, fit_plan, from_nothing, out_of_use, use_remedy

NO_BETTER = "no epoch was better than the frozen encoder, which is kept"
CURVE = "learning-curve.png"
LONG_SECONDS = 1800.0  # an estimate beyond this names --freeze where there is no GPU


@dataclass(frozen=True)
class FinetunedEncoder:
    """One encoder's checkpoint and its figures on val.

    Attributes
    ----------
    made : bool
        False where the checkpoint was already there.
    figures : Metrics or None
        None without val rows.
    remedy : str
        What to write into mmfeat.toml so that the checkpoint is in use; empty where it is.
    """

    name: str
    model: str
    width: int
    checkpoint: Checkpoint
    made: bool
    figures: Metrics | None
    seconds: float
    note: str
    remedy: str = ""


def finetune_encoders(project: Project, names: list[str] | None = None, freeze: bool = False) -> list[FinetunedEncoder]:
    """Fit encoders on their own modality, one after another; all of the project where none is named.

    Raises
    ------
    DataError
        There is no labelled row to train on.
    EncoderError
        An encoder cannot be built or trained on this device, or its loss is not finite.
    """
    manifest, config = project.manifest, project.config
    results = []
    names = names or list(config.encoder)
    check_fit_plans(project, names, freeze)  # what is wrong is said before any work
    _say_empty_classes(manifest)
    for name in names:
        if not freeze:
            with named(name):
                training_precision(
                    config.finetune_of(name).precision, config.encoder[name].precision, torch_device(config.device)
                )
        if not from_nothing(project, name):
            project.identity(name)
    for name in names:
        fit = _freeze if freeze or from_nothing(project, name) else _tune
        results.append(_in_use(project, fit(project, name)))
    return results


def _say_empty_classes(manifest: Manifest) -> None:
    """Name the classes that nothing but 'no' can be learned of."""
    empty = [
        c for c, n in zip(manifest.classes, (manifest.labels[manifest.rows("train")] == 1).sum(0), strict=True) if not n
    ]
    if empty:
        have, more = "has" if len(empty) == 1 else "have", f" and {len(empty) - 5:,} more" if len(empty) > 5 else ""
        named = ", ".join(quoted(name) for name in empty[:5])
        what = counted(len(empty), "class", "classes")
        say(f"{what} {have} no positive among the rows to train on: {named}{more}. They are learned as 'no'")


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Say of which encoder an error is."""
    try:
        yield
    except EncoderError as error:
        raise EncoderError(f"encoder.{name}: {str(error).replace('NAME', name)}") from None


def _again(project: Project, plan: FitPlan) -> Checkpoint | None:
    """The checkpoint that was made from the same; where it is not the latest any more, it becomes that again."""
    if plan.made is not None and out_of_use(project, plan.made, plan.name):
        return copy_checkpoint(plan.made, plan.name)
    return plan.made


def _in_use(project: Project, result: FinetunedEncoder) -> FinetunedEncoder:
    """The result, with what to do where mmfeat.toml names another checkpoint."""
    name, checkpoint = result.name, result.checkpoint.name
    with contextlib.suppress(EncoderError):  # what mmfeat.toml names may be of another encoder
        if project.identity(name).checkpoint == checkpoint:
            return result
    return dataclasses.replace(result, remedy=use_remedy(name, checkpoint))


def _freeze(project: Project, name: str) -> FinetunedEncoder:
    """Fit the linear head on one encoder's cached features and save it as the encoder's output.

    An encoder that counts words is fitted first, and saved with it.
    """
    start = time.perf_counter()
    manifest = project.manifest
    plan = fit_plan(project, name, freeze=True)
    encoder = None if plan.pretrained else _words(project, plan)
    pretrained = plan.pretrained or identity_of(name, encoder)
    rows = np.concatenate([manifest.rows("train"), manifest.rows("val")])
    extraction = encode_missing(project, pretrained, rows, encoder=encoder)
    used = plan.tuned_before(project)
    what = "frozen" if encoder is None else counted(encoder.width, "term")
    what = f"as fine-tuned in {used.name}, its output fitted to other classes" if used else what
    note = (
        f"{what}; {counted(len(rows), 'labelled row')}, {extraction.encoded:,} encoded in {clock(extraction.seconds)}"
    )
    table = _labelled_table(project, pretrained)
    made = _again(project, plan)
    if made is None:
        fitted, output = _fitted_output(project, pretrained, table)
    else:
        output = made.output()
    figures = None
    if len(val := table.rows("val")):
        figures = metrics_on_val(project, probe_logits(project, table, name, output=output, rows=val).logits)
    learned = Lineage.of(manifest.ids[manifest.rows("train")], manifest.ids[manifest.rows("val")])
    more, tensors = ({"terms": encoder.preparation.terms}, encoder.state_dict()) if encoder else ({}, None)
    if used and made is None:
        more, tensors, learned = {"refitted": used.name}, used.tensors(), used.learned() | learned
    checkpoint = made or save_checkpoint(
        project.checkpoints,
        name,
        {**_record(project, plan, pretrained.spec, figures, fitted.history, fitted.best_epoch, fitted.seconds), **more},
        output,
        tensors,
        learned,
    )
    return FinetunedEncoder(
        name, pretrained.model, pretrained.width, checkpoint, made is None, figures, time.perf_counter() - start, note
    )


def _labelled_table(project: Project, pretrained: Identity) -> FeatureTable:
    """The cached features of labelled rows.

    Raises
    ------
    DataError
        None of the rows to train on could be encoded.
    """
    name, manifest = pretrained.name, project.manifest
    rows = np.concatenate([manifest.rows("train"), manifest.rows("val")])
    table = project.table_of({name: (pretrained.spec, None)}, rows)
    if not table.present[name][table.rows("train")].any():
        raise DataError(
            f"encoder.{name}: no labelled row to train on can be encoded. To see why: mmfeat extract {name}"
        )
    return table


def _fitted_output(project: Project, pretrained: Identity, table: FeatureTable) -> tuple[FittedHead, LinearProbe]:
    """The linear head on one encoder's cached features, and the same as its output."""
    config = project.config
    rows = np.concatenate([table.rows("train"), table.rows("val")])
    data = fit_data(table, [pretrained.name], torch_device(config.device), rows)
    fitted = fit_head("linear", data, config.fuse.linear, metric=config.metric, rule=config.predict, seed=config.seed)
    weight, bias = (t.float().cpu().numpy() for t in fitted.head.folded())
    return fitted, LinearProbe(weight, bias, project.manifest.classes)


def _words(project: Project, plan: FitPlan) -> TfidfEncoder:
    """The encoder of the checkpoint that was made from the same, or a new one."""
    return words_of(plan.made, project.config.encoder[plan.name]) if plan.made else fitted_words(project, plan.name)


def _tune(project: Project, name: str) -> FinetunedEncoder:
    """Fine-tune one encoder end to end and save it with its output."""
    config = project.config
    settings, plan = config.finetune_of(name), fit_plan(project, name, freeze=False)
    device = torch_device(config.device)
    made = _again(project, plan)
    if made is not None:
        _complete(project, plan, made)
        figures = _stored_metrics(project, name, made)
        note = f"fine-tuned before, best epoch {made.record['best_epoch']}"
        return FinetunedEncoder(
            name, _model(project, name), plan.pretrained.width, made, False, figures, made.record["seconds"], note
        )
    start = _frozen_output(project, plan.pretrained) if settings.head_first else None
    encoder, _ = build_encoder(config, name, project.checkpoints, pretrained_only=True)
    resume_file = resume_file_of(project, name)

    def before(done: int, seconds: float) -> None:
        model = _model(project, name)
        if done:
            say(f"{name}: going on after step {done:,}")
        say(f"{name}: fine-tuning {model} on {device}, about {clock(seconds)} for up to {settings.epochs} epochs")
        if config.encoder[name].pretrained == "random" and settings.batch_norm == "frozen":
            say(f"{name}: its weights are random; to train them from nothing, rather: --recipe paper")
        if seconds > LONG_SECONDS and device.type == "cpu":
            say(f"{name}: without a GPU this is long; minutes instead: mmfeat finetune {name} --freeze")

    samples = samples_of(project, name, encoder)
    with named(name):
        fitted = fit_encoder(
            encoder,
            samples,
            settings,
            metric=config.metric,
            rule=config.predict,
            seed=config.seed,
            device=device,
            resume_file=resume_file,
            fingerprint=plan.fingerprint,
            start=start,
            logs=_logs(project, plan),
            before=before,
        )
    checkpoint = _save(project, plan, encoder.cpu(), samples, fitted)
    resume_file.unlink(missing_ok=True)
    if fitted.stopped:
        raise EncoderError(
            f"encoder.{name}: {fitted.stopped}. checkpoints/{checkpoint.name} holds epoch {fitted.best_epoch}, the best "
            f"before. Set a lower lr under [finetune.{name}] in mmfeat.toml, and run: mmfeat finetune {name}"
        )
    figures = _stored_metrics(project, name, checkpoint)
    best = f"best epoch {fitted.best_epoch} of {fitted.history[-1]['epoch']}"
    note = f"fine-tuned in {clock(fitted.seconds)}, {best if fitted.best_epoch else NO_BETTER}"
    return FinetunedEncoder(name, _model(project, name), encoder.width, checkpoint, True, figures, fitted.seconds, note)


def _frozen_output(project: Project, pretrained: Identity) -> LinearProbe:
    """What fine-tuning begins with: the output that is best on the encoder as it is, from cached features."""
    manifest = project.manifest
    encode_missing(project, pretrained, np.concatenate([manifest.rows("train"), manifest.rows("val")]))
    return _fitted_output(project, pretrained, _labelled_table(project, pretrained))[1]


def _save(project: Project, plan: FitPlan, encoder: Any, samples: Samples, fitted: FittedEncoder) -> Checkpoint:
    """The checkpoint of the best epoch, in it that of the last, and the learning curve."""
    ids = project.manifest.ids
    learned = Lineage.of(ids[samples.train], ids[samples.val])
    record = _record(project, plan, encoder.spec(), None, fitted.history, fitted.best_epoch, fitted.seconds)
    if fitted.stopped:
        record["stopped"] = fitted.stopped
    last = None
    if fitted.last:
        tensors, output = fitted.last
        best = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
        encoder.load_state_dict(tensors)
        last = LastEpoch(encoder.spec().as_dict(), fitted.history[-1]["epoch"], output, tensors)
        encoder.load_state_dict(best)
    checkpoint = save_checkpoint(
        project.checkpoints, plan.name, record, fitted.output, encoder.state_dict(), learned, last
    )
    _plot(checkpoint)
    return checkpoint


def _plot(checkpoint: Checkpoint) -> None:
    record = checkpoint.record
    plot_learning(checkpoint.folder / CURVE, checkpoint.name, record["history"], record["best_epoch"])


def _complete(project: Project, plan: FitPlan, made: Checkpoint) -> None:
    """What follows a checkpoint, also one whose making was stopped right after it was there."""
    if made.record["history"] and not (made.folder / CURVE).is_file():
        _plot(made)
    forget_state(resume_file_of(project, plan.name), plan.fingerprint)


def _logs(project: Project, plan: FitPlan) -> Path:
    """Where TensorBoard's files of a fine-tuning lie."""
    return project.checkpoints / "tensorboard" / f"{plan.name}-{plan.fingerprint[:8]}"


def _stored_metrics(project: Project, name: str, checkpoint: Checkpoint) -> Metrics | None:
    """Figures on val by way of the store, so that they are those of the features that all later commands read."""
    identity = project.identity(name)
    val = project.manifest.rows("val")
    if not len(val) or identity.checkpoint != checkpoint.name:
        return None
    encode_missing(project, identity, val)
    complete_logits(project, identity)
    if not project.table([name], val).present[name][val].any():  # nothing to give figures of
        return None
    return metrics_on_val(project, encoder_logits(project, identity, val).logits)


def samples_of(project: Project, name: str, encoder: Any) -> Samples:
    """What an encoder's fine-tuning reads."""
    manifest = project.manifest
    modality = project.config.encoder[name].modality
    present = project.row_keys(modality).present
    train, val = (rows[present[rows]] for rows in (manifest.rows("train"), manifest.rows("val")))
    numbers = id_numbers(manifest.ids)
    if modality == "image":
        load, size = _image_loader(project, name, encoder), encoder.preparation.data_config["input_size"][1]
    else:
        load, size = _text_loader(project, encoder), 0
    return Samples(load, manifest.labels, numbers, train, val, manifest.classes, size)


def _image_loader(project: Project, name: str, encoder: Any) -> Any:
    """P5: a random horizontal flip; crops and RandAugment where they are asked for."""
    read, augmentation = project.reader(name), ImageAugmentation(encoder, project.config.finetune_of(name))
    return lambda row, number, size: augmentation(read(row), number, size)


def _text_loader(project: Project, encoder: Any) -> Any:
    """P6: two words replaced by synonyms."""
    captions, given = project.manifest.captions, project.config.finetune.synonyms
    synonyms = load_synonyms(project.config.path(given) if given else None)

    def load(row: int, number: int | None, _size: int) -> Any:
        caption = captions[row]
        return encoder.prepare(caption if number is None else replace_two(caption, synonyms, number))

    return load


def resume_file_of(project: Project, name: str) -> Path:
    """Where an interrupted fine-tuning keeps its state."""
    return project.checkpoints / f".resume-{name}.safetensors"


def _model(project: Project, name: str) -> str:
    return Path(project.config.encoder[name].model).name


def _record(
    project: Project,
    plan: FitPlan,
    spec: Any,
    figures: Metrics | None,
    history: list[dict[str, Any]],
    best_epoch: int,
    seconds: float,
) -> dict[str, Any]:
    config, name = project.config, plan.name
    table = config.encoder[name]
    return {
        "encoder": name,
        "modality": spec.modality,
        "table": {"model": table.model, **dataclasses.asdict(table)},
        "spec": spec.as_dict(),
        "fingerprint": plan.fingerprint,
        "settings": plan.settings,
        "metric": config.metric,
        "seed": config.seed,
        "best_epoch": best_epoch,
        "history": history,
        "val": figures.as_dict() if figures else None,
        "seconds": seconds,
        "made_on": provenance(torch_device(config.device)),
    }
