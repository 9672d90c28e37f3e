"""Self-training rounds on cached arrays (paper, section 3.1.4; P14).

Label the unlabelled rows with the fused model; train one model for each modality, and the fusion head, on labelled and
pseudo-labelled rows; fuse them (the mean of their logits); label again; stop when the figure on val no longer rises, and
keep the best round. Val rows are never trained on and given labels never change.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmfeat.config import LinearConfig, PredictConfig
from mmfeat.heads.base import log_odds
from mmfeat.heads.fit import FitData, fit_head, head_logits
from mmfeat.labels import decide, sigmoid
from mmfeat.metrics import better
from mmfeat.models.decisions import crossfitted
from mmfeat.models.ensembles import combined
from mmfeat.models.figures import Figures, figures_of
from mmfeat.progress import progress


@dataclass(frozen=True)
class Round:
    """One round; round 0 is the supervised model.

    Attributes
    ----------
    n_pseudo : int
        Rows that took part with pseudo-labels.
    changed : int or None
        Of these, rows whose pseudo-labels differ from the round before.
    accepted : bool
        Whether val rose.
    """

    number: int
    n_pseudo: int
    changed: int | None
    figures: Figures
    accepted: bool


@dataclass(frozen=True)
class SelfTraining:
    """The rounds, and the pseudo-labels `(n_unlabelled, K)` int8 that the best round trained on (None: round 0)."""

    rounds: list[Round]
    best: int
    pseudo_labels: np.ndarray | None


def with_pseudo_labels(data: FitData, unlabelled: np.ndarray, pseudo_labels: np.ndarray | None) -> FitData:
    """The same arrays with pseudo-labels for the unlabelled rows, which join the rows to train on."""
    if pseudo_labels is None:
        return data
    labels = data.labels.clone()
    labels[torch.as_tensor(unlabelled, device=labels.device)] = torch.as_tensor(pseudo_labels, device=labels.device)
    return dataclasses.replace(data, labels=labels, train=np.concatenate([data.train, unlabelled]))


@dataclass(frozen=True)
class RoundModels:
    """What is trained in each round: a linear head on each encoder alone, and one head on all of them."""

    linear: LinearConfig
    head: str
    head_config: Any


def self_train(
    data: FitData,
    unlabelled: np.ndarray,
    models: RoundModels,
    *,
    rounds: int,
    metric: str,
    seed: int,
    rule: PredictConfig,
) -> SelfTraining:
    """Run up to `rounds` rounds.

    Parameters
    ----------
    data : FitData
        Embeddings of every encoder; its `val` rows decide when to stop.
    unlabelled : np.ndarray
        Row numbers that may get pseudo-labels.
    rule : PredictConfig
        How probabilities become labels (P8): those that figures score, cross-fitted on val where they are tuned, and
        the pseudo-labels, which never learn from val: at 0.5 where the threshold is tuned.
    """
    val_labels = data.labels[data.val].cpu().numpy()

    def on_val(logits: np.ndarray) -> Figures:
        return figures_of(val_labels, logits, crossfitted(rule, metric, val_labels, logits, data.numbers[data.val]))

    best, best_labels, before = 0, None, None
    with progress("self-training", rounds + 1, "rounds") as bar:
        fused = _fused(data, models, metric, seed, rule)
        history = [Round(0, 0, None, on_val(fused[data.val]), True)]
        bar.advance(1)
        for number in range(1, rounds + 1):
            pseudo = decide(sigmoid(fused[unlabelled]), rule.untuned, rule.empty)
            changed = None if before is None else int((pseudo != before).any(1).sum())
            if changed == 0:  # the next round would be this one again
                break
            before = pseudo
            fused = _fused(with_pseudo_labels(data, unlabelled, pseudo), models, metric, seed, rule)
            figures = on_val(fused[data.val])
            value, best_value = (f.scores.value(metric) for f in (figures, history[best].figures))
            accepted = bool(better(metric, value, best_value))
            history.append(Round(number, len(unlabelled), changed, figures, accepted))
            bar.advance(1, f"{metric} {value:.4f}")
            if not accepted:
                break
            best, best_labels = number, pseudo
    return SelfTraining(history, best, best_labels)


def _fused(data: FitData, models: RoundModels, metric: str, seed: int, rule: PredictConfig) -> np.ndarray:
    """Mean of the logits of a model for each encoder and of the head on all, for every row, `(N, K)`."""
    logits, present = [], []
    for part, head, config in [
        *((data.only(name), "linear", models.linear) for name in data.widths),
        (data, models.head, models.head_config),
    ]:
        fitted = fit_head(head, part, config, metric=metric, rule=rule, seed=seed)
        logits.append(head_logits(fitted.head, part))
        present.append(np.any([part.present[name].cpu().numpy() for name in part.widths], axis=0))
    prior = log_odds(data.labels[torch.as_tensor(data.train, device=data.labels.device)]).cpu().numpy()
    return combined(logits, present, [1 / len(logits)] * len(logits), prior)
