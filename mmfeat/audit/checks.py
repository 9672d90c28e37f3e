"""The registry of audit checks: a check is a function from an AuditInput to a CheckResult, in a module of its own.

To add one, write a module in this package with a function under `@register_check(NAME, TITLE)`. An installed package adds
one through an entry point of the group `mmfeat.checks` that names such a module.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

import mmfeat.audit
from mmfeat.audit.findings import CheckResult
from mmfeat.audit.neighbours import Neighbours, neighbours, unit_rows
from mmfeat.common.labels import sigmoid
from mmfeat.common.plugins import Registry
from mmfeat.store import MappedRows
from mmfeat.store.thumbnail_store import PictureStatistics

NEAREST = 10  # rows that each row is compared with

# Built-in checks in the order of the report; those of packages follow.
_ORDER = (
    "label",
    "leakage",
    "near_duplicate",
    "caption",
    "contradiction",
    "outlier",
    "empty_caption",
    "repeated_caption",
    "odd",
    "unreadable",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Embeddings:
    """Cached embeddings of one encoder.

    Attributes
    ----------
    modality : str
        `image` or `text`.
    values : MappedRows or np.ndarray
        `(N, D)`; read in blocks of rows. Rows that are not present are zeros.
    present : np.ndarray
        `(N,)` bool.
    """

    modality: str
    values: MappedRows | np.ndarray
    present: np.ndarray

    def rows(self, at: np.ndarray) -> np.ndarray:
        """Embeddings of some rows, float32 of length 1, `(n, D)`."""
        return unit_rows(self.values[at])


@dataclass(frozen=True, kw_only=True, eq=False)
class Nearest:
    """The nearest rows of distinct samples.

    Attributes
    ----------
    rows : np.ndarray
        `(n,)`: the first row of each distinct image or caption that has an embedding.
    found : Neighbours
        Of each of them its up to `NEAREST` nearest others, as positions in `rows`.
    """

    rows: np.ndarray
    found: Neighbours


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Predictions of a model for rows that it was not trained on.

    Attributes
    ----------
    name : str
        The run or encoder.
    logits : np.ndarray
        `(N, K)` float32.
    known : np.ndarray
        `(N,)` bool: whether the row has an out-of-sample prediction.
    modality : str
        `image` or `text` of a model with one modality; empty for one with both.
    predicted : np.ndarray or None
        `(N, K)` int8: the predicted labels, if there is a decision rule.
    """

    name: str
    logits: np.ndarray
    known: np.ndarray
    modality: str = ""
    predicted: np.ndarray | None = None

    def probs(self, row: int) -> np.ndarray:
        """Probabilities of a row `(K,)` float32."""
        return sigmoid(self.logits[row])


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditInput:
    """Everything that a check may read, as arrays over the N rows of the manifest.

    Attributes
    ----------
    ids : np.ndarray
        `(N,)` object.
    labels : np.ndarray
        `(N, K)` int8: 1 positive, 0 negative, -1 unknown.
    split : np.ndarray
        `(N,)` object: `train`, `val`, `test`, or `unlabelled` for a row without a known label.
    embeddings : dict of str to Embeddings
        By encoder; empty if none are cached.
    out_of_fold : Predictions or None
        Of a head that reads all inputs: out-of-fold predictions of the labelled train and val rows.
    unimodal : dict of str to Predictions
        Out-of-fold predictions of a head that reads one encoder, by encoder.
    model : Predictions or None
        The run that the audit is about, on the val rows, with predicted labels.
    keys : dict of str to np.ndarray
        Digests of the samples by modality, `(N, 32)` uint8: equal for identical images or captions, zeros without one.
    has : dict of str to np.ndarray
        `(N,)` bool by modality: whether the row names an image, or has a caption that is not blank.
    caption_lengths : np.ndarray
        `(N,)` int64: characters of the caption.
    unreadable : dict of int to str
        Rows whose image does not exist or cannot be read, with the reason.
    pictures : PictureStatistics or None
        Sizes, colours and miniatures of the images; None if they were not read.
    thresholds : dict of str to float
        Calibrated values from which two rows may be near-duplicates: the cosine, by encoder, and of `pixels` the similarity.
    caption_keys : np.ndarray or None
        `(N, 32)` uint8: equal for captions that differ in case, punctuation and spaces alone; zeros without a caption.
    caption_words : np.ndarray or None
        `(N, 64)` uint32: of two captions, the share of equal values estimates the share of words that they have in common.
    group_numbers : np.ndarray or None
        `(N,)` int64: equal for rows of one group of `[data] group` or with one image.
    """

    ids: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    classes: tuple[str, ...]
    embeddings: Mapping[str, Embeddings] = field(default_factory=dict)
    out_of_fold: Predictions | None = None
    unimodal: Mapping[str, Predictions] = field(default_factory=dict)
    model: Predictions | None = None
    keys: Mapping[str, np.ndarray] = field(default_factory=dict)
    has: Mapping[str, np.ndarray] = field(default_factory=dict)
    caption_lengths: np.ndarray | None = None
    unreadable: Mapping[int, str] = field(default_factory=dict)
    pictures: PictureStatistics | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    caption_keys: np.ndarray | None = None
    caption_words: np.ndarray | None = None
    group_numbers: np.ndarray | None = None

    @property
    def n_samples(self) -> int:
        """N."""
        return len(self.ids)

    def nearest(self, name: str) -> Nearest:
        """The nearest rows of each distinct row by the embeddings of an encoder, searched once for all checks."""
        if name not in self._nearest:
            one = self.embeddings[name]
            rows = distinct_rows(self.keys.get(one.modality), np.flatnonzero(one.present))
            k = max(0, min(NEAREST, len(rows) - 1))
            self._nearest[name] = Nearest(rows=rows, found=neighbours(_EmbeddedRows(one, rows), k))
        return self._nearest[name]

    @functools.cached_property
    def _nearest(self) -> dict[str, Nearest]:
        return {}

    def given(self, row: int) -> tuple[str, ...] | None:
        """The names of a row's positive labels; None if no label is known."""
        labels = self.labels[row]
        if labels.max(initial=-1) < 0:
            return None
        return tuple(self.classes[k] for k in np.flatnonzero(labels == 1).tolist())

    def changed(self, row: int, changes: Mapping[int, int]) -> tuple[str, ...]:
        """The names of a row's positive labels after changes from class number to 1 or 0."""
        labels = self.labels[row].copy()
        for k, label in changes.items():
            labels[k] = label
        return tuple(self.classes[k] for k in np.flatnonzero(labels == 1).tolist())


