"""Self-training rounds on cached arrays (paper, section 3.1.4; P14).

In each round a teacher sets targets for unknown labels, and models are trained on these targets and on the known labels; the
mean of their logits is the next teacher. With policy `paper`, the models are one of each modality, and the mean is compared on
val with that of the best round so far. With the other policies, they are a linear model of each modality and an MLP on all
modalities, and the MLP is compared. Rounds end after the first one that is reverted. Val rows are never trained on, and known
labels never change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmfeat.common.labels import sigmoid
from mmfeat.config.schema import FuseConfig, PredictConfig, SelftrainConfig
from mmfeat.heads.training.fit_heads import FitData
from mmfeat.metrics import paired_bootstrap
from mmfeat.metrics.decision_rule import NORMAL_95, crossfit_decision_rule
from mmfeat.metrics.metric_rows import Metrics, metrics_of, outcome_of
from mmfeat.selftraining.kernel import kernel_logits
from mmfeat.selftraining.policies import PAPERS_LABELS, Targets, expected_prior, targets_of
from mmfeat.selftraining.round_models import Logits, Outputs, RoundModels


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round; round 0 is trained only on known labels.

    Attributes
    ----------
    n_pseudo, n_unknown : int
        Unlabelled rows that were trained on, and unknown labels that the policy gave no target.
    n_yes : list of int
        For each class, the number of rows with a target above 1/2.
    changed : int or None
        Rows with any pseudo-label that differs from the previous round.
    agreement, truth : float or None
        Micro-F1 of the pseudo-labels against those of the previous round, and against the true labels if they are known.
    metrics : Metrics
        Metrics on val: of the MLP; with policy `paper`, of the fused models.
    difference : tuple of float or None
        Difference to the best previous round in the metric (higher is better): mean and 95 % interval.
    accepted : bool
        Whether the round was kept; False if it was reverted.
    refitted : bool
        Whether the encoders were fine-tuned on its pseudo-labels.
    """

    number: int
    n_pseudo: int = 0
    n_unknown: int = 0
    n_yes: list[int]
    changed: int | None = None
    agreement: float | None = None
    truth: float | None = None
    metrics: Metrics
    difference: tuple[float, float, float] | None = None
    accepted: bool = True
    refitted: bool = False


@dataclass(frozen=True, kw_only=True)
class SelfTraining:
    """The result of self-training.

    Attributes
    ----------
    rounds : list of Round
        All rounds, from round 0.
    best : int
        The number of the best round.
    targets : Targets or None
        The targets of the unlabelled rows in the best round; None for round 0.
    logits : np.ndarray
        `(N, K)` logits of the best round's judged model, for all rows: the MLP; with policy `paper`, the fused models.
    ended : str
        Why the rounds ended: `reverted`, `no_change` or `max_iter`, in scikit-learn's terms.
    """

    rounds: list[Round]
    best: int
    targets: Targets | None
    logits: np.ndarray
    ended: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Refitted:
    """The embeddings of encoders that were fine-tuned for a round, and the logits of their own linear outputs."""

    data: FitData
    outputs: Outputs


Memory = Callable[[int, Callable[[], Logits]], Logits]  # returns a round's saved logits, or computes and saves them
Refit = Callable[[int, Targets], Refitted | None]


def with_targets(data: FitData, unlabelled: np.ndarray, targets: Targets | None) -> FitData:
    """The data with targets for some rows; rows with any target become training rows.

    The rows may include rows of `data.train` with some unknown labels.
    """
    if targets is None:
        return data
    device = data.labels.device
    at, labels, weights = torch.as_tensor(unlabelled, device=device), data.labels.float(), None
    labels[at] = torch.as_tensor(targets.labels, device=device)
    if targets.weights is not None:
        weights = torch.ones_like(labels)
        weights[at] = torch.as_tensor(targets.weights, device=device)
    teaching = np.setdiff1d(unlabelled[(targets.labels >= 0).any(1)], data.train)
    return dataclasses.replace(data, labels=labels, weights=weights, train=np.concatenate([data.train, teaching]))


