"""One model on labelled rows: logits, decision rule, metrics, and how the model used the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.randomness import id_numbers
from mmfeat.inference.fitted_rules import rule_for_rows
from mmfeat.inference.logits import logits_of
from mmfeat.inference.threshold_report import ThresholdReport, threshold_report
from mmfeat.metrics import Outcome
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.metrics.metric_rows import Metrics, metrics_of, outcome_of
from mmfeat.project.project import Project
from mmfeat.project.staleness import lineage_of


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluatedModel:
    """One run or encoder on labelled rows.

    Attributes
    ----------
    logits : np.ndarray
        `(n, K)` float32 of the rows, in their order.
    decision : DecisionRule
        The rule of these rows.
    threshold : ThresholdReport or None
        Its threshold, and what other settings would gain on val. None without val rows.
    trained : list of str
        Ids of the rows that it was trained on, in the manifest's order: in-sample rows.
    n_selected : int
        How many of the rows selected its epochs or rounds.
    n_out_of_fold : int
        How many are scored by heads that held them out.
    """

    logits: np.ndarray
    decision: DecisionRule
    metrics: Metrics
    threshold: ThresholdReport | None
    trained: list[str]
    n_selected: int
    n_out_of_fold: int

    @property
    def outcome(self) -> Outcome:
        """Predicted labels and logits, for paired differences."""
        return outcome_of(self.logits, self.decision)


def rows_to_score(project: Project, split: str) -> np.ndarray:
    """The labelled rows of a split in the order of their ids' hashes, on which the bootstrap's draws depend.

    Raises
    ------
    DataError
        There are none.
    """
    rows = project.manifest.rows(split)
    if not len(rows):
        raise DataError(
            f"there are no labelled {split} rows. Set [split] {split} in mmfeat.toml before the first: mmfeat init"
        )
    return rows[np.argsort(id_numbers(project.manifest.ids[rows]), kind="stable")]


def evaluated_model(project: Project, name: str, rows: np.ndarray) -> EvaluatedModel:
    """Metrics and lineage of a run or encoder on rows of `rows_to_score`; its logits of val rows are read once."""
    manifest, val = project.manifest, project.manifest.rows("val")
    of_val = logits_of(project, name, val).logits if len(val) else None
    if np.array_equal(np.sort(rows), val):
        logits = of_val[np.searchsorted(val, rows)]
    else:
        logits = logits_of(project, name, rows).logits
    decision = rule_for_rows(project, name, rows, val_logits=of_val)
    lineage = lineage_of(project, name)
    trained, chosen = lineage.among(manifest.ids[rows])
    return EvaluatedModel(
        logits=logits,
        decision=decision,
        metrics=metrics_of(manifest.labels[rows], logits, decision),
        threshold=None if of_val is None else threshold_report(project, of_val),
        trained=manifest.ids[np.sort(rows[trained])].tolist(),
        n_selected=int(chosen.sum()),
        n_out_of_fold=int(lineage.is_out_of_fold(manifest.ids[rows]).sum()),
    )
