"""Compares models on the same rows: scores candidates, and computes each one's difference to the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmfeat.metrics import Outcome, better, bootstrap_metrics, paired_bootstrap
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.metrics.metric_rows import MetricRow, Metrics, metrics_of, outcome_of
from mmfeat.runs.comparison_files import ComparedEncoder, ModelLogits
from mmfeat.runs.ensembles import combined


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A model before it is scored.

    Attributes
    ----------
    name, label : str
        Its name in commands, and in tables.
    group : str
        `paper` or `further` for heads; the modality for encoders.
    kept : ModelLogits
        Its logits on the rows, and its costs.
    encoders_mb : float or None
        Size of its encoders; None with an encoder of unknown size.
    encoder : ComparedEncoder or None
        The encoder, in a comparison of encoders.
    """

    name: str
    label: str
    group: str
    kept: ModelLogits
    encoders_mb: float | None
    note: str = ""
    encoder: ComparedEncoder | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredModel(Candidate):
    """A candidate with its metrics.

    Attributes
    ----------
    metrics : Metrics
        Metrics of the predicting logits: the mean over seeds, or the first seed's.
    seeds : np.ndarray
        `(S,)` samples-F1 of each seed alone.
    difference : (float, float, float) or None
        Difference to the best model in the project's metric, with the 95 % interval of a paired bootstrap over rows; None
        for the best model.
    outcome : Outcome
        Predictions, in the order of the rows' id numbers.
    intervals : dict of str to (float, float)
        95 % bootstrap intervals of further metrics, by the names of `Scores`.
    """

    metrics: Metrics
    seeds: np.ndarray
    difference: tuple[float, float, float] | None
    outcome: Outcome
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def line(self) -> MetricRow:
        """Its metrics as a row of a table."""
        return MetricRow.of(self.label, self.metrics)

    @property
    def size_mb(self) -> float | None:
        """Megabytes of the whole model with its encoders; None with an encoder of unknown size."""
        return None if self.encoders_mb is None else self.encoders_mb + self.kept.head_mb

    @property
    def spread(self) -> float | None:
        """Standard deviation of samples-F1 over seeds; None with one."""
        return float(self.seeds.std(ddof=1)) if len(self.seeds) > 1 else None

    @property
    def is_best(self) -> bool:
        """Whether this is the best model, with which all others are compared."""
        return self.difference is None

    @property
    def verdict(self) -> str:
        """`best`, `not significant` (the 95 % interval of its difference to the best includes 0), or empty."""
        if self.difference is None:
            return "best"
        return "not significant" if self.difference[1] <= 0 <= self.difference[2] else ""

    def value(self, metric: str) -> float:
        """A metric by its name in mmfeat.toml."""
        return self.metrics.scores.value(metric)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scoring:
    """The rows and the rules of a comparison.

    Attributes
    ----------
    labels, numbers : np.ndarray
        `(n, K)` int8 labels; `(n,)` uint64 hashes of the ids, which determine the order of rows in the bootstrap.
    metric : str
        The metric that selects the best model.
    rule_of : callable
        Logits `(n, K)` to their decision rule.
    mean_of_seeds : bool
        Whether the mean of all seeds' logits predicts, as for heads on the same embeddings. Otherwise the first seed
        predicts: the mean over several fine-tuned encoders would be an ensemble.
    intervals : sequence of str
        Further metrics to compute a 95 % interval for.
    """

    labels: np.ndarray
    numbers: np.ndarray
    metric: str
    rule_of: Callable[[np.ndarray], DecisionRule]
    mean_of_seeds: bool = True
    intervals: Sequence[str] = ()


def score_models(candidates: Sequence[Candidate], scoring: Scoring) -> list[ScoredModel]:
    """Score models on the same rows, and compare each with the best; in the order of the candidates."""
    labels, metric = scoring.labels, scoring.metric
    order, name = np.argsort(scoring.numbers, kind="stable"), metric.replace("-", "_")
    predicting = [c.kept.logits.mean(0) if scoring.mean_of_seeds else c.kept.logits[0] for c in candidates]
    rules = [scoring.rule_of(logits) for logits in predicting]
    metrics = [metrics_of(labels, *one) for one in zip(predicting, rules, strict=True)]
    best = 0
    for i, one in enumerate(metrics):
        if better(metric, one.scores.value(metric), metrics[best].scores.value(metric)):
            best = i
    outcomes = [Outcome(*(array[order] for array in outcome_of(*one))) for one in zip(predicting, rules, strict=True)]
    ordered, models = labels[order], []
    for i, candidate in enumerate(candidates):
        alone = [metrics_of(labels, x, scoring.rule_of(x)).scores.samples_f1 for x in candidate.kept.logits]
        difference = None
        if i != best:
            difference = paired_bootstrap(ordered, outcomes[i], outcomes[best], names=[name])[name]
        models.append(
            ScoredModel(
                **vars(candidate),
                metrics=metrics[i],
                seeds=np.array(alone),
                difference=difference,
                outcome=outcomes[i],
                intervals=bootstrap_metrics(ordered, outcomes[i], scoring.intervals) if scoring.intervals else {},
            )
        )
    return models


def score_groups(candidates: Sequence[Candidate], scoring: Scoring, groups: Sequence[str]) -> list[ScoredModel]:
    """Score each group by itself: groups in the given order, in each the best first."""
    sign, models = (-1.0 if better(scoring.metric, 1.0, 0.0) else 1.0), []
    for group in groups:
        own = sorted((c for c in candidates if c.group == group), key=lambda c: c.label)
        scored = score_models(own, scoring) if own else []
        models += sorted(scored, key=lambda m: (not m.is_best, sign * m.value(scoring.metric)))
    return models


def best_of_groups(models: Sequence[ScoredModel]) -> dict[str, ScoredModel]:
    """The best model of each group."""
    return {model.group: model for model in models if model.is_best}


def mean_of_models(models: Sequence[ModelLogits], prior: np.ndarray) -> ModelLogits:
    """The mean of several models' logits, seed by seed; a model with fewer seeds repeats them.

    Parameters
    ----------
    prior : np.ndarray
        `(K,)` logits for rows without any modality that the models read.
    """
    n_seeds, known = max(len(model.logits) for model in models), [model.known for model in models]
    weights = [1 / len(models)] * len(models)
    logits = [
        combined([model.logits[s % len(model.logits)] for model in models], known, weights, prior)
        for s in range(n_seeds)
    ]
    trained = [model.seconds for model in models if model.seconds is not None]
    return ModelLogits(
        logits=np.stack(logits),
        known=np.any(known, axis=0),
        seconds=sum(trained) if trained else None,
        microseconds=sum(model.microseconds for model in models),
        head_mb=sum(model.head_mb for model in models),
    )
