"""Logits of the manifest's rows by the name of an encoder or a run. torch is imported only to compute logits."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfeat.common.errors import EncoderError, MissingFeatures, RunError
from mmfeat.common.files import digest_bytes
from mmfeat.common.labels import has_label
from mmfeat.common.randomness import id_numbers
from mmfeat.common.remembered import Remembered
from mmfeat.common.text import shown
from mmfeat.config.encoder_tables import modality_table
from mmfeat.encoders.checkpoint import LinearProbe
from mmfeat.encoders.resolve import Identity
from mmfeat.project.named_models import NamedModel, find_model, find_run
from mmfeat.project.project import Project
from mmfeat.project.provenance import input_keys
from mmfeat.project.staleness import probe_has_other_classes, remake_command, stale_because
from mmfeat.runs.ensembles import Weight, combined
from mmfeat.runs.run import OUT_OF_SAMPLE, ROLES, Run, RunLogits
from mmfeat.store.feature_table import FeatureTable
from mmfeat.store.keys import EncoderSpec


@dataclass(frozen=True, kw_only=True)
class RowLogits:
    """Logits of the requested rows, in their order.

    Attributes
    ----------
    name : str
        The encoder or run.
    logits : np.ndarray
        `(n, K)` float32. A row that is not `known` has the log odds of the training rows, or a head's output for missing
        inputs.
    known : np.ndarray
        `(n,)` bool: whether the row has a readable sample of at least one modality.
    """

    name: str
    logits: np.ndarray
    known: np.ndarray


def logits_of(project: Project, name: str, rows: np.ndarray, *, shipped: bool = False) -> RowLogits:
    """Logits of rows by the name of an encoder or a run; `shipped` as in :func:`run_logits`."""
    return model_logits(project, find_model(project, name), rows, shipped=shipped)


def model_logits(project: Project, model: NamedModel, rows: np.ndarray, *, shipped: bool = False) -> RowLogits:
    """Logits of rows by an encoder or a run; `shipped` as in :func:`run_logits`."""
    if model.run is None:
        return encoder_logits(project, model.identity, rows)
    return run_logits(project, model.run, rows, shipped=shipped)


def encoder_logits(project: Project, identity: Identity, rows: np.ndarray) -> RowLogits:
    """Logits of rows by an encoder's linear probe, from the store; raises as :func:`probe_table`."""
    return _stored_logits(project, probe_table(project, identity, rows), identity.name, rows)


def probe_table(project: Project, identity: Identity, rows: np.ndarray) -> FeatureTable:
    """The features of an encoder whose linear probe has the manifest's classes; nothing is read yet.

    Raises
    ------
    RunError
        The encoder has no linear probe, or one for other classes.
    MissingFeatures
        Features or logits of the rows are not in the store.
    """
    remedy = f"Run: mmfeat finetune {identity.name} --freeze"
    if identity.output_key is None:
        raise RunError(f"encoder {identity.name!r} has no linear probe yet. {remedy}")
    if probe_has_other_classes(project, identity):
        raise RunError(
            f"the linear probe of encoder {identity.name!r} is for other classes than the manifest. {remedy}"
        )
    return _with_logits(project.feature_table([identity.name], rows), identity.name, rows)


def probe_logits(
    project: Project, table: FeatureTable, name: str, *, output: LinearProbe, rows: np.ndarray
) -> RowLogits:
    """Logits of rows by a linear probe whose logits are not in the store, computed from the cached embeddings."""
    known = table.present[name][rows]
    logits = output.in_order_of(project.manifest.classes).logits(np.asarray(table.embeddings[name][rows]))
    return RowLogits(name=name, logits=fill_unknown(logits, known, training_prior(project)), known=known)


def _with_logits(table: FeatureTable, name: str, rows: np.ndarray) -> FeatureTable:
    if name not in table.logits and table.present[name][rows].any():
        raise MissingFeatures(f"features: no logits of encoder {name!r}. Run: mmfeat extract")
    return table


def _stored_logits(project: Project, table: FeatureTable, name: str, rows: np.ndarray) -> RowLogits:
    known, prior = table.present[name][rows], training_prior(project)
    if not known.any():  # the store has no logits of such rows
        return RowLogits(name=name, logits=np.tile(prior, (len(rows), 1)), known=known)
    logits = fill_unknown(np.asarray(table.logits[name][rows]), known, prior)
    return RowLogits(name=name, logits=logits, known=known)


