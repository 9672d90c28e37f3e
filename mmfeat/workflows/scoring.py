"""From a name (an encoder, a run) to logits of the manifest's rows: what ensembles, tables and predictions share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mmfeat.config import OTHER
from mmfeat.devices import torch_device
from mmfeat.encoders.resolve import Identity
from mmfeat.errors import MissingFeatures, RunError
from mmfeat.heads.base import log_odds
from mmfeat.heads.fit import FitData, head_logits
from mmfeat.models.composition import head_part
from mmfeat.models.ensembles import weighted_mean
from mmfeat.models.runs import Run
from mmfeat.randomness import id_numbers
from mmfeat.table import FeatureTable
from mmfeat.workflows.project import Project
from mmfeat.workflows.records import input_keys
from mmfeat.workflows.standing import again, find_run, of_other_classes, stale_because

_BLOCK = 65536  # rows whose embeddings are in memory at a time


@dataclass(frozen=True)
class Source:
    """Logits of the rows that were asked for, in their order.

    Attributes
    ----------
    logits : np.ndarray
        `(n, K)` float32; for a row that is not `known` the training rows' log odds, or what a head makes of nothing.
    known : np.ndarray
        `(n,)` bool: the row has the modality, or one of them, and it could be read.
    """

    name: str
    logits: np.ndarray
    known: np.ndarray


def source(project: Project, name: str, rows: np.ndarray) -> Source:
    """Logits by an encoder's or a run's name."""
    if name in project.config.encoder:
        return encoder_source(project, project.identity(name), rows)
    return run_source(project, find_run(project, name), rows)


def encoder_source(project: Project, identity: Identity, rows: np.ndarray) -> Source:
    """Logits of rows by an encoder's own output; raises as :func:`output_table`."""
    return _output_source(project, output_table(project, identity, rows), identity.name, rows)


def output_table(project: Project, identity: Identity, rows: np.ndarray) -> FeatureTable:
    """The features of an encoder that gives logits of today's classes, with those of some rows; nothing is read yet.

    Raises
    ------
    RunError
        The encoder has no output, or one for other classes.
    MissingFeatures
        Its features or logits are not in the store.
    """
    remedy = f"Run: mmfeat finetune {identity.name} --freeze"
    if identity.output_key is None:
        raise RunError(f"encoder {identity.name!r} gives no logits yet. {remedy}")
    if of_other_classes(project, identity):
        raise RunError(f"the output of encoder {identity.name!r} is of other classes than the manifest. {remedy}")
    return _with_logits(project.table([identity.name], rows), identity.name, rows)


def _with_logits(table: FeatureTable, name: str, rows: np.ndarray) -> FeatureTable:
    if name not in table.logits and table.present[name][rows].any():
        raise MissingFeatures(f"features: no logits of encoder {name!r}. Run: mmfeat extract")
    return table


def _output_source(project: Project, table: FeatureTable, name: str, rows: np.ndarray) -> Source:
    known, prior = table.present[name][rows], training_prior(project)
    if not known.any():  # nothing that the store could have logits of
        return Source(name, np.tile(prior, (len(rows), 1)), known)
    return Source(name, fill_unknown(np.asarray(table.logits[name][rows]), known, prior), known)


def training_prior(project: Project) -> np.ndarray:
    """Log odds of each class among the training rows, `(K,)` float32: what is said of a row that nothing is known of."""
    manifest = project.manifest
    return log_odds(torch.as_tensor(manifest.labels[manifest.rows("train")])).numpy()


