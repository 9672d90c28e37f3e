"""Policies of self-training: from a teacher's probabilities to the targets of unlabelled rows. Pure functions on arrays.

`all` is the paper's (section 3.1.4): the predicted labels. `confident` takes probabilities outside two thresholds.
`class-aware` takes as many positives of a class as the labelled rows let expect (CAP: Xie et al., NeurIPS 2023). `soft`
takes probabilities, shifted half the way to where the expected share of rows passes 1/2: averaged logits are too close to
0, most of all for rare classes, and hard labels lose the order of the rows.
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
)  # class-aware: times the expected share of positives; ranks up to the first are positive, from the second on negative
SHIFT, SHARPNESS = 0.5, 2.0  # soft: the share of the shift, and the factor of logits
FLOOR = 0.05  # lowest weight of a soft target: one at 1/2 still counts a little

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
    """Decorator: make a policy known under a name of :data:`mmfeat.config.schema.POLICIES`.

    A policy takes the settings, the teacher's probabilities `(N, K)`, the expected share of positives `(K,)` and the
    decision settings, and gives the targets of unlabelled cells.
    """

    def register(policy: Policy) -> Policy:
        _POLICIES[name] = policy
        return policy

    return register


def targets_of(
    config: SelftrainConfig, probs: np.ndarray, prior: np.ndarray, *, labels: np.ndarray, rule: PredictConfig
) -> Targets:
    """Targets of rows by the policy; given labels stay as they are.

    Parameters
    ----------
    probs : np.ndarray
        `(N, K)` in [0, 1], the teacher's.
    prior : np.ndarray
        `(K,)`: the expected share of positives of each class.
    labels : np.ndarray
        `(N, K)`: 0, 1, or -1 where the label is unknown.
    rule : PredictConfig
        How `all` turns probabilities into labels: at 0.5 where the threshold is tuned, since a tuned one was fitted on val.
    """
    found = _POLICIES[config.policy](config, probs, prior, rule)
    given, weights = labels >= 0, found.weights
    if weights is not None:
        weights = np.where(given, np.float32(1), weights)
    return Targets(np.where(given, labels, found.labels).astype(np.float32), weights)


@register_policy("all")
def _all(config: SelftrainConfig, probs: np.ndarray, prior: np.ndarray, rule: PredictConfig) -> Targets:
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
    """The share `(K,)` float64 of positives of each class among its known labels `(N, K)`, with one positive and one negative added."""
    known = labels >= 0
    return (np.where(known, labels, 0).sum(0, dtype=np.float64) + 1) / (known.sum(0) + 2)


def expected_threshold(probs: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The probability `(K,)` that a share `(K,)` of the rows reaches, by class; 1 without rows."""
    if not len(probs):
        return np.ones(probs.shape[1])
    shares = np.clip(1 - share, 0, 1)
    return np.array([np.quantile(column, at) for column, at in zip(probs.T, shares, strict=True)])


def soft_targets(probs: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Probabilities `(N, K)` float32, sharpened and shifted half the way to the expected share of positives."""
    threshold = _log_odds(expected_threshold(probs, prior))
    return sigmoid(SHARPNESS * (_log_odds(probs) - SHIFT * threshold)).astype(np.float32)


def _between(probs: np.ndarray, no: np.ndarray, yes: np.ndarray) -> np.ndarray:
    """1 from `yes` on, 0 up to `no`, and -1 between and where both hold."""
    found = np.full(probs.shape, -1, np.float32)
    found[(probs >= yes) & (probs > no)] = 1
    found[(probs <= no) & (probs < yes)] = 0
    return found


def _log_odds(probs: np.ndarray) -> np.ndarray:
    clipped = np.clip(np.asarray(probs, np.float64), _TINY, 1 - _TINY)
    return np.log(clipped) - np.log1p(-clipped)
