"""A run or an encoder as one network on embeddings: for exports and for predictions of new rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmfeat.common.errors import MissingFeatures, RunError
from mmfeat.common.labels import class_positions
from mmfeat.common.randomness import id_numbers
from mmfeat.encoders.resolve import Identity
from mmfeat.inference.fitted_rules import metrics_on_val, same_rule
from mmfeat.inference.logits import logits_of, training_prior
from mmfeat.project.named_models import find_model, find_run
from mmfeat.project.project import Project
from mmfeat.project.staleness import probe_has_other_classes, remake_command, stale_because
from mmfeat.runs.composition import Composition, Part, ProbePart, Tree, head_part
from mmfeat.runs.run import ROLES, Run
from mmfeat.runs.run_record import in_order


@dataclass(frozen=True)
class Composed:
    """A network on embeddings, and the run or encoder that it computes.

    Attributes
    ----------
    run : Run or None
        None for an encoder's linear probe.
    identities : dict of str to Identity
        The encoders that it reads, as they are now.
    """

    name: str
    run: Run | None
    composition: Composition
    identities: dict[str, Identity]


def compose(project: Project, name: str) -> Composed:
    """The network of a current run, or of an encoder's linear probe.

    Raises
    ------
    RunError
        There is no such run, it is damaged or stale, or the encoder has no linear probe.
    """
    parts: dict[str, Part] = {}
    model = find_model(project, name)
    run = model.run
    if run is None:
        identities = {name: model.identity}
        parts[name], tree = _probe(project, name), name
    else:
        if why := run.damage() or stale_because(project, run):
            raise RunError(f"{name} is stale: {why}. Make it again: {remake_command(project, run)}")
        identities = {encoder: project.identity(encoder) for encoder in run.encoders}
        tree = _add(project, run, parts)
    for encoder, identity in identities.items():  # for unimodal predictions
        if encoder not in parts and identity.output_key is not None and not probe_has_other_classes(project, identity):
            parts[encoder] = _probe(project, encoder)
    return Composed(name, run, Composition(parts, tree, len(project.manifest.classes)), identities)


def _add(project: Project, run: Run, parts: dict[str, Part]) -> Tree:
    """Add the heads and linear probes of a run to `parts`; returns its branch of the tree."""
    if run.kind != "ensemble":
        if run.first_name not in parts:  # the same in every export of the run
            parts[run.first_name] = head_part(run, run.columns)
        return run.first_name
    members = []
    for member in run.members:
        if member["fingerprint"] is not None:
            members.append(_add(project, find_run(project, member["name"]), parts))
        else:
            parts[member["name"]] = parts.get(member["name"]) or _probe(project, member["name"])
            members.append(member["name"])
    weights, bias = [m["weight"] for m in run.record["members"]], run.record.get("bias")
    tree = {"members": members, "weights": weights, "prior": run.record["prior"]}
    return tree if bias is None else {**tree, "bias": bias}


@torch.no_grad()
def _probe(project: Project, name: str) -> ProbePart:
    """An encoder's linear probe, in the order of the manifest's classes."""
    identity = project.identity(name)
    output = project.output(identity)
    if output is None or probe_has_other_classes(project, identity):
        why = "has no linear probe yet" if output is None else "has a linear probe for other classes than the manifest"
        raise RunError(f"encoder {name!r} {why}. Run: mmfeat finetune {name} --freeze")
    output = output.in_order_of(project.manifest.classes)
    part = ProbePart(name, identity.width, len(output.classes))
    part.linear.weight.copy_(torch.from_numpy(output.weight))
    part.linear.bias.copy_(torch.from_numpy(output.bias))
    part.prior.copy_(torch.from_numpy(training_prior(project)))
    return part.eval()


def _current_metrics(project: Project, name: str) -> dict[str, Any] | None:
    """Metrics on val by the current decision rule; None without such rows or their features."""
    val = project.manifest.rows("val")
    try:
        return metrics_on_val(project, logits_of(project, name, val).logits).as_dict() if len(val) else None
    except MissingFeatures:
        return None


def scored_on_val(project: Project, run: Run) -> bool:
    """Whether the recorded metrics of a run are on the current val rows, each held out, with as many positives."""
    manifest, figures = project.manifest, run.record["figures"]["val"]
    val = manifest.rows("val")
    if figures is None or figures.get("n_samples") != len(val):
        return False
    if figures.get("n_positives") != (manifest.labels[val] == 1).sum(0).tolist():
        return False
    kept = run.logits()
    held_out = np.isin(kept.roles, [ROLES[role] for role in ("val", "fitted", "out-of-fold")])
    return bool(np.isin(id_numbers(manifest.ids[val]), id_numbers(kept.ids[held_out])).all())


def model_record(project: Project, composed: Composed) -> dict[str, Any]:
    """Facts about its project that an exported model records, as JSON values: data, split, metrics, training rows."""
    run, config = composed.run, project.config
    if run is None:
        checkpoint = project.checkpoint(composed.identities[composed.name])
        at = class_positions(checkpoint.classes, project.manifest.classes)
        record, learned = in_order(checkpoint.record, at), checkpoint.learned()
        figures = record["val"]
        kind, split, seeds = "encoder output", config.values()["split"], []
    else:
        record, learned, figures = run.record, run.learned(), run.record["figures"]["val"]
        kind, split, seeds = run.kind, run.record["config"]["split"], run.record["figures"]["val_seeds"]
    if run is None or not (same_rule(run.record, config.predict) and scored_on_val(project, run)):
        figures, seeds = _current_metrics(project, composed.name) or figures, []
    return {
        "name": composed.name,
        "kind": kind,
        "made_from": record.get("members") or list(composed.identities),
        "head": record.get("head"),
        "created": record.get("created"),
        "metric": record["metric"],
        "split": split,
        "n_trained": len(np.union1d(learned.training, learned.out_of_fold)),
        "n_chosen": len(learned.selection),
        "transductive": bool(record.get("transductive", False)),
        "figures": figures,
        "figures_of_seeds": seeds,
        "versions": record.get("versions") or record["made_on"]["versions"],
    }
