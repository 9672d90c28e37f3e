"""What is said about a model's threshold: its value, its gain over 0.5, and settings that would do better."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.randomness import id_numbers
from mmfeat.common.text import counted
from mmfeat.inference.fitted_rules import crossfitted_rule, fitted_rule
from mmfeat.metrics.decision_rule import NORMAL_95, DecisionRule, auto_threshold, gain_of
from mmfeat.metrics.thresholds import TUNED_FOR
from mmfeat.project.project import Project
from mmfeat.report.text_tables import about_decision, metric_title

MOST_CELLS = 2_000_000  # val rows x classes up to which other settings are tried


@dataclass(frozen=True, kw_only=True)
class ThresholdReport:
    """A model's threshold, and what another setting would gain on val.

    Attributes
    ----------
    rule : DecisionRule
        The rule for rows that are not val.
    line : str
        A sentence about the threshold; empty if mmfeat.toml sets it to 0.5.
    hints : list of str
        Settings that would be better beyond noise, each with its gain and the option to type.
    """

    rule: DecisionRule
    line: str
    hints: list[str]


def threshold_report(project: Project, logits: np.ndarray) -> ThresholdReport | None:
    """The report for logits `(n_val, K)` of the manifest's val rows; None without val rows."""
    manifest, settings = project.manifest, project.config.predict
    rows = manifest.rows("val")
    if not len(rows):
        return None
    of = _Val(project, rows, logits)
    rule = fitted_rule(project, rows, logits)
    if settings.auto:
        line = _about_auto(of, rule)
    elif settings.fits:
        fitted = f"fitted on {counted(len(rows), 'val row')}, cross-fitted there"
        line = f"{_capital(about_decision(rule, fitted))}."
    else:
        line = "" if settings.threshold == 0.5 else f"Threshold {settings.threshold:g}, as set in mmfeat.toml or typed."
    return ThresholdReport(rule=rule, line=line, hints=_hints(of))


class _Val:
    """One model on val: labels, logits, and the rule that its metrics are computed by."""

    def __init__(self, project: Project, rows: np.ndarray, logits: np.ndarray) -> None:
        metric = project.config.metric
        self.project, self.rows, self.logits = project, rows, logits
        self.labels, self.numbers = project.manifest.labels[rows], id_numbers(project.manifest.ids[rows])
        self.metric = metric if metric in TUNED_FOR else TUNED_FOR[0]

    def gain(self, rule: DecisionRule, other: DecisionRule) -> tuple[float, float]:
        """The metric by one rule minus that by another, and its standard error."""
        return gain_of(self.metric, rule, other, labels=self.labels, logits=self.logits, numbers=self.numbers)


def _about_auto(of: _Val, rule: DecisionRule) -> str:
    config = of.project.config
    found = auto_threshold(config.predict, config.metric, labels=of.labels, logits=of.logits, numbers=of.numbers)
    gain = f"{metric_title(found.metric)} {round(found.gain, 3) + 0.0:+.3f} ± {found.error:.3f}"  # no -0.000
    on = counted(len(of.rows), "val row")
    if found.fitted:
        return f"{_capital(about_decision(rule))}, fitted on {on}: {gain} over 0.5 (cross-fitted; ± standard error)."
    return f"{_capital(about_decision(rule))}: a fitted one is not better beyond noise ({gain} on {on}, cross-fitted; ± standard error)."


def _hints(of: _Val) -> list[str]:
    """Sentences about other settings of `[predict]` that are better beyond noise: `auto` first, then the best of the others."""
    settings = of.project.config.predict
    if of.labels.size > MOST_CELLS:
        return []
    now, hints, best = crossfitted_rule(of.project, of.rows, of.logits), [], (0.0, "")
    for option, changes in _alternatives(settings):
        other = crossfitted_rule(of.project, of.rows, of.logits, dataclasses.replace(settings, **changes))
        gain, error = of.gain(other, now)
        text = f"{option} would raise {metric_title(of.metric)} by {gain:.3f} ± {NORMAL_95 * error:.3f}"
        if changes == {"threshold": "auto"}:
            hints += [text] if gain > error else []
        elif gain > max(NORMAL_95 * error, best[0]):
            best = gain, text
    return [f"{text} (cross-fitted on val, 95 % interval)." for text in [*hints, *([best[1]] if best[1] else [])]]


def _alternatives(settings: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Options to type, and what they change."""
    if not settings.auto and not settings.tuned:
        yield "--threshold auto", {"threshold": "auto"}
    if not settings.per_class:
        yield "--threshold tuned-per-class", {"threshold": "tuned-per-class"}
    empty = "none" if settings.empty == "most-probable" else "most-probable"
    yield f"--empty {empty}", {"empty": empty}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
