"""`mmfeat finetune`: each encoder alone on its modality, or (frozen) only its linear output on cached features."""

from __future__ import annotations

from mmfeat.inference.fitted_rules import metrics_on_val
from mmfeat.metrics import most_frequent_baseline
from mmfeat.metrics.metric_rows import Metrics
from mmfeat.project.project import Project
from mmfeat.training.dry_run import PlannedFinetuning, plan_finetune
from mmfeat.training.encoder_training import FinetunedEncoder, finetune_encoders

__all__ = ["FinetunedEncoder", "PlannedFinetuning", "finetune", "plan_finetune"]


def finetune(
    project: Project, names: list[str] | None = None, freeze: bool = False
) -> tuple[list[FinetunedEncoder], Metrics | None]:
    """Fit encoders on their own modality, one after another.

    Parameters
    ----------
    names : list of str, optional
        Encoders; all of the project, when None.
    freeze : bool
        Keep the pretrained encoder and fit only its linear output, on cached features. One that counts words is fitted
        on the captions of training rows either way.

    Returns
    -------
    tuple
        One result for each encoder, and the commonest label's figures on the same val rows.

    Raises
    ------
    DataError
        There is no labelled row to train on.
    EncoderError
        An encoder cannot be built or trained on this device, or its loss became no number.
    """
    results, manifest = finetune_encoders(project, names, freeze), project.manifest
    val = manifest.rows("val")
    if not len(val):
        return results, None
    baseline = most_frequent_baseline(manifest.labels[manifest.rows("train")], len(val))
    return results, metrics_on_val(project, baseline)
