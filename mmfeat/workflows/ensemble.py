"""`mmfeat ensemble`: the mean of logits of encoders and runs; nothing is fitted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from mmfeat.config import RECIPES
from mmfeat.errors import DataError, RunError
from mmfeat.files import digest_json
from mmfeat.heads.base import log_odds
from mmfeat.models.ensembles import RECIPE_HEADS, RECIPE_TEXTS, recipe_weights
from mmfeat.models.figures import FigureLine, figures_of
from mmfeat.models.runs import ROLES, Run, RunLogits, all_runs, already_made, save_run
from mmfeat.workflows.project import Project
from mmfeat.workflows.scoring import (
    Source,
    common_record,
    encoder_record,
    encoder_source,
    find_run,
    input_keys,
    is_current,
    mean_source,
    run_source,
)  # fmt: skip


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
    stem, weights = _members(project, members)
    manifest = project.manifest
    rows = np.concatenate([manifest.rows("val"), manifest.rows("unlabelled")])
    if not len(rows):
        raise DataError(
            "manifest.parquet: neither val nor unlabelled rows. Set [split] val in mmfeat.toml and run: mmfeat init"
        )
    sources, recorded, encoders, head_mb = [], [], {}, 0.0
    for name, weight in weights.items():
        if name in project.config.encoder:
            identity = project.identity(name)
            sources.append(encoder_source(project, identity, rows))
            encoders[name] = encoder_record(identity, True)
            recorded.append({"name": name, "weight": weight, "fingerprint": None})
        else:
            run = find_run(project, name)
            if not is_current(project, run):
                raise RunError(
                    f"{name} is stale: it was made from other encoders or classes. Make it again: mmfeat fuse"
                )
            sources.append(run_source(project, run, rows))
            encoders.update({n: e for n, e in run.encoders.items() if n not in encoders})
            recorded.append({"name": name, "weight": weight, "fingerprint": run.record["fingerprint"]})
            head_mb += run.record["head_mb"]
    train_labels = torch.as_tensor(manifest.labels[manifest.rows("train")])
    prior = log_odds(train_labels).numpy()
    mean = mean_source(stem, sources, list(weights.values()), prior)
    fingerprint = digest_json(
        {"kind": "ensemble", "members": recorded, "encoders": {n: [e["key"], e["output_key"]] for n, e in encoders.items()},
         "rows": _rows_digest(project, rows, list(encoders)), "classes": list(manifest.classes),
         "predict": dataclasses.asdict(project.config.predict)}
    )  # fmt: skip
    run = already_made(project.runs, fingerprint)
    made = run is None
    lines = _lines(project, [*sources, mean])
    if run is None:
        run = _save(project, stem, mean, rows, recorded, encoders, head_mb, prior, fingerprint)
    names = " + ".join(f"{weight:.2g} {name}" for name, weight in weights.items())
    text = RECIPE_TEXTS.get(stem, "mean of the logits")
    return EnsembleResult(run, lines, made, f"{stem}: {text}; {names}; nothing is fitted", len(manifest.rows("val")))


def _members(project: Project, members: list[str]) -> tuple[str, dict[str, float]]:
    """The new run's stem, and members with weights."""
    if len(members) == 1 and members[0] in RECIPES:
        recipe = members[0]
        return recipe, recipe_weights(recipe, project.config.fuse.inputs, _recipe_run(project, recipe))
    for name in members:
        if name in RECIPES:
            raise RunError(
                f"{name} is a recipe and stands alone. Run: mmfeat ensemble {name}, and name the run that it makes"
            )
    if len(set(members)) != len(members):
        raise RunError(f"each member once, found: {', '.join(members)}")
    return "ensemble", dict.fromkeys(members, 1 / len(members))


def _recipe_run(project: Project, recipe: str) -> str | None:
    """The newest current run of the head that a recipe takes in."""
    head = RECIPE_HEADS.get(recipe)
    if head is None:
        return None
    inputs = set(project.config.fuse.inputs)
    for run in reversed(all_runs(project.runs)):
        if (
            run.kind == "head"
            and run.record["head"] == head
            and set(run.encoders) == inputs
            and is_current(project, run)
        ):
            return run.name
    raise RunError(f"{recipe} takes in a {head} head and there is no current one. Run: mmfeat fuse --head {head}")


def _rows_digest(project: Project, rows: np.ndarray, names: list[str]) -> str:
    manifest = project.manifest
    keys = input_keys(project, names)
    lines = [[str(manifest.ids[r]), keys[r].tobytes().hex(), manifest.labels[r].tobytes().hex()] for r in rows]
    return digest_json(sorted(lines))


def _lines(project: Project, sources: list[Source]) -> list[FigureLine]:
    manifest = project.manifest
    val = manifest.rows("val")
    if not len(val):
        return []
    rule = project.config.predict
    return [FigureLine.of(s.name, figures_of(manifest.labels[val], s.logits[val], rule)) for s in sources]


def _save(
    project: Project, stem: str, mean: Source, rows: np.ndarray, members: list[dict], encoders: dict[str, dict],
    head_mb: float, prior: np.ndarray, fingerprint: str,
) -> Run:  # fmt: skip
    manifest = project.manifest
    val = manifest.rows("val")
    figures = figures_of(manifest.labels[val], mean.logits[val], project.config.predict).as_dict() if len(val) else None
    record = {
        "kind": "ensemble",
        "members": members,
        "prior": prior.tolist(),
        "encoders": encoders,
        "head_mb": head_mb,
        "seconds": 0.0,
        "figures": {"val": figures, "val_seeds": []},
        "fingerprint": fingerprint,
        **common_record(project),
    }
    roles = np.where(np.isin(rows, val), ROLES["val"], ROLES["none"])
    kept = RunLogits(manifest.ids[rows], input_keys(project, list(encoders))[rows], mean.logits[rows], roles)
    return save_run(project.runs, stem, record, kept, None)
