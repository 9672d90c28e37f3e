"""`mmfeat predict`: labels of a project's rows in the source's own names, and of samples that no project knows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from mmfeat.config import FILE_NAME, OTHER
from mmfeat.data.imagenames import IMAGE_SUFFIXES
from mmfeat.data.tableforms import is_table, table_suffix
from mmfeat.errors import ConfigError, DataError
from mmfeat.models.decisions import Decision
from mmfeat.models.runs import Run
from mmfeat.predictor import Predictions, Predictor
from mmfeat.report.predictions import FORMATS, write_predictions
from mmfeat.workflows.deciding import decision_for, how_decided, shipped_decision
from mmfeat.workflows.newrows import NewRows, one_row, predict_by_folder, predict_in_project, table_rows
from mmfeat.workflows.project import Project
from mmfeat.workflows.runs import best_run
from mmfeat.workflows.scoring import run_source
from mmfeat.workflows.standing import find_run

ROLES = ("id", "image", "caption")


@dataclass(frozen=True)
class PredictResult:
    """What was written.

    Attributes
    ----------
    n_empty : int
        Rows where nothing passed the threshold.
    n_unknown : int
        Rows without any feature: neither picture nor caption could be read.
    chosen : str
        How the run was chosen; empty where it was named.
    decision : Decision
        What decided rows that are not val.
    decided : str
        What of it was fitted, and on what; empty where nothing was.
    """

    run: str
    chosen: str
    files: list[Path]
    n_rows: int
    n_empty: int
    n_unknown: int
    decision: Decision
    decided: str


def predict(
    project: Project, run_name: str | None = None, split: str = "unlabelled", form: str = "csv", top_k: int = 0
) -> PredictResult:
    """Predict the labels of rows by a run, the best on val when none is named.

    Writes `submission.csv` (columns as in the source) for the unlabelled rows of a Kaggle task, else
    `predictions.csv` (or `.jsonl`); and `predictions.parquet` with the probability of each class.

    Raises
    ------
    DataError
        There are no such rows.
    ConfigError
        Thresholds or temperature are tuned, and there is no val row.
    """
    _check_form(form, top_k)
    manifest = project.manifest
    rows = manifest.rows(split)
    if not len(rows):
        raise DataError(f"there are no {split} rows to predict. Use: --split val, train, test, unlabelled or all")
    run, chosen = _run(project, run_name)
    shipped, found = shipped_decision(project, run.name), run_source(project, run, rows)
    decision = decision_for(project, run.name, rows, shipped)
    probs = decision.probs(found.logits)
    decided = decision.labels(probs)
    kaggle = (
        (project.config.path(project.config.data.source) / "train.csv").is_file()
        and split == "unlabelled"
        and form == "csv"
    )
    files = [project.root / ("submission.csv" if kaggle else f"predictions.{form}")]
    files += [project.root / "predictions.parquet"] if form != "parquet" else []
    for file in files:
        write_predictions(
            file, file.suffix[1:], manifest.ids[rows], probs, decided, manifest.classes, top_k=top_k, run=run.name,
            **_columns(project),
        )  # fmt: skip
    return PredictResult(
        run.name, chosen, files, len(rows), decision.n_empty(probs), int((~found.known).sum()), shipped,
        how_decided(project),
    )  # fmt: skip


def _columns(project: Project) -> dict[str, str | list[str]]:
    """What the source calls ids and labels, and what stands between labels."""
    columns = project.manifest.columns
    return {
        "id_column": columns["id"] or "id",
        "label_column": columns["labels"] or "labels",
        "separator": project.config.data.separator,
    }


def _run(project: Project, name: str | None) -> tuple[Run, str]:
    """A run, and how it was chosen."""
    if name:
        return find_run(project, name), ""
    chosen = "the best on val" if len(project.manifest.rows("val")) else "the newest: no val row to choose by"
    return best_run(project), chosen


def _check_form(form: str, top_k: int) -> None:
    if form not in FORMATS:
        raise DataError(f"no format {form[:40]!r}. Use one of: {', '.join(FORMATS)}")
    if top_k < 0:
        raise DataError(f"--top-k {top_k}: use a number from 1, or leave it out")


def _check_samples(rows: NewRows, model: str, modalities: set[str]) -> None:
    """Refuse samples of which the model reads nothing."""
    given = {"image": any(rows.images), "text": any(caption.strip() for caption in rows.captions)}
    if not any(there for modality, there in given.items() if modality in modalities) and OTHER not in modalities:
        reads = " and ".join({"image": "images", "text": "captions"}[m] for m in sorted(modalities))
        raise DataError(f"{model} reads {reads}, and what is to be predicted has none")
    if modalities == {OTHER} and len(rows.ids) == 1 and not rows.columns:
        raise DataError(
            f"{model} reads imported embeddings alone, and a picture or a caption has none. Give a table of ids"
        )


@dataclass(frozen=True)
class NewPredictions:
    """Predictions of samples that no project knows.

    Attributes
    ----------
    model : str
        The run, or the exported model's name.
    chosen : str
        How the run was chosen; empty where it was named, or a model was given.
    """

    model: str
    chosen: str
    rows: NewRows
    predictions: Predictions
    decision: Decision
    decided: str
    columns: dict[str, str]

    @property
    def errors(self) -> dict[str, str]:
        """Id to the reason why a row's image could not be read."""
        return {self.rows.ids[row]: reason for row, reason in sorted(self.predictions.errors.items())}

    @property
    def n_empty(self) -> int:
        """Rows where nothing passed the threshold."""
        return self.decision.n_empty(self.predictions.probs)

    def write(self, path: Path, form: str = "csv", top_k: int = 0) -> None:
        """Write them as :func:`mmfeat.report.predictions.write_predictions` does."""
        found = self.predictions
        write_predictions(
            path, form, self.rows.ids, found.probs, found.decided, found.classes, top_k=top_k, errors=found.errors,
            run=self.model, **self.columns,
        )  # fmt: skip


