"""Fine-tune the encoders of a project, or fit only their linear probes on cached features."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.devices import torch_device
from mmfeat.common.errors import DataError, EncoderError
from mmfeat.common.progress import clock, say
from mmfeat.common.randomness import id_numbers
from mmfeat.common.text import counted, quoted
from mmfeat.data.manifest import Manifest
from mmfeat.encoders.checkpoint import Checkpoint, LinearProbe, copy_checkpoint, save_checkpoint
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.finetuning.fit_encoder import fit_encoder
from mmfeat.encoders.finetuning.optimisation import training_precision
from mmfeat.encoders.finetuning.resume_state import forget_state
from mmfeat.encoders.finetuning.training_samples import Samples
from mmfeat.encoders.finetuning.validated_epochs import EncoderFit, FittedEncoder
from mmfeat.encoders.kinds import kind_of
from mmfeat.encoders.resolve import Identity, build_encoder
from mmfeat.extraction.device_shares import DeviceShare
from mmfeat.heads.training.epochs import FittedHead
from mmfeat.heads.training.fit_heads import fit_data, fit_head
from mmfeat.inference.fitted_rules import metrics_on_val
from mmfeat.inference.logits import encoder_logits, probe_logits
from mmfeat.metrics.metric_rows import Metrics
from mmfeat.project.encoding import complete_logits, encode_missing
from mmfeat.project.project import Project
from mmfeat.project.tfidf_vocabulary import fitted_vocabulary, identity_of
from mmfeat.store.feature_table import FeatureTable
from mmfeat.training.cut_training import cache_layers, of_whole, start_table, trained_part
from mmfeat.training.device_training import check_batches, fit_on_devices
from mmfeat.training.finetune_plan import FitPlan, check_fit_plans, fit_plan, is_fitted_whole, out_of_use, use_remedy
from mmfeat.training.finetuned_checkpoint import CURVE, checkpoint_record, lineage_on_train, plot_curve, save_finetuned
from mmfeat.training.fit_announcement import announce

NO_BETTER = "no epoch was better than the frozen encoder, which is kept"


@dataclass(frozen=True, kw_only=True)
class FinetunedEncoder:
    """The checkpoint of one encoder, and its metrics on val.

    Attributes
    ----------
    made : bool
        False if the checkpoint existed already.
    metrics : Metrics or None
        None without val rows.
    remedy : str
        The line for mmfeat.toml that puts the checkpoint in use; empty if it is in use.
    """

    name: str
    model: str
    width: int
    checkpoint: Checkpoint
    made: bool
    metrics: Metrics | None
    seconds: float
    note: str
    remedy: str = ""


def finetune_encoders(
    project: Project, names: list[str] | None = None, freeze: bool = False, *, shares: Sequence[DeviceShare] = ()
) -> list[FinetunedEncoder]:
    """Fit encoders on their own modality, one after another; all of the project if none is named.

    Parameters
    ----------
    shares : sequence of DeviceShare
        Several processes that a fine-tuning divides its batches among. The project's device is the first one's.

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
    check_fit_plans(project, names, freeze)  # refused before any work
    _say_empty_classes(manifest)
    for name in names:
        if not freeze:
            with named(name):
                training_precision(
                    config.finetune_of(name).precision, config.encoder[name].precision, torch_device(config.device)
                )
                check_batches(project, name, shares)
        if not is_fitted_whole(project, name):
            project.identity(name)
    for name in names:
        frozen = freeze or is_fitted_whole(project, name)
        results.append(_in_use(project, _freeze(project, name) if frozen else _tune(project, name, shares)))
    return results


def _say_empty_classes(manifest: Manifest) -> None:
    """Name the classes without a positive among the training rows."""
    empty = [
        c for c, n in zip(manifest.classes, (manifest.labels[manifest.rows("train")] == 1).sum(0), strict=True) if not n
    ]
    if empty:
        have, more = "has" if len(empty) == 1 else "have", f" and {len(empty) - 5:,} more" if len(empty) > 5 else ""
        named = ", ".join(quoted(name) for name in empty[:5])
        what = counted(len(empty), "class", "classes")
        say(f"{what} {have} no positive among the rows to train on: {named}{more}. They are learned as negative")


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Name the encoder in an error."""
    try:
        yield
    except EncoderError as error:
        raise EncoderError(f"encoder.{name}: {str(error).replace('NAME', name)}") from None


def _existing_checkpoint(project: Project, plan: FitPlan) -> Checkpoint | None:
    """The existing checkpoint with the plan's fingerprint. If it is not the latest, it is copied to become the latest."""
    if plan.made is not None and out_of_use(project, plan.made, plan.name):
        return copy_checkpoint(plan.made, plan.name)
    return plan.made


def _in_use(project: Project, result: FinetunedEncoder) -> FinetunedEncoder:
    """The result, with a remedy if mmfeat.toml names another checkpoint."""
    name, checkpoint = result.name, result.checkpoint.name
    with contextlib.suppress(EncoderError):  # the checkpoint of mmfeat.toml may be of another encoder
        if project.identity(name).checkpoint == checkpoint:
            return result
    return dataclasses.replace(result, remedy=use_remedy(name, checkpoint))


