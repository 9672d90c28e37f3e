"""Metrics of multi-label predictions (paper, section 4.1 and appendix; P15), as scikit-learn defines them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.errors import MmfeatError
from mmfeat.common.text import counted

_BLOCK = 2**22  # cells converted to float64 at a time: bounds memory
_FIELDS = {"samples-f1": "samples_f1", "micro-f1": "micro_f1", "macro-f1": "macro_f1", "map": "map", "loss": "loss"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores:
    """Metrics over rows; unknown labels are left out of all of them.

    Attributes
    ----------
    samples_f1 : float
        Mean over rows of the F1 of the label set; a row without labels that is predicted without labels counts 1.
    micro_f1, macro_f1 : float
        F1 of all cells together; mean of the F1 of the classes that have a positive among the rows.
    map : float
        Mean over the same classes of the average precision.
    accuracy_per_class, label_set_accuracy : float
        Label accuracy (1 - Hamming loss, averaged over classes); subset accuracy: the share of rows with every label right.
    loss : float
        Binary cross-entropy of the logits, per known label.
    class_f1, class_precision, class_recall, class_ap, class_accuracy : np.ndarray
        `(K,)` float64; `class_ap` is NaN for a class without a positive.
    n_positives : np.ndarray
        `(K,)` int64.
    n_classes_left_out : int
        Classes without a positive.
    """

    samples_f1: float
    micro_f1: float
    macro_f1: float
    map: float
    accuracy_per_class: float
    label_set_accuracy: float
    loss: float
    class_f1: np.ndarray
    class_precision: np.ndarray
    class_recall: np.ndarray
    class_ap: np.ndarray
    class_accuracy: np.ndarray
    n_positives: np.ndarray
    n_samples: int
    n_classes_left_out: int

    def value(self, metric: str) -> float:
        """One metric by its name in mmfeat.toml: samples-f1, micro-f1, macro-f1, map, loss."""
        return getattr(self, _FIELDS[metric])

    def weakest(self, n: int) -> list[tuple[int, float, int]]:
        """The `n` classes of lowest F1 among those with a positive: (class, F1, number of positives)."""
        kept = np.flatnonzero(self.n_positives > 0)
        order = kept[np.argsort(self.class_f1[kept], kind="stable")][:n]
        return [(int(k), float(self.class_f1[k]), int(self.n_positives[k])) for k in order]

    def as_dict(self) -> dict[str, Any]:
        """JSON values; NaN becomes None."""

        def plain(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                return [plain(item) for item in value.tolist()]
            return None if isinstance(value, float) and value != value else value

        return {name: plain(value) for name, value in vars(self).items()}


def better(metric: str, a: float, b: float) -> bool:
    """Whether `a` is strictly better than `b`: lower for the loss, higher for the others."""
    return a < b if metric == "loss" else a > b


def scores(labels: np.ndarray, predicted: np.ndarray, logits: np.ndarray) -> Scores:
    """Metrics of predicted labels and logits.

    Parameters
    ----------
    labels : np.ndarray
        `(N, K)` int8; rows without any known label are left out.
    predicted : np.ndarray
        `(N, K)` predicted labels, 0 or 1.
    logits : np.ndarray
        `(N, K)` float; used for average precision and the loss.

    Raises
    ------
    MmfeatError
        Shapes differ, there is no labelled row, or logits of a labelled row are not finite.
    """
    if not labels.shape == predicted.shape == logits.shape:
        shapes = f"labels {labels.shape}, predicted labels {predicted.shape} and logits {logits.shape}"
        raise MmfeatError(f"{shapes} differ in shape")
    rows = (labels >= 0).any(1)
    if not rows.any():
        raise MmfeatError("there is no labelled row to score")
    bad = np.flatnonzero(rows & ~np.isfinite(logits).all(1))
    if len(bad):
        raise MmfeatError(
            f"{len(bad)} of {counted(len(logits), 'row')} have logits that are not finite (first: row {bad[0]})"
        )
    if not rows.all():
        labels, predicted, logits = labels[rows], predicted[rows], logits[rows]
    counts = _Counts(labels, predicted)
    n_known, kept = counts.known, counts.positive > 0
    accuracy = np.where(n_known > 0, counts.right / np.maximum(n_known, 1), np.nan)
    class_ap = _average_precisions(labels, logits)
    return Scores(
        **counts.f1(),
        map=float(class_ap[kept].mean()) if kept.any() else 0.0,
        accuracy_per_class=float(np.nanmean(accuracy)),
        label_set_accuracy=counts.n_exact / len(labels),
        loss=float(row_losses(labels, logits).sum() / n_known.sum()),
        class_f1=counts.class_f1,
        class_precision=_ratio(counts.hit, counts.predicted),
        class_recall=_ratio(counts.hit, counts.positive),
        class_ap=class_ap,
        class_accuracy=accuracy,
        n_positives=counts.positive,
        n_samples=len(labels),
        n_classes_left_out=int((~kept).sum()),
    )


def f1_scores(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """The F1 metrics of :func:`scores` by their names in `Scores`; logits and average precision are not needed."""
    rows = (labels >= 0).any(1)
    return _Counts(labels[rows], predicted[rows]).f1()


def samples_f1_rows(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 of each row's label set, `(n,)` float64, for the rows with a known label; it is 1 if both sets are empty.

    Raises
    ------
    MmfeatError
        Shapes differ.
    """
    if labels.shape != predicted.shape:
        raise MmfeatError(f"labels {labels.shape} and predicted labels {predicted.shape} differ in shape")
    rows = (labels >= 0).any(1)
    labels, predicted = labels[rows], predicted[rows]
    return _rows_f1(labels == 1, (predicted == 1) & (labels >= 0))


