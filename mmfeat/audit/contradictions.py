"""Contradictions: samples whose image and caption show different things, such as a caption of another image.

The unimodal predictions of a row agree if both modalities show the same labels. With class shares s, the odds of the
predictions p and q of one class, if both come from one sample rather than from two, are p q / s + (1 - p) (1 - q) / (1 - s).
The odds of a row are their product over the classes.
"""

from __future__ import annotations

import itertools

import numpy as np

from mmfeat.audit.checks import AuditInput, Predictions, register_check
from mmfeat.audit.findings import CheckResult, Finding
from mmfeat.audit.label_noise import class_blocks
from mmfeat.common.labels import sigmoid
from mmfeat.common.text import counted, shown

# Odds against a row from which it is found: of 100 rows with one exchanged caption, it is more likely that one than not.
_AGAINST = np.log(99.0)
_CELLS = 1 << 23  # labels at a time: bounds memory
_TINY = 1e-4  # no prediction is more certain than this


def agreement(first: np.ndarray, second: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Log odds that two predictions come from one sample rather than from two, `(N,)` float64.

    Parameters
    ----------
    first, second : np.ndarray
        `(N, K)` logits by image and by caption.
    shares : np.ndarray
        `(K,)` share of positives of each class, in (0, 1).
    """
    total = np.zeros(len(first))
    for block in class_blocks(first.shape, _CELLS):
        p, q = (np.clip(sigmoid(logits[:, block].astype(np.float64)), _TINY, 1 - _TINY) for logits in (first, second))
        s = np.clip(shares[block], _TINY, 1 - _TINY)
        total += np.log(p * q / s + (1 - p) * (1 - q) / (1 - s)).sum(1)
    return total


@register_check("contradiction", "image and caption that contradict each other")
def find_contradictions(given: AuditInput) -> CheckResult:
    """Rows whose best agreement between an image encoder and a text encoder speaks against one sample."""
    sides = [[one for one in given.unimodal.values() if one.modality == which] for which in ("image", "text")]
    if not all(sides):
        return CheckResult(skipped="needs predictions by an image encoder and by a text encoder")
    labelled = given.labels[given.split == "train"]
    known = np.maximum((labelled >= 0).sum(0), 1)
    shares = ((labelled == 1).sum(0) + 0.5) / (known + 1)
    odds, pair = np.full(given.n_samples, np.nan), {}
    for image, text in itertools.product(*sides):
        both = image.known & text.known
        found = np.where(both, agreement(image.logits, text.logits, shares), np.nan)
        better = both & ~(odds >= found)
        odds = np.where(better, found, odds)
        pair |= dict.fromkeys(np.flatnonzero(better).tolist(), (image, text))
    rows = np.flatnonzero(odds < -_AGAINST)
    rows = rows[np.argsort(odds[rows], kind="stable")]
    scores = np.full(given.n_samples, np.nan)
    scores[~np.isnan(odds)] = sigmoid(odds[~np.isnan(odds)])
    compared = int((~np.isnan(odds)).sum())
    found = tuple(
        Finding(
            check="contradiction",
            id=given.ids[row],
            score=float(scores[row]),
            detail=_detail(given, row, *pair[row]),
            given=given.given(row),
        )
        for row in rows.tolist()
    )
    line = f"{counted(len(rows), 'row')} of {compared:,}: the image shows other labels than the caption"
    return CheckResult(findings=found, lines=(line,) if found else (), scores=scores)


def _detail(given: AuditInput, row: int, image: Predictions, text: Predictions) -> str:
    """The class that the two predictions differ most about."""
    p, q = image.probs(row), text.probs(row)
    k = int(np.abs(p - q).argmax())
    return f"{shown(given.classes[k], 40)}: {p[k]:.2f} by {shown(image.name)}, {q[k]:.2f} by {shown(text.name)}"
