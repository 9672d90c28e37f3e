"""The run of an ensemble: fitted and cross-fitted weights, fingerprint, logits and record."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmfeat.common.files import digest_json
from mmfeat.common.lineage import NO_LINEAGE, Lineage
from mmfeat.common.randomness import id_numbers
from mmfeat.config.schema import RECIPES
from mmfeat.inference.ensemble_members import Members, members_of
from mmfeat.inference.fitted_rules import metrics_on_val, rule_record
from mmfeat.inference.logits import RowLogits, training_prior, weighted_logits
from mmfeat.metrics.metric_rows import score_by
from mmfeat.project.named_models import find_run
from mmfeat.project.project import Project
from mmfeat.project.provenance import common_record, input_keys
from mmfeat.project.staleness import lineage_of
from mmfeat.runs.ensemble_weights import FOLDS, Rows, Weights, cross_fit
from mmfeat.runs.new_run import save_run
from mmfeat.runs.run import ROLES, Run, RunLogits
from mmfeat.runs.run_names import NO_NAME, Naming
from mmfeat.store.feature_table import rows_digest


def fit_ensemble(
    project: Project,
    method: str,
    names: list[str],
    *,
    sources: list[RowLogits],
    rows: np.ndarray,
    fit: np.ndarray,
    fingerprint: str,
    given: bool,
    naming: Naming = NO_NAME,
) -> Run:
    """Fit and cross-fit the weights on the rows `fit`, and save the run; `rows` are val, then all others."""
    manifest, config, prior = project.manifest, project.config, training_prior(project)
    val, is_fit = manifest.rows("val"), np.isin(rows, fit)
    data = Rows(
        logits=np.stack([s.logits for s in sources]),
        known=np.stack([s.known for s in sources]),
        labels=manifest.labels[rows],
        numbers=id_numbers(manifest.ids[rows]),
        prior=prior,
    )
    weights, out_of_fold = cross_fit(method, data.take(is_fit), score_by(config.metric, config.predict))
    chosen = np.flatnonzero(weights.weights > 0) if method == "greedy" else np.arange(len(names))
    weights = Weights(weights.weights[chosen], weights.bias)
    parts = members_of(project, [names[m] for m in chosen], weights)
    bias = None if weights.bias is None else weights.bias.tolist()
    shipped = weighted_logits("ensemble", [sources[m] for m in chosen], parts.weights, prior=prior, bias=bias)
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
    kept = ensemble_logits(project, parts, rows, found=shipped, roles=roles)
    lineage = Lineage.of([], manifest.ids[fit])
    made = {"fingerprint": fingerprint, "more": more, "learned": lineage, "naming": naming}
    return save_ensemble(project, "ensemble", parts, kept=kept, **made)


def ensemble_fingerprint(project: Project, parts: Members, rows: np.ndarray, made_by: dict[str, Any]) -> str:
    """Digest of everything that an ensemble depends on."""
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


def ensemble_logits(
    project: Project, parts: Members, rows: np.ndarray, *, found: RowLogits, roles: np.ndarray
) -> RunLogits:
    """The logits of an ensemble's rows, as its run keeps them."""
    inputs = input_keys(project, parts.encoders.values(), rows)
    ids = project.manifest.ids[rows]
    return RunLogits(ids=ids, input_keys=inputs, known=found.known, logits=found.logits, roles=roles)


def save_ensemble(
    project: Project,
    stem: str,
    parts: Members,
    *,
    kept: RunLogits,
    fingerprint: str,
    more: dict[str, Any],
    learned: Lineage = NO_LINEAGE,
    naming: Naming = NO_NAME,
) -> Run:
    """Save an ensemble with the lineage of all its members; `learned` is the lineage of its own weights."""
    manifest = project.manifest
    val, metrics = manifest.rows("val"), None
    if len(val):
        metrics = metrics_on_val(project, kept.logits[: len(val)]).as_dict()
    record = {
        "kind": "ensemble",
        "recipe": stem if stem in RECIPES else "",
        "members": parts.members,
        "encoders": parts.encoders,
        "heads": parts.heads,
        "head_mb": sum(parts.heads.values()),
        "seconds": 0.0,
        "figures": {"val": metrics, "val_seeds": []},
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
    return save_run(project.runs_folder, stem, record, logits=kept, learned=learned, naming=naming)
