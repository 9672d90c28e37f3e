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
from mmfeat.inference.logits import model_logits
from mmfeat.inference.new_images import image_rows
from mmfeat.inference.new_predictions import (
    NewPredictions,
    predictions_by_model,
    predictions_by_run,
    source_columns,
)
from mmfeat.inference.new_rows import NewRows, one_row, table_rows
from mmfeat.inference.run_ranking import selected_model
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.predictor import Predictor
from mmfeat.project.project import Project
from mmfeat.report.outputs import Outputs
from mmfeat.report.prediction_files import check_form, format_of, prediction_bytes
from mmfeat.report.prediction_result import PredictionTable

__all__ = ["NewPredictions", "PredictResult", "predict", "predict_new"]

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
        A run, or an encoder with its linear probe; the best run on val, if None.
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
    rows = project.manifest.rows(split)
    if not len(rows):
        raise DataError(f"there are no {split} rows to predict. Use: --split val, train, test, unlabelled or all")
    kaggle = split == "unlabelled" and format == "csv" and _is_kaggle(project)
    outputs = Outputs(project.config, overwrite=overwrite)
    files = _files(project, split, format, kaggle=kaggle) if out is None else {Path(out).expanduser(): format}
    if out is not None:  # before any work
        outputs.check(out)
    result = _predicted(project, run, rows, files=list(files))
    named = source_columns(project) | {"predicted": result.predicted, "classes": result.classes}
    named |= {"top_k": top_k or 0, "run": result.run, "guarded": not kaggle}
    outputs.write_all({file: prediction_bytes(kind, result.ids, result.probs, **named) for file, kind in files.items()})
    return result


def _predicted(project: Project, run: str | None, rows: np.ndarray, *, files: list[Path]) -> PredictResult:
    used, chosen = selected_model(project, run)
    shipped, found = shipped_rule(project, used.name), model_logits(project, used, rows)
    decision = rule_for_rows(project, used.name, rows, shipped)
    probs = decision.probs(found.logits)
    return PredictResult(
        ids=project.manifest.ids[rows],
        probs=probs,
        predicted=decision.labels(probs),
        classes=project.manifest.classes,
        run=used.name,
        chosen=chosen,
        files=files,
        n_rows=len(rows),
        n_empty=decision.n_empty(probs),
        n_unknown=int((~found.known).sum()),
        decision=shipped,
        fitted=about_fit(project, shipped),
    )


def _is_kaggle(project: Project) -> bool:
    return (project.config.path(project.config.data.source) / "train.csv").is_file()


def _files(project: Project, split: str, form: str, *, kaggle: bool) -> dict[Path, str]:
    """The default files, and the format of each."""
    stem = "predictions" if split == "unlabelled" else f"predictions-{split}"
    files = {project.root / ("submission.csv" if kaggle else f"{stem}.{form}"): form}
    return files if form == "parquet" else {**files, project.root / f"{stem}.parquet": "parquet"}


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
    engine: str | None = None,
    device: str | None = None,
    format: str | None = None,
    top_k: int | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
) -> NewPredictions:
    """Predict a table's rows, pictures, or one picture and one caption. Other arguments are those of :func:`mmfeat.predict`.

    Parameters
    ----------
    project, run : Project, str
        Predict with a run or an encoder of a project (the best run on val, if None), through the project's store.
    model : str
        Predict with an exported model, without a store.

    Raises
    ------
    DataError, RunError
        The table, the pictures, the run or the exported model cannot be used.
    ConfigError
        Arguments contradict one another, or a value is wrong.
    OutputError
        The file must not be replaced.
    """
    whats = [what] * bool(what) if isinstance(what, str) else list(what)
    refuse_url(*whats, captions, *images, model)
    named: dict[str, Any] = {"captions": captions, "images": tuple(images), "columns": columns or {}}
    _check_by(project, run, model=model, columns=named["columns"])
    form, number = format_of(out or "", format), _threshold(threshold) if model else None
    check_form(form, top_k)
    kind = kind_of_samples(whats, caption, **named)
    files = [*whats, *images, *filter(None, (captions, model))]
    outputs = Outputs(project.config if project else None, files, overwrite)
    if out is not None:  # before any work
        outputs.check(out)
    if project is None:
        predictor = Predictor.load(model, device or "auto", engine=engine or "auto")
        rows = _new_rows(kind, whats, caption, usual={}, **named)
        result = predictions_by_model(predictor, rows, threshold=number, outputs=outputs)
    else:
        rows = _new_rows(kind, whats, caption, usual=dict(project.manifest.columns), **named)
        overridden = project.derived(settings={"predict.threshold": threshold, "engine": engine, "device": device})
        result = predictions_by_run(overridden, run, rows, outputs=outputs)
    if out is None:
        return result
    result.write(out, format=form, top_k=top_k)
    return dataclasses.replace(result, file=Path(out).expanduser())


def _new_rows(
    kind: str,
    whats: list[str],
    caption: str,
    *,
    captions: str,
    images: tuple[str, ...],
    columns: dict[str, str],
    usual: dict[str, str],
) -> NewRows:
    """Read the samples to predict; `usual` are the columns of the project's own table by role."""
    if kind == TABLE:
        return table_rows(whats[0], images, columns, usual)
    if kind == PICTURES:
        return image_rows(whats, captions, columns)
    return one_row(whats[0] if whats else "", caption)


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
