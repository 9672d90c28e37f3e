"""Label errors: how suspicious each known label is, and how many labels of each class are wrong.

The quality of a label is the probability that it is right, in a model of noisy labels (:mod:`mmfeat.audit.label_noise`). Two
estimates count wrong labels: the sum of the probabilities that labels are wrong, and confident learning (Northcutt, Jiang,
Chuang, 2021), one class against the rest, as in cleanlab; it counts what a weak model gets wrong, too. Unknown labels are left
out. The predictions must be out of fold: a model knows the labels that it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.audit.checks import AuditInput, register_check
from mmfeat.audit.findings import CheckResult, Finding
from mmfeat.audit.label_noise import class_blocks, fit_label_noise
from mmfeat.audit.other_labels import logits_by_other_labels
from mmfeat.common.labels import sigmoid
from mmfeat.common.text import counted, shown

MOST = 20_000  # findings: more are not looked at one by one
_CELLS = 1 << 23  # labels at a time: bounds memory
_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class ErrorCounts:
    """Labels of each class and how many of them are wrong, `(K,)` int64 each.

    Attributes
    ----------
    positives, negatives : np.ndarray
        Given positives and negatives with a prediction.
    wrong_positives, wrong_negatives : np.ndarray
        Estimates of how many of them are wrong.
    """

    positives: np.ndarray
    negatives: np.ndarray
    wrong_positives: np.ndarray
    wrong_negatives: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        """Estimates of wrong labels, `(K,)`."""
        return self.wrong_positives + self.wrong_negatives


def self_confidence(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """The probability of each given label, `(N, K)` float in the type of `probs`; NaN for an unknown label.

    Parameters
    ----------
    labels : np.ndarray
        `(N, K)` int8: 1, 0 or -1.
    probs : np.ndarray
        `(N, K)` probabilities of the classes, out of fold.
    """
    return np.where(labels == 1, probs, np.where(labels == 0, 1 - probs, np.nan)).astype(probs.dtype)


def confident_errors(labels: np.ndarray, probs: np.ndarray) -> ErrorCounts:
    """Estimate by confident learning how many labels of each class are wrong.

    A row counts as truly positive if its probability is at least the mean probability of the given positives, as truly
    negative if that of the opposite is at least the mean of the given negatives; if both hold, by the larger one. The
    resulting 2 x 2 counts are scaled to the numbers of given positives and negatives.

    Parameters
    ----------
    labels : np.ndarray
        `(N, K)` int8: 1, 0 or -1.
    probs : np.ndarray
        `(N, K)` probabilities of the classes, out of fold.
    """
    counts = np.zeros((4, labels.shape[1]), np.int64)
    for block in class_blocks(labels.shape, _CELLS):
        counts[:, block] = _counted(labels[:, block], probs[:, block])
    return ErrorCounts(positives=counts[0], negatives=counts[1], wrong_positives=counts[2], wrong_negatives=counts[3])


def label_quality(labels: np.ndarray, logits: Sequence[np.ndarray]) -> np.ndarray:
    """The probability that each known label is right, by several models together, `(N, K)` float32; NaN for an unknown one.

    The given labels of a row's other classes are read, too.

    Parameters
    ----------
    labels : np.ndarray
        `(N, K)` int8: 1, 0 or -1.
    logits : sequence of np.ndarray
        `(N, K)` by each model, out of fold.
    """
    by_others = logits_by_other_labels(labels)
    inputs = list(logits) if by_others is None else [*logits, by_others]
    return 1 - fit_label_noise(labels, inputs, n_models=len(logits)).wrong(labels, inputs)


def suspicious(quality: np.ndarray) -> np.ndarray:
    """The labels to look at, `(N, K)` bool: as many as are expected to be wrong, those of lowest quality `(N, K)`."""
    n = int(np.rint(np.nansum(1 - quality, dtype=np.float64)))
    if not n:
        return np.zeros(quality.shape, bool)
    values = np.where(np.isnan(quality), np.inf, quality)
    return values <= np.partition(values.ravel(), n - 1)[n - 1]


def _counted(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Given positives and negatives, and estimates of the wrong ones among them, `(4, K)` int64."""
    probs = probs.astype(np.float64)
    positive, negative = labels == 1, labels == 0
    n_positive, n_negative = positive.sum(0), negative.sum(0)
    least_positive = _mean(probs, positive, n_positive)
    least_negative = _mean(1 - probs, negative, n_negative)
    may_be_positive = probs >= least_positive - _TOLERANCE
    may_be_negative = 1 - probs >= least_negative - _TOLERANCE
    truly_positive = may_be_positive & (~may_be_negative | (probs > 0.5))
    truly_negative = may_be_negative & ~truly_positive
    wrong_positive = _scaled((positive & truly_negative).sum(0), (positive & truly_positive).sum(0), n_positive)
    wrong_negative = _scaled((negative & truly_positive).sum(0), (negative & truly_negative).sum(0), n_negative)
    return np.stack([n_positive, n_negative, wrong_positive, wrong_negative])


