"""`mmfeat predict`: labels of a project's rows, with the source's column names, and of samples outside any project."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.former_arguments import former_arguments
from mmfeat.common.text import counted
from mmfeat.common.urls import refuse_url
from mmfeat.config.schema import FILE_NAME
from mmfeat.data.sample_kinds import PICTURES, TABLE, kind_of_samples
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
from mmfeat.report.prediction_files import check_form, format_of, prediction_bytes
from mmfeat.report.prediction_result import PredictionTable
from mmfeat.runs.run import Run

ROLES = ("id", "image", "caption")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class PredictResult(PredictionTable):
    """Predictions of rows of a project, and the files that hold them.

    Attributes
    ----------
    chosen : str
        How the run was selected. Empty if it was named.
    n_empty : int
        Rows without a class above the threshold.
    n_unknown : int
        Rows without any feature: neither image nor caption could be read.
    decision : DecisionRule
        The decision rule for rows that are not val.
    fitted : str
        How its thresholds and temperature were fitted. Empty if they were not.
    """

    run: str
    chosen: str
    files: list[Path]
    n_rows: int
    n_empty: int
    n_unknown: int
    decision: DecisionRule
    fitted: str

    def _about(self) -> str:
        files = " and ".join(file.name for file in self.files)
        return f"Made {files}: {counted(self.n_rows, 'row')} by {self.run}"


@former_arguments(2, "split", "format", "top_k", "out", "overwrite", run_name="run", form="format")
def predict(
    project: Project,
    run: str | None = None,
    *,
    split: str = "unlabelled",
    format: str | None = None,
    top_k: int | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
) -> PredictResult:
    """Predict the labels of rows of a project.

    Writes `submission.csv` (columns as in the source) for the unlabelled rows of a Kaggle task, else
    `predictions.csv` (or `.jsonl`), and `predictions.parquet` with the probability of each class. For another split the
    names contain it, such as `predictions-val.csv`. With `out` only that file is written.

    Parameters
    ----------
    run : str, optional
        The best run on val, if None.
    split : str
        `unlabelled`, `val`, `test`, `train` or `all`.
    format : str, optional
        `csv`, `jsonl` or `parquet`; if None, by the suffix of `out`, else csv.
    top_k : int, optional
        Write the k most probable classes instead of those above the threshold.
    overwrite : bool
        Whether to replace files that mmfeat did not write or that were changed since.

    Raises
    ------
    DataError
        There are no such rows.
    ConfigError
        Thresholds or temperature have to be fitted, and there is no val row; or format and suffix disagree.
    OutputError
        A file must not be replaced.
    """
    format = format_of(out or "", format)
    check_form(format, top_k)
    manifest = project.manifest
    rows = manifest.rows(split)
    if not len(rows):
        raise DataError(f"there are no {split} rows to predict. Use: --split val, train, test, unlabelled or all")
    kaggle = split == "unlabelled" and format == "csv" and _is_kaggle(project)
    outputs = Outputs(project.config, overwrite=overwrite)
    files = _files(project, split, format, kaggle=kaggle) if out is None else {Path(out).expanduser(): format}
    if out is not None:  # before any work
        outputs.check(out)
    used, chosen = _run(project, run)
    shipped, found = shipped_rule(project, used.name), run_logits(project, used, rows)
    decision = rule_for_rows(project, used.name, rows, shipped)
    probs = decision.probs(found.logits)
    predicted = decision.labels(probs)
    ids, classes = manifest.ids[rows], manifest.classes
    named = _columns(project) | {"predicted": predicted, "classes": classes}
    named |= {"top_k": top_k or 0, "run": used.name, "guarded": not kaggle}
    outputs.write_all({file: prediction_bytes(kind, ids, probs, **named) for file, kind in files.items()})
    return PredictResult(
        ids=ids,
        probs=probs,
        predicted=predicted,
        classes=classes,
        run=used.name,
        chosen=chosen,
        files=list(files),
        n_rows=len(rows),
        n_empty=decision.n_empty(probs),
        n_unknown=int((~found.known).sum()),
        decision=shipped,
        fitted=about_fit(project),
    )


def _is_kaggle(project: Project) -> bool:
    return (project.config.path(project.config.data.source) / "train.csv").is_file()


def _files(project: Project, split: str, form: str, *, kaggle: bool) -> dict[Path, str]:
    """The default files, and the format of each."""
    stem = "predictions" if split == "unlabelled" else f"predictions-{split}"
    files = {project.root / ("submission.csv" if kaggle else f"{stem}.{form}"): form}
    return files if form == "parquet" else {**files, project.root / f"{stem}.parquet": "parquet"}


def _columns(project: Project) -> dict[str, Any]:
    """The source's columns of ids and labels, and its separator of labels."""
    columns = project.manifest.columns
    return {
        "id_column": columns["id"] or "id",
        "label_column": columns["labels"] or "labels",
        "separator": project.config.data.separator,
    }