def self_train(
    data: FitData,
    unlabelled: np.ndarray,
    config: SelftrainConfig,
    *,
    metric: str,
    seed: int,
    rule: PredictConfig,
    truth: np.ndarray | None = None,
    models: RoundModels | None = None,
    outputs: Outputs | None = None,
    refit: Refit | None = None,
    memory: Memory | None = None,
    on_round: Callable[[Round], None] | None = None,
) -> SelfTraining:
    """Run up to `config.rounds` rounds.

    Parameters
    ----------
    data : FitData
        Embeddings of all encoders; metrics on its `val` rows decide when to stop.
    unlabelled : np.ndarray
        Numbers of the rows whose unknown labels may get pseudo-labels: unlabelled and partly labelled rows.
    rule : PredictConfig
        The decision rule (P8) of metrics on val; tuned values are cross-fitted there.
    truth : np.ndarray, optional
        `(n, K)` true labels of the unlabelled rows. They are only compared with the pseudo-labels.
    models : RoundModels, optional
        The models of a round; by default those of the policy, with the default settings of heads.
    outputs : dict of str to np.ndarray, optional
        For policy `paper`: logits `(N, K)` of fine-tuned encoders, which take the place of linear models in round 0.
    refit : callable, optional
        Takes a round's number and targets; returns embeddings and logits of encoders that were fine-tuned on these targets,
        or None if the encoders stay unchanged. It is not called again until a pseudo-label has changed.
    memory : callable, optional
        Saves each round's logits, so that an interrupted self-training can be resumed.
    on_round : callable, optional
        Called with each finished round.
    """
    models = models or RoundModels.of(config, FuseConfig())
    rounds = _Rounds(data, unlabelled, config, models=models, metric=metric, seed=seed, rule=rule, truth=truth)
    memory, on_round = memory or (lambda number, make: make()), on_round or (lambda one: None)
    on_round(rounds.first(memory, outputs))
    ended = "max_iter"
    for number in range(1, config.rounds + 1):
        done = rounds.next(number, refit, memory)
        if done is None:
            ended = "no_change"
            break
        on_round(done)
        if not done.accepted:
            ended = "reverted"
            break
    return SelfTraining(
        rounds=rounds.history, best=rounds.best, targets=rounds.targets, logits=rounds.logits, ended=ended
    )


