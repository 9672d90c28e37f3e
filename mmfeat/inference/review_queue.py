"""The rows whose labels are most worth a person's time, ranked by a run, with the reasons for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mmfeat.common.errors import DataError, MissingFeatures
from mmfeat.common.labels import has_label, label_names, sigmoid
from mmfeat.common.randomness import id_numbers
from mmfeat.data.corrections import FILE as CORRECTIONS
from mmfeat.data.corrections import corrected_ids
from mmfeat.data.review_items import Reason, ReviewItem
from mmfeat.heads.knn import unit_embeddings
from mmfeat.inference.fitted_rules import rule_for_rows
from mmfeat.inference.logits import model_logits, model_table, unimodal_predictions
from mmfeat.inference.row_ranking import (
    about_contradiction,
    contradiction,
    disagreement,
    shortlist,
    spread,
    uncertainty,
)
from mmfeat.inference.run_ranking import selected_model
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.project.named_models import NamedModel
from mmfeat.project.project import Project

SPLITS = ("unlabelled", "train", "val")
UNCERTAIN, DISAGREE, CONTRADICTED = "uncertain", "encoders disagree", "contradicted label"  # kinds of reasons
LIKELY = 0.2  # probability from which a class is shown although it is not predicted
_LIST, _FEWEST = 10, 1000  # rows compared with one another: this many per requested row, and at least so many
_REASONS, _OPEN, _SHARE = 3, 0.5, 0.1  # reasons per row; bits that always make one; least bits of a reason


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """Rows of the manifest `(n,)`, with the predictions of the run and of its encoders."""

    rows: np.ndarray
    probs: np.ndarray  # (n, K)
    predicted: np.ndarray  # (n, K)
    threshold: np.ndarray  # (n, K)
    unimodal: dict[str, np.ndarray]  # (n, K) each
    known: dict[str, np.ndarray]  # (n,) each

    def take(self, at: np.ndarray) -> Candidates:
        """Some of them, in this order."""
        return Candidates(
            rows=self.rows[at],
            probs=self.probs[at],
            predicted=self.predicted[at],
            threshold=self.threshold[at],
            unimodal={name: probs[at] for name, probs in self.unimodal.items()},
            known={name: known[at] for name, known in self.known.items()},
        )

    def differing(self) -> np.ndarray:
        """Bits by which the encoders disagree, `(n, K)`."""
        if not self.unimodal:
            return np.zeros(self.probs.shape)
        return disagreement(np.stack(list(self.unimodal.values())), np.stack(list(self.known.values())))


@dataclass(frozen=True, kw_only=True, eq=False)
class ReviewQueue:
    """The rows of highest worth, best first.

    Attributes
    ----------
    chosen : str
        How the run was selected; empty if it was named.
    best : Candidates
        The selected rows with their predictions.
    reasons : list of list of Reason
        Of each selected row.
    compared : np.ndarray
        `(n,)`: the rows that they were selected from.
    n_reviewed, n_unknown : int
        Rows left out: rows in corrections.csv, and rows that have no input of the run.
    """

    model: NamedModel
    chosen: str
    split: str
    best: Candidates
    reasons: list[list[Reason]]
    compared: np.ndarray
    n_reviewed: int
    n_unknown: int

    @property
    def without_prediction(self) -> list[str]:
        """Encoders of the run without unimodal predictions."""
        encoders = self.model.encoders if self.model.run is not None else ()
        return [name for name in encoders if name not in self.best.unimodal]


def review_queue(project: Project, run: str | None, *, n: int, split: str) -> ReviewQueue:
    """Up to n rows of a split, best first: the model is uncertain or its encoders disagree.

    For labelled splits, rows whose labels the model contradicts. Near-duplicates and rows in corrections.csv are left out.
    Everything is computed from cached features.

    Parameters
    ----------
    run : str, optional
        A run, or an encoder with its linear probe; the best run on val, if None.

    Raises
    ------
    DataError
        There are no such rows.
    """
    rows = project.manifest.rows(split)
    other = f"Use: --split {'train' if split != 'train' else 'val'}"
    if not len(rows):
        raise DataError(f"there are no {split} rows to review. {other}")
    used, chosen = selected_model(project, run)
    fresh = unreviewed(project, rows)
    found = _candidates(project, used, fresh)
    best = found.take(_most_worth(project, used, found, n=n, split=split))
    if not len(best.rows):
        what = "that is not in corrections.csv" if split == "unlabelled" else "whose labels the model contradicts"
        raise DataError(f"no {split} row is left {what}. {other}")
    return ReviewQueue(
        model=used,
        chosen=chosen,
        split=split,
        best=best,
        reasons=list(_why_open(project, best) if split == "unlabelled" else _why_wrong(project, best)),
        compared=found.rows,
        n_reviewed=len(rows) - len(fresh),
        n_unknown=len(fresh) - len(found.rows),
    )


def queue_items(project: Project, queue: ReviewQueue) -> list[ReviewItem]:
    """The rows of a queue as items, best first."""
    manifest, best = project.manifest, queue.best
    labels, names = manifest.labels[best.rows], label_names(best.predicted, manifest.classes)
    given = given_labels(labels, manifest.classes)
    images = image_places(project, best.rows)
    return [
        ReviewItem(
            id=manifest.ids[row],
            row=row,
            image=images[at],
            caption=manifest.captions[row],
            split=queue.split,
            given=given[at],
            proposed=tuple(names[at]),
            reasons=tuple(queue.reasons[at]),
            probabilities=dict(likely_classes(best.probs[at], best.predicted[at], manifest.classes)),
        )
        for at, row in enumerate(best.rows.tolist())
    ]


def about_in_sample(split: str) -> str:
    """What it means that a run was trained on the rows of a queue, and what to do about it."""
    if split == "unlabelled":
        return (
            "the run was trained on their pseudo-labels and is over-confident there. "
            "For a run without pseudo-labels: mmfeat fuse"
        )
    return (
        "the run was trained on their labels and may have memorised them. "
        "For out-of-fold predictions: mmfeat fuse --folds 5"
    )


def predictions_of(project: Project, model: NamedModel, rows: np.ndarray) -> dict[int, dict[str, float]]:
    """Probabilities of each row's predicted and likely classes, by row; rows without an input of the model are left out."""
    found, classes = _candidates(project, model, rows), project.manifest.classes
    return {
        row: dict(likely_classes(found.probs[at], found.predicted[at], classes))
        for at, row in enumerate(found.rows.tolist())
    }


