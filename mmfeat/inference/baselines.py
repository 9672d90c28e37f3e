"""Cheap baselines that every model is compared with: most frequent, TF-IDF, each encoder alone, kNN on all encoders.

A fitted baseline is remembered by its inputs, rows, labels and settings, so a second head on the same inputs does not fit
it again.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from mmfeat.common.devices import torch_device
from mmfeat.common.errors import EncoderError, MissingFeatures, RunError, StoreError
from mmfeat.common.files import digest_json
from mmfeat.common.lineage import NO_LINEAGE
from mmfeat.common.progress import say
from mmfeat.common.remembered import Remembered
from mmfeat.common.text import counted
from mmfeat.config.encoder_tables import TfidfEncoderConfig
from mmfeat.heads.knn import BETA, NEIGHBOURS, affordable, drawn, knn_logits
from mmfeat.heads.training.fit_heads import fit_data, fit_head
from mmfeat.heads.training.head_logits import head_logits
from mmfeat.inference.fitted_rules import metrics_on_val
from mmfeat.inference.logits import encoder_logits
from mmfeat.metrics import most_frequent_baseline
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.project.encoding import encode_missing
from mmfeat.project.project import Project
from mmfeat.project.staleness import in_sample, in_sample_of, lineage_of_encoder
from mmfeat.project.tfidf_vocabulary import fitted_vocabulary, identity_of, with_tfidf
from mmfeat.report.text_tables import MOST_FREQUENT
from mmfeat.store.feature_table import FeatureTable, rows_digest

_TFIDF = "TF-IDF"
MOST_ROWS = 50_000  # training rows of a baseline; if there are more, this many are sampled by id, and its note says so
_KEPT = 200  # baselines that a project remembers
Kept = dict[str, dict[str, Any]]


def baselines(project: Project, names: list[str], kept: Kept, *, alone: bool = True) -> tuple[list[MetricRow], Kept]:
    """Most frequent; each encoder alone, by its linear probe or a quick linear head; TF-IDF; kNN on all encoders.

    TF-IDF is a linear head on the captions' terms, where there are captions and none of the encoders is TF-IDF already.

    Parameters
    ----------
    kept : dict
        Metrics by label, from a run's record. Those with the same settings are reused.
    alone : bool
        Whether to include each encoder alone.

    Returns
    -------
    tuple
        The lines (none without val rows), and the metrics of those that were fitted, for a run to keep.

    Raises
    ------
    MissingFeatures
        Embeddings of labelled rows are not in the store.
    """
    manifest = project.manifest
    val = manifest.rows("val")
    if not len(val):
        return [], {}
    most_frequent = most_frequent_baseline(manifest.labels[manifest.rows("train")], len(val))
    lines = [MetricRow.of(MOST_FREQUENT, metrics_on_val(project, most_frequent))]
    fitted = _FittedBaselines(project, kept)
    for name in names if alone else ():
        try:
            logits = encoder_logits(project, project.identity(name), val).logits
            lines.append(MetricRow.of(name, metrics_on_val(project, logits), note=in_sample(project, name, val)))
        except (RunError, MissingFeatures):  # no probe, one for other classes, or its logits are not computed yet
            lines.append(fitted.line(_LinearHead(project, name)))
    if _has_captions(project) and not any(
        isinstance(project.config.encoder[name], TfidfEncoderConfig) for name in names
    ):
        try:
            lines.append(fitted.line(_Tfidf(project)))
        except (EncoderError, StoreError) as error:  # no word occurs twice; a store that is read-only
            say(f"no {_TFIDF} baseline: {error}")
    lines.append(fitted.line(_Neighbours(project, names)))
    fitted.memory.save()
    return lines, fitted.made


class _Baseline:
    """A fitted baseline.

    Attributes
    ----------
    label : str
        Its name in the table.
    inputs : list of str
        The encoders whose embeddings it reads.
    """

    label: str

    def __init__(self, project: Project, inputs: list[str]) -> None:
        self.project, self.inputs = project, inputs

    def settings(self) -> dict[str, Any]:
        """The settings of the fit, as a run's record keeps them."""
        manifest = self.project.manifest
        return {"training_rows": MOST_ROWS} if len(manifest.rows("train")) > MOST_ROWS else {}

    def made_from(self) -> dict[str, Any]:
        """Everything else that the fit depends on."""
        project, manifest = self.project, self.project.manifest
        labelled = _labelled(project)
        table = project.feature_table(self.inputs, labelled) if self.inputs else None
        digests = {}
        for which in ("train", "val"):
            rows = manifest.rows(which)
            digests[which] = (
                table.digest(rows, self.inputs) if table else rows_digest(manifest.ids[rows], manifest.labels[rows])
            )
        identities = {name: project.identity(name) for name in self.inputs}
        return {
            "label": self.label,
            "rows": digests,
            "encoders": {name: [identity.spec.key, identity.checkpoint] for name, identity in identities.items()},
            "classes": list(manifest.classes),
            "metric": project.config.metric,
            "seed": project.config.seed,
        }

    def fit(self) -> dict[str, Any]:
        """Metrics on val, the seconds of the fit, and a note."""
        raise NotImplementedError


