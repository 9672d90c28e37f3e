"""Compares models on the same rows: scores candidates, and computes each one's difference to the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmfeat.metrics import Outcome, Scores, better, bootstrap_metrics, paired_bootstrap, scores
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.metrics.metric_rows import MetricRow, Metrics, metrics_of, outcome_of
from mmfeat.runs.comparison_files import ComparedEncoder, ModelLogits
from mmfeat.runs.ensembles import combined


@dataclass(frozen=True, kw_only=True)
class ModelCosts:
    """What a model costs end to end, with its encoders.

    Attributes
    ----------
    train_seconds : float or None
        Seconds to fine-tune its encoders, encode the labelled rows and fit one seed of its heads; None if unknown.
    milliseconds : float or None
        Milliseconds to read, prepare, encode and predict one sample.
    """

    train_seconds: float | None
    milliseconds: float | None


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
    costs : ModelCosts or None
        Its costs end to end, in a comparison of heads.
    settings : dict of str to Any
        The settings that it was trained with, as JSON values; `mean` names the members of a mean.
    """

    name: str
    label: str
    group: str
    kept: ModelLogits
    encoders_mb: float | None
    note: str = ""
    encoder: ComparedEncoder | None = None
    costs: ModelCosts | None = None
    settings: dict[str, Any] = field(default_factory=dict)


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
    trained : Scores or None
        In-sample scores, on a sample of the training rows.
    """

    metrics: Metrics
    seeds: np.ndarray
    difference: tuple[float, float, float] | None
    outcome: Outcome
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    trained: Scores | None = None

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
    train_labels : np.ndarray or None
        `(m, K)` int8 labels of the sampled training rows.
    shipped_rule_of : callable, optional
        Logits `(n, K)` of the val rows to the decision rule for all other rows.
    """

    labels: np.ndarray
    numbers: np.ndarray
    metric: str
    rule_of: Callable[[np.ndarray], DecisionRule]
    mean_of_seeds: bool = True
    intervals: Sequence[str] = ()
    train_labels: np.ndarray | None = None
    shipped_rule_of: Callable[[np.ndarray], DecisionRule] | None = None

    def predicting(self, logits: np.ndarray) -> np.ndarray:
        """The logits `(n, K)` that predict, of those of all seeds."""
        return logits.mean(0) if self.mean_of_seeds else logits[0]

    def in_sample(self, kept: ModelLogits) -> Scores | None:
        """Scores on the sampled training rows; None if there are no logits of them."""
        if kept.train_logits is None or self.train_labels is None or not len(self.train_labels):
            return None
        if kept.train_logits.shape[1] != len(self.train_labels) or self.shipped_rule_of is None:
            return None
        logits, rule = self.predicting(kept.train_logits), self.shipped_rule_of(self.predicting(kept.logits))
        return scores(self.train_labels, rule.labels(rule.probs(logits)), rule.calibrated(logits))


def score_models(candidates: Sequence[Candidate], scoring: Scoring) -> list[ScoredModel]:
    """Score models on the same rows, and compare each with the best; in the order of the candidates."""
    labels, metric = scoring.labels, scoring.metric
    order, name = np.argsort(scoring.numbers, kind="stable"), metric.replace("-", "_")
    predicting = [scoring.predicting(candidate.kept.logits) for candidate in candidates]
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
                trained=scoring.in_sample(candidate.kept),
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
    sampled = all(model.train_logits is not None for model in models)
    trained = [model.seconds for model in models if model.seconds is not None]
    return ModelLogits(
        logits=_mean_by_seed([model.logits for model in models], known := [model.known for model in models], prior),
        known=np.any(known, axis=0),
        train_logits=_mean_by_seed([m.train_logits for m in models], [m.train_known for m in models], prior)
        if sampled
        else None,
        train_known=np.any([model.train_known for model in models], axis=0) if sampled else None,
        seconds=sum(trained) if trained else None,
        microseconds=sum(model.microseconds for model in models),
        head_mb=sum(model.head_mb for model in models),
    )


def _mean_by_seed(logits: list[np.ndarray], known: list[np.ndarray], prior: np.ndarray) -> np.ndarray:
    """The mean of several models' logits `(S, n, K)`, seed by seed."""
    weights = [1 / len(logits)] * len(logits)
    n_seeds = max(map(len, logits))
    return np.stack([combined([one[s % len(one)] for one in logits], known, weights, prior) for s in range(n_seeds)])