class _Rounds:
    """The rounds so far, with the number, `targets` and `logits` of the best round."""

    def __init__(
        self,
        data: FitData,
        unlabelled: np.ndarray,
        config: SelftrainConfig,
        *,
        models: RoundModels,
        metric: str,
        seed: int,
        rule: PredictConfig,
        truth: np.ndarray | None,
    ) -> None:
        self.data, self.unlabelled, self.config, self.models = data, unlabelled, config, models
        self.metric, self.seed, self.rule, self.truth = metric, seed, rule, truth
        self.val_labels = data.labels[data.val].cpu().numpy()
        train_labels = data.labels[torch.as_tensor(data.train, device=data.labels.device)]
        self.prior, self.given = expected_prior(train_labels.cpu().numpy()), data.labels[unlabelled].cpu().numpy()
        self.free = self.given < 0
        self.strict = config.policy in PAPERS_LABELS
        self.kernel = kernel_logits(data) if config.rounds and not self.strict else None
        self.history: list[Round] = []
        self.best, self.targets = 0, None
        self.before: np.ndarray | None = None  # pseudo-labels of the last accepted round
        self.taught: np.ndarray | None = None  # those that the encoders were last fine-tuned on

    def first(self, memory: Memory, outputs: Outputs | None) -> Round:
        """Run round 0, on known labels only."""
        self.fused, self.logits = memory(0, lambda: self.models.trained(self.data, self.seed, outputs))
        metrics, self.outcome = self._judged(self.logits)
        self.history = [Round(number=0, n_yes=[0] * len(self.prior), metrics=metrics)]
        return self.history[0]

    def next(self, number: int, refit: Refit | None, memory: Memory) -> Round | None:
        """Run one round; None if it would equal the previous one."""
        targets = self._targets()
        pseudo = np.where(self.free, hard_labels(targets), -1).astype(np.int8)
        changed = None if self.before is None else int((pseudo != self.before).any(1).sum())
        learned_already = self.taught is not None and np.array_equal(pseudo, self.taught)
        refitted = refit(number, targets) if refit and not learned_already else None
        if changed == 0 and refitted is None:
            return None
        if refitted is not None:
            self.data, self.taught = refitted.data, pseudo
            self.kernel = None if self.kernel is None else kernel_logits(self.data)
        part, outputs = with_targets(self.data, self.unlabelled, targets), refitted.outputs if refitted else None
        self.fused, logits = memory(number, lambda: self.models.trained(part, self.seed, outputs))
        metrics, outcome = self._judged(logits)
        difference = _difference(self.metric, self.val_labels, outcome, self.outcome)
        done = Round(
            number=number,
            n_pseudo=len(part.train) - len(self.data.train),
            n_unknown=int((self.free & (pseudo < 0)).sum()),
            n_yes=(pseudo == 1).sum(0).tolist(),
            changed=changed,
            agreement=None if self.before is None else agreement(pseudo, self.before),
            truth=None if self.truth is None else agreement(pseudo, self.truth),
            metrics=metrics,
            difference=difference,
            accepted=is_accepted(difference, first=number == 1 and not self.strict),
            refitted=refitted is not None,
        )
        self.history.append(done)
        if done.accepted:
            self.best, self.targets, self.logits = number, targets, logits
            self.outcome, self.before = outcome, pseudo
        return done

    def _targets(self) -> Targets:
        """Targets of the unlabelled rows by the teacher: the last round's models, averaged with the kernel if there is one."""
        teacher = self.fused[self.unlabelled]
        if self.kernel is not None:
            teacher = (teacher + self.kernel[self.unlabelled]) / 2
        probs = sigmoid(teacher.astype(np.float64))
        return targets_of(self.config, probs, self.prior, labels=self.given, rule=self.rule)

    def _judged(self, logits: np.ndarray) -> tuple[Metrics, Any]:
        """Metrics on val, and the predictions for the paired bootstrap."""
        val = self.data.val
        decision = crossfit_decision_rule(
            self.rule,
            self.metric,
            labels=self.val_labels,
            logits=logits[val],
            numbers=self.data.numbers[val],
        )
        return metrics_of(self.val_labels, logits[val], decision), outcome_of(logits[val], decision)


def hard_labels(targets: Targets) -> np.ndarray:
    """Round targets to labels `(N, K)` int8: 1 above 1/2, otherwise 0; -1 stays."""
    return np.where(targets.labels < 0, -1, targets.labels > 0.5).astype(np.int8)


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Micro-F1 between two sets of labels `(N, K)`, over labels known in both; 1 if neither has a positive."""
    known = (a >= 0) & (b >= 0)
    a, b = (a == 1) & known, (b == 1) & known
    total = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def is_accepted(difference: tuple[float, float, float], *, first: bool) -> bool:
    """Whether a round is kept.

    The first round is reverted if the metric on val falls by more than its standard error; a later round must improve it,
    and with the paper's policies the first round, too.
    With few val rows, the difference of the first round is mostly noise, and later rounds add little.
    """
    mean, low, high = difference
    return mean > 0 or (first and mean >= -(high - low) / (2 * NORMAL_95))


def _difference(metric: str, labels: np.ndarray, now: Any, before: Any) -> tuple[float, float, float]:
    name = metric.replace("-", "_")
    mean, low, high = paired_bootstrap(labels, now, before, names=(name,))[name]
    return (-mean, -high, -low) if metric == "loss" else (mean, low, high)
