"""From a name (an encoder, a run) to logits of the manifest's rows: what ensembles, tables and predictions share."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mmfeat.common.devices import torch_device
from mmfeat.common.errors import MissingFeatures, RunError
from mmfeat.common.randomness import id_numbers
from mmfeat.common.text import shown
from mmfeat.config.schema import OTHER
from mmfeat.encoders.checkpoint import LinearProbe
from mmfeat.encoders.resolve import Identity
from mmfeat.heads.head import Head, log_odds
from mmfeat.heads.training.fit_heads import FitData, heads_logits
from mmfeat.project.project import Project
from mmfeat.project.provenance import input_keys
from mmfeat.project.staleness import again, find_run, of_other_classes, stale_because
from mmfeat.runs.composition import head_part, n_folds
from mmfeat.runs.ensembles import Weight, combined
from mmfeat.runs.run import OUT_OF_SAMPLE, ROLES, Run, RunLogits
from mmfeat.store.feature_table import FeatureTable
from mmfeat.store.keys import EncoderSpec

_NUMBERS = 2**22  # of embeddings and tokens that are in memory at a time: about what a processor's cache holds


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


def source(project: Project, name: str, rows: np.ndarray, shipped: bool = False) -> Source:
    """Logits by an encoder's or a run's name; `shipped` as in :func:`run_source`."""
    if name in project.config.encoder:
        return encoder_source(project, project.identity(name), rows)
    return run_source(project, find_run(project, name), rows, shipped)


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


def computed_source(project: Project, table: FeatureTable, name: str, output: LinearProbe, rows: np.ndarray) -> Source:
    """Logits of rows by an output that the store has none of: computed from the cached embeddings."""
    known = table.present[name][rows]
    logits = output.in_order_of(project.manifest.classes).logits(np.asarray(table.embeddings[name][rows]))
    return Source(name, fill_unknown(logits, known, training_prior(project)), known)


def training_prior(project: Project) -> np.ndarray:
    """Log odds of each class among the training rows, `(K,)` float32: what is said of a row that nothing is known of."""
    manifest = project.manifest
    return log_odds(torch.as_tensor(manifest.labels[manifest.rows("train")])).numpy()


def fill_unknown(logits: np.ndarray, known: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Logits `(n, K)` with the prior `(K,)` where a row is not known."""
    return np.where(known[:, None], logits, prior).astype(np.float32)


def run_source(project: Project, run: Run, rows: np.ndarray, shipped: bool = False) -> Source:
    """Logits of rows by a run: computed from cached features, or read from its logits.h5 where those are gone.

    Parameters
    ----------
    shipped : bool
        What the run as it is exported makes of all rows. Otherwise rows that its weights were fitted on, or its heads were
        trained on in folds, have logits that are out of sample.

    Raises
    ------
    MissingFeatures
        Neither has them.
    RunError
        The run was made for other classes, a member of an ensemble is gone, or a row that its weights were fitted on has
        changed since.
    """
    run = run.in_order_of(project.manifest.classes)
    if run.classes != project.manifest.classes:
        raise RunError(f"{run.name} was made for other classes. Make it again: {again(project, run)}")
    try:
        if run.kind == "ensemble":
            return _ensemble_source(project, run, rows, shipped)
        return _head_source(project, run, rows, shipped)
    except MissingFeatures:
        recorded = _recorded_source(project, run, rows, shipped)
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
    encoders, tokens = {}, {}
    for name in names or list(run.encoders):
        recorded = run.encoders.get(name)
        if recorded is None:
            raise RunError(
                f"{run.name}: damaged: it reads encoder {shown(repr(name))} and does not list it. Make the run again"
            )
        spec = _spec_of(project, name, recorded["key"])
        if spec is None:
            raise MissingFeatures(
                f"{run.name}: the features of encoder {name!r} that it was made from are gone. "
                f"Run: {f'mmfeat store import {name} FILE' if recorded['modality'] == OTHER else 'mmfeat extract'}"
            )
        encoders[name] = (spec, recorded["output_key"])
        if run.kind != "ensemble":  # which reads its members' outputs alone
            tokens[name] = recorded.get("tokens", 0)
    return project.table_of(encoders, need, tokens, widths={name: run.encoders[name]["width"] for name in encoders})


def _spec_of(project: Project, name: str, key: str) -> EncoderSpec | None:
    """The spec of a key: of its features or, where no sample was encoded (all captions are blank), of the encoder itself."""
    features = project.store.find(key)
    if features is not None:
        return features.spec
    if name not in project.config.encoder or project.config.encoder[name].modality == OTHER:
        return None
    spec = project.identity(name).spec
    return spec if spec.key == key else None


def unimodal_predictions(project: Project, run: Run, rows: np.ndarray) -> dict[str, Source]:
    """What each encoder of a run says of rows by an output of its own; those that have none, or lack features, are left out.

    The output is that which the run reads, else the encoder's of today, where that gives the same embeddings still.
    """
    found = {}
    for name, recorded in run.encoders.items():
        with contextlib.suppress(MissingFeatures, RunError):
            if recorded["output_key"] is not None:
                table = _with_logits(recorded_table(project, run, rows, [name]), name, rows)
                found[name] = _output_source(project, table, name, rows)
            elif name in project.config.encoder:
                identity = project.identity(name)
                if identity.spec.key == recorded["key"]:
                    found[name] = encoder_source(project, identity, rows)
    return found


def _head_source(project: Project, run: Run, rows: np.ndarray, shipped: bool) -> Source:
    table = recorded_table(project, run, rows).take(rows)
    fold = None if shipped else folds_of(project, run, rows)
    logits = seeds_logits(run, table, torch_device(project.config.device), fold).mean(0)
    return Source(run.name, logits, np.any([table.present[name] for name in run.encoders], axis=0))