def training_prior(project: Project) -> np.ndarray:
    """Log odds of each class among the training rows, `(K,)` float32: the logits of a row without any sample."""
    labels = project.manifest.labels[project.manifest.rows("train")]
    memory, made_from = Remembered(project.memory / "prior.json", most=20), [str(labels.dtype), list(labels.shape)]
    name = digest_bytes(np.ascontiguousarray(labels).tobytes())
    if (kept := memory.recall(name, made_from)) is None:
        import torch

        from mmfeat.heads.head import log_odds

        kept = log_odds(torch.as_tensor(labels)).tolist()
        memory.remember(name, kept, made_from)
        memory.save()
    return np.array(kept, dtype=np.float32)


def fill_unknown(logits: np.ndarray, known: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Logits `(n, K)` with the prior `(K,)` in the rows that are not known."""
    return np.where(known[:, None], logits, prior).astype(np.float32)


def run_logits(project: Project, run: Run, rows: np.ndarray, *, shipped: bool = False) -> RowLogits:
    """Logits of rows by a run: computed from cached features, or read from its logits.h5 if the features are gone.

    Parameters
    ----------
    shipped : bool
        Whether to return the logits of the exported run for all rows. Otherwise rows that its weights were fitted on, or
        that its heads were trained on in folds, have out-of-sample logits.

    Raises
    ------
    MissingFeatures
        Neither the store nor logits.h5 has them.
    RunError
        The run was made for other classes, a member of an ensemble is gone, or a row that its weights were fitted on has
        changed since.
    """
    run = run.in_order_of(project.manifest.classes)
    if run.classes != project.manifest.classes:
        raise RunError(f"{run.name} was made for other classes. Make it again: {remake_command(project, run)}")
    try:
        if run.kind == "ensemble":
            return _ensemble_logits(project, run, rows, shipped=shipped)
        return _head_logits(project, run, rows, shipped=shipped)
    except MissingFeatures:
        kept = kept_logits(project, run, rows, shipped=shipped)
        if kept is not None:
            return kept
        why = stale_because(project, run)
        if not why:  # its encoders are current: what is missing can be extracted, as the error says
            raise
    raise MissingFeatures(
        f"{run.name}: the features that it was made from are gone, and {why}. Make the run again: {remake_command(project, run)}"
    )


def kept_logits(project: Project, run: Run, rows: np.ndarray, *, shipped: bool = False) -> RowLogits | None:
    """Logits of rows from a run's logits.h5; None if it lacks a row, or an image or caption has changed since."""
    kept = run.logits()
    at = _kept_at(project, kept, rows)
    if not (at >= 0).all() or not _kept_same(project, run, kept, rows=rows, at=at).all():
        return None
    if shipped and np.isin(kept.roles[at], OUT_OF_SAMPLE).any():
        return None
    return RowLogits(name=run.name, logits=kept.logits[at], known=kept.known[at])


def recorded_table(project: Project, run: Run, need: np.ndarray, *, names: list[str] | None = None) -> FeatureTable:
    """The features that a run was made from, by its own recorded keys, whatever mmfeat.toml names now."""
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
                f"Run: {modality_table(recorded['modality']).remedy(name)}"
            )
        encoders[name] = (spec, recorded["output_key"])
        if run.kind != "ensemble":  # an ensemble reads only its members' logits
            tokens[name] = recorded.get("tokens", 0)
    return project.table_of(encoders, need, tokens, widths={name: run.encoders[name]["width"] for name in encoders})


def model_table(project: Project, model: NamedModel, rows: np.ndarray) -> FeatureTable:
    """The features that a run was made from, or those of an encoder."""
    return project.feature_table([model.name], rows) if model.run is None else recorded_table(project, model.run, rows)


def _spec_of(project: Project, name: str, key: str) -> EncoderSpec | None:
    """The spec of a key, from its features or, if no sample was encoded (all captions are blank), from the encoder."""
    features = project.store.find(key)
    if features is not None:
        return features.spec
    if name not in project.config.encoder or project.config.encoder[name].made_elsewhere:
        return None
    spec = project.identity(name).spec
    return spec if spec.key == key else None


def unimodal_predictions(project: Project, run: Run, rows: np.ndarray) -> dict[str, RowLogits]:
    """Logits of rows by the linear probe of each encoder of a run; encoders without a probe or features are left out.

    The probe is the one that the run reads, else the encoder's current probe if it is on the same embeddings.
    """
    found = {}
    for name, recorded in run.encoders.items():
        with contextlib.suppress(MissingFeatures, RunError):
            if recorded["output_key"] is not None:
                table = _with_logits(recorded_table(project, run, rows, names=[name]), name, rows)
                found[name] = _stored_logits(project, table, name, rows)
            elif name in project.config.encoder:
                identity = project.identity(name)
                if identity.spec.key == recorded["key"]:
                    found[name] = encoder_logits(project, identity, rows)
    return found


