"""`--dry-run` of extract and finetune: plan the work and estimate its seconds and MB. Nothing is written.

torch is imported only to measure. The project must be opened with `dry=True`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.progress import say
from mmfeat.common.text import counted
from mmfeat.encoders.kinds import kind_of, modality_kind
from mmfeat.encoders.resolve import Identity
from mmfeat.extraction import distinct_rows, in_shard, missing_rows
from mmfeat.extraction.estimate import Estimate, embeddings_bytes, estimate, logits_bytes
from mmfeat.project.cached_rows import cached_rows
from mmfeat.project.encoding import ExtractionOptions, open_session
from mmfeat.project.project import Project
from mmfeat.project.redecoding import rows_to_decode_again
from mmfeat.project.tfidf_vocabulary import fitted_vocabulary, identity_of
from mmfeat.report.result import TableResult
from mmfeat.training.finetune_plan import FitPlan, check_fit_plans, fit_plan, out_of_use


@dataclass(frozen=True, kw_only=True, repr=False)
class DryRun(TableResult):
    """What a command would do. Nothing was written.

    Attributes
    ----------
    encoders : list of PlannedExtraction or PlannedFinetuning
        One for each encoder.
    """

    encoders: list[Any]

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to do."""
        return all(plan.nothing for plan in self.encoders)

    @property
    def seconds(self) -> float:
        """About how long it would take."""
        return sum(plan.seconds for plan in self.encoders)


