"""The metrics of a report: a model on some rows, beside its members, each encoder alone, and cheap baselines."""

from __future__ import annotations

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.common.labels import decide, sigmoid
from mmfeat.common.progress import say
from mmfeat.inference.baselines import baselines
from mmfeat.inference.evaluation import EvaluatedModel
from mmfeat.inference.fitted_rules import rule_for_rows
from mmfeat.inference.logits import logits_of, unimodal_predictions
from mmfeat.metrics import most_frequent_baseline
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.metrics.metric_rows import MetricRow, metrics_of
from mmfeat.project.named_models import NamedModel
from mmfeat.project.project import Project
from mmfeat.project.staleness import in_sample
from mmfeat.report.html.pair_sections import Unimodal
from mmfeat.report.text_tables import MOST_FREQUENT


def metric_lines(
    project: Project, model: NamedModel, found: EvaluatedModel, rows: np.ndarray, *, split: str
) -> tuple[list[MetricRow], list[str]]:
    """Baselines first, then the members, the model last; and the labels of the baselines.

    On val, the fitted baselines are those of `fuse`, which are remembered. On other rows there are the most frequent labels
    and the encoders alone.
    """
    names = [name for name in model.encoders if name in project.config.encoder and name != model.name]
    lines: list[MetricRow] = []
    try:
        lines = _on_val(project, model, names) if split == "val" else _on_others(project, names, rows)
    except MmfeatError as error:
        say(f"no baselines: {error}")
    members = [one["name"] for one in model.run.members_that_are_runs] if model.run is not None else []
    others = [_scored(project, name, rows) for name in members]
    named = [line.label for line in lines]
    seconds = None if model.run is None else model.run.record["seconds"]
    own = MetricRow.of(model.name, found.metrics, seconds, note=in_sample(project, model.name, rows))
    return [*lines, *(line for line in others if line is not None), own], named


def _on_val(project: Project, model: NamedModel, names: list[str]) -> list[MetricRow]:
    kept = model.run.record.get("baselines", {}) if model.run is not None else {}
    return baselines(project, names, kept)[0] if names else baselines(project, [model.name], kept, alone=False)[0]


def _on_others(project: Project, names: list[str], rows: np.ndarray) -> list[MetricRow]:
    manifest = project.manifest
    guess = most_frequent_baseline(manifest.labels[manifest.rows("train")], len(rows))
    rule = DecisionRule(empty=project.config.predict.empty)
    first = MetricRow.of(MOST_FREQUENT, metrics_of(manifest.labels[rows], guess, rule))
    return [first, *(line for name in names if (line := _scored(project, name, rows)) is not None)]


def _scored(project: Project, name: str, rows: np.ndarray) -> MetricRow | None:
    """The metrics of another run or encoder; None if it has no logits of the rows."""
    try:
        logits = logits_of(project, name, rows).logits
        metrics = metrics_of(project.manifest.labels[rows], logits, rule_for_rows(project, name, rows))
    except MmfeatError:
        return None
    return MetricRow.of(name, metrics, note=in_sample(project, name, rows))


def alone_on(project: Project, model: NamedModel, rows: np.ndarray) -> list[Unimodal]:
    """The predictions of each encoder of a run alone, at 0.5; empty for an encoder, and without linear probes."""
    if model.run is None:
        return []
    found = unimodal_predictions(project, model.run, rows)
    parts = []
    for name, one in found.items():
        probs = sigmoid(one.logits)
        parts.append(Unimodal(name=name, probs=probs, predicted=decide(probs), known=one.known))
    return parts
