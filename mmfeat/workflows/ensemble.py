"""`mmfeat ensemble`: the mean of logits of encoders and runs; nothing is fitted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from mmfeat.config import RECIPES
from mmfeat.errors import DataError, RunError
from mmfeat.files import digest_json
from mmfeat.learned import NOTHING
from mmfeat.models.ensembles import RECIPE_HEADS, RECIPE_TEXTS
from mmfeat.models.figures import FigureLine, figures_of
from mmfeat.models.runs import ROLES, Run, RunLogits, all_runs, already_made, save_run
from mmfeat.table import rows_digest
from mmfeat.workflows.project import Project
from mmfeat.workflows.records import common_record, encoder_record, input_keys
from mmfeat.workflows.scoring import Source, joined, source, training_prior
from mmfeat.workflows.standing import again, find_run, in_sample, is_current, learned_by, stale_because


@dataclass(frozen=True)
class EnsembleResult:
    """A run, its figures on val beside its members', and whether it was made now."""

    run: Run
    lines: list[FigureLine]
    made: bool
    description: str
    n_val: int


def ensemble(project: Project, members: list[str]) -> EnsembleResult:
    """Make an ensemble by a recipe's name (`fm1`, `fm2`, `fm3`), or of any encoders and runs.

    Raises
    ------
    RunError
        A member does not exist, gives no logits, or a recipe's head has not been trained yet.
    """
    stem, names = _members(project, members)
    manifest = project.manifest
    rows = np.concatenate([manifest.rows("val"), manifest.rows("unlabelled")])
    if not len(rows):
        raise DataError(
            "manifest.parquet: neither val nor unlabelled rows. Set [split] val in mmfeat.toml and run: mmfeat init"
        )
    weights = [1 / len(names)] * len(names)
    parts = _parts(project, names, weights)
    sources = [source(project, name, rows) for name in names]
    prior = training_prior(project)
    mean = joined(stem, sources, weights, prior)
    inputs = input_keys(project, parts.encoders.values(), rows)
    fingerprint = digest_json(
        {"kind": "ensemble", "members": parts.members,
         "encoders": {n: [e["key"], e["output_key"]] for n, e in parts.encoders.items()},
         "rows": rows_digest(manifest.ids[rows], inputs, manifest.labels[rows]), "classes": list(manifest.classes),
         "predict": dataclasses.asdict(project.config.predict)}
    )  # fmt: skip
    run = already_made(project.runs, fingerprint)
    made = run is None
    lines = _lines(project, names, [*sources, mean])
    if run is None:
        roles = np.full(len(rows), ROLES["none"], np.uint8)
        roles[: len(manifest.rows("val"))] = ROLES["val"]
        kept = RunLogits(manifest.ids[rows], inputs, mean.known, mean.logits, roles)
        run = _save(project, stem, parts, prior, kept, fingerprint)
    shares = " + ".join(f"{weight:.2g} {name}" for name, weight in zip(names, weights, strict=True))
    text = RECIPE_TEXTS.get(stem, "mean of the logits")
    return EnsembleResult(run, lines, made, f"{stem}: {text}; {shares}; nothing is fitted", len(manifest.rows("val")))


def _members(project: Project, members: list[str]) -> tuple[str, list[str]]:
    """The new run's stem, and its members' names."""
    if len(members) == 1 and members[0] in RECIPES:
        return members[0], _recipe(project, members[0])
    for name in members:
        if name in RECIPES:
            raise RunError(
                f"{name} is a recipe and stands alone. Run: mmfeat ensemble {name}, and name the run that it makes"
            )
    if len(set(members)) != len(members):
        raise RunError(f"each member once, found: {', '.join(members)}")
    return "ensemble", members


def _recipe(project: Project, recipe: str) -> list[str]:
    """The members of FM1, FM2 or FM3; FM2 takes in FM1 itself, so that both its halves are halves of every row."""
    encoders = list(project.config.fuse.inputs)
    if len(encoders) != 2:
        raise RunError(f"{recipe} joins two encoders, found {encoders}. Name the members: mmfeat ensemble A B ...")
    heads = [_recipe_run(project, recipe)] if recipe in RECIPE_HEADS else []
    return [*([ensemble(project, ["fm1"]).run.name] if recipe == "fm2" else encoders), *heads]


def _recipe_run(project: Project, recipe: str) -> str:
    """The newest current run of the head that a recipe takes in."""
    head, inputs = RECIPE_HEADS[recipe], set(project.config.fuse.inputs)
    for run in reversed(all_runs(project.runs)):
        fits = run.kind == "head" and run.record["head"] == head and set(run.encoders) == inputs
        if fits and is_current(project, run):
            return run.name
    raise RunError(f"{recipe} takes in a {head} head and there is no current one. Run: mmfeat fuse --head {head}")


@dataclass(frozen=True)
class _Parts:
    """What an ensemble is made of, as run.json keeps it: its members, and all encoders and heads within them."""

    members: list[dict]
    encoders: dict[str, dict]
    heads: dict[str, float]


def _parts(project: Project, names: list[str], weights: list[float]) -> _Parts:
    """Look up the members; an encoder or a head that several of them hold is one."""
    parts = _Parts([], {}, {})
    for name, weight in zip(names, weights, strict=True):
        if name in project.config.encoder:
            found, fingerprint = {name: encoder_record(project.identity(name), True)}, None
        else:
            run = find_run(project, name)
            if why := run.damage() or stale_because(project, run):
                raise RunError(f"{name} is stale: {why}. Make it again: {again(project, run)}")
            found, fingerprint = run.encoders, run.record["fingerprint"]
            parts.heads.update(run.record["heads"])
        for encoder, record in found.items():
            if encoder not in parts.encoders or record["output_key"]:  # its output is used, so its key counts
                parts.encoders[encoder] = record
        parts.members.append({"name": name, "weight": weight, "fingerprint": fingerprint})
    return parts


def _lines(project: Project, names: list[str], sources: list[Source]) -> list[FigureLine]:
    manifest = project.manifest
    val = manifest.rows("val")
    if not len(val):
        return []
    rule, labels = project.config.predict, manifest.labels[val]
    notes = [*(in_sample(project, name, val) for name in names), ""]
    return [
        FigureLine.of(s.name, figures_of(labels, s.logits[: len(val)], rule), note=note)
        for s, note in zip(sources, notes, strict=True)
    ]


def _save(
    project: Project, stem: str, parts: _Parts, prior: np.ndarray, kept: RunLogits, fingerprint: str
) -> Run:  # fmt: skip
    manifest = project.manifest
    val, figures = manifest.rows("val"), None
    if len(val):
        figures = figures_of(manifest.labels[val], kept.logits[: len(val)], project.config.predict).as_dict()
    record = {
        "kind": "ensemble",
        "members": parts.members,
        "prior": prior.tolist(),
        "encoders": parts.encoders,
        "heads": parts.heads,
        "head_mb": sum(parts.heads.values()),
        "seconds": 0.0,
        "figures": {"val": figures, "val_seeds": []},
        "fingerprint": fingerprint,
        **common_record(project),
    }
    learned = NOTHING
    for member in parts.members:
        learned |= learned_by(project, member["name"])
    return save_run(project.runs, stem, record, kept, learned, None)
