"""`mmfeat review`: a table of the rows whose labels are most worth checking, for a person to fill in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfeat.common.errors import DataError, MissingFeatures
from mmfeat.common.files import bytes_of
from mmfeat.common.labels import decide, has_label, label_names, sigmoid
from mmfeat.common.randomness import id_numbers
from mmfeat.common.text import counted
from mmfeat.data.corrections import FILE as CORRECTIONS
from mmfeat.data.corrections import add_answers, corrected_ids
from mmfeat.data.review_table import FILE, is_review, n_answered, nothing_mark, read_answers, review_bytes
from mmfeat.heads.knn import unit_embeddings
from mmfeat.inference.fitted_rules import rule_for_rows
from mmfeat.inference.logits import model_logits, model_table, unimodal_predictions
from mmfeat.inference.row_ranking import contradiction, disagreement, shortlist, spread, uncertainty
from mmfeat.inference.run_ranking import selected_model
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.project.named_models import NamedModel
from mmfeat.project.project import Project
from mmfeat.project.staleness import in_sample
from mmfeat.report.outputs import Outputs
from mmfeat.report.result import Record, TableResult

SPLITS = ("unlabelled", "train", "val")
_LIST, _FEWEST = 10, 1000  # rows compared with one another: this many per requested row, and at least so many
_REASONS, _OPEN, _SHARE = 3, 0.5, 0.1  # reasons per row; bits that always make one; least bits of a reason
_LIKELY = 0.2  # probability from which a class is shown although it is not predicted


@dataclass(frozen=True, kw_only=True, repr=False)
class ReviewResult(TableResult):
    """The table of a review, and the file that holds it.

    Attributes
    ----------
    made : bool
        False if the file had exactly this content already.
    chosen : str
        How the run was selected; empty if it was named.
    n_rows, n_candidates : int
        Rows in the file, and rows that they were selected from.
    n_reviewed, n_unknown : int
        Rows left out: rows in corrections.csv, and rows that have no input of the run.
    without_prediction : list of str
        Encoders of the run without unimodal predictions.
    in_sample : str
        How many of the rows the run was trained on; empty if none.
    nothing : str
        The text to fill in if no class applies.
    columns : dict of str to list of str
        The table that was written, by column.
    """

    file: Path
    made: bool
    run: str
    chosen: str
    split: str
    n_rows: int
    n_candidates: int
    n_reviewed: int
    n_unknown: int
    without_prediction: list[str]
    in_sample: str
    nothing: str
    columns: dict[str, list[str]]

    def _about(self) -> str:
        rows = f"{self.n_rows:,} of {counted(self.n_candidates, f'{self.split} row')}"
        return f"{'Made' if self.made else 'Already made:'} {self.file} ({rows}) by {self.run}"

    def _table(self) -> list[Record]:
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True)]


@dataclass(frozen=True, kw_only=True)
class _Candidates:
    """Rows of the manifest `(n,)`, with the predictions of the run and of its encoders."""

    rows: np.ndarray
    probs: np.ndarray  # (n, K)
    predicted: np.ndarray  # (n, K)
    threshold: np.ndarray  # (n, K)
    unimodal: dict[str, np.ndarray]  # (n, K) each
    known: dict[str, np.ndarray]  # (n,) each

    def take(self, at: np.ndarray) -> _Candidates:
        """Some of them, in this order."""
        return _Candidates(
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


def review(
    project: Project,
    run: str | None = None,
    *,
    n: int = 50,
    split: str = "unlabelled",
    out: Path | str | None = None,
    overwrite: bool = False,
) -> ReviewResult:
    """Write a table of the rows that are most worth labelling: the model is uncertain or its encoders disagree.

    For labelled splits, rows whose labels the model contradicts. Near-duplicates and rows in corrections.csv are left out.
    Everything is computed from cached features.

    Parameters
    ----------
    run : str, optional
        A run, or an encoder with its linear probe; the best run on val, if None.
    split : str
        `unlabelled`; or `train` or `val`, to find labels that are wrong.
    out : Path, optional
        The file to write; review.csv in the project's folder, if None.
    overwrite : bool
        Whether to replace a file with labels that are not applied yet, or a file that is not a review.

    Raises
    ------
    DataError
        There are no such rows, or the file has labels that are not applied yet.
    OutputError
        The file is an input or a file of the project.
    """
    manifest, rows = project.manifest, project.manifest.rows(split)
    if not len(rows):
        raise DataError(f"there are no {split} rows to review. Use: --split {'train' if split != 'train' else 'val'}")
    file = project.root / FILE if out is None else Path(out).expanduser()
    outputs = _checked_outputs(project, file, overwrite)
    used, chosen = selected_model(project, run)
    fresh = _unreviewed(project, rows)
    found = _candidates(project, used, fresh)
    best = found.take(_most_worth(project, used, found, n=n, split=split))
    if not len(best.rows):
        what = "that is not in corrections.csv" if split == "unlabelled" else "whose labels the model contradicts"
        raise DataError(f"no {split} row is left {what}. Use: --split {'train' if split != 'train' else 'val'}")
    columns = _columns(project, best, split)
    return ReviewResult(
        file=file,
        made=outputs.write(file, review_bytes(columns), known=True),
        run=used.name,
        chosen=chosen,
        split=split,
        n_rows=len(best.rows),
        n_candidates=len(found.rows),
        n_reviewed=len(rows) - len(fresh),
        n_unknown=len(fresh) - len(found.rows),
        without_prediction=[name for name in used.encoders if used.run is not None and name not in found.unimodal],
        in_sample=in_sample(project, used.name, found.rows),
        nothing=nothing_mark(manifest.classes),
        columns=columns,
    )


def _checked_outputs(project: Project, file: Path, overwrite: bool) -> Outputs:
    """Refuse a file that must not be replaced, before any work."""
    outputs = Outputs(project.config, overwrite=overwrite)
    outputs.check(file, known=True)
    if not overwrite and not outputs.made(file):
        _keep_answers(project, file)
    return outputs


def _unreviewed(project: Project, rows: np.ndarray) -> np.ndarray:
    """The rows that are not in corrections.csv."""
    seen = corrected_ids(project.root / CORRECTIONS, project.manifest.columns["id"])
    return rows[[seen.find(sample) is None for sample in project.manifest.ids[rows].tolist()]]


def _keep_answers(project: Project, file: Path) -> None:
    """Refuse to overwrite labels that were filled in and not applied, or any file that is not a review."""
    if not file.exists():
        return
    elsewhere = "or write another file: --out FILE (or replace it: --overwrite)"
    try:
        n, manifest = n_answered(file), project.manifest
    except DataError as error:
        raise DataError(f"{error}. It is not overwritten. Remove it, {elsewhere}") from None
    if not n:
        if not is_review(file):
            raise DataError(f"{file}: is not a review, and is not overwritten. Remove it, {elsewhere}")
        return
    separator, kept = project.config.data.separator, project.root / CORRECTIONS
    remedy = f"is not overwritten. Run: mmfeat review --apply {file}, {elsewhere}"
    try:
        given = read_answers(file, manifest.ids, manifest.classes, separator=separator).given
        applied = add_answers(kept, given, manifest.columns, separator=separator) == bytes_of(kept)
    except DataError as error:
        raise DataError(f"{error}. {file} {remedy}") from None
    if not applied:
        raise DataError(f"{file}: has {n:,} row{'s' * (n != 1)} filled in, and {remedy}")


def _candidates(project: Project, model: NamedModel, rows: np.ndarray) -> _Candidates:
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
    return _Candidates(
        rows=rows,
        probs=probs,
        predicted=decision.labels(probs),
        threshold=np.broadcast_to(np.asarray(decision.threshold, np.float64), probs.shape),
        unimodal={name: sigmoid(source.logits) for name, source in sources.items()},
        known={name: source.known for name, source in sources.items()},
    )


def _most_worth(project: Project, model: NamedModel, found: _Candidates, *, n: int, split: str) -> np.ndarray:
    """Positions of the candidates of highest worth, best first."""
    if split == "unlabelled":
        worth = (uncertainty(found.probs, found.threshold) + found.differing()).sum(1)
    else:
        worth = contradiction(found.probs, found.predicted, project.manifest.labels[found.rows]).sum(1)
    listed = shortlist(worth, id_numbers(project.manifest.ids[found.rows]), max(_FEWEST, _LIST * n))
    return listed[spread(worth[listed], _points(project, model, found.take(listed)), n)]


def _points(project: Project, model: NamedModel, listed: _Candidates) -> np.ndarray:
    """Points whose distances show duplicates: embeddings, or the model's probabilities if embeddings are missing."""
    try:
        table = model_table(project, model, listed.rows)
    except MissingFeatures:
        return listed.probs.astype(np.float32)
    return unit_embeddings(table, list(model.encoders), listed.rows)