def _freeze(project: Project, name: str) -> FinetunedEncoder:
    """Fit a linear probe on one encoder's cached features, and save it.

    An encoder such as TF-IDF is fitted first, and saved with its probe.
    """
    start = time.perf_counter()
    manifest = project.manifest
    plan = fit_plan(project, name, freeze=True)
    encoder = None if plan.pretrained else _fitted_encoder(project, plan)
    pretrained = plan.pretrained or identity_of(name, encoder)
    rows = np.concatenate([manifest.rows("train"), manifest.rows("val")])
    extraction = encode_missing(project, pretrained, rows, encoder=encoder)
    used = plan.tuned_before(project)
    what = "frozen" if encoder is None else kind_of(project.config.encoder[name]).fitted_what(encoder)
    what = f"fine-tuned in {used.name}; a new probe for the current classes" if used else what
    note = (
        f"{what}; {counted(len(rows), 'labelled row')}, {extraction.encoded:,} encoded in {clock(extraction.seconds)}"
    )
    table = _labelled_table(project, pretrained)
    made = _existing_checkpoint(project, plan)
    if made is None:
        fitted, output = _fitted_output(project, pretrained, table)
    else:
        output = made.output()
    metrics = None
    if len(val := table.rows("val")):
        metrics = metrics_on_val(project, probe_logits(project, table, name, output=output, rows=val).logits)
    learned = lineage_on_train(project, manifest.rows("train"), manifest.rows("val"))
    more, tensors = {}, None
    if encoder is not None:
        more, tensors = kind_of(project.config.encoder[name]).fit_record(encoder), encoder.state_dict()
    if used and made is None:
        more, tensors, learned = {"refitted": used.name}, used.tensors(), used.learned() | learned
    checkpoint = made or save_checkpoint(
        project.checkpoints,
        name,
        {**checkpoint_record(project, plan, pretrained.spec, fitted=fitted, metrics=metrics), **more},
        output=output,
        tensors=tensors,
        learned=learned,
    )
    return FinetunedEncoder(
        name=name,
        model=pretrained.model,
        width=pretrained.width,
        checkpoint=checkpoint,
        made=made is None,
        metrics=metrics,
        seconds=time.perf_counter() - start,
        note=note,
    )


def _labelled_table(project: Project, pretrained: Identity) -> FeatureTable:
    """The cached features of labelled rows; raises as `_with_rows`."""
    manifest = project.manifest
    rows = np.concatenate([manifest.rows("train"), manifest.rows("val")])
    return _with_rows(project.table_of({pretrained.name: (pretrained.spec, None)}, rows), pretrained.name)


def _with_rows(table: FeatureTable, name: str) -> FeatureTable:
    """The same table.

    Raises
    ------
    DataError
        No row to train on could be encoded.
    """
    if not table.present[name][table.rows("train")].any():
        raise DataError(
            f"encoder.{name}: no labelled row to train on can be encoded. To see why: mmfeat extract {name}"
        )
    return table


def _fitted_output(project: Project, pretrained: Identity, table: FeatureTable) -> tuple[FittedHead, LinearProbe]:
    """A linear head fitted on one encoder's cached features, and its weights as a linear probe."""
    config = project.config
    rows = np.concatenate([table.rows("train"), table.rows("val")])
    data = fit_data(table, [pretrained.name], torch_device(config.device), rows)
    fitted = fit_head("linear", data, config.fuse.linear, metric=config.metric, rule=config.predict, seed=config.seed)
    weight, bias = (t.float().cpu().numpy() for t in fitted.head.folded())
    return fitted, LinearProbe(weight, bias, project.manifest.classes)


def _fitted_encoder(project: Project, plan: FitPlan) -> Encoder:
    """The fitted encoder of the plan's checkpoint, or a new one."""
    table = project.config.encoder[plan.name]
    return kind_of(table).restore(plan.made, table) if plan.made else fitted_vocabulary(project, plan.name)


