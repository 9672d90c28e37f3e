"""`mmfeat ensemble`: logits of encoders and runs ensemble_logits, by weights that are given or fitted out of sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.errors import ConfigError, DataError, RunError
from mmfeat.common.files import digest_json
from mmfeat.common.lineage import NO_LINEAGE, Lineage
from mmfeat.common.randomness import id_numbers
from mmfeat.config.schema import RECIPES
from mmfeat.inference.ensemble_members import (
    Members,
    all_candidates,
    members_of,
    recipe_members,
    refuse_fitted,
    rows_to_fit_on,
)
from mmfeat.inference.fitted_rules import metrics_on_val, rule_record
from mmfeat.inference.logits import RowLogits, ensemble_logits, logits_of, run_logits, training_prior
from mmfeat.metrics import paired_difference
from mmfeat.metrics.metric_rows import MetricRow, Metrics, score_by
from mmfeat.project.project import Project
from mmfeat.project.provenance import common_record, input_keys
from mmfeat.project.staleness import find_run, in_sample, lineage_of
from mmfeat.runs.ensemble_weights import FOLDS, METHODS, STEPS, STRENGTH, Rows, Weights, cross_fit
from mmfeat.runs.ensembles import RECIPE_TEXTS
from mmfeat.runs.run import ROLES, Run, RunLogits, already_made, save_run
from mmfeat.store.feature_table import rows_digest

METHOD_TEXTS = {
    "mean": "mean of the logits",
    "weighted": "one weight for each member",
    "per-class": "one weight for each member and class",
    "stacked": "for each class a logistic regression on the members' logits",
    "greedy": "members added one by one for {metric}",
}


@dataclass(frozen=True)
class EnsembleResult:
    """A run, its figures on val beside its members', and whether it was made now.

    Attributes
    ----------
    left_out : list of str
        Candidates that a selection did not take.
    gain : tuple of float or None
        Samples-F1 over that of the members' mean on the val rows, and its 95 % interval; None where nothing is fitted.
    """

    run: Run
    lines: list[MetricRow]
    made: bool
    description: str
    n_val: int
    left_out: list[str]
    gain: tuple[float, float, float] | None

    @property
    def fitted(self) -> dict[str, Any] | None:
        """What run.json says of the fit; None where nothing is fitted."""
        return self.run.record.get("fitted")


def ensemble(project: Project, members: list[str], method: str = "mean") -> EnsembleResult:
    """Make an ensemble by a recipe's name (`fm1`, `fm2`, `fm3`), or of any encoders and runs.

    Parameters
    ----------
    members : list of str
        May be empty for `greedy`: then all encoders with an output and all current runs that are not ensembles.
    method : str
        `mean`; or what is fitted on labelled rows that no member was trained on, and cross-fitted there:
        `weighted`, `per-class`, `stacked`, `greedy`. See :func:`mmfeat.runs.ensemble_weights.fit_weights`.

    Raises
    ------
    RunError
        A member does not exist, gives no logits, or a recipe's head has not been trained yet; a member's weights are
        fitted themselves.
    DataError
        There is no row to fit on, or none to make logits of.
    """
    if method not in METHODS:
        raise ConfigError(f"--method {method[:40]!r}. Use one of: {', '.join(METHODS)}")
    stem, names = _names(project, members, method)
    return _mean(project, stem, names) if method == "mean" else _fitted(project, method, names, bool(members))


def _names(project: Project, members: list[str], method: str) -> tuple[str, list[str]]:
    """The new run's stem, and its members' names."""
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
                f"{name} is a recipe and stands alone. Run: mmfeat ensemble {name}, and name the run that it makes"
            )
    if len(set(members)) != len(members):
        raise RunError(f"each member once, found: {', '.join(members)}")
    if not members and method != "greedy":
        raise RunError("no members. Name them, or let them be chosen: mmfeat ensemble --method greedy")
    return "ensemble", members or all_candidates(project)


def _mean(project: Project, stem: str, names: list[str]) -> EnsembleResult:
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
    mean = ensemble_logits(stem, sources, parts.weights, prior=prior)
    fingerprint = _fingerprint(project, parts, rows, {"members": parts.members})
    run = already_made(project.runs, fingerprint)
    made = run is None
    if run is None:
        roles = np.full(len(rows), ROLES["none"], np.uint8)
        roles[: len(val)] = ROLES["val"]
        run = _save(
            project, stem, parts, _kept(project, parts, rows, mean, roles), fingerprint, {"prior": prior.tolist()}
        )
    shares = " + ".join(f"{weight:.2g} {name}" for name, weight in zip(names, parts.weights, strict=True))
    text = RECIPE_TEXTS.get(stem, METHOD_TEXTS["mean"])
    lines, _ = _lines(project, names, [*sources, mean])
    return EnsembleResult(run, lines, made, f"{stem}: {text}; {shares}; nothing is fitted", len(val), [], None)


def _fitted(project: Project, method: str, names: list[str], given: bool) -> EnsembleResult:
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
    fingerprint = _fingerprint(project, candidates, rows, {"members": candidates.members, **made_by})
    run = already_made(project.runs, fingerprint)
    made = run is None
    if run is None:
        run = _fit(project, method, names, sources, rows, fit, fingerprint, given)
    shown = [m["name"] for m in run.record["members"]]
    mean = ensemble_logits(f"mean of all {len(names)}", sources, [1 / len(names)] * len(names), prior=prior)
    of_fit = [run_logits(project, run, val)] if len(val) else []
    lines, figures = _lines(project, shown, [*(sources[names.index(name)] for name in shown), mean, *of_fit])
    gain = paired_difference(figures[-1].rows_f1, figures[-2].rows_f1) if figures else None
    left_out = [name for name in names if name not in shown]
    text = METHOD_TEXTS[method].format(metric=config.metric)
    return EnsembleResult(run, lines, made, f"{run.name}: {text}", len(val), left_out, gain)


def _fit(
    project: Project,
    method: str,
    names: list[str],
    sources: list[RowLogits],
    rows: np.ndarray,
    fit: np.ndarray,
    fingerprint: str,
    given: bool,
) -> Run:
    """Fit and cross-fit the weights on the rows `fit`, and save the run: `rows` are val first, then all others."""
    manifest, config, prior = project.manifest, project.config, training_prior(project)
    val, is_fit = manifest.rows("val"), np.isin(rows, fit)
    data = Rows(
        np.stack([s.logits for s in sources]),
        np.stack([s.known for s in sources]),
        manifest.labels[rows],
        id_numbers(manifest.ids[rows]),
        prior,
    )
    weights, out_of_fold = cross_fit(method, data.take(is_fit), score_by(config.metric, config.predict))
    chosen = np.flatnonzero(weights.weights > 0) if method == "greedy" else np.arange(len(names))
    weights = Weights(weights.weights[chosen], weights.bias)
    parts = members_of(project, [names[m] for m in chosen], weights)
    bias = None if weights.bias is None else weights.bias.tolist()
    shipped = ensemble_logits("ensemble", [sources[m] for m in chosen], parts.weights, prior=prior, bias=bias)
    shipped.logits[is_fit] = out_of_fold
    roles = np.full(len(rows), ROLES["none"], np.uint8)
    roles[: len(val)] = ROLES["val"]
    roles[is_fit] = ROLES["fitted"]
    on_val = np.isin(fit, val)
    fitted = {
        "method": method,
        "metric": config.metric if method == "greedy" else "loss",
        "folds": FOLDS,
        "n_val": int(on_val.sum()),
        "n_train": int((~on_val).sum()),
        "candidates": names,
        "given": given,
        "figures": "cross-fitted",
    }
    more = {"prior": prior.tolist(), **({} if bias is None else {"bias": bias}), "fitted": fitted}
    kept = _kept(project, parts, rows, shipped, roles)
    return _save(project, "ensemble", parts, kept, fingerprint, more, Lineage.of([], manifest.ids[fit]))


def _fingerprint(project: Project, parts: Members, rows: np.ndarray, made_by: dict[str, Any]) -> str:
    """Digest of all that an ensemble is made from."""
    manifest = project.manifest
    inputs = input_keys(project, parts.encoders.values(), rows)
    return digest_json(
        {
            "kind": "ensemble",
            **made_by,
            "encoders": {n: [e["key"], e["output_key"]] for n, e in parts.encoders.items()},
            "rows": rows_digest(manifest.ids[rows], inputs, manifest.labels[rows]),
            "classes": list(manifest.classes),
            "predict": project.config.predict.of_training(),
        }
    )


def _kept(project: Project, parts: Members, rows: np.ndarray, found: RowLogits, roles: np.ndarray) -> RunLogits:
    inputs = input_keys(project, parts.encoders.values(), rows)
    return RunLogits(project.manifest.ids[rows], inputs, found.known, found.logits, roles)


def _lines(project: Project, names: list[str], sources: list[RowLogits]) -> tuple[list[MetricRow], list[Metrics]]:
    """Figures on val: of the members `names`, and of what follows them among the sources."""
    manifest = project.manifest
    val = manifest.rows("val")
    if not len(val):
        return [], []
    figures = [metrics_on_val(project, s.logits[: len(val)]) for s in sources]
    notes = [in_sample(project, name, val) for name in names] + [""] * (len(sources) - len(names))
    lines = [MetricRow.of(s.name, f, note=note) for s, f, note in zip(sources, figures, notes, strict=True)]
    return lines, figures


def _save(
    project: Project,
    stem: str,
    parts: Members,
    kept: RunLogits,
    fingerprint: str,
    more: dict[str, Any],
    learned: Lineage = NO_LINEAGE,
) -> Run:
    manifest = project.manifest
    val, figures = manifest.rows("val"), None
    if len(val):
        figures = metrics_on_val(project, kept.logits[: len(val)]).as_dict()
    record = {
        "kind": "ensemble",
        "members": parts.members,
        "encoders": parts.encoders,
        "heads": parts.heads,
        "head_mb": sum(parts.heads.values()),
        "seconds": 0.0,
        "figures": {"val": figures, "val_seeds": []},
        "decision": rule_record(project, kept.logits[: len(val)]),
        "fingerprint": fingerprint,
        "transductive": any(
            find_run(project, member["name"]).record.get("transductive", False)
            for member in parts.members
            if member["fingerprint"] is not None  # of a run, not of an encoder
        ),
        **more,
        **common_record(project),
    }
    for member in parts.members:
        learned |= lineage_of(project, member["name"])
    return save_run(project.runs, stem, record, kept, learned, None)
