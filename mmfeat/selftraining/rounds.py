"""Self-training rounds on cached arrays (paper, section 3.1.4; P14).

A teacher gives labels that are not known targets; a linear model of each modality and an MLP on all learn from these and
from the labels that are given; fused, they are the next teacher. Val judges each round's MLP against the best so far; the
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
from mmfeat.heads.training.fit_heads import FitData, fit_head, head_logits, usual_batch
from mmfeat.metrics import paired_bootstrap
from mmfeat.metrics.decision_rule import crossfit_decision_rule
from mmfeat.metrics.metric_rows import Metrics, metrics_of, outcome_of
from mmfeat.runs.ensembles import combined
from mmfeat.selftraining.kernel import kernel_logits
from mmfeat.selftraining.policies import Targets, expected_prior, targets_of

LINEAR, MLP = LinearConfig(), MlpConfig(hidden=256, lr=8e-4)  # what is trained in rounds, whatever in the end
STEPS, LARGE = 480, 512  # about so many of them in a fit, of batches of up to so many rows
FEWEST_EPOCHS, MOST_EPOCHS = 4, 40
STANDARD_ERRORS = 2 * 1.96  # in a 95 % interval


@dataclass(frozen=True)
class Round:
    """One round; round 0 learns from given labels alone.

    Attributes
    ----------
    n_pseudo, n_unknown : int
        Rows that took part without labels of their own, and labels that were not given and that the policy left unknown.
    n_yes : list of int
        Of each class, rows that were taught as more yes than no.
    changed : int or None
        Rows of which any label is another than in the round before.
    agreement, truth : float or None
        micro-F1 of the pseudo-labels against those of the round before, and against the truth where that is known.
    metrics : Metrics
        Of the MLP on val.
    difference : tuple of float or None
        To the best round before, in the metric, higher is better: the mean and its 95 % interval.
    refitted : bool
        Whether the encoders learned from its pseudo-labels as well.
    """

    number: int
    n_pseudo: int
    n_unknown: int
    n_yes: list[int]
    changed: int | None
    agreement: float | None
    truth: float | None
    metrics: Metrics
    difference: tuple[float, float, float] | None
    accepted: bool
    refitted: bool = False


@dataclass(frozen=True)
class SelfTraining:
    """The rounds and the best of them.

    Attributes
    ----------
    targets : Targets or None
        What the unlabelled rows taught in it; None for round 0.
    logits : np.ndarray
        `(N, K)` of its MLP, for all rows.
    ended : str
        Why there are no more rounds: `reverted`, `no_change` or `max_iter`, as scikit-learn says it.
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
    """The same arrays with targets of some rows, which join the rows to train on where they teach anything.

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
        Row numbers that may get pseudo-labels where they have none: unlabelled rows, and rows labelled in part.
    rule : PredictConfig
        How probabilities become labels (P8) in figures on val, cross-fitted there where it is tuned.
    truth : np.ndarray, optional
        `(n, K)` labels of the unlabelled rows, which are compared with and otherwise not read.
    refit : callable, optional
        From a round's number and targets to the same arrays by encoders that learned from these, or None: as they are.
    memory : callable, optional
        What keeps each round's logits, so that an interrupted self-training goes on where it was.
    on_round : callable, optional
        Told of each round when it is done.
    """
    memory, on_round = memory or (lambda number, make: make()), on_round or (lambda one: None)
    val_labels = data.labels[data.val].cpu().numpy()
    train_labels = data.labels[torch.as_tensor(data.train, device=data.labels.device)]
    prior, given = expected_prior(train_labels.cpu().numpy()), data.labels[unlabelled].cpu().numpy()
    free = given < 0
    kernel = kernel_logits(data) if config.rounds and config.policy != "all" else None

    def judged(logits: np.ndarray) -> tuple[Metrics, Any]:
        decision = crossfit_decision_rule(
            rule, metric, labels=val_labels, logits=logits, numbers=data.numbers[data.val]
        )
        return metrics_of(val_labels, logits, decision), outcome_of(logits, decision)

    best, best_targets, before, ended = 0, None, None, "max_iter"
    fused, mlp = memory(0, lambda: _trained(data, seed))
    figures, outcome = judged(mlp[data.val])
    best_logits = mlp
    history = [Round(0, 0, 0, [0] * len(prior), None, None, None, figures, None, True)]
    on_round(history[0])
    for number in range(1, config.rounds + 1):
        taught = fused[unlabelled] if kernel is None else (fused[unlabelled] + kernel[unlabelled]) / 2
        targets = targets_of(config, sigmoid(taught.astype(np.float64)), prior, given, rule)
        said = np.where(free, decided(targets), -1).astype(np.int8)
        changed = None if before is None else int((said != before).any(1).sum())
        anew = refit(number, targets) if refit else None
        if changed == 0 and anew is None:  # the next round would be as the last one
            ended = "no_change"
            break
        if anew is not None:
            data, kernel = anew, None if kernel is None else kernel_logits(anew)
        part = with_targets(data, unlabelled, targets)
        fused, mlp = memory(number, lambda part=part: _trained(part, seed))
        figures, now = judged(mlp[data.val])
        difference = _difference(metric, val_labels, now, outcome)
        accepted = is_accepted(difference, first=number == 1 and config.policy != "all")
        history.append(
            Round(
                number,
                len(part.train) - len(data.train),
                int((free & (said < 0)).sum()),
                (said == 1).sum(0).tolist(),
                changed,
                None if before is None else agreement(said, before),
                None if truth is None else agreement(said, truth),
                figures,
                difference,
                accepted,
                anew is not None,
            )
        )
        on_round(history[-1])
        if not accepted:
            ended = "reverted"
            break
        best, best_targets, best_logits, outcome, before = number, targets, mlp, now, said
    return SelfTraining(history, best, best_targets, best_logits, ended)