def _tune(project: Project, name: str, shares: Sequence[DeviceShare]) -> FinetunedEncoder:
    """Fine-tune one encoder end to end, and save it with its linear probe."""
    config = project.config
    settings, plan = config.finetune_of(name), fit_plan(project, name, freeze=False)
    made = _existing_checkpoint(project, plan)
    if made is not None:
        _complete(project, plan, made)
        return FinetunedEncoder(
            name=name,
            model=project.model_title(name),
            width=plan.pretrained.width,
            checkpoint=made,
            made=False,
            metrics=_stored_metrics(project, name, made),
            seconds=made.record["seconds"],
            note=f"fine-tuned before, best epoch {made.record['best_epoch']}",
        )
    encoder, _ = build_encoder(config, name, project.checkpoints, pretrained_only=True)
    samples = cache_layers(project, plan, samples_of(project, name, encoder))
    start = _frozen_output(project, plan) if settings.head_first else None
    with named(name):
        fitted = _fitted(project, plan, trained_part(plan, encoder), samples=samples, start=start, shares=shares)
    encoder = encoder.cpu()
    checkpoint = save_finetuned(project, plan, encoder, samples=samples, fitted=of_whole(fitted, encoder))
    resume_file_of(project, name).unlink(missing_ok=True)
    if fitted.stopped:
        raise EncoderError(
            f"encoder.{name}: {fitted.stopped}. checkpoints/{checkpoint.name} holds epoch {fitted.best_epoch}, the best "
            f"before. Set a lower lr under [finetune.{name}] in mmfeat.toml, and run: mmfeat finetune {name}"
        )
    best = f"best epoch {fitted.best_epoch} of {fitted.history[-1]['epoch']}"
    note = f"fine-tuned in {clock(fitted.seconds)}, {best if fitted.best_epoch else NO_BETTER}"
    return FinetunedEncoder(
        name=name,
        model=project.model_title(name),
        width=encoder.width,
        checkpoint=checkpoint,
        made=True,
        metrics=_stored_metrics(project, name, checkpoint),
        seconds=fitted.seconds,
        note=note,
    )


def _fitted(
    project: Project,
    plan: FitPlan,
    encoder: Encoder,
    *,
    samples: Samples,
    start: LinearProbe | None,
    shares: Sequence[DeviceShare],
) -> FittedEncoder:
    """Fine-tune in this process, or in one for each device."""
    settings, arguments = project.config.finetune_of(plan.name), fit_arguments(project, plan)
    if len(shares) > 1:
        return fit_on_devices(EncoderFit(encoder, samples, settings, **arguments, start=start), project, plan, shares)
    return fit_encoder(
        encoder,
        samples,
        settings,
        **arguments,
        start=start,
        logs=logs_of(project, plan),
        before=functools.partial(announce, project, plan.name),
    )


def _frozen_output(project: Project, plan: FitPlan) -> LinearProbe:
    """The probe that fine-tuning starts with: fitted on the pretrained encoder's embeddings."""
    manifest, pretrained = project.manifest, plan.pretrained
    if (table := start_table(project, plan)) is not None:
        return _fitted_output(project, pretrained, _with_rows(table, plan.name))[1]
    rows = np.concatenate([manifest.rows("train"), manifest.rows("val")])
    encode_missing(project, pretrained, rows, trained=plan.cut.trained if plan.cut.cached else 0)
    return _fitted_output(project, pretrained, _labelled_table(project, pretrained))[1]


def _complete(project: Project, plan: FitPlan, made: Checkpoint) -> None:
    """Finish the work after a checkpoint, in case the process was killed right after writing it."""
    if made.record["history"] and not (made.folder / CURVE).is_file():
        plot_curve(made)
    forget_state(resume_file_of(project, plan.name), plan.fingerprint)


def logs_of(project: Project, plan: FitPlan) -> Path:
    """The folder of a fine-tuning's TensorBoard files."""
    return project.checkpoints / "tensorboard" / f"{plan.name}-{plan.fingerprint[:8]}"


def _stored_metrics(project: Project, name: str, checkpoint: Checkpoint) -> Metrics | None:
    """Metrics on val from stored features, as later commands compute them."""
    identity = project.identity(name)
    val = project.manifest.rows("val")
    if not len(val) or identity.checkpoint != checkpoint.name:
        return None
    encode_missing(project, identity, val)
    complete_logits(project, identity)
    if not project.feature_table([name], val).present[name][val].any():  # no row to score
        return None
    return metrics_on_val(project, encoder_logits(project, identity, val).logits)


def samples_of(project: Project, name: str, encoder: Any) -> Samples:
    """The samples of an encoder's fine-tuning."""
    manifest, config = project.manifest, project.config
    kind, source = kind_of(config.encoder[name]), project.source_of(config.encoder[name].modality, name)
    present = project.row_keys(kind.modality, source).present
    train, val = (rows[present[rows]] for rows in (manifest.rows("train"), manifest.rows("val")))
    load, size = kind.training_loader(kind.reader(project.samples, source), encoder, config, name)
    return Samples(
        load=load,
        labels=manifest.labels,
        numbers=id_numbers(manifest.ids),
        train=train,
        val=val,
        classes=manifest.classes,
        size=size,
    )


def fit_arguments(project: Project, plan: FitPlan) -> dict[str, Any]:
    """The arguments of a fit that follow from a project's settings, by their names."""
    config = project.config
    return {
        "metric": config.metric,
        "rule": config.predict,
        "seed": config.seed,
        "device": torch_device(config.device),
        "resume_file": resume_file_of(project, plan.name),
        "fingerprint": plan.fingerprint,
    }


def resume_file_of(project: Project, name: str) -> Path:
    """The file with the state of an interrupted fine-tuning."""
    return project.checkpoints / f".resume-{name}.safetensors"