class _FittedBaselines:
    """Rows of fitted baselines, from a run's record, from the project's memory, or fitted now."""

    def __init__(self, project: Project, kept: Kept) -> None:
        self.kept, self.predict = kept, dataclasses.asdict(project.config.predict)
        self.made: Kept = {}
        self.memory = Remembered(project.memory / "baselines.json", most=_KEPT)

    def line(self, baseline: _Baseline) -> MetricRow:
        """The metrics of a baseline, which is fitted if they are not known yet."""
        label, settings = baseline.label, {**baseline.settings(), "predict": self.predict}
        record = self.kept.get(label)
        if record is None or record.get("settings") != settings:
            made_from = {"settings": settings, **baseline.made_from()}
            name = digest_json(made_from)
            record = self.memory.recall(name, made_from)
            if record is None:
                record = {"settings": settings, **baseline.fit()}
                self.memory.remember(name, record, made_from)
        self.made[label] = record
        return MetricRow.recorded(label, record["val"], record["seconds"], note=record.get("note", ""))


class _LinearHead(_Baseline):
    """A quick linear head on one encoder."""

    def __init__(self, project: Project, name: str) -> None:
        super().__init__(project, [name])
        self.name, self.label = name, f"{name}, linear head"

    def settings(self) -> dict[str, Any]:
        return {"linear": self.project.config.fuse.linear.of_training(), **super().settings()}

    def fit(self) -> dict[str, Any]:
        rows = _affordable_rows(self.project)
        return self.fit_on(self.project.feature_table([self.name], rows), rows)

    def fit_on(self, table: FeatureTable, rows: np.ndarray) -> dict[str, Any]:
        """Fit the head on the embeddings of some rows."""
        project, config = self.project, self.project.config
        data = fit_data(table, [self.name], torch_device(config.device), rows)
        fitted = fit_head(
            "linear", data, config.fuse.linear, metric=config.metric, rule=config.predict, seed=config.seed
        )
        metrics = metrics_on_val(project, head_logits(fitted.head, data, data.val))
        return {"val": metrics.as_dict(), "seconds": fitted.seconds, "note": _of_rows(project, len(data.train))}


class _Tfidf(_LinearHead):
    """A linear head on TF-IDF, fitted on the captions of train rows. Its features are cached in the store like all others."""

    def __init__(self, project: Project) -> None:
        super().__init__(project, _TFIDF)
        self.inputs = []  # its encoder is fitted here, so its settings include the captions

    def settings(self) -> dict[str, Any]:
        rows = _labelled(self.project)
        captions = rows_digest(self.project.manifest.ids[rows], self.project.row_keys("text").keys[rows])
        return {**super().settings(), **dataclasses.asdict(TfidfEncoderConfig()), "captions": captions}

    def fit(self) -> dict[str, Any]:
        project = with_tfidf(self.project, _TFIDF)
        encoder = fitted_vocabulary(project, _TFIDF)
        identity, rows = identity_of(_TFIDF, encoder), _affordable_rows(project)
        encode_missing(project, identity, rows, encoder=encoder)
        table = project.table_of({_TFIDF: (identity.spec, None)}, rows)
        return {**self.fit_on(table, rows), "encoder": identity.spec.key}


class _Neighbours(_Baseline):
    """kNN on the embeddings of all encoders together; very many training rows are sampled."""

    label = "kNN, training-free"

    def settings(self) -> dict[str, Any]:
        return {"neighbours": NEIGHBOURS, "beta": BETA, **super().settings()}

    def fit(self) -> dict[str, Any]:
        start, project, names = time.perf_counter(), self.project, self.inputs
        manifest, config = project.manifest, project.config
        train, val = manifest.rows("train"), manifest.rows("val")
        table = project.feature_table(names, _labelled(project))
        width = sum(table.widths.values())
        sampled = affordable(drawn(train, manifest.ids, MOST_ROWS), manifest.ids, len(val), width)
        logits = knn_logits(table, names, sampled, val, device=torch_device(config.device))
        metrics = metrics_on_val(project, logits)
        learned = NO_LINEAGE
        for name in names:
            learned |= lineage_of_encoder(project, project.identity(name), False)
        note = ", ".join(filter(None, [_of_rows(project, len(sampled)), in_sample_of(project, learned, val)]))
        return {"val": metrics.as_dict(), "seconds": time.perf_counter() - start, "note": note}


def _of_rows(project: Project, n_train: int) -> str:
    """A note with the number of training rows of a fit; empty if it uses all of them."""
    return f"of {counted(n_train, 'training row')}" if n_train < len(project.manifest.rows("train")) else ""


def _has_captions(project: Project) -> bool:
    return bool(project.row_keys("text").present[project.manifest.rows("train")].any())


def _labelled(project: Project) -> np.ndarray:
    return np.concatenate([project.manifest.rows("train"), project.manifest.rows("val")])


def _affordable_rows(project: Project) -> np.ndarray:
    """The training rows of a fitted baseline, and all val rows."""
    manifest = project.manifest
    return np.concatenate([drawn(manifest.rows("train"), manifest.ids, MOST_ROWS), manifest.rows("val")])
