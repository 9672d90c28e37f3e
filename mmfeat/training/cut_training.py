"""Fine-tuning of an encoder's last stages: from cached layers, or through the whole network with the front in eval mode."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mmfeat.common.progress import progress, say
from mmfeat.encoders.batches import groups_of, prepared_batches, some_prepared
from mmfeat.encoders.finetuning.training_samples import Samples
from mmfeat.encoders.finetuning.validated_epochs import FittedEncoder
from mmfeat.encoders.front import bucket_of
from mmfeat.encoders.tail import FrontRow, TailEncoder
from mmfeat.extraction.estimate import Estimate, estimate
from mmfeat.project.front_encoding import serves_extraction
from mmfeat.project.project import Project
from mmfeat.store.feature_table import FeatureTable
from mmfeat.training.finetune_plan import FitPlan


def cache_layers(project: Project, plan: FitPlan, samples: Samples) -> Samples:
    """Say what is trained, and compute the activations that the store lacks; returns the samples as :func:`from_cache`.

    Raises
    ------
    StoreError
        The store cannot be written, or the disk is too small.
    """
    cut = plan.cut
    if cut.about:
        say(f"{plan.name}: {cut.about}")
    if not cut.cached:
        return samples
    cut.check_space(plan.name, project.store.path)
    for problem in cut.front.problems:
        say(problem)
    cut.front.cache(samples.train, samples.val)
    return from_cache(plan, samples)


def from_cache(plan: FitPlan, samples: Samples) -> Samples:
    """The samples that training reads: with cached layers, the activations that the store has."""
    return dataclasses.replace(samples, load=plan.cut.front.reader().load) if plan.cut.cached else samples


def start_table(project: Project, plan: FitPlan) -> FeatureTable | None:
    """Embeddings of the labelled rows for the linear output that training starts from, by the tail from cached layers.

    None if the store has them, or takes them from cached layers itself. Others are not stored: in float16, cached layers are
    less exact than the encoder's precision class requires.
    """
    name, manifest, front = plan.name, project.manifest, plan.cut.front
    rows = np.concatenate([manifest.rows("train"), manifest.rows("val")])
    keys = project.keys_of(plan.pretrained)
    found = project.store.encoder(plan.pretrained.spec).lookup(keys.keys)
    if not plan.cut.cached or serves_extraction(project, name) or not (keys.present & found.missing)[rows].any():
        return None
    session, stored = front.tail_session(), front.reader(drawn=False)
    present = keys.present[rows] & stored.good[rows]
    embeddings = np.zeros((len(rows), session.encoder.width), np.float32)
    groups = groups_of(np.flatnonzero(present), session.batch_size)
    with progress(f"{name}: embeddings from cached layers", int(present.sum())) as bar:
        for batch in prepared_batches(groups, lambda at: stored.load(int(rows[at]), None), session.encoder.collate):
            embeddings[batch.rows] = session.encode(batch.inputs).embeddings
            bar.advance(len(batch.rows))
    return FeatureTable(
        ids=manifest.ids[rows],
        embeddings={name: embeddings},
        logits={},
        tokens={},
        token_lengths={},
        present={name: present},
        row_keys={name: keys.keys[rows]},
        labels=manifest.labels[rows],
        split=manifest.split[rows],
        classes=manifest.classes,
    )


def trained_part(plan: FitPlan, encoder: Any) -> Any:
    """The encoder that is trained: the whole one, or its tail, which shares the whole one's modules."""
    return TailEncoder(encoder.cut(plan.cut.trained)) if plan.cut.trained else encoder


def of_whole(fitted: FittedEncoder, encoder: Any) -> FittedEncoder:
    """The result of a tail's fit with the tensors of the whole encoder."""
    if fitted.last is None:
        return fitted
    tensors, output = fitted.last
    return dataclasses.replace(fitted, last=({**encoder.state_dict(), **tensors}, output))


def measured_samples(plan: FitPlan, samples: Samples) -> Samples:
    """Samples for a dry run: a few rows' activations stand for those of all rows. Nothing is written."""
    if not plan.cut.cached:
        return samples
    front = plan.cut.front
    session, read = front.session(0), front.project.reader(plan.name)
    encoder, dtype = session.encoder, front.project.store.dtype
    kept = [
        FrontRow(front.cut.arrays(encoder.collate([prepared]), session.device, dtype), False)
        for prepared in some_prepared(samples.train, lambda row: encoder.prepare(read(row))).values()
    ]
    return dataclasses.replace(samples, load=lambda row, number, size: kept[row % len(kept)])


def measure_front(plan: FitPlan, samples: Samples) -> Estimate:
    """The time to compute the activations that the store lacks, and their bytes, from a few batches. Nothing is written."""
    if not plan.cut.cached:
        return Estimate(0.0, 0)
    front = plan.cut.front
    missing = [
        front.missing(view, front.rows_of(view, samples.train, samples.val)) for view in range(len(front.fronts))
    ]
    view = int(np.argmax([len(rows) for rows in missing]))
    todo, project = missing[view], front.project
    if not len(todo):
        return Estimate(0.0, 0)
    tokens = bucket_of(front.fronts[view].preparation.most) if front.fronts[view].texts else 0
    measured = estimate(
        front.session(view),
        todo,
        project.reader(plan.name),
        project.store.dtype,
        tokens=tokens,
        length=front.kind.lengths(project.samples),
    )
    return Estimate(measured.seconds * sum(map(len, missing)) / len(todo), int(1e6 * plan.cut.missing_mb))
