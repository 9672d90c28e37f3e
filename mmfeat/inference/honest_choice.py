"""How good a choice on val is on rows that did not make it: chosen on one half of val and scored on the other, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.randomness import id_numbers
from mmfeat.common.text import counted
from mmfeat.inference.fitted_rules import crossfitted_rule, fitted_rule
from mmfeat.inference.logits import logits_of
from mmfeat.inference.run_ranking import ranked_runs
from mmfeat.metrics import better, scores
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.project.project import Project
from mmfeat.report.text_tables import metric_title


@dataclass(frozen=True, kw_only=True)
class HonestChoice:
    """A metric on rows that had no part in a choice.

    Attributes
    ----------
    name : str
        The run or encoder whose decision rule was fitted; empty if a run was chosen as well.
    metric : str
        The metric that chose, by its name in mmfeat.toml.
    value : float
        The metric on the half of val that did not choose: the mean of both halves, weighted by rows.
    plain : float
        The metric on all val rows of the model, or of the best run.
    chosen : tuple of str
        The runs that the two halves chose.
    """

    name: str
    metric: str
    value: float
    plain: float
    chosen: tuple[str, ...]

    @property
    def line(self) -> str:
        """The values in a sentence."""
        digits = 4 if self.metric == "loss" else 3
        what = f"{self.name}: decision rule fitted" if self.name else "Run and decision rule chosen"
        of = "" if self.name else f" Chosen: {' and '.join(dict.fromkeys(self.chosen))}."
        difference = round(self.value - self.plain, digits) + 0.0  # no -0.000
        return (
            f"{what} on one half of val and scored on the other: {metric_title(self.metric)} {self.value:.{digits}f}, "
            f"{difference:+.{digits}f} from {self.plain:.{digits}f} on all val rows.{of}"
        )


def honest_choices(project: Project, names: Sequence[str] = ()) -> list[HonestChoice]:
    """One result for each named model; without names, one for the choice among all current runs.

    Raises
    ------
    DataError
        There are fewer than two val rows.
    """
    val, metric = project.manifest.rows("val"), project.config.metric
    if len(val) < 2:
        raise DataError(f"--honest needs two halves of val, found {counted(len(val), 'val row')}")
    candidates = names or [line.name for line in ranked_runs(project) if line.run is not None and line.metrics]
    logits = {name: logits_of(project, name, val).logits for name in candidates}
    if not names:
        return [_choice(project, "", logits, metric=metric)]
    return [_choice(project, name, {name: one}, metric=metric) for name, one in logits.items()]


def _choice(project: Project, name: str, logits: Mapping[str, np.ndarray], *, metric: str) -> HonestChoice:
    val = project.manifest.rows("val")
    order = np.argsort(id_numbers(project.manifest.ids[val]), kind="stable")
    halves, values, chosen = (order[::2], order[1::2]), [], []
    for own, other in (halves, halves[::-1]):
        best = _best_on(project, val, own, logits=logits, metric=metric)
        rule = fitted_rule(project, val[own], logits[best][own])
        values.append(_value(project, val[other], logits[best][other], rule=rule, metric=metric))
        chosen.append(best)
    everywhere = np.arange(len(val))
    best = _best_on(project, val, everywhere, logits=logits, metric=metric)
    plain = _value(project, val, logits[best], rule=crossfitted_rule(project, val, logits[best]), metric=metric)
    value = float(np.average(values, weights=[len(half) for half in halves[::-1]]))
    return HonestChoice(name=name, metric=metric, value=value, plain=plain, chosen=tuple(chosen))


def _best_on(
    project: Project, val: np.ndarray, at: np.ndarray, *, logits: Mapping[str, np.ndarray], metric: str
) -> str:
    """The best model on some val rows, each with its rule cross-fitted there, as `mmfeat runs` ranks them."""
    best, highest = "", 0.0
    for name, of_val in logits.items():
        rule = crossfitted_rule(project, val[at], of_val[at])
        value = _value(project, val[at], of_val[at], rule=rule, metric=metric)
        if not best or better(metric, value, highest):
            best, highest = name, value
    return best


def _value(project: Project, rows: np.ndarray, logits: np.ndarray, *, rule: DecisionRule, metric: str) -> float:
    calibrated = logits if metric == "map" else rule.calibrated(logits)
    return scores(project.manifest.labels[rows], rule.labels(rule.probs(logits)), calibrated).value(metric)