def distinct_rows(keys: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
    """The first row of each distinct key `(N, 32)` uint8 among some rows, in order; all of them without keys."""
    if keys is None or not len(rows):
        return rows
    packed = np.ascontiguousarray(keys[rows]).view(f"V{keys.shape[1]}").ravel()
    return np.sort(rows[np.unique(packed, return_index=True)[1]])


class _EmbeddedRows:
    """The embeddings of some rows as an array that is read in blocks."""

    def __init__(self, embeddings: Embeddings, rows: np.ndarray) -> None:
        self.embeddings, self.rows = embeddings, rows

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.embeddings.values.shape[1]

    def __getitem__(self, at: np.ndarray | slice) -> np.ndarray:
        return self.embeddings.values[self.rows[at]]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A registered check.

    Attributes
    ----------
    name : str
        Its name in findings, in `--fail-on` and in the columns of audit.csv: `is_NAME_issue`, `NAME_score`.
    title : str
        Its name for people.
    run : callable
        The function. It returns a result with `skipped` if its input is missing.
    """

    name: str
    title: str
    run: Callable[[AuditInput], CheckResult]


CHECKS: Registry[Check] = Registry("audit check", "mmfeat.checks", like=dict.fromkeys(_ORDER))


def register_check(name: str, title: str) -> Callable[[Callable[[AuditInput], CheckResult]], Callable]:
    """Decorator: register a check under a name."""

    def register(run: Callable[[AuditInput], CheckResult]) -> Callable[[AuditInput], CheckResult]:
        CHECKS.register(name, Check(name=name, title=title, run=run))
        return run

    return register


def all_checks() -> Iterator[Check]:
    """All checks: built-in ones, then those of installed packages."""
    for module in pkgutil.iter_modules(mmfeat.audit.__path__):
        importlib.import_module(f"mmfeat.audit.{module.name}")
    yield from CHECKS.values()