def _run(project: Project, name: str | None) -> tuple[Run, str]:
    """A run, and how it was selected."""
    if name:
        return find_run(project, name), ""
    chosen = "the best on val" if len(project.manifest.rows("val")) else "the newest: there is no val row to select by"
    return best_run(project), chosen


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class NewPredictions(PredictionTable):
    """Predictions of samples outside of any project.

    Attributes
    ----------
    model : str
        The run's or the exported model's name.
    chosen : str
        How the run was selected. Empty if it was named, and for an exported model.
    rows : NewRows
        The samples.
    predictions : Predictions
        Probabilities and labels, also of each encoder alone.
    file : Path or None
        The file that was written.
    """

    model: str
    chosen: str
    rows: NewRows
    predictions: Predictions
    decision: DecisionRule
    fitted: str
    columns: dict[str, str]
    outputs: Outputs
    file: Path | None = None

    @property
    def errors(self) -> dict[str, str]:
        """Id to the reason why a row's image could not be read."""
        return {self.rows.ids[row]: reason for row, reason in sorted(self.predictions.errors.items())}

    @property
    def n_empty(self) -> int:
        """Rows without a class above the threshold."""
        return self.decision.n_empty(self.predictions.probs)

    @former_arguments(2, "format", "top_k", form="format")
    def write(self, path: Path | str, *, format: str = "csv", top_k: int | None = None) -> None:
        """Write the predictions to a file; see :func:`mmfeat.report.prediction_files.prediction_bytes`.

        Raises
        ------
        OutputError
            The file must not be replaced.
        """
        found = self.predictions
        named: dict[str, Any] = {**self.columns, "predicted": found.predicted, "classes": found.classes}
        named |= {"top_k": top_k or 0, "errors": found.errors, "run": self.model}
        data = prediction_bytes(format, self.rows.ids, found.probs, **named)
        self.outputs.write(path, data)

    def _about(self) -> str:
        made = f"Made {self.file}: " if self.file else ""
        text = f"{made}{counted(len(self.rows.ids), 'row')} by {self.model}"
        return f"{text}; {counted(len(self.errors), 'image')} could not be read" if self.errors else text


