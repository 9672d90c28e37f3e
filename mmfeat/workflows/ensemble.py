"""`mmfeat ensemble`: combine the logits of encoders and runs, by their mean or by weights that are fitted out of sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.errors import ConfigError, DataError, RunError
from mmfeat.config.schema import METHODS, RECIPES
from mmfeat.inference.ensemble_members import (
    all_candidates,
    members_of,
    recipe_members,
    refuse_fitted,
    rows_to_fit_on,
)
from mmfeat.inference.fitted_rules import metrics_on_val
from mmfeat.inference.logits import RowLogits, logits_of, run_logits, training_prior, weighted_logits
from mmfeat.inference.run_result import RunResult, check_naming, to_name
from mmfeat.inference.threshold_report import threshold_report
from mmfeat.metrics import paired_difference
from mmfeat.metrics.metric_rows import MetricRow, Metrics
from mmfeat.project.project import Project
from mmfeat.project.staleness import in_sample, lineage_of
from mmfeat.report.result import Record, metric_records
from mmfeat.report.selection_notes import about_selection
from mmfeat.runs.ensemble_weights import FOLDS, STEPS, STRENGTH, Weights
from mmfeat.runs.ensembles import RECIPE_TEXTS
from mmfeat.runs.run import ROLES, already_made
from mmfeat.runs.run_names import NO_NAME, Naming
from mmfeat.training.ensemble_runs import ensemble_fingerprint, ensemble_logits, fit_ensemble, save_ensemble

METHOD_TEXTS = {
    "mean": "mean of the logits",
    "weighted": "one weight for each member",
    "per-class": "one weight for each member and class",
    "stacked": "for each class a logistic regression on the members' logits",
    "greedy": "members added one by one for {metric}",
}


@dataclass(frozen=True, kw_only=True, repr=False)
class EnsembleResult(RunResult):
    """An ensemble, and its metrics on val with those of its members.

    Attributes
    ----------
    lines : list of MetricRow
        Members first; the last row is the ensemble.
    made : bool
        False if exactly this ensemble existed already.
    left_out : list of str
        Candidates that were not selected.
    selection : str
        A clause about what was selected on the val rows.
    gain : tuple of float or None
        Gain in samples F1 over the mean of all candidates on val, and its 95 % interval; None if no weights are fitted.
    after : str
        The command to type next.
    """

    lines: list[MetricRow]
    description: str
    n_val: int
    left_out: list[str]
    selection: str
    gain: tuple[float, float, float] | None
    after: str

    @property
    def fitted(self) -> dict[str, Any] | None:
        """The record of the fit in run.json; None if no weights are fitted."""
        return self.run.record.get("fitted")

    def _about(self) -> str:
        return f"{super()._about()}: {self.description}"

    def _table(self) -> list[Record]:
        return metric_records(self.lines)


def ensemble(
    project: Project, members: Sequence[str] = (), method: str = "mean", *, naming: Naming = NO_NAME
) -> EnsembleResult:
    """Make an ensemble by a recipe (`fm1`, `fm2`, `fm3`), or of any encoders and runs.

    Parameters
    ----------
    members : sequence of str
        May be empty for `greedy`: then all encoders with a linear probe, and all current runs that are not ensembles.
    method : str
        `mean`; or a method whose weights are fitted on labelled rows that no member was trained on, and cross-fitted
        there: `weighted`, `per-class`, `stacked`, `greedy`. See :func:`mmfeat.runs.ensemble_weights.fit_weights`.
    naming : Naming
        The name and the note of the run, if it is made now.

    Raises
    ------
    RunError
        A member does not exist or has no logits; a recipe's head is not trained yet; a member is an ensemble with fitted
        weights; the name cannot be used.
    DataError
        There is no row to fit on, or no row to predict.
    """
    if method not in METHODS:
        raise ConfigError(f"--method {method[:40]!r}. Use one of: {', '.join(METHODS)}")
    stem, names = _names(project, list(members), method)
    if method == "mean":
        return _mean(project, stem, names, naming=naming)
    return _fitted(project, method, names, given=bool(members), naming=naming)


def _names(project: Project, members: list[str], method: str) -> tuple[str, list[str]]:
    """The stem of the new run's name, and the names of its members."""
    if len(members) == 1 and members[0] in RECIPES:
        if method != "mean":
            raise RunError(f"{members[0]} is a mean. Name its members: mmfeat ensemble --method {method} A B ...")
        names = recipe_members(project, members[0])
        if members[0] == "fm2":
            names[0] = ensemble(project, ["fm1"]).run.name
        return members[0], names
    for name in members:
        if name in RECIPES:
            raise RunError(
                f"{name} is a recipe, which takes no other members. Run: mmfeat ensemble {name}, and name the run that it makes"
            )
    if len(set(members)) != len(members):
        raise RunError(f"a member is named twice: {', '.join(members)}")
    if not members and method != "greedy":
        raise RunError("no members. Name them, or let them be selected: mmfeat ensemble --method greedy")
    return "ensemble", members or all_candidates(project)