def decided(targets: Targets) -> np.ndarray:
    """Targets as labels `(N, K)` int8: 1 above 1/2, else 0, and -1 where nothing is taught."""
    return np.where(targets.labels < 0, -1, targets.labels > 0.5).astype(np.int8)


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """micro-F1 between two sets of labels `(N, K)`, over those that both know; 1 where neither says yes."""
    known = (a >= 0) & (b >= 0)
    a, b = (a == 1) & known, (b == 1) & known
    total = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def is_accepted(difference: tuple[float, float, float], *, first: bool) -> bool:
    """Whether a round stands. The first is reverted where val falls by more than its standard error; a later one has to rise.

    What a few val rows say of a first round is mostly noise, while what later rounds gain over it is little.
    """
    mean, low, high = difference
    return mean > 0 or (first and mean >= -(high - low) / STANDARD_ERRORS)


def _difference(metric: str, labels: np.ndarray, now: Any, before: Any) -> tuple[float, float, float]:
    name = metric.replace("-", "_")
    mean, low, high = paired_bootstrap(labels, now, before, names=(name,))[name]
    return (-mean, -high, -low) if metric == "loss" else (mean, low, high)


def _for_rows(config: Any, n_rows: int) -> Any:
    """A head's settings for so many rows: a fixed number of epochs, and larger steps where batches are large."""
    size = usual_batch(n_rows, LARGE)
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(STEPS / math.ceil(n_rows / size))))
    lr = config.lr * (size / usual_batch(n_rows)) ** 0.5
    return dataclasses.replace(config, batch_size=size, epochs=epochs, lr=lr)


def _trained(data: FitData, seed: int) -> Logits:
    """Mean of the logits of a linear model for each encoder and of an MLP on all; the MLP's own.

    No val row chooses their epochs: there may be few, and they judge the round.
    """
    logits, present = [], []
    alone = dataclasses.replace(data, val=data.val[:0])
    for name, part, config in [*(("linear", alone.only(one), LINEAR) for one in data.widths), ("mlp", alone, MLP)]:
        fitted = fit_head(name, part, _for_rows(config, len(part.train)), seed=seed)
        logits.append(head_logits(fitted.head, part))
        present.append(np.any([part.present[name].cpu().numpy() for name in part.widths], axis=0))
    prior = log_odds(data.labels[torch.as_tensor(data.train, device=data.labels.device)]).cpu().numpy()
    return combined(logits, present, [1 / len(logits)] * len(logits), prior), logits[-1]
