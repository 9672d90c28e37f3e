"""What decides a project's rows by `[predict]`: val rows out of sample, all others by what all of val gave."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.labels import class_order, class_positions
from mmfeat.common.randomness import id_numbers
from mmfeat.common.text import counted
from mmfeat.config.schema import PredictConfig
from mmfeat.inference.logits import source
from mmfeat.metrics.decision_rule import DecisionRule, crossfit_decision_rule, fit_decision_rule
from mmfeat.metrics.metric_rows import Metrics, metrics_of
from mmfeat.project.project import Project


def decision_on(project: Project, rows: np.ndarray, logits: np.ndarray) -> DecisionRule:
    """What decides labelled rows by their own logits `(n, K)`, each row by the other folds of them where it is tuned."""
    manifest, config = project.manifest, project.config
    numbers = id_numbers(manifest.ids[rows]) if config.predict.fits else np.zeros(0, np.uint64)
    return _fit(
        project,
        lambda y, z: crossfit_decision_rule(config.predict, config.metric, labels=y, logits=z, numbers=numbers),
        rows,
        logits,
    )


def _fit(
    project: Project, fit: Callable[[np.ndarray, np.ndarray], DecisionRule], rows: np.ndarray, logits: np.ndarray
) -> DecisionRule:
    """What `fit` makes of labels and logits, whatever the order of the classes: their thresholds are found one by one."""
    labels, classes = project.manifest.labels[rows], project.manifest.classes
    if not project.config.predict.per_class:
        return fit(labels, logits)
    at = class_positions(classes, class_order(classes))
    return fit(labels[:, at], logits[:, at]).in_order_of(np.argsort(at))


def metrics_on_val(project: Project, logits: np.ndarray) -> Metrics:
    """Figures of logits `(n_val, K)` of the val rows of today; what is tuned is cross-fitted."""
    rows = project.manifest.rows("val")
    return metrics_of(project.manifest.labels[rows], logits, decision_on(project, rows, logits))


def needed_val(project: Project, what: str) -> np.ndarray:
    """The val rows, without which there are no `rows to compare on`, or whatever else they are needed as.

    Raises
    ------
    DataError
        There are none.
    """
    rows = project.manifest.rows("val")
    if not len(rows):
        raise DataError(f"manifest.parquet: no val {what}. Set [split] val in mmfeat.toml and run: mmfeat init")
    return rows


def shipped_decision(project: Project, name: str) -> DecisionRule:
    """What a run or an encoder decides rows by that are not val: fitted on all of val where it is tuned.

    Raises
    ------
    ConfigError
        It is tuned, and there is no val row.
    MissingFeatures, RunError
        Its logits of the val rows cannot be had.
    """
    rows, config = project.manifest.rows("val"), project.config
    if not config.predict.fits:
        no_labels, no_logits = project.manifest.labels[:0], np.zeros((0, 0), np.float32)
        return fit_decision_rule(config.predict, config.metric, labels=no_labels, logits=no_logits)
    _check_val(project)
    logits = source(project, name, rows).logits
    return _fit(
        project, lambda y, z: fit_decision_rule(config.predict, config.metric, labels=y, logits=z), rows, logits
    )


def decision_for(project: Project, name: str, rows: np.ndarray, shipped: DecisionRule | None = None) -> DecisionRule:
    """What decides some rows of the project by a run or an encoder, in their order; raises as `shipped_decision`.

    Parameters
    ----------
    shipped : DecisionRule, optional
        What `shipped_decision` gave, where it is known.
    """
    shipped = shipped_decision(project, name) if shipped is None else shipped
    val = project.manifest.rows("val")
    at = np.full(project.manifest.n_samples, -1)
    at[val] = np.arange(len(val))
    if not project.config.predict.fits or not (at[rows] >= 0).any():
        return shipped
    return shipped.with_rows(decision_on(project, val, source(project, name, val).logits), at[rows], len(rows))


def decision_record(project: Project, logits: np.ndarray) -> dict[str, Any] | None:
    """What a run ships by the logits `(n_val, K)` of its val rows, as run.json keeps it; None where it cannot be fitted."""
    config, rows = project.config, project.manifest.rows("val")
    if config.predict.fits and not len(rows):
        return None
    decision = _fit(
        project, lambda y, z: fit_decision_rule(config.predict, config.metric, labels=y, logits=z), rows, logits
    )
    return {**decision.as_dict(), "fitted": how_decided(project)}


def same_rule(record: dict[str, Any], rule: PredictConfig) -> bool:
    """Whether a run's figures were made by the `[predict]` of today."""
    return dataclasses.asdict(PredictConfig()) | record["config"]["predict"] == dataclasses.asdict(rule)


def how_decided(project: Project) -> str:
    """What was fitted, and on what: `fitted on 2,000 val rows for samples-f1`; empty where nothing was."""
    if not project.config.predict.fits:
        return ""
    purpose = f" for {project.config.metric}" if project.config.predict.tuned else ""
    return f"fitted on {counted(len(project.manifest.rows('val')), 'val row')}{purpose}"


def _check_val(project: Project) -> None:
    if len(project.manifest.rows("val")):
        return
    rule = project.config.predict
    key, fixed = ("threshold", "0.5") if rule.tuned else ("calibration", "none")
    raise ConfigError(
        f"predict.{key} = {getattr(rule, key)} is fitted on val rows, and there are none. "
        f"Use: --{key} {fixed}, or set [split] val in mmfeat.toml and run: mmfeat init"
    )
