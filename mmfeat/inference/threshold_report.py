"""The report about a model's threshold: its value, its gain over 0.5, and settings that would be better."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.randomness import id_numbers
from mmfeat.common.text import counted
from mmfeat.config.schema import FILE_NAME, Config, PredictConfig
from mmfeat.inference.fitted_rules import crossfitted_rule, fitted_rule
from mmfeat.metrics.decision_rule import NORMAL_95, AutoThreshold, DecisionRule, auto_threshold, gain_of
from mmfeat.metrics.thresholds import tuned_metric
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
    typed : str
        A sentence on options of the decision rule, which no run keeps; empty if none was typed.
    """

    rule: DecisionRule
    line: str
    hints: list[str]
    typed: str


def threshold_report(project: Project, logits: np.ndarray) -> ThresholdReport | None:
    """The report for logits `(n_val, K)` of the manifest's val rows; None without val rows."""
    manifest, settings = project.manifest, project.config.predict
    rows = manifest.rows("val")
    if not len(rows):
        return None
    of = _Val(project, rows, logits)
    if settings.auto:
        found = of.auto_threshold()
        rule, now = fitted_rule(project, rows, logits, settings=found.settled(settings)), found.rule
        line = _about_auto(found, rule, counted(len(rows), "val row"))
    else:
        rule, now = fitted_rule(project, rows, logits), crossfitted_rule(project, rows, logits)
        line = _about_set(project.config, rule, counted(len(rows), "val row"))
    return ThresholdReport(rule=rule, line=line, hints=_hints(of, now), typed=_about_typed(project.config))


class _Val:
    """One model on val: its labels and logits."""

    def __init__(self, project: Project, rows: np.ndarray, logits: np.ndarray) -> None:
        self.project, self.rows, self.logits = project, rows, logits
        self.labels, self.numbers = project.manifest.labels[rows], id_numbers(project.manifest.ids[rows])
        self.metric = tuned_metric(project.config.metric)

    def auto_threshold(self) -> AutoThreshold:
        """How these rows decide between a fitted threshold and 0.5."""
        settings = self.project.config.predict
        return auto_threshold(settings, self.metric, labels=self.labels, logits=self.logits, numbers=self.numbers)

    def gain(self, rule: DecisionRule, other: DecisionRule) -> tuple[float, float]:
        """The metric by one rule minus that by another, and its standard error."""
        return gain_of(self.metric, rule, other, labels=self.labels, logits=self.logits, numbers=self.numbers)


def _about_auto(found: AutoThreshold, rule: DecisionRule, rows: str) -> str:
    gain = f"{metric_title(found.metric)} {round(found.gain, 3) + 0.0:+.3f} ± {found.error:.3f}"  # no -0.000
    about = _capital(about_decision(rule))
    if found.fitted:
        return f"{about}, fitted on {rows}: {gain} over 0.5 (cross-fitted; ± standard error)."
    return f"{about}: a fitted one is not better beyond noise ({gain} on {rows}, cross-fitted; ± standard error)."


def _about_set(config: Config, rule: DecisionRule, rows: str) -> str:
    settings, typed = config.predict, config.origins.get("predict.threshold") == "option"
    if settings.fits:
        return f"{_capital(about_decision(rule, f'fitted on {rows}, cross-fitted there'))}."
    origin = "typed" if typed else f"set in {FILE_NAME}"
    return "" if settings.threshold == 0.5 else f"Threshold {settings.threshold:g}, as {origin}."


def _about_typed(config: Config) -> str:
    names = [field.name for field in dataclasses.fields(PredictConfig)]
    typed = {name: getattr(config.predict, name) for name in names if config.origins.get(f"predict.{name}") == "option"}
    if not typed:
        return ""
    options = " ".join(f"--{name} {value}" for name, value in typed.items())
    settings = " and ".join(f"{name} = {json.dumps(value)}" for name, value in typed.items())
    return (
        f"No run keeps {options}. To use it, give it to predict, evaluate and export too, or set {settings} under "
        f"[predict] in {FILE_NAME}."
    )


def _hints(of: _Val, now: DecisionRule) -> list[str]:
    """Sentences about other settings of `[predict]` that are better beyond noise: `auto` first, then the best of the others.

    Parameters
    ----------
    now : DecisionRule
        The rule of each row by the present settings.
    """
    settings = of.project.config.predict
    if of.labels.size > MOST_CELLS:
        return []
    hints, best = [], (0.0, "")
    for option, changes in _alternatives(settings):
        other = crossfitted_rule(of.project, of.rows, of.logits, dataclasses.replace(settings, **changes))
        gain, error = of.gain(other, now)
        text = f"{option} would raise {metric_title(of.metric)} by {gain:.3f} ± {NORMAL_95 * error:.3f}"
        if changes == {"threshold": "auto"}:
            hints += [text] if gain > error else []
        elif gain > max(NORMAL_95 * error, best[0]):
            best = gain, text
    return [f"{text} (cross-fitted on val, 95 % interval)." for text in [*hints, *([best[1]] if best[1] else [])]]


def _alternatives(settings: PredictConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Options to type, and what they change."""
    if not settings.auto and not settings.tuned:
        yield "--threshold auto", {"threshold": "auto"}
    if not settings.per_class:
        yield "--threshold tuned-per-class", {"threshold": "tuned-per-class"}
    empty = "none" if settings.empty == "most-probable" else "most-probable"
    yield f"--empty {empty}", {"empty": empty}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
