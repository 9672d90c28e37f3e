"""Self-training rounds on cached arrays (paper, section 3.1.4; P14).

A teacher gives unknown labels targets. A linear model of each modality and an MLP on all of them learn from these and from
the given labels; the mean of their logits is the next teacher. On val each round's MLP is compared with the best so far; the
first round that is reverted is the last. Val rows are never trained on and given labels never change.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmfeat.common.labels import sigmoid
from mmfeat.config.schema import LinearConfig, MlpConfig, PredictConfig, SelftrainConfig
from mmfeat.heads.head import log_odds
from mmfeat.heads.training.fit_heads import FitData, fit_head, usual_batch
from mmfeat.heads.training.head_logits import head_logits
from mmfeat.metrics import paired_bootstrap
from mmfeat.metrics.decision_rule import crossfit_decision_rule
from mmfeat.metrics.metric_rows import Metrics, metrics_of, outcome_of
from mmfeat.runs.ensembles import combined
from mmfeat.selftraining.kernel import kernel_logits
from mmfeat.selftraining.policies import Targets, expected_prior, targets_of

LINEAR, MLP = LinearConfig(), MlpConfig(hidden=256, lr=8e-4)  # heads of the rounds, whatever head the run has
STEPS, LARGE = 480, 512  # steps of a fit, about, and rows of a batch at most
FEWEST_EPOCHS, MOST_EPOCHS = 4, 40
STANDARD_ERRORS = 2 * 1.96  # in a 95 % interval


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round; round 0 learns from given labels alone.

    Attributes
    ----------
    n_pseudo, n_unknown : int
        Rows that were trained on without labels of their own, and unknown labels that the policy left unknown.
    n_yes : list of int
        Of each class, rows whose target is above 1/2.
    changed : int or None
        Rows with any pseudo-label that differs from the round before.
    agreement, truth : float or None
        micro-F1 of the pseudo-labels against those of the round before, and against the true labels where they are known.
    metrics : Metrics
        Of the MLP on val.
    difference : tuple of float or None
        To the best round before, in the metric, higher is better: the mean and its 95 % interval.
    refitted : bool
        Whether the encoders were fine-tuned on its pseudo-labels as well.
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
    """The rounds and the best of them.

    Attributes
    ----------
    targets : Targets or None
        The targets of the unlabelled rows in it; None for round 0.
    logits : np.ndarray
        `(N, K)` of its MLP, for all rows.
    ended : str
        Why there are no more rounds: `reverted`, `no_change` or `max_iter`, in scikit-learn's terms.
    """

    rounds: list[Round]
    best: int
    targets: Targets | None
    logits: np.ndarray
    ended: str


Logits = tuple[np.ndarray, np.ndarray]  # of all rows, `(N, K)`, by the fused models and by the MLP
Memory = Callable[[int, Callable[[], Logits]], Logits]  # a round's logits: as they were kept, or made and kept
Refit = Callable[[int, Targets], FitData | None]


def with_targets(data: FitData, unlabelled: np.ndarray, targets: Targets | None) -> FitData:
    """The same arrays with targets of some rows, which are trained on where a target is known.

    Rows of `data.train` may be among them: those that lack some of their labels.
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
    refit: Refit | None = None,
    memory: Memory | None = None,
    on_round: Callable[[Round], None] | None = None,
) -> SelfTraining:
    """Run up to `config.rounds` rounds.

    Parameters
    ----------
    data : FitData
        Embeddings of every encoder; its `val` rows decide when to stop.
    unlabelled : np.ndarray
        Row numbers that may get pseudo-labels where a label is unknown: unlabelled rows, and rows labelled in part.
    rule : PredictConfig
        How probabilities become labels (P8) in metrics on val, cross-fitted there where it is tuned.
    truth : np.ndarray, optional
        `(n, K)` labels of the unlabelled rows; pseudo-labels are compared with them, and nothing else reads them.
    refit : callable, optional
        From a round's number and targets to the same arrays by encoders that were fine-tuned on these, or None: as they are.
    memory : callable, optional
        Keeps each round's logits, so that an interrupted self-training goes on where it stopped.
    on_round : callable, optional
        Called with each round when it is done.
    """
    rounds = _Rounds(data, unlabelled, config, metric=metric, seed=seed, rule=rule, truth=truth)
    memory, on_round = memory or (lambda number, make: make()), on_round or (lambda one: None)
    on_round(rounds.first(memory))
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
    """The rounds so far, and the best of them: `best`, its `targets` and `logits`."""

    def __init__(
        self,
        data: FitData,
        unlabelled: np.ndarray,
        config: SelftrainConfig,
        *,
        metric: str,
        seed: int,
        rule: PredictConfig,
        truth: np.ndarray | None,
    ) -> None:
        self.data, self.unlabelled, self.config = data, unlabelled, config
        self.metric, self.seed, self.rule, self.truth = metric, seed, rule, truth
        self.val_labels = data.labels[data.val].cpu().numpy()
        train_labels = data.labels[torch.as_tensor(data.train, device=data.labels.device)]
        self.prior, self.given = expected_prior(train_labels.cpu().numpy()), data.labels[unlabelled].cpu().numpy()
        self.free = self.given < 0
        self.kernel = kernel_logits(data) if config.rounds and config.policy != "all" else None
        self.history: list[Round] = []
        self.best, self.targets = 0, None
        self.before: np.ndarray | None = None  # pseudo-labels of the last accepted round

    def first(self, memory: Memory) -> Round:
        """Round 0: given labels alone."""
        self.fused, self.logits = memory(0, lambda: _trained(self.data, self.seed))
        metrics, self.outcome = self._judged(self.logits)
        self.history = [Round(number=0, n_yes=[0] * len(self.prior), metrics=metrics)]
        return self.history[0]

    def next(self, number: int, refit: Refit | None, memory: Memory) -> Round | None:
        """One round; None where it would be the same as the last one."""
        targets = self._targets()
        pseudo = np.where(self.free, hard_labels(targets), -1).astype(np.int8)
        changed = None if self.before is None else int((pseudo != self.before).any(1).sum())
        refitted = refit(number, targets) if refit else None
        if changed == 0 and refitted is None:
            return None
        if refitted is not None:
            self.data, self.kernel = refitted, None if self.kernel is None else kernel_logits(refitted)
        part = with_targets(self.data, self.unlabelled, targets)
        self.fused, logits = memory(number, lambda: _trained(part, self.seed))
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
            accepted=is_accepted(difference, first=number == 1 and self.config.policy != "all"),
            refitted=refitted is not None,
        )
        self.history.append(done)
        if done.accepted:
            self.best, self.targets, self.logits = number, targets, logits
            self.outcome, self.before = outcome, pseudo
        return done

    def _targets(self) -> Targets:
        """Targets of the unlabelled rows by the teacher: the last round's models, with the kernel where there is one."""
        teacher = self.fused[self.unlabelled]
        if self.kernel is not None:
            teacher = (teacher + self.kernel[self.unlabelled]) / 2
        probs = sigmoid(teacher.astype(np.float64))
        return targets_of(self.config, probs, self.prior, labels=self.given, rule=self.rule)

    def _judged(self, logits: np.ndarray) -> tuple[Metrics, Any]:
        """Metrics on val, and what the bootstrap compares."""
        val = self.data.val
        decision = crossfit_decision_rule(
            self.rule, self.metric, labels=self.val_labels, logits=logits[val], numbers=self.data.numbers[val]
        )
        return metrics_of(self.val_labels, logits[val], decision), outcome_of(logits[val], decision)