def _ensemble_source(project: Project, run: Run, rows: np.ndarray, shipped: bool) -> Source:
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
            parts.append(run_source(project, part, rows, shipped))
    weights, prior = [m["weight"] for m in run.record["members"]], np.array(run.record["prior"])
    found = joined(run.name, parts, weights, prior, run.record.get("bias"))
    return found if shipped or "fitted" not in run.record else _cross_fitted(project, run, rows, found)


def joined(
    name: str, parts: list[Source], weights: Sequence[Weight], prior: np.ndarray, bias: Sequence[float] | None = None
) -> Source:
    """Several sources as an ensemble of them; see :func:`mmfeat.runs.ensembles.combined`."""
    logits = combined([p.logits for p in parts], [p.known for p in parts], weights, prior, bias)
    return Source(name, logits, np.any([p.known for p in parts], axis=0))


def _cross_fitted(project: Project, run: Run, rows: np.ndarray, found: Source) -> Source:
    """The same with kept logits, of weights fitted on the other folds, for labelled rows that the weights were fitted on."""
    at = np.flatnonzero((project.manifest.labels[rows] >= 0).any(1))
    kept = run.logits()
    position = _kept_at(project, kept, rows[at])
    fitted = (position >= 0) & (kept.roles[position] == ROLES["fitted"])
    at, position = at[fitted], position[fitted]
    same = _kept_same(project, run, kept, rows[at], position)
    if not same.all():
        raise RunError(
            f"{run.name}: its weights were fitted on {(~same).sum():,} of these rows before their images or captions changed, "
            f"so that no figure would be out of sample. Make it again: {again(project, run)}"
        )
    logits, known = found.logits.copy(), found.known.copy()
    logits[at], known[at] = kept.logits[position], kept.known[position]
    return Source(found.name, logits, known)


def folds_of(project: Project, run: Run, rows: np.ndarray) -> np.ndarray | None:
    """The fold whose heads are blind to each row, -1 for rows that no head was trained on; None for a run without folds."""
    if not run.record.get("folds"):
        return None
    kept = run.logits()
    at = _kept_at(project, kept, rows)
    return np.where(at >= 0, kept.fold[at], -1)


def seeds_logits(run: Run, table: FeatureTable, device: torch.device, fold: np.ndarray | None = None) -> np.ndarray:
    """Logits `(S, n, K)` of a table's rows by each seed's head, or heads; by class in the run's order.

    Parameters
    ----------
    fold : np.ndarray, optional
        `(n,)`, as :func:`folds_of` gives it: rows of a fold have the logits of the heads that are blind to it, and all
        others, as all do when None, the mean of all folds' heads.
    """
    heads = list(head_part(run.record, run.state()).to(device).seeds)
    found = table_logits(heads, table, list(run.encoders), device, n_folds(run.record), fold)
    return found if run.columns is None else found.take(run.columns, axis=-1)


def table_logits(
    heads: Sequence[Head],
    table: FeatureTable,
    names: list[str],
    device: torch.device,
    folds: int = 1,
    fold: np.ndarray | None = None,
) -> np.ndarray:
    """Logits `(S, n, K)` by S x folds heads on some encoders, in this order; a block of rows is in memory at a time."""
    n_seeds, nothing = len(heads) // folds, np.zeros(0, dtype=int)
    logits = np.zeros((n_seeds, table.n_samples, heads[0].n_classes), np.float32)
    fold = np.full(table.n_samples, -1) if fold is None else fold
    size = max(1, _NUMBERS // sum(math.prod(x.shape[1:]) for x in (*table.embeddings.values(), *table.tokens.values())))
    for start, part in zip(range(0, table.n_samples, size), table.batches(size), strict=True):
        inputs, present = part.to(device, names)
        data = FitData(inputs, present, torch.as_tensor(part.labels, device=device), nothing, nothing, nothing)
        own = fold[start : start + size]
        for number in np.unique(own):
            its = np.flatnonzero(own == number)
            blind = heads if number < 0 else heads[number::folds]
            found = heads_logits(blind, data, None if len(its) == len(own) else its)
            logits[:, start + its] = found.reshape(n_seeds, -1, *found.shape[1:]).mean(1)
    return logits


def _recorded_source(project: Project, run: Run, rows: np.ndarray, shipped: bool) -> Source | None:
    """What the run kept of the rows; None where it lacks one, or a picture or caption has changed since."""
    kept = run.logits()
    at = _kept_at(project, kept, rows)
    if not (at >= 0).all() or not _kept_same(project, run, kept, rows, at).all():
        return None
    if shipped and np.isin(kept.roles[at], OUT_OF_SAMPLE).any():
        return None
    return Source(run.name, kept.logits[at], kept.known[at])


def _kept_at(project: Project, kept: RunLogits, rows: np.ndarray) -> np.ndarray:
    """Where a run's logits.h5 has the rows, `(n,)`; -1 where it has not."""
    if not len(kept.ids):
        return np.full(len(rows), -1)
    numbers, kept_numbers = id_numbers(project.manifest.ids[rows]), id_numbers(kept.ids)
    order = np.argsort(kept_numbers)
    at = order[np.searchsorted(kept_numbers, numbers, sorter=order).clip(max=len(order) - 1)]
    return np.where(kept_numbers[at] == numbers, at, -1)


def _kept_same(project: Project, run: Run, kept: RunLogits, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Whether the rows' pictures and captions are those that the run's logits were computed from, `(n,)` bool."""
    return (kept.input_keys[at] == input_keys(project, run.encoders.values(), rows)).all(1)
