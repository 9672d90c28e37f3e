"""`mmfeat predict`: labels of a project's rows in the source's own names, and of samples that no project knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.urls import refuse_url
from mmfeat.config.schema import FILE_NAME
from mmfeat.data.sample_kinds import PICTURES, TABLE, kind_of_samples
from mmfeat.data.tables.table_forms import is_table, table_stem
from mmfeat.inference.fitted_rules import about_fit, rule_for_rows, shipped_rule
from mmfeat.inference.logits import run_logits
from mmfeat.inference.new_images import image_rows
from mmfeat.inference.new_rows import NewRows, check_samples, one_row, predict_by_folder, predict_in_project, table_rows
from mmfeat.inference.run_ranking import best_run
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.predictor import Predictions, Predictor
from mmfeat.project.project import Project
from mmfeat.project.staleness import find_run
from mmfeat.report.outputs import Outputs
from mmfeat.report.prediction_files import FORMATS, prediction_bytes
from mmfeat.runs.run import Run

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
    decision : DecisionRule
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
    decision: DecisionRule
    decided: str


def predict(
    project: Project,
    run_name: str | None = None,
    split: str = "unlabelled",
    form: str = "csv",
    top_k: int = 0,
    out: Path | str | None = None,
    overwrite: bool = False,
) -> PredictResult:
    """Predict the labels of rows by a run, the best on val when none is named.

    Writes `submission.csv` (columns as in the source) for the unlabelled rows of a Kaggle task, else
    `predictions.csv` (or `.jsonl`); and `predictions.parquet` with the probability of each class. Of other rows than the
    unlabelled ones the names have their split in them, as `predictions-val.csv`. With `out` that file alone.

    Parameters
    ----------
    out : Path, optional
        Where the predictions go.
    overwrite : bool
        Whether files that mmfeat has not made, or that were changed since, may be replaced.

    Raises
    ------
    DataError
        There are no such rows.
    ConfigError
        Thresholds or temperature are tuned, and there is no val row.
    OutputError
        A file must not be replaced.
    """
    _check_form(form, top_k)
    manifest = project.manifest
    rows = manifest.rows(split)
    if not len(rows):
        raise DataError(f"there are no {split} rows to predict. Use: --split val, train, test, unlabelled or all")
    kaggle = (
        (project.config.path(project.config.data.source) / "train.csv").is_file()
        and split == "unlabelled"
        and form == "csv"
    )
    outputs = Outputs(project.config, overwrite=overwrite)
    files = _files(project, split, form, kaggle) if out is None else {Path(out).expanduser(): form}
    if out is not None:  # before any work; the others may say the same as what is there
        outputs.check(out)
    run, chosen = _run(project, run_name)
    shipped, found = shipped_rule(project, run.name), run_logits(project, run, rows)
    decision = rule_for_rows(project, run.name, rows, shipped)
    probs = decision.probs(found.logits)
    decided = decision.labels(probs)
    written = {
        file: prediction_bytes(
            kind,
            manifest.ids[rows],
            probs,
            decided,
            manifest.classes,
            top_k=top_k,
            run=run.name,
            guarded=not kaggle,
            **_columns(project),
        )
        for file, kind in files.items()
    }
    outputs.write_all(written)
    return PredictResult(
        run.name,
        chosen,
        list(files),
        len(rows),
        decision.n_empty(probs),
        int((~found.known).sum()),
        shipped,
        about_fit(project),
    )


def _files(project: Project, split: str, form: str, kaggle: bool) -> dict[Path, str]:
    """Where predictions go by default, and in which format."""
    stem = "predictions" if split == "unlabelled" else f"predictions-{split}"
    files = {project.root / ("submission.csv" if kaggle else f"{stem}.{form}"): form}
    return files if form == "parquet" else {**files, project.root / f"{stem}.parquet": "parquet"}


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
    decision: DecisionRule
    decided: str
    columns: dict[str, str]
    outputs: Outputs

    @property
    def errors(self) -> dict[str, str]:
        """Id to the reason why a row's image could not be read."""
        return {self.rows.ids[row]: reason for row, reason in sorted(self.predictions.errors.items())}

    @property
    def n_empty(self) -> int:
        """Rows where nothing passed the threshold."""
        return self.decision.n_empty(self.predictions.probs)

    def write(self, path: Path, form: str = "csv", top_k: int = 0) -> None:
        """Write them as :func:`mmfeat.report.prediction_files.prediction_bytes` makes them.

        Raises
        ------
        OutputError
            There is a file that must not be replaced.
        """
        found = self.predictions
        data = prediction_bytes(
            form,
            self.rows.ids,
            found.probs,
            found.predicted,
            found.classes,
            top_k=top_k,
            errors=found.errors,
            run=self.model,
            **self.columns,
        )
        self.outputs.write(path, data)


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


