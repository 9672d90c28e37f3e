"""How a run stands today: whether it is of the encoders and classes of now, and which rows it has learned from."""

from __future__ import annotations

import re

import numpy as np

from mmfeat.common.errors import RunError
from mmfeat.common.labels import class_positions
from mmfeat.common.lineage import NO_LINEAGE, Lineage
from mmfeat.common.text import counted
from mmfeat.encoders.resolve import Identity
from mmfeat.project.project import Project
from mmfeat.runs.run import Run, all_runs, read_run


def find_run(project: Project, name: str) -> Run:
    """A run by its name; by class it is in the manifest's order, where it is of the same classes.

    Raises
    ------
    RunError
        No such run; the message names those there are.
    """
    if not re.fullmatch(r"[\w.-]+", name) or not (project.runs_folder / name).is_dir():
        known = [run.name for run in all_runs(project.runs_folder)] or ["none yet: mmfeat fuse makes one"]
        raise RunError(f"no run {name!r}. There are: {', '.join(known)}")
    return read_run(project.runs_folder / name).in_order_of(project.manifest.classes)


def stale_because(project: Project, run: Run) -> str:
    """Why a run is not one of today's encoders, outputs and classes; empty where it is, and so are all its members."""
    if of_other_names(project, run.classes):
        return "classes have changed"
    for name, recorded in run.encoders.items():
        if name not in project.config.encoder:
            return f"encoder {name} is not in mmfeat.toml"
        identity = project.identity(name)
        if identity.spec.key != recorded["key"]:
            return f"encoder {name} has changed"
        if (number := recorded.get("tokens")) and number != project.config.encoder[name].tokens:
            return f"encoder {name} keeps other tokens: tokens = {number} -> {project.config.encoder[name].tokens}"
        if recorded["output_key"] is not None:
            if recorded["output_key"] != identity.output_key:
                return f"the output of encoder {name} has changed"
            if of_other_classes(project, identity):
                return f"the output of encoder {name} is of other classes"
    for member in run.record["members"]:
        if member["fingerprint"] is not None and (why := _member_because(project, member)):
            return why
    return ""


def _member_because(project: Project, member: dict) -> str:
    name = member["name"]
    try:
        part = find_run(project, name)
    except RunError as error:
        return f"its member {name}: {error}"
    if part.record["fingerprint"] != member["fingerprint"]:
        return f"its member {name} has been made anew"
    why = part.damage() or stale_because(project, part)
    return f"its member {name}: {why}" if why else ""


def is_current(project: Project, run: Run) -> bool:
    """Whether a run is whole and was made from the encoders as they are now, for the classes of today."""
    return not (run.damage() or stale_because(project, run))


def state_of(project: Project, run: Run) -> str:
    """`current`; or why a run cannot be the best: `damaged: ...`, `stale: ...`, `not ranked: ...`."""
    if damage := run.damage():
        return f"damaged: {damage}"
    if why := stale_because(project, run):
        return f"stale: {why}"
    return "not ranked: trained on rows that are val today" if trained_on_val(project, run.learned()) else "current"


def of_other_names(project: Project, classes: tuple[str, ...]) -> bool:
    """Whether classes are not those of the manifest; their order does not matter, since all is mapped by name."""
    return class_positions(classes, project.manifest.classes) is None


def of_other_classes(project: Project, identity: Identity) -> bool:
    """Whether an encoder's own output gives logits of other classes than those of today."""
    checkpoint = project.checkpoint(identity)
    return checkpoint is not None and of_other_names(project, checkpoint.classes)


def lineage_of_encoder(project: Project, identity: Identity, uses_logits: bool) -> Lineage:
    """The rows that an encoder learned from; its embeddings are innocent where they have seen no label, its logits are not."""
    checkpoint = project.checkpoint(identity)
    if checkpoint is None or (checkpoint.label_free and not uses_logits):
        return NO_LINEAGE
    return checkpoint.learned()


def lineage_of(project: Project, name: str) -> Lineage:
    """The rows that an encoder's own output, or a run with all that it is made of, learned from."""
    if name in project.config.encoder:
        return lineage_of_encoder(project, project.identity(name), True)
    return find_run(project, name).learned()


def trained_on_val(project: Project, learned: Lineage) -> bool:
    """Whether something was trained on a row that is val today."""
    manifest = project.manifest
    return bool(learned.among(manifest.ids[manifest.rows("val")])[0].any())


def in_sample(project: Project, name: str, rows: np.ndarray) -> str:
    """`in-sample for 5 of 20 rows`, where an encoder or a run was trained on some of the rows."""
    return in_sample_of(project, lineage_of(project, name), rows)


def in_sample_of(project: Project, learned: Lineage, rows: np.ndarray) -> str:
    """The same of what something learned from."""
    n = int(learned.among(project.manifest.ids[rows])[0].sum())
    return f"in-sample for {n:,} of {counted(len(rows), 'row')}" if n else ""


def again(project: Project, run: Run) -> str:
    """The command that makes a run anew."""
    record = run.record
    if run.kind == "ensemble":
        if fitted := record.get("fitted"):
            given = fitted["candidates"] if fitted["given"] else []
            return " ".join(["mmfeat ensemble --method", fitted["method"], *given])
        recipe = run.name.rpartition("-")[0]
        return "mmfeat ensemble " + (" ".join(m["name"] for m in record["members"]) if recipe == "ensemble" else recipe)
    command = "mmfeat selftrain" if run.kind == "selftrain" else "mmfeat fuse"
    inputs = record["inputs"]
    given = "" if inputs == list(project.config.fuse.inputs) else f" --inputs {','.join(inputs)}"
    folds = f" --folds {record['folds']}" if record.get("folds") else ""
    return f"{command} --head {record['head']}{given}{folds}"