def _columns(project: Project, best: _Candidates, split: str) -> dict[str, list[str]]:
    """The columns of the table, a text for each row."""
    manifest, separator = project.manifest, project.config.data.separator
    classes, labels = manifest.classes, manifest.labels[best.rows]
    given, none = label_names(labels, classes), nothing_mark(classes)
    labelled = has_label(labels)
    columns = {
        "id": manifest.ids[best.rows].tolist(),
        "image": _places(project, best.rows),
        "caption": manifest.captions[best.rows].tolist(),
        "given": [separator.join(names) or none if known else "" for names, known in zip(given, labelled, strict=True)],
        "model": [separator.join(names) or none for names in label_names(best.predicted, classes)],
        "probabilities": _prediction(best.probs, best.predicted, classes, np.ones(len(best.rows), bool)),
    }
    for name, probs in best.unimodal.items():
        columns[f"opinion_{name}"] = _prediction(probs, decide(probs), classes, best.known[name])
    reasons = _why_open(best, classes) if split == "unlabelled" else _why_wrong(best, labels, classes)
    columns["why"] = ["; ".join(why) for why in reasons]
    return columns


def _places(project: Project, rows: np.ndarray) -> list[str]:
    """Paths of the images; the name in the source for an image that does not exist."""
    names = project.manifest.images[rows].tolist()
    try:
        found = [project.sources.locate(name) if name else None for name in names]
    except (DataError, OSError):
        return names
    return [name if at is None else str(at) for name, at in zip(names, found, strict=True)]