@dataclass(frozen=True, kw_only=True)
class PlannedExtraction:
    """The work that `mmfeat extract` would do for one encoder.

    Attributes
    ----------
    cached, missing, unreadable, absent : int
        Rows of the manifest; `absent` counts rows with a missing modality.
    to_encode : int
        Distinct samples of rows without an embedding, or without tokens.
    to_logits : int
        Rows whose logits would be computed.
    seconds, mb : float
        Estimates of the time, and of the megabytes added to the store.
    imported : bool
        Whether the embeddings are imported, so that nothing can be encoded.
    """

    name: str
    cached: int
    missing: int
    unreadable: int
    absent: int
    to_encode: int
    to_logits: int
    seconds: float
    mb: float
    imported: bool

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to do."""
        return not self.to_encode and not self.to_logits


def plan_extract(
    project: Project, names: list[str] | None = None, options: ExtractionOptions | None = None
) -> list[PlannedExtraction]:
    """Plan an extraction with the same arguments.

    Raises
    ------
    EncoderError
        An encoder cannot be built.
    StoreError
        The store cannot be read.
    """
    options = options or ExtractionOptions()
    if options.rehash:
        project.rehash()
    return [_plan_one(project, name, options) for name in names or list(project.config.encoder)]


def _plan_one(project: Project, name: str, options: ExtractionOptions) -> PlannedExtraction:
    identity = project.identity(name)
    keys, table = project.keys_of(identity), project.config.encoder[name]
    again = rows_to_decode_again(project, identity)
    now = cached_rows(project, identity, again=again)
    in_our_shard = keys.present & in_shard(keys.keys, options.shard)
    features = project.store.encoder(identity.spec)
    todo, lacks = missing_rows(features, keys.keys, in_our_shard, tokens=table.tokens, again=again)
    measured = measure_encoding(project, identity, todo)
    to_logits = 0
    if identity.output_key is not None:
        to_logits = features.lacking_logits(identity.output_key) + int(lacks[todo].sum())
    n_bytes = measured.n_bytes + logits_bytes(to_logits, project.manifest.labels.shape[1])
    return PlannedExtraction(
        name=name,
        cached=now.cached,
        missing=now.missing + now.stale,
        unreadable=now.unreadable,
        absent=now.absent,
        to_encode=len(todo),
        to_logits=to_logits,
        seconds=measured.seconds,
        mb=n_bytes / 1e6,
        imported=table.made_elsewhere,
    )


def measure_encoding(project: Project, identity: Identity, todo: np.ndarray, encoder: Any = None) -> Estimate:
    """Estimate the time to read, prepare and encode rows, and the bytes that they add, from a few batches."""
    if not len(todo):
        return Estimate(0.0, 0)
    name = identity.name
    read = project.reader(name)
    session = open_session(project, identity, read, ExtractionOptions(), encoder=encoder)
    say(f"{name}: measuring on a few of {counted(len(todo), 'row')}")
    return estimate(
        session,
        todo,
        read,
        project.store.dtype,
        tokens=project.config.encoder[name].tokens,
        length=modality_kind(identity.spec.modality).lengths(project),
    )


@dataclass(frozen=True, kw_only=True)
class PlannedFinetuning:
    """The work that `mmfeat finetune` would do for one encoder.

    Attributes
    ----------
    made : str
        The existing checkpoint with the same fingerprint; empty if there is none.
    what : str
        A description of the work.
    nothing : bool
        Whether there is nothing to do.
    seconds : float
        Estimate of the time.
    checkpoint_mb, store_mb : float
        Megabytes added to checkpoints/ and to the store.
    front_seconds, front_mb : float
        The part of these for cached layers, which later fits need no more.
    """

    name: str
    model: str
    made: str
    what: str
    nothing: bool = False
    seconds: float = 0.0
    checkpoint_mb: float = 0.0
    store_mb: float = 0.0
    front_seconds: float = 0.0
    front_mb: float = 0.0


def plan_finetune(project: Project, names: list[str] | None = None, freeze: bool = False) -> list[PlannedFinetuning]:
    """Plan a fine-tuning with the same arguments; raises as `finetune_encoders`."""
    names = names or list(project.config.encoder)
    check_fit_plans(project, names, freeze)
    plans = [fit_plan(project, name, freeze) for name in names]
    return [_plan_made(project, plan, freeze) or _plan_fit(project, plan, freeze) for plan in plans]


def _plan_made(project: Project, plan: FitPlan, freeze: bool) -> PlannedFinetuning | None:
    """The remaining work if the checkpoint exists; None if it does not."""
    if plan.made is None:
        return None
    name, model, what, mb = plan.name, project.model_title(plan.name), "made before", 0.0
    copied = out_of_use(project, plan.made, name)
    if copied:
        what += "; it becomes the latest again"
        mb = sum(path.stat().st_size for path in plan.made.folder.iterdir()) / 1e6
    freeze = freeze or plan.pretrained is None
    todo = np.zeros(0, np.int64)
    if not copied:
        identity = (plan.pretrained if freeze else None) or project.identity(name)
        todo = _lacking(project, identity, ("train", "val") if freeze else ("val",))
    measured = measure_encoding(project, identity, todo) if len(todo) else Estimate(0.0, 0)
    what += f"; {counted(len(todo), 'row')} to encode" if len(todo) else ""
    nothing = not copied and not len(todo)
    return PlannedFinetuning(
        name=name,
        model=model,
        made=plan.made.name,
        what=what,
        nothing=nothing,
        seconds=measured.seconds,
        checkpoint_mb=mb,
        store_mb=measured.n_bytes / 1e6,
    )


def _plan_fit(project: Project, plan: FitPlan, freeze: bool) -> PlannedFinetuning:
    """The cost of a fit."""
    if plan.pretrained is None:
        return _plan_fitted(project, plan)
    if not freeze:
        return _plan_tuning(project, plan)
    todo = _lacking(project, plan.pretrained, ("train", "val"))
    measured = measure_encoding(project, plan.pretrained, todo)
    n_rows = sum(len(project.manifest.rows(which)) for which in ("train", "val"))
    what = f"frozen; {counted(n_rows, 'labelled row')}, {len(todo):,} to encode; then its linear probe, in seconds"
    mb = _output_bytes(project, plan.pretrained.width) / 1e6
    return _planned(project, plan, what, seconds=measured.seconds, mb=mb, n_bytes=measured.n_bytes)


def _planned(
    project: Project, plan: FitPlan, what: str, *, seconds: float, mb: float, n_bytes: float
) -> PlannedFinetuning:
    return PlannedFinetuning(
        name=plan.name,
        model=project.model_title(plan.name),
        made="",
        what=what,
        seconds=seconds,
        checkpoint_mb=mb,
        store_mb=n_bytes / 1e6,
    )


def _plan_fitted(project: Project, plan: FitPlan) -> PlannedFinetuning:
    """The cost of an encoder such as TF-IDF, which is fitted in seconds. It is fitted here and discarded."""
    encoder = fitted_vocabulary(project, plan.name)
    identity = identity_of(plan.name, encoder)
    todo = _lacking(project, identity, ("train", "val"))
    measured = measure_encoding(project, identity, todo, encoder)
    kind = kind_of(project.config.encoder[plan.name])
    fitted = f"{kind.fitted_what(encoder)} of the training {kind.reads}"
    what = f"{fitted}, {counted(len(todo), 'row')} to encode; then its linear probe, in seconds"
    mb = encoder.size_mb() + _output_bytes(project, encoder.width) / 1e6
    return _planned(project, plan, what, seconds=measured.seconds, mb=mb, n_bytes=measured.n_bytes)


def _plan_tuning(project: Project, plan: FitPlan) -> PlannedFinetuning:
    """The cost of an end-to-end fine-tuning, measured on a few of its batches, forward and backward."""
    from mmfeat.encoders.finetuning.validated_epochs import EncoderFit
    from mmfeat.encoders.resolve import build_encoder
    from mmfeat.training.cut_training import measure_front, measured_samples, trained_part
    from mmfeat.training.encoder_training import fit_arguments, named, samples_of

    config, name = project.config, plan.name
    settings = config.finetune_of(name)
    encoder, _ = build_encoder(config, name, project.checkpoints, pretrained_only=True)
    samples = samples_of(project, name, encoder)
    say(f"{name}: measuring on a few of {counted(len(samples.train), 'row')}")
    front = measure_front(plan, samples)
    with named(name):
        part, some = trained_part(plan, encoder), measured_samples(plan, samples)
        fit = EncoderFit(part, some, settings, **fit_arguments(project, plan))
        done = fit.resume()
        seconds = fit.estimate()
    n_val = len(distinct_rows(project.keys_of(plan.pretrained).keys, samples.val))
    forward = len(samples.val) / 3  # a forward pass counts a third, as in EncoderFit; one more pass fills the store
    seconds += seconds / max(settings.epochs - done / max(fit.steps, 1), 1) * forward / (len(samples.train) + forward)
    n_bytes = embeddings_bytes(n_val, plan.pretrained.width, project.store.dtype)
    n_bytes += logits_bytes(n_val, len(samples.classes)) + front.n_bytes
    seconds += front.seconds
    resumed = f", {done:,} of {settings.epochs * fit.steps:,} steps done" if done else ""
    cut = f"{plan.cut.about}; " if plan.cut.about else ""
    cut = cut or (f"from {plan.cut.mb:,.0f} MB of cached layers; " if plan.cut.cached else "")
    what = f"{cut}{counted(len(samples.train), 'row')}, up to {counted(settings.epochs, 'epoch')}{resumed}"
    weights = sum(t.numel() * t.element_size() for t in encoder.state_dict().values())
    mb = (weights + _output_bytes(project, plan.pretrained.width)) / 1e6
    planned = _planned(project, plan, what, seconds=seconds, mb=mb, n_bytes=n_bytes)
    return dataclasses.replace(planned, front_seconds=front.seconds, front_mb=front.n_bytes / 1e6)


def _lacking(project: Project, identity: Identity, which: tuple[str, ...]) -> np.ndarray:
    """Rows of some splits to encode, one for each distinct sample."""
    keys, in_splits = project.keys_of(identity), np.zeros(project.manifest.n_samples, dtype=bool)
    in_splits[np.concatenate([project.manifest.rows(w) for w in which])] = True
    tokens = project.config.encoder[identity.name].tokens
    again = rows_to_decode_again(project, identity)
    features = project.store.encoder(identity.spec)
    return missing_rows(features, keys.keys, keys.present & in_splits, tokens=tokens, again=again)[0]


def _output_bytes(project: Project, width: int) -> int:
    return 4 * project.manifest.labels.shape[1] * (width + 1)
