"""From a teacher's probabilities to what the unlabelled rows teach: the policies of self-training, pure functions on arrays.

`all` is the paper's (section 3.1.4). `confident` takes what lies outside two thresholds. `class-aware` takes as many
positives of a class as the labelled rows let expect (CAP: Xie et al., NeurIPS 2023). `soft` teaches probabilities, moved
half the way to where as many pass 1/2 as are expected: averaged logits are timid, most of all of rare classes, and
whole decisions lose the order of the rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmfeat.common.labels import decide, sigmoid
from mmfeat.config.schema import PredictConfig, SelftrainConfig

SURE_YES, SURE_NO = 0.75, 1.5  # class-aware: times the share of positives to expect, yes up to there and no from there
SHIFT, SHARPNESS = 0.5, 2.0  # soft: the share of the way, and what logits are multiplied with
FLOOR = 0.05  # of soft targets' weights, so that a label at 1/2 still counts a little

_TINY = 1e-12


class Targets(NamedTuple):
    """What rows teach.

    Attributes
    ----------
    labels : np.ndarray
        `(N, K)` float32 in [0, 1]; -1 teaches nothing.
    weights : np.ndarray or None
        `(N, K)` float32 in (0, 1], how much each counts; all alike, when None.
    """

    labels: np.ndarray
    weights: np.ndarray | None = None


def targets_of(
    config: SelftrainConfig, probs: np.ndarray, prior: np.ndarray, labels: np.ndarray, rule: PredictConfig
) -> Targets:
    """Targets of rows by the policy; labels that are given stay as they are.

    Parameters
    ----------
    probs : np.ndarray
        `(N, K)` in [0, 1], the teacher's.
    prior : np.ndarray
        `(K,)`: the share of positives to expect of each class.
    labels : np.ndarray
        `(N, K)`: 0, 1, or -1 where there is none.
    rule : PredictConfig
        How `all` decides: at 0.5 where the threshold is tuned, since that would be learning from val.
    """
    weights = None
    if config.policy == "all":
        found = decide(probs, rule.untuned, rule.empty).astype(np.float32)
    elif config.policy == "confident":
        found = _between(probs, np.float64(config.no), np.float64(config.yes))
    elif config.policy == "class-aware":
        found = _between(probs, expected_threshold(probs, SURE_NO * prior), expected_threshold(probs, SURE_YES * prior))
    else:
        found = soft_targets(probs, prior)
        weights = np.maximum(np.abs(2 * found - 1), np.float32(FLOOR))
    given = labels >= 0
    if weights is not None:
        weights = np.where(given, np.float32(1), weights)
    return Targets(np.where(given, labels, found).astype(np.float32), weights)


def expected_prior(labels: np.ndarray) -> np.ndarray:
    """The share of positives of each class among its known labels `(N, K)`, a yes and a no added: `(K,)` float64."""
    known = labels >= 0
    return (np.where(known, labels, 0).sum(0, dtype=np.float64) + 1) / (known.sum(0) + 2)


def expected_threshold(probs: np.ndarray, share: np.ndarray) -> np.ndarray:
    """What a share `(K,)` of the rows has a probability of at least, by class: `(K,)`; no rows: 1."""
    if not len(probs):
        return np.ones(probs.shape[1])
    shares = np.clip(1 - share, 0, 1)
    return np.array([np.quantile(column, at) for column, at in zip(probs.T, shares, strict=True)])


def soft_targets(probs: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Probabilities `(N, K)` float32, sharper and moved half the way to the expected share of positives."""
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
