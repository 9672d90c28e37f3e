"""Predictions of new samples with their decision rule and file, by a run of a project or by an exported model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.former_arguments import former_arguments
from mmfeat.common.text import counted
from mmfeat.inference.fitted_rules import about_fit, shipped_rule
from mmfeat.inference.new_rows import NewRows, check_samples, predict_by_folder, predict_in_project
from mmfeat.inference.run_ranking import selected_run
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.predictor import Predictions, Predictor
from mmfeat.project.project import Project
from mmfeat.report.outputs import Outputs
from mmfeat.report.prediction_files import prediction_bytes
from mmfeat.report.prediction_result import PredictionTable


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


def source_columns(project: Project) -> dict[str, Any]:
    """The source's columns of ids and labels, and its separator of labels."""
    columns = project.manifest.columns
    return {
        "id_column": columns["id"] or "id",
        "label_column": columns["labels"] or "labels",
        "separator": project.config.data.separator,
    }


def predictions_by_model(
    predictor: Predictor, rows: NewRows, *, threshold: float | None, outputs: Outputs
) -> NewPredictions:
    """Predict new samples by an exported model."""
    record, decision = predictor.record, predictor.decision
    name = record["run"]["name"]
    check_samples(rows, name, set(predictor.modalities.values()))
    found = predict_by_folder(predictor, rows, threshold)
    named = {"id_column": rows.columns.get("id") or "id", "label_column": "labels", "separator": record["separator"]}
    decision = decision if threshold is None else dataclasses.replace(decision, threshold=threshold)
    fitted = record["predict"].get("fitted", "") if threshold is None else ""
    return _new_predictions(found, rows, outputs, model=name, decision=decision, fitted=fitted, columns=named)


def predictions_by_run(project: Project, run: str | None, rows: NewRows, *, outputs: Outputs) -> NewPredictions:
    """Predict new samples by a run of a project (the best on val when None), through its store."""
    used, chosen = selected_run(project, run)
    name = used.name
    check_samples(rows, name, {e["modality"] for e in used.encoders.values()})
    decision = shipped_rule(project, name)
    found = predict_in_project(project, name, rows, decision)
    named = {**source_columns(project), "id_column": rows.columns.get("id") or "id"}
    how = about_fit(project, decision)
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
