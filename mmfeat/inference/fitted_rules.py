"""Decision rules of a project under `[predict]`: cross-fitted for val rows, fitted on all of val for other rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.labels import class_order, class_positions
from mmfeat.common.randomness import id_numbers
from mmfeat.common.text import counted
from mmfeat.config.schema import PredictConfig
from mmfeat.inference.logits import logits_of
from mmfeat.metrics.decision_rule import DecisionRule, crossfit_decision_rule, fit_decision_rule
from mmfeat.metrics.metric_rows import Metrics, metrics_of
from mmfeat.project.project import Project


def crossfitted_rule(
    project: Project, rows: np.ndarray, logits: np.ndarray, settings: PredictConfig | None = None
) -> DecisionRule:
    """The rule for labelled rows, given their logits `(n, K)`. A tuned rule is cross-fitted: each fold by the other folds.

    Parameters
    ----------
    settings : PredictConfig, optional
        Other settings than the project's.
    """
    return fitted_rule(project, rows, logits, crossfit=True, settings=settings)


def fitted_rule(
    project: Project,
    rows: np.ndarray,
    logits: np.ndarray,
    *,
    crossfit: bool = False,
    settings: PredictConfig | None = None,
) -> DecisionRule:
    """A rule fitted on labels and logits, or one for each row; by the project's settings or by others.

    Thresholds per class are fitted in alphabetical order of the classes, so the manifest's order does not matter.
    """
    config, classes = project.config, project.manifest.classes
    settings = settings or config.predict
    labels, at = project.manifest.labels[rows], None
    numbers = id_numbers(project.manifest.ids[rows]) if settings.fits else np.zeros(0, np.uint64)
    if settings.per_class:
        at = class_positions(classes, class_order(classes))
        labels, logits = labels[:, at], logits[:, at]
    fit = crossfit_decision_rule if crossfit else fit_decision_rule
    rule = fit(settings, config.metric, labels=labels, logits=logits, numbers=numbers)
    return rule if at is None else rule.in_order_of(np.argsort(at))


def metrics_on_val(project: Project, logits: np.ndarray) -> Metrics:
    """Metrics of logits `(n_val, K)` of the manifest's val rows; a tuned rule is cross-fitted."""
    rows = project.manifest.rows("val")
    return metrics_of(project.manifest.labels[rows], logits, crossfitted_rule(project, rows, logits))


def required_val(project: Project, what: str) -> np.ndarray:
    """The val rows; `what` names their use in the error, such as `rows to compare on`.

    Raises
    ------
    DataError
        There are no val rows.
    """
    rows = project.manifest.rows("val")
    if not len(rows):
        raise DataError(f"manifest.parquet: no val {what}. Set [split] val in mmfeat.toml and run: mmfeat init")
    return rows


def shipped_rule(project: Project, name: str, val_logits: np.ndarray | None = None) -> DecisionRule:
    """The rule of a run or an encoder for rows that are not val; a tuned rule is fitted on all of val.

    Parameters
    ----------
    val_logits : np.ndarray, optional
        Its logits `(n_val, K)` of the val rows, if they have been read.

    Raises
    ------
    ConfigError
        It is tuned, and there is no val row.
    MissingFeatures, RunError
        There are no logits of the val rows.
    """
    rows, config = project.manifest.rows("val"), project.config
    if not config.predict.needs_val and not (config.predict.auto and len(rows)):
        no_labels, no_logits = project.manifest.labels[:0], np.zeros((0, 0), np.float32)
        return fit_decision_rule(config.predict, config.metric, labels=no_labels, logits=no_logits)
    _check_val(project)
    return fitted_rule(project, rows, logits_of(project, name, rows).logits if val_logits is None else val_logits)


def rule_for_rows(
    project: Project,
    name: str,
    rows: np.ndarray,
    shipped: DecisionRule | None = None,
    *,
    val_logits: np.ndarray | None = None,
) -> DecisionRule:
    """The rule of a run or an encoder for some rows, in their order; raises as :func:`shipped_rule`.

    Parameters
    ----------
    shipped : DecisionRule, optional
        The result of `shipped_rule`, if it is known.
    val_logits : np.ndarray, optional
        Its logits `(n_val, K)` of the val rows, if they have been read.
    """
    val = project.manifest.rows("val")
    at = np.full(project.manifest.n_samples, -1)
    at[val] = np.arange(len(val))
    by_row = project.config.predict.fits and (at[rows] >= 0).any()
    if by_row and val_logits is None:
        val_logits = logits_of(project, name, val).logits
    shipped = shipped_rule(project, name, val_logits) if shipped is None else shipped
    if not by_row:
        return shipped
    return shipped.with_rows(crossfitted_rule(project, val, val_logits), at[rows], len(rows))


def rule_record(project: Project, logits: np.ndarray) -> dict[str, Any] | None:
    """The rule that a run ships, as in run.json, fitted on the logits `(n_val, K)` of val rows; None if it cannot be fitted."""
    config, rows = project.config, project.manifest.rows("val")
    if config.predict.needs_val and not len(rows):
        return None
    rule = fitted_rule(project, rows, logits)
    return {**rule.as_dict(), "fitted": about_fit(project, rule)}


def same_rule(record: dict[str, Any], rule: PredictConfig) -> bool:
    """Whether the metrics in a run's record were made with the settings `rule`."""
    return dataclasses.asdict(PredictConfig()) | record["config"]["predict"] == dataclasses.asdict(rule)


def about_fit(project: Project, rule: DecisionRule) -> str:
    """A clause about the fit, such as `fitted on 2,000 val rows for samples-f1`; empty if the rule is not fitted."""
    settings = project.config.predict
    fitted = settings.tuned or (settings.auto and not rule.is_half)
    if not fitted and settings.calibration == "none":
        return ""
    purpose = f" for {project.config.metric}" if fitted else ""
    return f"fitted on {counted(len(project.manifest.rows('val')), 'val row')}{purpose}"


def _check_val(project: Project) -> None:
    if len(project.manifest.rows("val")):
        return
    rule = project.config.predict
    key, fixed = ("threshold", "0.5") if rule.tuned else ("calibration", "none")
    raise ConfigError(
        f"predict.{key} = {getattr(rule, key)} is fitted on val rows, but there are none. "
        f"Use: --{key} {fixed}, or set [split] val in mmfeat.toml and run: mmfeat init"
    )