def default_out(whats: Sequence[str], form: str) -> str:
    """Where predictions of a table or of pictures go by default: a file in the current folder."""
    path = Path(whats[0]).expanduser()
    if len(whats) == 1 and is_table(path):
        return f"{table_stem(path.name)}-predictions.{form}"
    one = len(whats) == 1 and path.exists()
    stem = (path.resolve().name if path.is_dir() else path.stem) if one else "pictures"
    return f"{stem or 'pictures'}-predictions.{form}"


def predict_new(
    what: str | Sequence[str] = "",
    *,
    caption: str = "",
    captions: str = "",
    images: tuple[str, ...] = (),
    columns: dict[str, str] | None = None,
    project: Project | None = None,
    run: str | None = None,
    model: str = "",
    threshold: float | str | None = None,
    device: str | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
) -> NewPredictions:
    """Predict a table's rows, pictures, or one picture and one caption.

    Parameters
    ----------
    what : str or sequence of str
        A table; a picture; a folder, an archive or a pattern of pictures, or several of these; empty for a caption alone.
    captions : str
        A table with the captions of several pictures.
    images : tuple of str
        Where the table's images are.
    columns : dict of str to str
        Columns of the table, or of that of the captions, by role: `id`, `image`, `caption`.
    project, run : Project, str
        By a run of a project (the best on val, when None), through its store;
    model : str
        or by an exported model, without a store.
    threshold, device : float or str, str
        In place of those of the project, or of the exported model.
    out, overwrite : Path, bool
        The file that is to be written, so that it is known before any work whether it may be; and whether files that mmfeat
        has not made may be replaced.

    Raises
    ------
    DataError
        The table, or what stands there instead of one, cannot be read.
    ConfigError
        Arguments contradict one another, or a value is wrong.
    RunError
        The run or the exported model cannot be used.
    OutputError
        There is a file that must not be replaced.
    """
    whats = [what] * bool(what) if isinstance(what, str) else list(what)
    refuse_url(*whats, captions, *images, model)
    columns = columns or {}
    for role in columns:
        if role not in ROLES:
            raise ConfigError(f"--column {role}=...: no role {role!r}. Use one of: {', '.join(ROLES)}")
    if model and (project is not None or run):
        raise ConfigError("--model is a model of its own, so that a project or a run has no part in it")
    if not model and project is None:
        raise ConfigError(f"no {FILE_NAME} here, so a model must be named. Use: --model DIR (mmfeat export makes one)")
    number = _threshold(threshold) if model else None
    kind = kind_of_samples(whats, caption, captions, images=images, columns=columns)
    inputs = [*whats, *images, *([captions] if captions else []), *([model] if model else [])]
    outputs = Outputs(project.config if project else None, inputs, overwrite)
    if out is not None:
        outputs.check(out)
    predictor = Predictor.load(model, device or "auto") if model else None
    usual = dict(project.manifest.columns) if project is not None else {}
    if kind == TABLE:
        rows = table_rows(whats[0], images, columns, usual)
    elif kind == PICTURES:
        rows = image_rows(whats, captions, columns)
    else:
        rows = one_row(whats[0] if whats else "", caption)
    if predictor is not None:
        return _by_model(predictor, rows, number, outputs)
    return _by_run(project.derived(settings={"predict.threshold": threshold, "device": device}), run, rows, outputs)


def _threshold(value: float | str | None) -> float | None:
    """What an exported model can decide by: a number."""
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ConfigError(f"--threshold {value}: use a number from 0 to 1")
    return number


def _by_model(predictor: Predictor, rows: NewRows, threshold: float | None, outputs: Outputs) -> NewPredictions:
    record, decision = predictor.record, predictor.decision
    check_samples(rows, record["run"]["name"], set(predictor.modalities.values()))
    found = predict_by_folder(predictor, rows, threshold)
    named = {"id_column": rows.columns.get("id") or "id", "label_column": "labels", "separator": record["separator"]}
    decision = decision if threshold is None else dataclasses.replace(decision, threshold=threshold)
    fitted = record["predict"].get("fitted", "") if threshold is None else ""
    return NewPredictions(record["run"]["name"], "", rows, found, decision, fitted, named, outputs)


def _by_run(project: Project, run: str | None, rows: NewRows, outputs: Outputs) -> NewPredictions:
    chosen_run, chosen = _run(project, run)
    name = chosen_run.name
    check_samples(rows, name, {e["modality"] for e in chosen_run.encoders.values()})
    decision = shipped_rule(project, name)
    found = predict_in_project(project, name, rows, decision)
    named = {**_columns(project), "id_column": rows.columns.get("id") or "id"}
    return NewPredictions(name, chosen, rows, found, decision, about_fit(project), named, outputs)
