"""Facts about a model for people: what it is, what each part was trained on, its learning curves and its lineage."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmfeat.common.errors import MmfeatError, RunError
from mmfeat.common.labels import has_label
from mmfeat.common.progress import clock
from mmfeat.common.text import counted, megabytes, typed_value
from mmfeat.inference.model_lineage import model_lineage
from mmfeat.inference.networks import compose
from mmfeat.predictor.card import part_texts
from mmfeat.project.named_models import NamedModel, find_run
from mmfeat.project.project import Project
from mmfeat.project.staleness import about_relabelled, labels_now, lineage_of, remake_command
from mmfeat.report.html.learning_sections import History
from mmfeat.report.table_layout import Table, outside, table
from mmfeat.runs.run import Run

_MEMBERS = 4  # members of an ensemble whose learning curves are shown
_SHORT = 16  # characters of a digest

Pairs = list[tuple[str, str]]


def data_facts(project: Project) -> Pairs:
    """The rows, classes and split of a project."""
    manifest, config = project.manifest, project.config
    known = manifest.labels[has_label(manifest.labels)]
    rows = [f"{len(manifest.rows(name)):,} {name}" for name in ("train", "val", "test", "unlabelled")]
    pairs = [("rows", f"{manifest.n_samples:,}: {', '.join(one for one in rows if not one.startswith('0 '))}")]
    if len(known):
        mean = float((known == 1).sum(1).mean())
        unknown = float((known < 0).mean())
        pairs.append(
            (
                "classes",
                f"{len(manifest.classes):,}; {mean:.2f} positive labels per labelled row"
                + (f", {unknown:.0%} of labels unknown" if unknown else ""),
            )
        )
    blank = int(sum(not caption.strip() for caption in manifest.captions.tolist()))
    if blank < manifest.n_samples:
        pairs.append(("captions", f"{manifest.n_samples - blank:,}; {counted(blank, 'row')} without one"))
    images = int((manifest.images != "").sum())
    if images:
        pairs.append(("images", f"{images:,}; {counted(manifest.n_samples - images, 'row')} without one"))
    return [*pairs, ("split", _split(config.split))]


def _split(settings: Any) -> str:
    if settings.column:
        return f"by column {settings.column} of the source"
    if settings.train_ids or settings.val_ids or settings.test_ids:
        return "by files of ids"
    return (
        f"val {settings.val:g} and test {settings.test:g} of the labelled rows, stratified, identical images together"
    )


def model_facts(project: Project, model: NamedModel) -> Pairs:
    """What a run or an encoder is: its encoders, head, settings and size."""
    run = model.run
    pairs = [(f"encoder {name}", _encoder(project, name, recorded)) for name, recorded in model.encoders.items()]
    if run is None:
        return [*pairs, ("model", "linear probe of the encoder")]
    if run.kind == "ensemble":
        how = f"fitted: {run.record['fitted']['method']}" if "fitted" in run.record else "given"
        pairs.append(("model", f"ensemble of {', '.join(run.made_from)}; weights {how}"))
    else:
        best = ", ".join(map(str, run.record["best_epochs"]))
        folds = f", {run.record['folds']} folds" if run.record.get("folds") else ""
        pairs.append(
            (
                "model",
                f"{run.record['head']} on {' and '.join(run.record['inputs'])}; mean of {counted(len(run.record['seeds']), 'seed')}{folds}; best epochs {best}",
            )
        )
        pairs.append(
            ("settings", ", ".join(f"{key} {typed_value(value)}" for key, value in run.record["head_config"].items()))
        )
    size = run.exported_mb(project.config.heads_scale)
    pairs += [("size", megabytes(size) + ", encoders included")] if size is not None else []
    pairs.append(("training time", clock(run.record["seconds"])))
    return pairs


def _encoder(project: Project, name: str, recorded: dict[str, Any]) -> str:
    checkpoint = f", checkpoint {recorded['checkpoint']}" if recorded.get("checkpoint") else ""
    found = f"{recorded.get('model', name)}, {recorded['modality']}, {recorded['width']}-d{checkpoint}"
    if name not in project.config.encoder or project.identity(name).spec.key != recorded["key"]:
        return found
    kept = project.checkpoint(project.identity(name))
    return f"{found}, {'frozen' if kept is None or kept.label_free else 'fine-tuned'}"


def part_table(project: Project, model: NamedModel) -> Table | None:
    """The rows that each part of a current model was trained and selected on; None for a stale one."""
    try:
        found = model_lineage(project, compose(project, model.name))
    except MmfeatError:
        return None
    rows = [[outside(text, 200) for text in part_texts(part)] for part in found["parts"]]
    return table(["part", "trained on", "selected on"], rows, left=3, title="parts") if rows else None


def histories(project: Project, model: NamedModel) -> list[History]:
    """The learning curves of a model's heads, and of its fine-tuned encoders."""
    heads = _heads(project, model.run)[:_MEMBERS] if model.run is not None else []
    found = [
        History(name=f"Head {run.name}", fits=list(zip(run.record["history"], run.record["best_epochs"], strict=False)))
        for run in heads
        if run.record.get("history")
    ]
    for name, recorded in model.encoders.items():
        if name not in project.config.encoder or project.identity(name).spec.key != recorded["key"]:
            continue
        checkpoint = project.checkpoint(project.identity(name))
        if checkpoint is not None and (model.run is None or not checkpoint.frozen):
            epochs, best = checkpoint.record.get("history") or [], checkpoint.record.get("best_epoch", 0)
            found.append(History(name=f"Encoder {name} ({checkpoint.name})", fits=[(epochs, best)]))
    return found


def _heads(project: Project, run: Run) -> list[Run]:
    """A run if it has heads of its own, or those of its members."""
    if run.kind != "ensemble":
        return [run]
    found = []
    for member in run.members_that_are_runs:
        try:
            found += _heads(project, find_run(project, member["name"]))
        except RunError:
            continue
    return list({one.name: one for one in found}.values())


def lineage_facts(project: Project, model: NamedModel, state: str) -> Pairs:
    """Whether a model is current, what it depends on, and how to make it again."""
    pairs = [("state", state)]
    learned = lineage_of(project, model.name)
    trained = np.union1d(learned.training, learned.out_of_fold)
    pairs.append(
        ("trained on", f"{counted(len(trained), 'row')}; epochs or rounds selected on {len(learned.selection):,}")
    )
    if model.run is None:
        return pairs
    run = model.run
    changed = about_relabelled(run, labels_now(project))
    pairs += [("labels", f"{changed}; it learned their earlier labels")] if changed else []
    pairs.append(("made", run.created.partition(".")[0].replace("T", " ") + " UTC"))
    pairs += [("note", run.note)] if run.note else []
    pairs += [("former names", ", ".join(run.former_names))] if run.former_names else []
    pairs.append(("fingerprint", run.record["fingerprint"][:_SHORT]))
    pairs += [(f"key of {name}", one["key"][:_SHORT]) for name, one in run.encoders.items()]
    pairs += [(f"member {one['name']}", one["fingerprint"][:_SHORT]) for one in run.members_that_are_runs]
    versions = run.record.get("versions") or {}
    pairs += [("made with", ", ".join(f"{name} {version}" for name, version in versions.items()))] if versions else []
    return [*pairs, ("to make it again", remake_command(project, run))]
