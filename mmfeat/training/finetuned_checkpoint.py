"""The checkpoint of a fine-tuning: its record, the weights of its best and last epochs, and the learning curve."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mmfeat.common.devices import provenance, torch_device
from mmfeat.common.labels import has_label
from mmfeat.common.lineage import Lineage, labelled_rows
from mmfeat.encoders.checkpoint import Checkpoint, LastEpoch, save_checkpoint
from mmfeat.encoders.finetuning.training_samples import Samples
from mmfeat.encoders.finetuning.validated_epochs import FittedEncoder
from mmfeat.heads.training.epochs import FittedHead
from mmfeat.metrics.metric_rows import Metrics
from mmfeat.project.project import Project
from mmfeat.report.plots import plot_learning
from mmfeat.training.finetune_plan import FitPlan

CURVE = "learning-curve.png"


def save_finetuned(
    project: Project, plan: FitPlan, encoder: Any, *, samples: Samples, fitted: FittedEncoder
) -> Checkpoint:
    """Write the checkpoint of the best epoch, with the weights of the last epoch in it, and the learning curve."""
    learned = lineage_on_train(project, samples.train, samples.val)
    record = checkpoint_record(project, plan, encoder.spec(), fitted=fitted)
    record |= plan.cut.record
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
        project.checkpoints,
        plan.name,
        record,
        output=fitted.output,
        tensors=encoder.state_dict(),
        learned=learned,
        last=last,
    )
    plot_curve(checkpoint)
    return checkpoint


def lineage_on_train(project: Project, train: np.ndarray, val: np.ndarray) -> Lineage:
    """The lineage of a model that was trained on some rows. Only given labels are recorded, no pseudo-labels."""
    ids, given = project.manifest.ids, project.samples.manifest
    labelled = train[has_label(given.labels[train])]
    return Lineage.of(ids[train], ids[val]).teaching(
        labelled_rows(ids[labelled], given.labels[labelled], given.classes)
    )


def plot_curve(checkpoint: Checkpoint) -> None:
    """Draw the learning curve into the checkpoint's folder."""
    record = checkpoint.record
    plot_learning(checkpoint.folder / CURVE, checkpoint.name, record["history"], record["best_epoch"])


def checkpoint_record(
    project: Project,
    plan: FitPlan,
    spec: Any,
    *,
    fitted: FittedHead | FittedEncoder,
    metrics: Metrics | None = None,
) -> dict[str, Any]:
    """The record of a checkpoint, as JSON values."""
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
        "best_epoch": fitted.best_epoch,
        "history": fitted.history,
        "val": metrics.as_dict() if metrics else None,
        "seconds": fitted.seconds,
        "made_on": provenance(torch_device(config.device)),
    }
