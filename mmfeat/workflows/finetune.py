"""`mmfeat finetune`: fit each encoder on its own modality, or (frozen) only its linear probe on cached features."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmfeat.common.former_arguments import former_arguments
from mmfeat.common.progress import clock
from mmfeat.extraction.device_shares import DeviceShare, given_shares
from mmfeat.inference.fitted_rules import metrics_on_val
from mmfeat.metrics import most_frequent_baseline
from mmfeat.metrics.metric_rows import MetricRow, Metrics
from mmfeat.project.project import Project
from mmfeat.report.result import Record, TableResult, metric_records
from mmfeat.report.text_tables import MOST_FREQUENT
from mmfeat.training.dry_run import DryRun, PlannedFinetuning
from mmfeat.training.dry_run import plan_finetune as plan_finetuning
from mmfeat.training.encoder_training import FinetunedEncoder, finetune_encoders

__all__ = ["FinetuneDryRun", "FinetuneResult", "FinetunedEncoder", "PlannedFinetuning", "finetune", "plan_finetune"]


@dataclass(frozen=True, kw_only=True, repr=False)
class FinetuneResult(TableResult):
    """Checkpoints and their metrics on val.

    Attributes
    ----------
    encoders : list of FinetunedEncoder
        One for each encoder, with its checkpoint.
    baseline : Metrics or None
        Metrics of the most-frequent baseline on the same val rows. None without val rows.
    """

    encoders: list[FinetunedEncoder]
    baseline: Metrics | None

    @property
    def lines(self) -> list[MetricRow]:
        """The baseline and each encoder on val. Empty without val rows."""
        lines = [MetricRow.of(one.name, one.metrics) for one in self.encoders if one.metrics]
        return [MetricRow.of(MOST_FREQUENT, self.baseline), *lines] if self.baseline and lines else []

    @property
    def made(self) -> bool:
        """False if all checkpoints existed."""
        return any(one.made for one in self.encoders)

    def __iter__(self) -> Iterator[Any]:
        """`results, baseline = finetune(...)`, as in version 0.1."""
        warnings.warn(
            "finetune() returns a FinetuneResult: use .encoders and .baseline. The tuple ends with version 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        return iter((self.encoders, self.baseline))

    def _about(self) -> str:
        names = " and ".join(f"checkpoints/{one.checkpoint.name}" for one in self.encoders)
        return f"{'Made' if self.made else 'Already made:'} {names}"

    def _table(self) -> list[Record]:
        return metric_records(self.lines, "encoder")


@dataclass(frozen=True, kw_only=True, repr=False)
class FinetuneDryRun(DryRun):
    """The work that a fine-tuning would do. Nothing was written.

    Attributes
    ----------
    encoders : list of PlannedFinetuning
        One for each encoder.
    """

    encoders: list[PlannedFinetuning]

    def _about(self) -> str:
        if self.nothing:
            return "Nothing to do: all checkpoints exist"
        return f"Nothing was written. A fine-tuning would take about {clock(self.seconds)}"

    def _table(self) -> list[Record]:
        return [
            {
                "encoder": plan.name,
                "model": plan.model,
                "seconds": plan.seconds,
                "checkpoint MB": plan.checkpoint_mb,
                "store MB": plan.store_mb,
                "note": plan.what,
            }
            for plan in self.encoders
        ]


@former_arguments(2, "freeze")
def finetune(
    project: Project, names: Sequence[str] | None = None, *, freeze: bool = False, devices: str | None = None
) -> FinetuneResult:
    """Fit encoders on their own modality, one after another.

    Parameters
    ----------
    names : sequence of str, optional
        Encoders; all of the project, if None.
    freeze : bool
        Keep the pretrained encoder and fit only its linear probe, on cached features. A TF-IDF encoder is fitted on the
        captions of training rows either way.
    devices : str, optional
        Divide each batch among several processes: GPUs such as `0,1`; `all`; or `cpu:N`.

    Raises
    ------
    ConfigError
        There are no such devices, or `devices` is given with `device` or `freeze`.
    DataError
        There is no labelled row to train on.
    EncoderError
        An encoder cannot be built or trained on this device, or its loss is not finite.
    WorkerFailed
        A process of `devices` ended without a message.
    """
    shares: list[DeviceShare] = []
    if devices is not None:
        shares = given_shares(devices, freeze=freeze, device="device" in project.overrides)
        project = project.derived(settings={"device": shares[0].device})
    results, manifest = (
        finetune_encoders(project, list(names) if names else None, freeze, shares=shares),
        project.manifest,
    )
    val, baseline = manifest.rows("val"), None
    if len(val):
        most_frequent = most_frequent_baseline(manifest.labels[manifest.rows("train")], len(val))
        baseline = metrics_on_val(project, most_frequent)
    return FinetuneResult(encoders=results, baseline=baseline)


@former_arguments(2, "freeze")
def plan_finetune(project: Project, names: Sequence[str] | None = None, *, freeze: bool = False) -> FinetuneDryRun:
    """Plan :func:`finetune` with the same arguments. Open the project with `dry=True`."""
    return FinetuneDryRun(encoders=plan_finetuning(project, list(names) if names else None, freeze))