def _prediction(probs: np.ndarray, decided: np.ndarray, classes: Sequence[str], known: np.ndarray) -> list[str]:
    """Predicted and likely labels, the most probable first; empty if the input is missing."""
    shown = (decided == 1) | (probs >= _LIKELY)
    order = np.argsort(-probs, axis=1, kind="stable")
    return [
        "; ".join(f"{classes[k]} ({probs[row, k]:.2f})" for k in order[row].tolist() if shown[row, k])
        if known[row]
        else ""
        for row in range(len(probs))
    ]


def _why_open(best: _Candidates, classes: Sequence[str]) -> Iterator[list[str]]:
    """The classes that make a row worth labelling, in words."""
    near, apart = uncertainty(best.probs, best.threshold), best.differing()
    for row in range(len(best.rows)):
        bits = np.concatenate([near[row], apart[row]])
        enough = np.minimum(_OPEN, bits.max())
        top = [i for i in np.argsort(-bits, kind="stable")[:_REASONS].tolist() if bits[i] >= max(enough, _SHARE)]
        yield [
            f"{classes[i]}: {best.probs[row, i]:.2f}, threshold {best.threshold[row, i]:.2f}"
            if i < len(classes)
            else f"{classes[i - len(classes)]}: {_sides(best, row, i - len(classes))}"
            for i in top or [int(bits.argmax())]
        ]


def _sides(best: _Candidates, row: int, k: int) -> str:
    """The two encoders whose probabilities of a class differ most."""
    found = {name: probs[row, k] for name, probs in best.unimodal.items() if best.known[name][row]}
    most, least = max(found, key=found.__getitem__), min(found, key=found.__getitem__)
    return f"{most} says {found[most]:.2f}, {least} {found[least]:.2f}"


def _why_wrong(best: _Candidates, labels: np.ndarray, classes: Sequence[str]) -> Iterator[list[str]]:
    """The labels that the model contradicts most, in words."""
    wrong = contradiction(best.probs, best.predicted, labels)
    for row in range(len(best.rows)):
        top = [k for k in np.argsort(-wrong[row], kind="stable")[:_REASONS].tolist() if wrong[row, k] > 0]
        yield [
            f"{classes[k]} is {'given' if labels[row, k] == 1 else 'not given'}, the model says {best.probs[row, k]:.2f}"
            for k in top
        ]