def predict_new(
    what: str | Sequence[str] = "",
    *,
    caption: str = "",
    captions: str = "",
    images: Sequence[str] = (),
    columns: dict[str, str] | None = None,
    project: Project | None = None,
    run: str | None = None,
    model: str = "",
    threshold: float | str | None = None,
    device: str | None = None,
    format: str | None = None,
    top_k: int | None = None,
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
    images : sequence of str
        Folders, archives or patterns of the table's images.
    columns : dict of str to str
        Columns of the table, or of the table of captions, by role: `id`, `image`, `caption`.
    project, run : Project, str
        Predict with a run of a project (the best on val, if None), through the project's store.
    model : str
        Predict with an exported model, without a store.
    threshold, device : float or str, str
        Override those of the project or of the exported model.
    format, top_k : str, int, optional
        Format and number of classes of the file, as in :func:`predict`.
    out : Path, optional
        The file to write; no file, if None.
    overwrite : bool
        Whether to replace files that mmfeat did not write or that were changed since.

    Raises
    ------
    DataError
        The table or the pictures cannot be read.
    ConfigError
        Arguments contradict one another, or a value is wrong.
    RunError
        The run or the exported model cannot be used.
    OutputError
        The file must not be replaced.
    """
    whats = [what] * bool(what) if isinstance(what, str) else list(what)
    refuse_url(*whats, captions, *images, model)
    columns = columns or {}
    _check_by(project, run, model=model, columns=columns)
    form = format_of(out or "", format)
    check_form(form, top_k)
    number = _threshold(threshold) if model else None
    kind = kind_of_samples(whats, caption, captions, images=tuple(images), columns=columns)
    inputs = [*whats, *images, *([captions] if captions else []), *([model] if model else [])]
    outputs = Outputs(project.config if project else None, inputs, overwrite)
    if out is not None:  # before any work
        outputs.check(out)
    predictor = Predictor.load(model, device or "auto") if model else None
    usual = dict(project.manifest.columns) if project is not None else {}
    if kind == TABLE:
        rows = table_rows(whats[0], tuple(images), columns, usual)
    elif kind == PICTURES:
        rows = image_rows(whats, captions, columns)
    else:
        rows = one_row(whats[0] if whats else "", caption)
    if predictor is not None:
        result = _by_model(predictor, rows, threshold=number, outputs=outputs)
    else:
        assert project is not None  # _check_by
        overridden = project.derived(settings={"predict.threshold": threshold, "device": device})
        result = _by_run(overridden, run, rows, outputs=outputs)
    if out is None:
        return result
    result.write(out, format=form, top_k=top_k)
    return dataclasses.replace(result, file=Path(out).expanduser())


def _check_by(project: Project | None, run: str | None, *, model: str, columns: dict[str, str]) -> None:
    for role in columns:
        if role not in ROLES:
            raise ConfigError(f"--column {role}=...: no role {role!r}. Use one of: {', '.join(ROLES)}")
    if model and (project is not None or run):
        raise ConfigError("--model is used without a project or a run. Leave one of them out")
    if not model and project is None:
        raise ConfigError(f"no {FILE_NAME} here, so a model must be named. Use: --model DIR (mmfeat export makes one)")


def _threshold(value: float | str | None) -> float | None:
    """The threshold of an exported model: a number, checked."""
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ConfigError(f"--threshold {value}: use a number from 0 to 1")
    return number


def _by_model(predictor: Predictor, rows: NewRows, *, threshold: float | None, outputs: Outputs) -> NewPredictions:
    record, decision = predictor.record, predictor.decision
    name = record["run"]["name"]
    check_samples(rows, name, set(predictor.modalities.values()))
    found = predict_by_folder(predictor, rows, threshold)
    named = {"id_column": rows.columns.get("id") or "id", "label_column": "labels", "separator": record["separator"]}
    decision = decision if threshold is None else dataclasses.replace(decision, threshold=threshold)
    fitted = record["predict"].get("fitted", "") if threshold is None else ""
    return _new_predictions(found, rows, outputs, model=name, decision=decision, fitted=fitted, columns=named)


def _by_run(project: Project, run: str | None, rows: NewRows, *, outputs: Outputs) -> NewPredictions:
    used, chosen = _run(project, run)
    name = used.name
    check_samples(rows, name, {e["modality"] for e in used.encoders.values()})
    decision = shipped_rule(project, name)
    found = predict_in_project(project, name, rows, decision)
    named = {**_columns(project), "id_column": rows.columns.get("id") or "id"}
    how = about_fit(project)
    return _new_predictions(
        found, rows, outputs, model=name, decision=decision, fitted=how, columns=named, chosen=chosen
    )


def _new_predictions(
    found: Predictions, rows: NewRows, outputs: Outputs, *, chosen: str = "", **more: Any
) -> NewPredictions:
    return NewPredictions(
        ids=np.array(rows.ids, dtype=object),
        probs=found.probs,
        predicted=found.predicted,
        classes=found.classes,
        chosen=chosen,
        rows=rows,
        predictions=found,
        outputs=outputs,
        **more,
    )
