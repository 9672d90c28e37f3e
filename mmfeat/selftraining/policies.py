"""Policies of self-training: functions from a teacher's probabilities to the targets of unlabelled rows.

- `paper` and `all` take the predicted labels (the paper, section 3.1.4). They differ in their teachers: see
  :mod:`mmfeat.selftraining.round_models`.
- `confident` takes only labels whose probability is beyond two thresholds.
- `class-aware` takes as many positives of a class as the labelled rows suggest (CAP: Xie et al., NeurIPS 2023).
- `soft` takes probabilities, shifted half of the way to the point where the expected share of rows is above 1/2. Averaged
  logits are too close to 0, most of all for rare classes, and hard labels lose the ranking of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mmfeat.common.labels import decide, sigmoid
from mmfeat.config.schema import PredictConfig, SelftrainConfig

SURE_YES, SURE_NO = (
    0.75,
    1.5,
)  # class-aware: multiples of the expected share; rows ranked above the first are positive, below the second negative
SHIFT, SHARPNESS = 0.5, 2.0  # soft: the fraction of the shift, and the factor of logits
FLOOR = 0.05  # lowest weight of a soft target, that of a target of 1/2

# policies with the paper's pseudo-labels, whose first round must improve the metric, too
PAPERS_LABELS = ("paper", "all")

_TINY = 1e-12


class Targets(NamedTuple):
    """Targets of rows.

    Attributes
    ----------
    labels : np.ndarray
        `(N, K)` float32 in [0, 1]; -1 for no target.
    weights : np.ndarray or None
        `(N, K)` float32 in (0, 1], weight of each target; 1, when None.
    """

    labels: np.ndarray
    weights: np.ndarray | None = None


Policy = Callable[[SelftrainConfig, np.ndarray, np.ndarray, PredictConfig], Targets]

_POLICIES: dict[str, Policy] = {}


def register_policy(name: str) -> Callable[[Policy], Policy]:
    """Decorator: register a policy under a name of :data:`mmfeat.config.schema.POLICIES`.

    A policy takes the settings, the teacher's probabilities `(N, K)`, the expected share of positives `(K,)` and the
    decision settings, and returns targets for all labels; known labels replace them afterwards.
    """

    def register(policy: Policy) -> Policy:
        _POLICIES[name] = policy
        return policy

    return register


def targets_of(
    config: SelftrainConfig, probs: np.ndarray, prior: np.ndarray, *, labels: np.ndarray, rule: PredictConfig
) -> Targets:
    """Targets of rows by the configured policy; known labels stay unchanged.

    Parameters
    ----------
    probs : np.ndarray
        `(N, K)` in [0, 1]: the teacher's probabilities.
    prior : np.ndarray
        `(K,)`: the expected share of positives of each class.
    labels : np.ndarray
        `(N, K)`: 0, 1, or -1 for unknown labels.
    rule : PredictConfig
        The decision rule of the policies `paper` and `all`. A tuned threshold counts as 0.5, because it is fitted on val.
    """
    found = _POLICIES[config.policy](config, probs, prior, rule)
    given, weights = labels >= 0, found.weights
    if weights is not None:
        weights = np.where(given, np.float32(1), weights)
    return Targets(np.where(given, labels, found.labels).astype(np.float32), weights)


@register_policy("paper")
@register_policy("all")
def _predicted(config: SelftrainConfig, probs: np.ndarray, prior: np.ndarray, rule: PredictConfig) -> Targets:
    return Targets(decide(probs, rule.untuned, rule.empty).astype(np.float32))


@register_policy("confident")
def _confident(config: SelftrainConfig, probs: np.ndarray, prior: np.ndarray, rule: PredictConfig) -> Targets:
    return Targets(_between(probs, np.float64(config.no), np.float64(config.yes)))


@register_policy("class-aware")
def _class_aware(config: SelftrainConfig, probs: np.ndarray, prior: np.ndarray, rule: PredictConfig) -> Targets:
    no, yes = (expected_threshold(probs, factor * prior) for factor in (SURE_NO, SURE_YES))
    return Targets(_between(probs, no, yes))


@register_policy("soft")
def _soft(config: SelftrainConfig, probs: np.ndarray, prior: np.ndarray, rule: PredictConfig) -> Targets:
    found = soft_targets(probs, prior)
    return Targets(found, np.maximum(np.abs(2 * found - 1), np.float32(FLOOR)))


def expected_prior(labels: np.ndarray) -> np.ndarray:
    """The share `(K,)` float64 of positives among each class's known labels `(N, K)`, after adding one of each kind."""
    known = labels >= 0
    return (np.where(known, labels, 0).sum(0, dtype=np.float64) + 1) / (known.sum(0) + 2)


def expected_threshold(probs: np.ndarray, share: np.ndarray) -> np.ndarray:
    """For each class, the probability `(K,)` that the given share `(K,)` of the rows exceeds; 1 without rows."""
    if not len(probs):
        return np.ones(probs.shape[1])
    shares = np.clip(1 - share, 0, 1)
    return np.array([np.quantile(column, at) for column, at in zip(probs.T, shares, strict=True)])


def soft_targets(probs: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Probabilities `(N, K)` float32, sharpened and shifted towards the expected share of positives."""
    threshold = _log_odds(expected_threshold(probs, prior))
    return sigmoid(SHARPNESS * (_log_odds(probs) - SHIFT * threshold)).astype(np.float32)


def _between(probs: np.ndarray, no: np.ndarray, yes: np.ndarray) -> np.ndarray:
    """1 for probabilities of at least `yes`, 0 for at most `no`, and -1 if neither or both hold."""
    found = np.full(probs.shape, -1, np.float32)
    found[(probs >= yes) & (probs > no)] = 1
    found[(probs <= no) & (probs < yes)] = 0
    return found


def _log_odds(probs: np.ndarray) -> np.ndarray:
    clipped = np.clip(np.asarray(probs, np.float64), _TINY, 1 - _TINY)
    return np.log(clipped) - np.log1p(-clipped)