def hard_labels(targets: Targets) -> np.ndarray:
    """Targets as labels `(N, K)` int8: 1 above 1/2, else 0; -1 stays."""
    return np.where(targets.labels < 0, -1, targets.labels > 0.5).astype(np.int8)


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """micro-F1 between two sets of labels `(N, K)`, over those that both know; 1 where neither has a positive."""
    known = (a >= 0) & (b >= 0)
    a, b = (a == 1) & known, (b == 1) & known
    total = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def is_accepted(difference: tuple[float, float, float], *, first: bool) -> bool:
    """Whether a round is kept. The first is reverted where val falls by more than its standard error; a later one has to rise.

    On a few val rows the difference of a first round is mostly noise, and later rounds gain little over it.
    """
    mean, low, high = difference
    return mean > 0 or (first and mean >= -(high - low) / STANDARD_ERRORS)


def _difference(metric: str, labels: np.ndarray, now: Any, before: Any) -> tuple[float, float, float]:
    name = metric.replace("-", "_")
    mean, low, high = paired_bootstrap(labels, now, before, names=(name,))[name]
    return (-mean, -high, -low) if metric == "loss" else (mean, low, high)


def _for_rows(config: Any, n_rows: int) -> Any:
    """A head's settings for a number of rows: a fixed number of epochs, and a larger rate where batches are large."""
    size = usual_batch(n_rows, LARGE)
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(STEPS / math.ceil(n_rows / size))))
    lr = config.lr * (size / usual_batch(n_rows)) ** 0.5
    return dataclasses.replace(config, batch_size=size, epochs=epochs, lr=lr)


def _trained(data: FitData, seed: int) -> Logits:
    """Mean of the logits of a linear model for each encoder and of an MLP on all; the MLP's own.

    Their number of epochs is fixed: val rows may be few, and they judge the round.
    """
    logits, present = [], []
    alone = dataclasses.replace(data, val=data.val[:0])
    for name, part, config in [*(("linear", alone.only(one), LINEAR) for one in data.widths), ("mlp", alone, MLP)]:
        fitted = fit_head(name, part, _for_rows(config, len(part.train)), seed=seed)
        logits.append(head_logits(fitted.head, part))
        present.append(np.any([part.present[name].cpu().numpy() for name in part.widths], axis=0))
    prior = log_odds(data.labels[torch.as_tensor(data.train, device=data.labels.device)]).cpu().numpy()
    return combined(logits, present, [1 / len(logits)] * len(logits), prior), logits[-1]