def _head_logits(project: Project, run: Run, rows: np.ndarray, *, shipped: bool) -> RowLogits:
    from mmfeat.common.devices import torch_device
    from mmfeat.inference.run_heads import seeds_logits

    table = recorded_table(project, run, rows).take(rows)
    fold = None if shipped else held_out_folds(project, run, rows)
    logits = seeds_logits(run, table, torch_device(project.config.device), fold).mean(0)
    known = np.any([table.present[name] for name in run.encoders], axis=0)
    return RowLogits(name=run.name, logits=logits, known=known)


def _ensemble_logits(project: Project, run: Run, rows: np.ndarray, *, shipped: bool) -> RowLogits:
    members = []
    for recorded in run.members:
        name = recorded["name"]
        if recorded["fingerprint"] is None:
            table = _with_logits(recorded_table(project, run, rows, names=[name]), name, rows)
            members.append(_stored_logits(project, table, name, rows))
        else:
            member = find_run(project, name)
            if member.record["fingerprint"] != recorded["fingerprint"]:
                raise RunError(
                    f"{run.name}: its member {name} was made again. Make the ensemble again: {remake_command(project, run)}"
                )
            members.append(run_logits(project, member, rows, shipped=shipped))
    weights, prior = [m["weight"] for m in run.record["members"]], np.array(run.record["prior"])
    found = weighted_logits(run.name, members, weights, prior=prior, bias=run.record.get("bias"))
    return found if shipped or "fitted" not in run.record else _cross_fitted(project, run, found, rows=rows)


def weighted_logits(
    name: str,
    members: list[RowLogits],
    weights: Sequence[Weight],
    *,
    prior: np.ndarray,
    bias: Sequence[float] | None = None,
) -> RowLogits:
    """Logits of an ensemble by those of its members; see :func:`mmfeat.runs.ensembles.combined`."""
    logits = combined([m.logits for m in members], [m.known for m in members], weights, prior, bias=bias)
    return RowLogits(name=name, logits=logits, known=np.any([m.known for m in members], axis=0))


def _cross_fitted(project: Project, run: Run, found: RowLogits, *, rows: np.ndarray) -> RowLogits:
    """Replace the logits of rows that the weights were fitted on by the kept logits, whose weights other folds fitted."""
    at = np.flatnonzero(has_label(project.manifest.labels[rows]))
    kept = run.logits()
    position = _kept_at(project, kept, rows[at])
    fitted = (position >= 0) & (kept.roles[position] == ROLES["fitted"])
    at, position = at[fitted], position[fitted]
    same = _kept_same(project, run, kept, rows=rows[at], at=position)
    if not same.all():
        raise RunError(
            f"{run.name}: its weights were fitted on {(~same).sum():,} of these rows before their images or captions changed, "
            f"so their metrics would not be out of sample. Make it again: {remake_command(project, run)}"
        )
    logits, known = found.logits.copy(), found.known.copy()
    logits[at], known[at] = kept.logits[position], kept.known[position]
    return RowLogits(name=found.name, logits=logits, known=known)


def held_out_folds(project: Project, run: Run, rows: np.ndarray) -> np.ndarray | None:
    """The held-out fold of each row; -1 for a row in no fold. None for a run without folds."""
    if not run.record.get("folds"):
        return None
    kept = run.logits()
    at = _kept_at(project, kept, rows)
    return np.where(at >= 0, kept.fold[at], -1)


def _kept_at(project: Project, kept: RunLogits, rows: np.ndarray) -> np.ndarray:
    """Positions of rows in a run's logits.h5, `(n,)`; -1 for a row that it lacks."""
    if not len(kept.ids):
        return np.full(len(rows), -1)
    numbers, kept_numbers = id_numbers(project.manifest.ids[rows]), id_numbers(kept.ids)
    order = np.argsort(kept_numbers)
    at = order[np.searchsorted(kept_numbers, numbers, sorter=order).clip(max=len(order) - 1)]
    return np.where(kept_numbers[at] == numbers, at, -1)


def _kept_same(project: Project, run: Run, kept: RunLogits, *, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Whether the images and captions of rows are those that the run's logits were computed from, `(n,)` bool."""
    try:
        keys = input_keys(project, run.encoders.values(), rows)
    except EncoderError as error:  # of a package that is not installed
        raise RunError(f"{run.name}: {error}") from error
    return (kept.input_keys[at] == keys).all(1)