def _mean(values: np.ndarray, where: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Means over some rows, `(K,)`; infinite without any, so that no row reaches it."""
    return np.where(n > 0, np.where(where, values, 0).sum(0) / np.maximum(n, 1), np.inf)


def _scaled(wrong: np.ndarray, right: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Counts of wrong ones `(K,)`, scaled to all n; at least one counts as right."""
    return np.rint(wrong / (wrong + np.maximum(right, 1)) * n).astype(np.int64)


@register_check("label", "label errors")
def find_label_errors(given: AuditInput) -> CheckResult:
    """Labels that are probably wrong, by the quality of each known label."""
    if given.out_of_fold is None:
        return CheckResult(skipped="needs out-of-fold predictions")
    rows = np.flatnonzero(given.out_of_fold.known)
    labels, logits = given.labels[rows], _views(given, rows)
    counts = confident_errors(labels, sigmoid(logits[0]))
    quality = label_quality(labels, logits)
    wrong = suspicious(quality)
    scores = np.full(given.n_samples, np.nan)
    known = (labels >= 0).any(1)
    scores[rows[known]] = np.nanmin(quality[known], axis=1)
    return CheckResult(
        findings=_findings(given, rows, quality, wrong=wrong),
        lines=_lines(labels, quality, wrong),
        table=_by_class(given.classes, labels, quality, counts=counts, wrong=wrong),
        scores=scores,
    )


def _views(given: AuditInput, rows: np.ndarray) -> list[np.ndarray]:
    """Logits `(n, K)` of the run and of each encoder alone; where an encoder has no sample, those of the run."""
    fused = given.out_of_fold.logits[rows]
    alone = [np.where(one.known[rows, None], one.logits[rows], fused) for one in given.unimodal.values()]
    return [fused, *alone]


def _findings(given: AuditInput, rows: np.ndarray, quality: np.ndarray, *, wrong: np.ndarray) -> tuple[Finding, ...]:
    """A finding for each wrong label, the worst first. All of one sample propose the same labels."""
    at, columns = np.nonzero(wrong)
    order = np.lexsort((columns, rows[at], quality[at, columns]))[:MOST]
    changes: dict[int, dict[int, int]] = {}
    for i, k in zip(at[order].tolist(), columns[order].tolist(), strict=True):
        changes.setdefault(i, {})[k] = 1 - int(given.labels[rows[i], k])
    proposed = {i: given.changed(rows[i], its) for i, its in changes.items()}
    return tuple(
        Finding(
            check="label",
            id=given.ids[rows[i]],
            score=float(quality[i, k]),
            class_name=given.classes[k],
            detail=_detail(given, rows[i], k),
            given=given.given(rows[i]),
            proposed=proposed[i],
        )
        for i, k in zip(at[order].tolist(), columns[order].tolist(), strict=True)
    )


def _detail(given: AuditInput, row: int, k: int) -> str:
    """The given label and what each model says: `dog is given; crossattn-1 says 0.02, image 0.10, text 0.01`."""
    models = [given.out_of_fold, *(one for one in given.unimodal.values() if one.known[row])]
    said = [
        f"{shown(one.name)} {'says ' if i == 0 else ''}{sigmoid(one.logits[row, k : k + 1])[0]:.2f}"
        for i, one in enumerate(models)
    ]
    is_given = "is" if given.labels[row, k] == 1 else "is not"
    return f"{shown(given.classes[k], 40)} {is_given} given; {', '.join(said)}"


def _lines(labels: np.ndarray, quality: np.ndarray, wrong: np.ndarray) -> tuple[str, ...]:
    positives, negatives = (int(np.rint(expected.sum())) for expected in _expected(labels, quality))
    n = int(wrong.sum())
    lines = [
        f"about {positives + negatives:,} of {counted(int((labels >= 0).sum()), 'known label')} are wrong (an estimate): "
        f"{positives:,} positives, {negatives:,} negatives",
        f"listed: {counted(n, 'label')} of {counted(int(wrong.any(1).sum()), 'row')}, the surest errors first",
    ]
    if n > MOST:
        lines.append(f"audit.json and the table to review hold the {MOST:,} surest")
    return tuple(lines)


def _expected(labels: np.ndarray, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expected numbers of wrong positives and of wrong negatives of each class, `(K,)` float64 each."""
    wrong = np.nan_to_num(1 - quality)
    return tuple(np.where(labels == label, wrong, 0).sum(0, dtype=np.float64) for label in (1, 0))


def _by_class(
    classes: tuple[str, ...], labels: np.ndarray, quality: np.ndarray, *, counts: ErrorCounts, wrong: np.ndarray
) -> tuple[dict[str, Any], ...]:
    """The estimates of each class, as JSON values; the class with most wrong labels first."""
    listed, (positives, negatives) = wrong.sum(0), _expected(labels, quality)
    return tuple(
        {
            "class": classes[k],
            "positives": int(counts.positives[k]),
            "wrong_positives": int(np.rint(positives[k])),
            "negatives": int(counts.negatives[k]),
            "wrong_negatives": int(np.rint(negatives[k])),
            "listed": int(listed[k]),
            "confident_learning": int(counts.wrong[k]),
        }
        for k in np.argsort(-(positives + negatives), kind="stable").tolist()
    )