def unreviewed(project: Project, rows: np.ndarray) -> np.ndarray:
    """The rows that are not in corrections.csv."""
    seen = corrected_ids(project.root / CORRECTIONS, project.manifest.columns["id"])
    return rows[[seen.find(sample) is None for sample in project.manifest.ids[rows].tolist()]]


def given_labels(labels: np.ndarray, classes: Sequence[str]) -> list[tuple[str, ...] | None]:
    """The positive labels of each row; None for a row without a known label."""
    return [
        tuple(names) if known else None
        for names, known in zip(label_names(labels, classes), has_label(labels), strict=True)
    ]


def image_places(project: Project, rows: np.ndarray) -> list[str]:
    """Paths of the images; the name in the source for an image that does not exist."""
    names = project.manifest.images[rows].tolist()
    try:
        found = [project.sources.locate(name) if name else None for name in names]
    except (DataError, OSError):
        return names
    return [name if at is None else str(at) for name, at in zip(names, found, strict=True)]


def likely_classes(probs: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Names and probabilities of a row's predicted and likely classes, the most probable first."""
    order = np.argsort(-probs, kind="stable")
    for k in order[(predicted[order] == 1) | (probs[order] >= LIKELY)].tolist():
        yield classes[k], float(probs[k])


def _candidates(project: Project, model: NamedModel, rows: np.ndarray) -> Candidates:
    """Rows with an input of the run, and their predictions, in an order that depends only on the ids."""
    rows = rows[np.argsort(id_numbers(project.manifest.ids[rows]), kind="stable")]
    if len(rows):
        source = model_logits(project, model, rows)
        logits, rows = source.logits[source.known], rows[source.known]
    else:
        logits = np.zeros((0, len(project.manifest.classes)), np.float32)
    decision: DecisionRule = rule_for_rows(project, model.name, rows)
    probs = decision.probs(logits)
    sources = unimodal_predictions(project, model.run, rows) if model.run is not None and len(rows) else {}
    return Candidates(
        rows=rows,
        probs=probs,
        predicted=decision.labels(probs),
        threshold=np.broadcast_to(np.asarray(decision.threshold, np.float64), probs.shape),
        unimodal={name: sigmoid(source.logits) for name, source in sources.items()},
        known={name: source.known for name, source in sources.items()},
    )


def _most_worth(project: Project, model: NamedModel, found: Candidates, *, n: int, split: str) -> np.ndarray:
    """Positions of the candidates of highest worth, best first."""
    if split == "unlabelled":
        worth = (uncertainty(found.probs, found.threshold) + found.differing()).sum(1)
    else:
        worth = contradiction(found.probs, found.predicted, project.manifest.labels[found.rows]).sum(1)
    listed = shortlist(worth, id_numbers(project.manifest.ids[found.rows]), max(_FEWEST, _LIST * n))
    return listed[spread(worth[listed], _points(project, model, found.take(listed)), n)]


def _points(project: Project, model: NamedModel, listed: Candidates) -> np.ndarray:
    """Points whose distances show duplicates: embeddings, or the model's probabilities if embeddings are missing."""
    try:
        table = model_table(project, model, listed.rows)
    except MissingFeatures:
        return listed.probs.astype(np.float32)
    return unit_embeddings(table, list(model.encoders), listed.rows)


def _why_open(project: Project, best: Candidates) -> Iterator[list[Reason]]:
    """The classes that make a row worth labelling."""
    classes, near, apart = project.manifest.classes, uncertainty(best.probs, best.threshold), best.differing()
    for row in range(len(best.rows)):
        bits = np.concatenate([near[row], apart[row]])
        enough = np.minimum(_OPEN, bits.max())
        top = [i for i in np.argsort(-bits, kind="stable")[:_REASONS].tolist() if bits[i] >= max(enough, _SHARE)]
        reasons = []
        for i in top or [int(bits.argmax())]:
            k, apart_here = i % len(classes), i >= len(classes)
            text = f"{best.probs[row, k]:.2f}, threshold {best.threshold[row, k]:.2f}"
            text = _sides(best, row, k) if apart_here else text
            kind = DISAGREE if apart_here else UNCERTAIN
            reasons.append(Reason(kind=kind, text=f"{classes[k]}: {text}", class_name=classes[k]))
        yield reasons


def _sides(best: Candidates, row: int, k: int) -> str:
    """The two encoders whose probabilities of a class differ most."""
    found = {name: probs[row, k] for name, probs in best.unimodal.items() if best.known[name][row]}
    most, least = max(found, key=found.__getitem__), min(found, key=found.__getitem__)
    return f"{most} says {found[most]:.2f}, {least} {found[least]:.2f}"


def _why_wrong(project: Project, best: Candidates) -> Iterator[list[Reason]]:
    """The labels that the model contradicts most."""
    labels, classes = project.manifest.labels[best.rows], project.manifest.classes
    wrong = contradiction(best.probs, best.predicted, labels)
    for row in range(len(best.rows)):
        top = [k for k in np.argsort(-wrong[row], kind="stable")[:_REASONS].tolist() if wrong[row, k] > 0]
        yield [
            Reason(
                kind=CONTRADICTED,
                text=about_contradiction(classes[k], labels[row, k] == 1, best.probs[row, k]),
                class_name=classes[k],
            )
            for k in top
        ]
