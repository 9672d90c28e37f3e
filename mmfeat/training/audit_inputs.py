"""The arrays that the checks of an audit read, of a project and one of its runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfeat.audit.checks import AuditInput, Embeddings, Predictions
from mmfeat.common.errors import MmfeatError
from mmfeat.common.labels import split_names
from mmfeat.common.text import counted
from mmfeat.data.caption_digests import caption_keys, caption_words
from mmfeat.data.row_keys import RowKeys
from mmfeat.inference.fitted_rules import crossfitted_rule
from mmfeat.inference.logits import RowLogits, model_logits
from mmfeat.inference.run_ranking import ranked_runs, selected_model
from mmfeat.project.duplicate_thresholds import DuplicateThresholds
from mmfeat.project.named_models import NamedModel
from mmfeat.project.project import Project
from mmfeat.project.thumbnails import picture_statistics
from mmfeat.runs.run import Run
from mmfeat.store.thumbnail_store import PictureStatistics
from mmfeat.training.out_of_fold import fold_rows, folded_run, out_of_fold_logits, unimodal_logits


@dataclass(frozen=True, kw_only=True, eq=False)
class Audited:
    """What an audit reads, and where its predictions come from.

    Attributes
    ----------
    run : str
        The run or encoder whose metrics on val are checked; empty without one.
    chosen : str
        How it was selected; empty if it was named.
    folded : str
        The run of the out-of-fold predictions; empty without one.
    made : bool
        Whether that run was trained now.
    fingerprint : str
        The fingerprint of `run`; empty for an encoder.
    notes : tuple of str
        What is missing, and what limits the results.
    """

    given: AuditInput
    run: str
    chosen: str
    folded: str
    made: bool
    fingerprint: str
    notes: tuple[str, ...]


def audited(project: Project, name: str | None) -> Audited:
    """Read, and train where they are missing, all predictions that the checks need.

    Parameters
    ----------
    name : str, optional
        A run, or an encoder with its linear probe; the best run on val, if None.

    Raises
    ------
    RunError
        There is no such run.
    """
    model, chosen = _model(project, name)
    notes: list[str] = []
    folded, made = _folded(project, model, notes)
    names = _encoders(project, folded if folded is not None else model)
    embeddings, keys = _embeddings(project, names, notes)
    manifest = project.manifest
    pictures, unreadable = _pictures(project, keys, notes), {}
    if "image" in keys:
        unreadable = {**_undecoded(project, names, keys["image"], pictures), **keys["image"].reasons}
    out_of_fold = None
    if folded is not None:
        rows = fold_rows(project)
        out_of_fold = _predictions(project, folded.name, out_of_fold_logits(project, folded), rows)
    given = AuditInput(
        ids=manifest.ids,
        labels=manifest.labels,
        split=split_names(manifest.labels, manifest.split),
        classes=manifest.classes,
        embeddings=embeddings,
        out_of_fold=out_of_fold,
        unimodal={} if folded is None else _unimodal(project, embeddings, notes),
        model=_on_val(project, model, notes),
        keys={modality: one.keys for modality, one in keys.items()},
        has={modality: _has(project, modality) for modality in keys},
        caption_lengths=np.array([len(caption) for caption in manifest.captions.tolist()]),
        unreadable=unreadable,
        pictures=pictures,
        thresholds=DuplicateThresholds(project).of(list(embeddings), notes),
        caption_keys=caption_keys(manifest.captions) if "text" in keys else None,
        caption_words=caption_words(manifest.captions) if "text" in keys else None,
    )
    run = None if model is None else model.run
    return Audited(
        given=given,
        run="" if model is None else model.name,
        chosen=chosen,
        folded="" if folded is None else folded.name,
        made=made,
        fingerprint="" if run is None else run.record["fingerprint"],
        notes=(*_fine_tuned(project, folded), *notes),
    )


def _model(project: Project, name: str | None) -> tuple[NamedModel | None, str]:
    """The named model, or the best run; None without any run."""
    if name is None and not any(line.run is not None for line in ranked_runs(project)):
        return None, ""
    return selected_model(project, name)


def _folded(project: Project, model: NamedModel | None, notes: list[str]) -> tuple[Run | None, bool]:
    """The run in folds of the predictions, and whether it was trained now; None if there can be none."""
    if not len(fold_rows(project)):
        notes.append("no row has a known label: label errors are not looked for")
        return None, False
    try:
        alone = model is not None and model.run is None
        found = folded_run(project, None if model is None else model.run, inputs=[model.name] if alone else None)
    except MmfeatError as error:
        notes.append(f"no out-of-fold predictions: {error}")
        return None, False
    return found.run, found.made


def _encoders(project: Project, model: NamedModel | Run | None) -> list[str]:
    """The encoders of a model that the project still has; without one, those of `fuse.inputs`."""
    names = project.config.fuse.inputs if model is None else model.encoders
    return [name for name in names if name in project.config.encoder]


def _embeddings(
    project: Project, names: list[str], notes: list[str]
) -> tuple[dict[str, Embeddings], dict[str, RowKeys]]:
    """Cached embeddings by encoder, and the row keys of images and captions by modality."""
    manifest, found = project.manifest, {}
    keys = {"image": project.kept_keys("image")} if manifest.images.any() else {}
    if any(caption.strip() for caption in manifest.captions.tolist()):
        keys["text"] = project.row_keys("text")
    for name in names:
        try:
            table = project.feature_table([name], np.zeros(0, np.int64))
        except MmfeatError as error:
            notes.append(f"encoder {name} is left out: {error}")
            continue
        modality, present = project.config.encoder[name].modality, np.asarray(table.present[name])
        if not present.any():
            notes.append(f"encoder {name} is left out: no row is encoded yet. Run: mmfeat extract")
            continue
        found[name] = Embeddings(modality=modality, values=table.embeddings[name], present=present)
        lacking = int((keys[modality].present & ~present).sum()) if modality in keys else 0
        if lacking:
            notes.append(f"{counted(lacking, 'row')} without embeddings of encoder {name}: see mmfeat status")
    return found, keys


def _has(project: Project, modality: str) -> np.ndarray:
    """Whether each row names an image, or has a caption that is not blank."""
    return project.manifest.images != "" if modality == "image" else project.row_keys("text").present


def _pictures(project: Project, keys: dict[str, RowKeys], notes: list[str]) -> PictureStatistics | None:
    """Sizes and colours of all images, which are opened where their thumbnails are missing; None without any."""
    if "image" not in keys:
        return None
    try:
        return picture_statistics(project, np.arange(project.manifest.n_samples))
    except MmfeatError as error:
        notes.append(f"images are not looked at: {error}")
        return None


def _undecoded(project: Project, names: list[str], keys: RowKeys, pictures: PictureStatistics | None) -> dict[int, str]:
    """Rows whose image cannot be decoded, with the reason if an encoder recorded one."""
    found = {}
    if pictures is not None:
        found |= dict.fromkeys(np.flatnonzero(keys.present & ~pictures.known).tolist(), "it cannot be decoded")
    for name in names:
        if project.config.encoder[name].modality == "image":
            found |= project.store.encoder(project.identity(name).spec).errors_of(keys.keys)
    return found


def _predictions(project: Project, name: str, found: RowLogits, rows: np.ndarray) -> Predictions:
    """Logits and predicted labels of some labelled rows, as predictions for all rows."""
    manifest = project.manifest
    rule = crossfitted_rule(project, rows, found.logits)
    logits = np.zeros((manifest.n_samples, len(manifest.classes)), np.float32)
    known = np.zeros(manifest.n_samples, bool)
    predicted = np.full(logits.shape, -1, np.int8)
    logits[rows], known[rows], predicted[rows] = found.logits, found.known, rule.labels(rule.probs(found.logits))
    return Predictions(name=name, logits=logits, known=known, predicted=predicted)


def _unimodal(project: Project, embeddings: dict[str, Embeddings], notes: list[str]) -> dict[str, Predictions]:
    """Out-of-fold predictions by each encoder; none with a single encoder, whose predictions are those of the run."""
    if len(embeddings) < 2:
        return {}
    try:
        found = unimodal_logits(project, list(embeddings))
    except MmfeatError as error:
        notes.append(f"no unimodal predictions: {error}")
        return {}
    return {
        name: Predictions(name=name, logits=one.logits, known=one.known, modality=embeddings[name].modality)
        for name, one in found.items()
    }


def _on_val(project: Project, model: NamedModel | None, notes: list[str]) -> Predictions | None:
    """The model on the val rows; None without val rows or without logits of them."""
    rows = project.manifest.rows("val")
    if model is None or not len(rows):
        return None
    try:
        return _predictions(project, model.name, model_logits(project, model, rows), rows)
    except MmfeatError as error:
        notes.append(f"no metrics of {model.name}: {error}")
        return None


def _fine_tuned(project: Project, folded: Run | None) -> list[str]:
    """A note about rows whose labels an encoder of the run learned."""
    if folded is None:
        return []
    rows = fold_rows(project)
    n = int(folded.learned().among(project.manifest.ids[rows])[0].sum())
    if not n:
        return []
    return [
        f"the encoders were fine-tuned on the labels of {n:,} of {counted(len(rows), 'labelled row')}, so that errors among "
        'them look right to them. For a stricter audit, use frozen encoders: checkpoint = "none"'
    ]
