"""Train a head in a project: its inputs, settings, seeds and fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfeat.common.devices import torch_device
from mmfeat.common.errors import DataError
from mmfeat.common.files import digest_json
from mmfeat.common.progress import progress
from mmfeat.common.text import counted
from mmfeat.encoders.resolve import Identity
from mmfeat.heads import build_head, head_class, head_config
from mmfeat.heads.training.epochs import FittedHead
from mmfeat.heads.training.fit_heads import FitData, fit_heads
from mmfeat.heads.training.members import Member
from mmfeat.inference.fitted_rules import metrics_on_val, same_rule
from mmfeat.inference.logits import held_out_folds, recorded_table, run_logits
from mmfeat.inference.run_heads import seeds_logits
from mmfeat.inference.threshold_report import ThresholdReport, threshold_report
from mmfeat.metrics.metric_rows import MetricRow, Metrics
from mmfeat.project.project import Project
from mmfeat.project.staleness import in_sample
from mmfeat.runs.composition import empty_head_part
from mmfeat.runs.run import Run, already_made
from mmfeat.store.feature_table import FeatureTable
from mmfeat.training.head_runs import seeds_of, tokens_read


def fit_seeds(
    project: Project, head: str, data: FitData, settings: Any, starts: Sequence[Mapping[str, Tensor]] = ()
) -> list[FittedHead]:
    """Fit a head once for each of the project's seeds; with `starts`, each from the tensors of a trained head."""
    config, seeds = project.config, seeds_of(project)
    members = [
        Member(settings, seed, start=start) for seed, start in zip(seeds, starts or [None] * len(seeds), strict=True)
    ]
    with progress(f"{head}: {counted(len(members), 'seed')}", settings.epochs * len(members), "epochs") as bar:
        return fit_heads(head, data, members, metric=config.metric, rule=config.predict, bar=bar)


def head_inputs(
    project: Project, unlabelled: bool = False, heads: Sequence[str] = ()
) -> tuple[dict[str, Identity], FeatureTable, np.ndarray]:
    """The project's fusion inputs: identities, their table, and the rows that a head reads.

    Parameters
    ----------
    heads : sequence of str
        The table includes the stored tokens that any of these heads reads.

    Raises
    ------
    DataError
        There is no labelled row to train on.
    """
    manifest = project.manifest
    if not len(manifest.rows("train")):
        raise DataError("manifest.parquet: no labelled row to train on. Give labels and run: mmfeat init")
    which = ("train", "val", "unlabelled") if unlabelled else ("train", "val")
    rows = np.concatenate([manifest.rows(w) for w in which])
    identities = {name: project.identity(name) for name in project.config.fuse.inputs}
    modalities = {name: identity.spec.modality for name, identity in identities.items()}
    read = set()
    for head in heads:
        family, settings = head_class(head), head_config(head, project.config.fuse)
        read |= set(family.token_names(family.resolved(settings, modalities), list(identities)))
    return (
        identities,
        project.feature_table(list(identities), rows, [name for name in identities if name in read]),
        rows,
    )


def resolved_config(
    project: Project, head: str, identities: dict[str, Identity], table: FeatureTable | None = None
) -> Any:
    """The settings of a head, including those that depend on its inputs.

    Raises
    ------
    RunError
        The head does not take these inputs.
    """
    modalities = {name: identity.spec.modality for name, identity in identities.items()}
    settings = head_class(head).resolved(head_config(head, project.config.fuse), modalities)
    widths = {name: identity.width for name, identity in identities.items()}
    shapes = {name: tokens.shape[1:] for name, tokens in table.tokens.items()} if table else {}
    with torch.device("meta"):  # refused before any work
        build_head(head, widths, 1, settings, tokens=shapes)
    return settings


def head_fingerprint(
    project: Project,
    kind: str,
    head: str,
    *,
    settings: Any,
    identities: dict[str, Identity],
    table: FeatureTable,
    **more: Any,
) -> str:
    """Digest of everything that a head depends on. Equal digests mean the same run."""
    parts = {"kind": kind, "head": head, "settings": settings.of_training(), "seeds": seeds_of(project), **more}
    tokens = tokens_read(project, head, settings, table)
    return digest_json({**heads_made_from(project, identities, table), **parts, "tokens": tokens})


def trained_head(project: Project, head: str) -> Run | None:
    """The undamaged run that `mmfeat fuse` with these settings would find; None if it would train one. Without folds.

    Raises
    ------
    MissingFeatures
        Embeddings of labelled rows are not in the store.
    RunError
        The head does not take the project's inputs.
    """
    identities, table, _ = head_inputs(project, heads=[head])
    settings = resolved_config(project, head, identities, table)
    fingerprint = head_fingerprint(project, "head", head, settings=settings, identities=identities, table=table)
    return already_made(project.runs_folder, fingerprint)


def heads_made_from(project: Project, identities: dict[str, Identity], table: FeatureTable) -> dict[str, Any]:
    """The part of the fingerprint that heads on the same inputs share, as JSON values: rows, labels, encoders, metric."""
    return {
        "rows": {which: table.digest(table.rows(which), list(identities)) for which in ("train", "val")},
        "encoders": {name: identity.spec.key for name, identity in identities.items()},
        "classes": list(table.classes),
        "metric": project.config.metric,
        "predict": project.config.predict.of_training(),
    }


def head_lines(project: Project, run: Run) -> list[MetricRow]:
    """Metrics on val: the average over single seeds, and the mean of all seeds' logits, which is used for predictions."""
    record, n = run.record, len(run.record["seeds"])
    val = project.manifest.rows("val")
    if not len(val):
        return []
    note = ", ".join(filter(None, ["used for predictions", in_sample(project, run.name, val)]))
    mean = MetricRow.of(f"{record['head']}, mean", val_metrics(project, run), record["seconds"], note=note)
    seconds = sum(record["seed_seconds"]) / n
    one = MetricRow.over_seeds(f"{record['head']}, one seed", _seeds_metrics(project, run), seconds) if n > 1 else None
    return list(filter(None, [one, mean]))


def _seeds_metrics(project: Project, run: Run) -> list[dict[str, Any]]:
    """Metrics of each seed on val, from run.json if its decision rule is the current one."""
    config, record = project.config, run.record
    if same_rule(record, config.predict):
        return record["figures"]["val_seeds"]
    val = project.manifest.rows("val")
    table = recorded_table(project, run, val).take(val)
    each = seeds_logits(run, table, torch_device(config.device), held_out_folds(project, run, val))
    return [metrics_on_val(project, one).as_dict() for one in each]


def val_metrics(project: Project, run: Run) -> Metrics:
    """The metrics of a run on the current val rows."""
    return metrics_on_val(project, run_logits(project, run, project.manifest.rows("val")).logits)


def run_threshold(project: Project, run: Run) -> ThresholdReport | None:
    """The report about a run's threshold on the current val rows; None without val rows."""
    val = project.manifest.rows("val")
    return threshold_report(project, run_logits(project, run, val).logits) if len(val) else None


def describe(run: Run) -> str:
    """A short description of a run's head, seeds and epochs."""
    record = run.record
    best, folds = record["best_epochs"], record.get("folds")
    epochs = f"{min(best)} to {max(best)}" if folds else ", ".join(map(str, best))
    heads = counted(len(record["seeds"]), "seed") + (f" x {folds} folds" if folds else "")
    with torch.device("meta"):
        parts = empty_head_part(record, 1).seeds[0].describe()
    start = f", from {run.started_from}" if run.started_from else ""
    return f"{record['head']}: {parts}; {heads}{start}, best epochs {epochs}"
