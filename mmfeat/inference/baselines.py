"""The cheap baselines beside every figure: the commonest label, TF-IDF, each encoder alone, kNN on all of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mmfeat.common.devices import torch_device
from mmfeat.common.errors import EncoderError, MissingFeatures, RunError, StoreError
from mmfeat.common.lineage import NO_LINEAGE
from mmfeat.common.progress import say
from mmfeat.common.text import counted
from mmfeat.config.encoder_tables import TfidfEncoderConfig
from mmfeat.heads.knn import BETA, NEIGHBOURS, affordable, drawn, knn_logits
from mmfeat.heads.training.fit_heads import fit_data, fit_head, head_logits
from mmfeat.inference.decisions import metrics_on_val
from mmfeat.inference.logits import encoder_source
from mmfeat.metrics import most_frequent_baseline
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.project.encoding import encode_missing
from mmfeat.project.project import Project
from mmfeat.project.staleness import in_sample, in_sample_of, lineage_of_encoder
from mmfeat.project.tfidf_vocabulary import fitted_words, identity_of, with_words
from mmfeat.report.text_tables import MOST_FREQUENT
from mmfeat.store.feature_table import FeatureTable, rows_digest

_WORDS = "TF-IDF"
MOST_ROWS = 50_000  # training rows of a baseline; of more, so many are drawn by their ids, and its line says so
Kept = dict[str, dict[str, Any]]


def baselines(project: Project, names: list[str], kept: Kept, alone: bool = True) -> tuple[list[MetricRow], Kept]:
    """The commonest label; words; each encoder alone, by its own output, else by a quick linear head; kNN on all of them.

    Words are a linear head on TF-IDF, wherever there are captions and none of the encoders is one already.

    Parameters
    ----------
    kept : dict
        Figures by line, as a run keeps them: what was made with the settings of today is not made again.
    alone : bool
        Whether each encoder alone has a line.

    Returns
    -------
    tuple
        The lines (none without val rows), and the figures of those that took work, for a run to keep.

    Raises
    ------
    MissingFeatures
        Embeddings of labelled rows are not in the store.
    """
    manifest, config = project.manifest, project.config
    val = manifest.rows("val")
    if not len(val):
        return [], {}
    always = most_frequent_baseline(manifest.labels[manifest.rows("train")], len(val))
    lines = [MetricRow.of(MOST_FREQUENT, metrics_on_val(project, always))]
    made: Kept = {}

    def add(label: str, settings: dict[str, Any], make: Callable[[], dict[str, Any]]) -> None:
        settings = {**settings, "predict": dataclasses.asdict(config.predict)}
        same = kept.get(label, {}).get("settings") == settings
        made[label] = kept[label] if same else {"settings": settings, **make()}
        one = made[label]
        lines.append(MetricRow.recorded(label, one["val"], one["seconds"], note=one.get("note", "")))

    for name in names if alone else ():
        try:
            logits = encoder_source(project, project.identity(name), val).logits
            lines.append(MetricRow.of(name, metrics_on_val(project, logits), note=in_sample(project, name, val)))
        except (RunError, MissingFeatures):  # no output, one of other classes, or its logits are not computed yet
            add(f"{name}, linear head", _linear_settings(project), lambda name=name: _linear(project, name))
    if _has_words(project) and not any(isinstance(config.encoder[name], TfidfEncoderConfig) for name in names):
        settings = {
            **_linear_settings(project),
            **dataclasses.asdict(TfidfEncoderConfig()),
            "captions": _digest(project),
        }
        try:
            add(f"{_WORDS}, linear head", settings, lambda: _words(project))
        except (EncoderError, StoreError) as error:  # no word occurs twice; a store that only can be read
            say(f"no baseline of {_WORDS}: {error}")
    add(
        "kNN, training-free",
        {"neighbours": NEIGHBOURS, "beta": BETA, **_sample_settings(project)},
        lambda: _knn(project, names),
    )
    return lines, made


def _linear_settings(project: Project) -> dict[str, Any]:
    return {"linear": dataclasses.asdict(project.config.fuse.linear), **_sample_settings(project)}


def _sample_settings(project: Project) -> dict[str, Any]:
    return {"training_rows": MOST_ROWS} if len(project.manifest.rows("train")) > MOST_ROWS else {}


def _linear(project: Project, name: str) -> dict[str, Any]:
    """The quick linear head on one encoder."""
    rows = _affordable_rows(project)
    return _fitted(project, project.table([name], rows), name, rows)


def _fitted(project: Project, table: FeatureTable, name: str, rows: np.ndarray) -> dict[str, Any]:
    config = project.config
    data = fit_data(table, [name], torch_device(config.device), rows)
    fitted = fit_head("linear", data, config.fuse.linear, metric=config.metric, rule=config.predict, seed=config.seed)
    figures = metrics_on_val(project, head_logits(fitted.head, data, data.val))
    return {"val": figures.as_dict(), "seconds": fitted.seconds, "note": _part(project, len(data.train))}


def _part(project: Project, n_train: int) -> str:
    """Of how many training rows a baseline is, where that is not all of them."""
    return f"of {counted(n_train, 'training row')}" if n_train < len(project.manifest.rows("train")) else ""


def _has_words(project: Project) -> bool:
    return bool(project.row_keys("text").present[project.manifest.rows("train")].any())


def _digest(project: Project) -> str:
    """Of the captions: a run of images alone is the same run when they change."""
    rows = _labelled(project)
    return rows_digest(project.manifest.ids[rows], project.row_keys("text").keys[rows])


def _words(project: Project) -> dict[str, Any]:
    """A linear head on TF-IDF, fitted on the captions of train rows; its features go through the store like any other's."""
    project = with_words(project, _WORDS)
    encoder = fitted_words(project, _WORDS)
    identity, rows = identity_of(_WORDS, encoder), _affordable_rows(project)
    encode_missing(project, identity, rows, encoder=encoder)
    table = project.table_of({_WORDS: (identity.spec, None)}, rows)
    return {**_fitted(project, table, _WORDS, rows), "encoder": identity.spec.key}


def _knn(project: Project, names: list[str]) -> dict[str, Any]:
    """Likeness of all encoders' embeddings together; of very many training rows a part."""
    start = time.perf_counter()
    manifest, config = project.manifest, project.config
    train, val = manifest.rows("train"), manifest.rows("val")
    table = project.table(names, _labelled(project))
    some = affordable(drawn(train, manifest.ids, MOST_ROWS), manifest.ids, len(val), sum(table.widths.values()))
    logits = knn_logits(table, names, some, val, device=torch_device(config.device))
    figures = metrics_on_val(project, logits)
    learned = NO_LINEAGE
    for name in names:
        learned |= lineage_of_encoder(project, project.identity(name), False)
    note = ", ".join(filter(None, [_part(project, len(some)), in_sample_of(project, learned, val)]))
    return {"val": figures.as_dict(), "seconds": time.perf_counter() - start, "note": note}


def _labelled(project: Project) -> np.ndarray:
    return np.concatenate([project.manifest.rows("train"), project.manifest.rows("val")])


def _affordable_rows(project: Project) -> np.ndarray:
    """The training rows that a fitted baseline can take in, and all val rows."""
    manifest = project.manifest
    return np.concatenate([drawn(manifest.rows("train"), manifest.ids, MOST_ROWS), manifest.rows("val")])