def fill_unknown(logits: np.ndarray, known: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Logits `(n, K)` with the prior `(K,)` where a row is not known."""
    return np.where(known[:, None], logits, prior).astype(np.float32)


def run_source(project: Project, run: Run, rows: np.ndarray) -> Source:
    """Logits of rows by a run: computed from cached features, or read from its logits.h5 where those are gone.

    Raises
    ------
    MissingFeatures
        Neither has them.
    RunError
        The run was made for other classes, or a member of an ensemble is gone.
    """
    if run.classes != project.manifest.classes:
        raise RunError(f"{run.name} was made for other classes. Make it again: {again(project, run)}")
    try:
        return _ensemble_source(project, run, rows) if run.kind == "ensemble" else _head_source(project, run, rows)
    except MissingFeatures:
        recorded = _recorded_source(project, run, rows)
        if recorded is not None:
            return recorded
        why = stale_because(project, run)
        if not why:  # of the encoders of today: what is missing can be extracted, as the error says
            raise
    raise MissingFeatures(
        f"{run.name}: the features that it was made from are gone, and {why}. Make the run again: {again(project, run)}"
    )


def recorded_table(project: Project, run: Run, need: np.ndarray, names: list[str] | None = None) -> FeatureTable:
    """The features that a run was made from, by its own recorded keys, whatever mmfeat.toml says today."""
    encoders = {}
    for name in names or list(run.encoders):
        recorded = run.encoders[name]
        features = project.store.find(recorded["key"])
        if features is None:
            raise MissingFeatures(
                f"{run.name}: the features of encoder {name!r} that it was made from are gone. "
                f"Run: {f'mmfeat store import {name} FILE' if recorded['modality'] == OTHER else 'mmfeat extract'}"
            )
        encoders[name] = (features.spec, recorded["output_key"])
    return project.table_of(encoders, need)


def _head_source(project: Project, run: Run, rows: np.ndarray) -> Source:
    table = recorded_table(project, run, rows).take(rows)
    logits = seeds_logits(run, table, torch_device(project.config.device)).mean(0)
    return Source(run.name, logits, np.any([table.present[name] for name in run.encoders], axis=0))


def _ensemble_source(project: Project, run: Run, rows: np.ndarray) -> Source:
    parts = []
    for member in run.record["members"]:
        name = member["name"]
        if member["fingerprint"] is None:
            table = _with_logits(recorded_table(project, run, rows, [name]), name, rows)
            parts.append(_output_source(project, table, name, rows))
        else:
            part = find_run(project, name)
            if part.record["fingerprint"] != member["fingerprint"]:
                raise RunError(
                    f"{run.name}: its member {name} has been made anew since. Make it again: {again(project, run)}"
                )
            parts.append(run_source(project, part, rows))
    return mean_source(run.name, parts, [m["weight"] for m in run.record["members"]], np.array(run.record["prior"]))


def mean_source(name: str, parts: list[Source], weights: list[float], prior: np.ndarray) -> Source:
    """The weighted mean of several sources over those that know a row."""
    logits = weighted_mean([p.logits for p in parts], [p.known for p in parts], weights, prior)
    return Source(name, logits, np.any([p.known for p in parts], axis=0))


def seeds_logits(run: Run, table: FeatureTable, device: torch.device) -> np.ndarray:
    """Logits `(S, n, K)` of a table's rows by each seed's head; a block of rows is in memory at a time."""
    heads = head_part(run.record, run.state()).to(device).seeds
    blocks, nothing = [np.zeros((len(heads), 0, len(run.classes)), np.float32)], np.zeros(0, dtype=int)
    for part in table.batches(_BLOCK):
        inputs, present = part.to(device, list(run.encoders))
        data = FitData(inputs, present, torch.as_tensor(part.labels, device=device), nothing, nothing, nothing)
        blocks.append(np.stack([head_logits(head, data) for head in heads]))
    return np.concatenate(blocks, 1)


def _recorded_source(project: Project, run: Run, rows: np.ndarray) -> Source | None:
    """What the run kept of the rows; None where it lacks one, or a picture or caption has changed since."""
    kept, numbers = run.logits(), id_numbers(project.manifest.ids[rows])
    if not len(kept.ids):
        return None
    kept_numbers = id_numbers(kept.ids)
    order = np.argsort(kept_numbers)
    at = order[np.searchsorted(kept_numbers, numbers, sorter=order).clip(max=len(order) - 1)]
    same = (kept_numbers[at] == numbers) & (
        kept.input_keys[at] == input_keys(project, run.encoders.values(), rows)
    ).all(1)
    return Source(run.name, kept.logits[at], kept.known[at]) if same.all() else None