def _mean(project: Project, stem: str, names: list[str], *, naming: Naming) -> EnsembleResult:
    manifest = project.manifest
    val = manifest.rows("val")
    rows = np.concatenate([val, manifest.rows("unlabelled")])
    if not len(rows):
        raise DataError(
            "manifest.parquet: neither val nor unlabelled rows. Set [split] val in mmfeat.toml and run: mmfeat init"
        )
    weights = Weights(np.full(len(names), 1 / len(names)))
    parts = members_of(project, names, weights)
    sources = [logits_of(project, name, rows) for name in names]
    prior = training_prior(project)
    mean = weighted_logits(stem, sources, parts.weights, prior=prior)
    fingerprint = ensemble_fingerprint(project, parts, rows, {"members": parts.made_of})
    run = already_made(project.runs_folder, fingerprint)
    check_naming(project, naming, run)
    if run is None:
        roles = np.full(len(rows), ROLES["none"], np.uint8)
        roles[: len(val)] = ROLES["val"]
        run = save_ensemble(
            project,
            stem,
            parts,
            kept=ensemble_logits(project, parts, rows, found=mean, roles=roles),
            fingerprint=fingerprint,
            more={"prior": prior.tolist()},
            naming=naming,
        )
    shares = " + ".join(f"{weight:.2g} {name}" for name, weight in zip(names, parts.weights, strict=True))
    text = RECIPE_TEXTS.get(stem, METHOD_TEXTS["mean"])
    lines, _ = _lines(project, names, [*sources, mean])
    return EnsembleResult(
        run=run,
        lines=lines,
        made=run.is_new,
        threshold=threshold_report(project, mean.logits[: len(val)]),
        description=f"{stem}: {text}; {shares}; no weights are fitted",
        n_val=len(val),
        left_out=[],
        selection=_selection(project, names, val),
        gain=None,
        after=to_name(run, naming) or "mmfeat runs",
    )


def _fitted(project: Project, method: str, names: list[str], *, given: bool, naming: Naming) -> EnsembleResult:
    """An ensemble whose weights are fitted on rows that no member was trained on."""
    manifest, config = project.manifest, project.config
    refuse_fitted(project, names)
    val, fit = manifest.rows("val"), rows_to_fit_on(project, names)
    rows = np.concatenate([val, manifest.rows("unlabelled"), np.setdiff1d(fit, val)])
    sources = [logits_of(project, name, rows) for name in names]
    prior = training_prior(project)
    candidates = members_of(project, names, Weights(np.zeros(len(names))))
    made_by = {
        "method": method,
        "strength": STRENGTH,
        "folds": FOLDS,
        "given": given,
        "fit": sorted(manifest.ids[fit].tolist()),
    }
    if method == "greedy":
        made_by |= {"metric": config.metric, "steps": STEPS}
    fingerprint = ensemble_fingerprint(project, candidates, rows, {"members": candidates.made_of, **made_by})
    run = already_made(project.runs_folder, fingerprint)
    check_naming(project, naming, run)
    if run is None:
        made_with = {"fingerprint": fingerprint, "given": given, "naming": naming}
        run = fit_ensemble(project, method, names, sources=sources, rows=rows, fit=fit, **made_with)
    shown = [m["name"] for m in run.members]
    mean = weighted_logits(f"mean of all {len(names)}", sources, [1 / len(names)] * len(names), prior=prior)
    of_fit = [run_logits(project, run, val)] if len(val) else []
    lines, metrics = _lines(project, shown, [*(sources[names.index(name)] for name in shown), mean, *of_fit])
    gain = paired_difference(metrics[-1].rows_f1, metrics[-2].rows_f1) if metrics else None
    text = METHOD_TEXTS[method].format(metric=config.metric)
    return EnsembleResult(
        run=run,
        lines=lines,
        made=run.is_new,
        threshold=threshold_report(project, of_fit[0].logits) if of_fit else None,
        description=f"{run.name}: {text}",
        n_val=len(val),
        left_out=[name for name in names if name not in shown],
        selection=_selection(project, shown, val),
        gain=gain,
        after=to_name(run, naming) or "mmfeat runs",
    )


def _selection(project: Project, names: list[str], val: np.ndarray) -> str:
    ids = project.manifest.ids[val]
    return about_selection({name: lineage_of(project, name).use_of(ids) for name in names}, "epochs of the members")


def _lines(project: Project, names: list[str], sources: list[RowLogits]) -> tuple[list[MetricRow], list[Metrics]]:
    """Metrics on val of all sources: the members `names`, then ensembles of them."""
    manifest = project.manifest
    val = manifest.rows("val")
    if not len(val):
        return [], []
    metrics = [metrics_on_val(project, s.logits[: len(val)]) for s in sources]
    notes = [in_sample(project, name, val) for name in names] + [""] * (len(sources) - len(names))
    lines = [MetricRow.of(s.name, m, note=note) for s, m, note in zip(sources, metrics, notes, strict=True)]
    return lines, metrics