def format_of(out: str, form: str | None) -> str:
    """The format of a file of predictions: as asked, or by its suffix; csv where neither says it.

    Raises
    ------
    ConfigError
        They disagree.
    """
    suffix = Path(out).suffix.lower()[1:]
    suffix = suffix if suffix in FORMATS else ""
    if form and suffix and form != suffix:
        raise ConfigError(f"--format {form} and --out {out}: two formats. Leave one of them out")
    return form or suffix or "csv"


def is_sample(text: str) -> bool:
    """Whether an argument is a table or a picture rather than a run's name."""
    named = table_suffix(text) or text.lower().endswith(IMAGE_SUFFIXES)
    return bool(named) or Path(text).expanduser().is_file()


def predict_new(
    what: str = "", *, caption: str = "", images: tuple[str, ...] = (), columns: dict[str, str] | None = None,
    project: Project | None = None, run: str | None = None, model: str = "", threshold: float | None = None,
    device: str = "auto",
) -> NewPredictions:  # fmt: skip
    """Predict a table's rows, or one picture and one caption.

    Parameters
    ----------
    what : str
        A table, or a picture; empty for a caption alone.
    images : tuple of str
        Where the table's images are.
    columns : dict of str to str
        Columns of the table by role: `id`, `image`, `caption`.
    project, run : Project, str
        By a run of a project (the best on val, when None), through its store;
    model : str
        or by an exported model, without a store.

    Raises
    ------
    DataError
        The table, or what stands there instead of one, cannot be read.
    RunError
        The run or the exported model cannot be used.
    """
    columns = columns or {}
    for role in columns:
        if role not in ROLES:
            raise ConfigError(f"--column {role}=...: no role {role!r}. Use one of: {', '.join(ROLES)}")
    predictor = Predictor.load(model, device) if model else None
    if predictor is None and project is None:
        raise ConfigError(f"no {FILE_NAME} here, so a model must be named. Use: --model DIR (mmfeat export makes one)")
    usual = dict(project.manifest.columns) if project is not None and predictor is None else {}
    if what and is_table(Path(what).expanduser()):
        if caption:
            raise DataError(f"{what}: is a table, and --caption is for one picture. Use: --column caption=COLUMN")
        rows = table_rows(what, images, columns, usual)
    else:
        rows = one_row(what, caption)
    if predictor is not None:
        _check_samples(rows, predictor.record["run"]["name"], set(predictor.modalities.values()))
        found, decision = predict_by_folder(predictor, rows, threshold), predictor.decision
        named = {
            "id_column": rows.columns.get("id") or "id", "label_column": "labels", "separator": predictor.record["separator"]
        }  # fmt: skip
        decision = decision if threshold is None else dataclasses.replace(decision, threshold=threshold)
        fitted = predictor.record["predict"].get("fitted", "") if threshold is None else ""
        return NewPredictions(predictor.record["run"]["name"], "", rows, found, decision, fitted, named)
    chosen_run, chosen = _run(project, run)
    name = chosen_run.name
    _check_samples(rows, name, {e["modality"] for e in chosen_run.encoders.values()})
    decision = shipped_decision(project, name)
    found = predict_in_project(project, name, rows, decision)
    named = {**_columns(project), "id_column": rows.columns.get("id") or "id"}
    return NewPredictions(name, chosen, rows, found, decision, how_decided(project), named)