def _rows_f1(positive: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    total = positive.sum(1) + predicted.sum(1)
    return np.where(total > 0, 2 * (positive & predicted).sum(1) / np.maximum(total, 1), 1.0)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a / np.maximum(b, 1), dtype=np.float64)


class _Counts:
    """Counts of labels and predicted labels, of rows with a known label.

    Attributes
    ----------
    known, positive, predicted, hit, right : np.ndarray
        `(K,)` int64: known labels, positives, predicted positives, hits (both), right predictions of each class.
    row_f1 : np.ndarray
        `(N,)` float64: F1 of each row.
    n_exact : int
        Rows with every label right.
    """

    def __init__(self, labels: np.ndarray, predicted: np.ndarray) -> None:
        n_rows, n_classes = labels.shape
        self.known, self.positive, self.predicted, self.hit, self.right = np.zeros((5, n_classes), np.int64)
        self.row_f1, self.n_exact, step = np.empty(n_rows), 0, max(1, _BLOCK // n_classes)
        for start in range(0, n_rows, step):
            block = slice(start, start + step)
            known, positive, is_predicted = labels[block] >= 0, labels[block] == 1, predicted[block] == 1
            self.row_f1[block] = _rows_f1(positive, is_predicted & known)
            self.n_exact += int(((is_predicted == positive) | ~known).all(1).sum())
            self._add(known, positive, is_predicted)
        self.class_f1 = _ratio(2 * self.hit, self.positive + self.predicted)

    def f1(self) -> dict[str, float]:
        """Samples, micro and macro F1 by their names in `Scores`."""
        kept = self.positive > 0
        return {
            "samples_f1": float(self.row_f1.mean()),
            "micro_f1": float(_ratio(2 * self.hit.sum(), self.positive.sum() + self.predicted.sum())),
            "macro_f1": float(self.class_f1[kept].mean()) if kept.any() else 0.0,
        }

    def _add(self, known: np.ndarray, positive: np.ndarray, predicted: np.ndarray) -> None:
        """Add the counts of a block of rows."""
        for total, cells in (
            (self.known, known),
            (self.positive, positive),
            (self.predicted, predicted & known),
            (self.hit, predicted & positive),
            (self.right, (predicted == positive) & known),
        ):
            total += cells.sum(0)


def _average_precisions(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Average precision of each class, `(K,)` float64; a few classes at a time, since a row's cells lie together."""
    found, step = [], max(1, _BLOCK // len(labels))
    for start in range(0, labels.shape[1], step):
        some = slice(start, start + step)
        of_class, scored = labels[:, some].T.copy(), logits[:, some].T.copy()
        for one, values in zip(of_class, scored, strict=True):
            found.append(_average_precision(values[one == 1], values[one >= 0]))
    return np.array(found)


def _average_precision(positives: np.ndarray, logits: np.ndarray) -> float:
    """Mean over positives of the precision at their logit; equal logits share a threshold, as in scikit-learn."""
    if not len(positives):
        return float("nan")
    positives, ordered = np.sort(positives), np.sort(logits)
    hits = len(positives) - np.searchsorted(positives, positives)
    predicted = len(ordered) - np.searchsorted(ordered, positives)
    return float((hits / predicted).mean())


def row_losses(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Summed binary cross-entropy of each row's known labels, `(N,)` float64."""
    found, step = np.empty(len(labels)), max(1, _BLOCK // max(1, labels.shape[1]))
    for start in range(0, len(labels), step):
        block = slice(start, start + step)
        z, of_block = logits[block].astype(np.float64), labels[block]
        losses = np.maximum(z, 0) - z * (of_block == 1) + np.log1p(np.exp(-np.abs(z)))
        found[block] = np.where(of_block >= 0, losses, 0.0).sum(1)
    return found
