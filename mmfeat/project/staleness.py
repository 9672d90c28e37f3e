"""Whether a run is current or stale, and which rows it was trained on."""

from __future__ import annotations

import numpy as np

from mmfeat.common.errors import MmfeatError, RunError
from mmfeat.common.labels import class_positions
from mmfeat.common.lineage import NO_LINEAGE, Lineage, labelled_rows
from mmfeat.common.text import counted
from mmfeat.config.schema import RECIPES, Config
from mmfeat.encoders.checkpoint import Checkpoint
from mmfeat.encoders.resolve import Identity
from mmfeat.project.named_models import find_model, find_run
from mmfeat.project.project import Project
from mmfeat.runs.run import Run, all_runs

TRAINED_ON_VAL = "trained on rows that are val now"


def stale_because(project: Project, run: Run) -> str:
    """The reason why a run or a member of it is stale: an encoder, a linear probe or the classes have changed. Empty if none."""
    if has_other_classes(project, run.classes):
        return "classes have changed"
    for name, recorded in run.encoders.items():
        if name not in project.config.encoder:
            return f"encoder {name} is not in mmfeat.toml"
        identity = project.identity(name)
        if identity.spec.key != recorded["key"]:
            return f"encoder {name} has changed"
        if (number := recorded.get("tokens")) and number != project.config.encoder[name].tokens:
            return f"encoder {name} stores other tokens: tokens = {number} -> {project.config.encoder[name].tokens}"
        if recorded["output_key"] is not None:
            if recorded["output_key"] != identity.output_key:
                return f"the linear probe of encoder {name} has changed"
            if probe_has_other_classes(project, identity):
                return f"the linear probe of encoder {name} is for other classes"
    for member in run.members:
        if member["fingerprint"] is not None and (why := _member_because(project, member)):
            return why
    return ""


def _member_because(project: Project, member: dict) -> str:
    name = member["name"]
    try:
        found = find_run(project, name)
    except RunError as error:
        return f"its member {name}: {error}"
    if found.record["fingerprint"] != member["fingerprint"]:
        return f"its member {name} was made again"
    why = found.damage() or stale_because(project, found)
    return f"its member {name}: {why}" if why else ""


def is_current(project: Project, run: Run) -> bool:
    """Whether a run is undamaged and not stale."""
    return not (run.damage() or stale_because(project, run))


def state_of(project: Project, run: Run) -> str:
    """`current`; or why a run is not ranked: `damaged: ...`, `stale: ...`, `not ranked: ...`."""
    if damage := run.damage():
        return f"damaged: {damage}"
    if why := stale_because(project, run):
        return f"stale: {why}"
    return f"not ranked: {TRAINED_ON_VAL}" if trained_on_val(project, run.learned()) else "current"


def has_other_classes(project: Project, classes: tuple[str, ...]) -> bool:
    """Whether classes differ from those of the manifest; their order does not count."""
    return class_positions(classes, project.manifest.classes) is None


def probe_has_other_classes(project: Project, identity: Identity) -> bool:
    """Whether the linear probe of an encoder is for other classes than the manifest's."""
    checkpoint = project.checkpoint(identity)
    return checkpoint is not None and has_other_classes(project, checkpoint.classes)


def lineage_of_encoder(project: Project, identity: Identity, uses_logits: bool) -> Lineage:
    """The rows that an encoder was trained on. Embeddings of a frozen encoder carry no label information; its logits do."""
    checkpoint = project.checkpoint(identity)
    if checkpoint is None or (checkpoint.label_free and not uses_logits):
        return NO_LINEAGE
    return checkpoint.learned()


def lineage_of(project: Project, name: str) -> Lineage:
    """The rows that an encoder with its linear probe, or a run with its encoders and members, was trained on."""
    model = find_model(project, name)
    return lineage_of_encoder(project, model.identity, True) if model.run is None else model.run.learned()


def trained_on_val(project: Project, learned: Lineage) -> bool:
    """Whether a model with this lineage was trained on a row that is val now."""
    manifest = project.manifest
    return bool(learned.among(manifest.ids[manifest.rows("val")])[0].any())


def labels_now(project: Project) -> np.ndarray:
    """Hashes of the manifest's rows and their present labels, `(N, 2)`, for :meth:`Lineage.relabelled`."""
    manifest = project.manifest
    return labelled_rows(manifest.ids, manifest.labels, manifest.classes)


def about_relabelled(model: Run | Checkpoint | None, now: np.ndarray) -> str:
    """`3 rows relabelled since`: rows that a model learned with other labels than they have now.

    Empty if there are none, if they are unknown, or without a model; `now` is the result of :func:`labels_now`.
    """
    try:
        n = 0 if model is None else int(model.learned().relabelled(now).sum())
    except MmfeatError:  # damage is reported as such
        return ""
    return f"{counted(n, 'row')} relabelled since" if n else ""


def named_model(project: Project, name: str) -> Run | Checkpoint | None:
    """The run, or the checkpoint of the encoder, of this name; None for an encoder without a checkpoint."""
    if name in project.config.encoder:
        return project.checkpoint(project.identity(name))
    return find_run(project, name)


def in_sample(project: Project, name: str, rows: np.ndarray) -> str:
    """`in-sample for 5 of 20 rows`; empty if an encoder or a run was trained on none of the rows."""
    return in_sample_of(project, lineage_of(project, name), rows)


def in_sample_of(project: Project, learned: Lineage, rows: np.ndarray) -> str:
    """:func:`in_sample` for a lineage."""
    n = int(learned.among(project.manifest.ids[rows])[0].sum())
    return f"in-sample for {n:,} of {counted(len(rows), 'row')}" if n else ""


def remake_command(project: Project, run: Run) -> str:
    """The command that trains or combines a run again."""
    return command_for(project.config, run)


def command_for(config: Config, run: Run) -> str:
    """The command that makes a run like this one with these settings."""
    record = run.record
    if run.kind == "ensemble":
        if fitted := record.get("fitted"):
            given = [_renamed(config, run, name) for name in fitted["candidates"]] if fitted["given"] else []
            return " ".join(["mmfeat ensemble --method", fitted["method"], *given])
        recipe = record.get("recipe", run.first_name.rpartition("-")[0])  # in its name until version 0.2
        return "mmfeat ensemble " + (recipe if recipe in RECIPES else " ".join(m["name"] for m in run.members))
    command = "mmfeat selftrain" if run.kind == "selftrain" else "mmfeat fuse"
    inputs = record["inputs"]
    given = "" if inputs == list(config.fuse.inputs) else f" --inputs {','.join(inputs)}"
    folds = f" --folds {record['folds']}" if record.get("folds") else ""
    return f"{command} --head {record['head']}{given}{folds}"


def _renamed(config: Config, ensemble: Run, name: str) -> str:
    """The present name of a member that was recorded by name alone; unchanged if it was not renamed."""
    folder = ensemble.folder.parent
    if name in config.encoder or (folder / name).is_dir():
        return name
    return next((run.name for run in all_runs(folder) if name in run.former_names), name)
