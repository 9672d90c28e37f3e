"""The members of an ensemble, by recipe, by name or all of a project; and labelled rows that no member was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.errors import DataError, RunError
from mmfeat.project.named_models import find_model, find_run
from mmfeat.project.project import Project
from mmfeat.project.staleness import (
    is_current,
    lineage_of,
    lineage_of_encoder,
    probe_has_other_classes,
    remake_command,
    stale_because,
    state_of,
    trained_on_val,
)
from mmfeat.runs.ensemble_weights import Weights
from mmfeat.runs.ensembles import RECIPE_HEADS, Weight
from mmfeat.runs.run import Run, all_runs


def recipe_members(project: Project, recipe: str) -> list[str]:
    """The members of FM1, FM2 or FM3. FM2 has the run `fm1` as one member, with half the weight in every row.

    Raises
    ------
    RunError
        `fuse.inputs` is not two encoders, or the recipe's head has not been trained yet.
    """
    encoders = list(project.config.fuse.inputs)
    if len(encoders) != 2:
        raise RunError(f"{recipe} needs two encoders, found {encoders}. Name the members: mmfeat ensemble A B ...")
    heads = [_recipe_run(project, recipe)] if recipe in RECIPE_HEADS else []
    return [*(["fm1"] if recipe == "fm2" else encoders), *heads]


def _recipe_run(project: Project, recipe: str) -> str:
    """The newest current run of the head that is a member of a recipe."""
    head, inputs = RECIPE_HEADS[recipe], set(project.config.fuse.inputs)
    for run in reversed(all_runs(project.runs_folder)):
        fits = run.kind == "head" and run.record["head"] == head and set(run.encoders) == inputs
        if fits and is_current(project, run):
            return run.name
    raise RunError(f"{recipe} needs a current {head} run, and there is none. Run: mmfeat fuse --head {head}")


def all_candidates(project: Project) -> list[str]:
    """Encoders with a linear probe for the manifest's classes, and current runs that are not ensembles.

    Raises
    ------
    RunError
        There is no candidate.
    """
    names = []
    for name in project.config.encoder:
        identity = project.identity(name)
        usable = identity.output_key is not None and not probe_has_other_classes(project, identity)
        if usable and not trained_on_val(project, lineage_of_encoder(project, identity, True)):
            names.append(name)
    found = [r for r in all_runs(project.runs_folder) if r.kind != "ensemble" and state_of(project, r) == "current"]
    runs = [run.name for run in sorted(found, key=lambda run: run.first_name)]
    if not names + runs:
        raise RunError("no current run and no encoder with a linear probe to choose from. Run: mmfeat fuse")
    return sorted(names) + runs


def refuse_fitted(project: Project, names: list[str]) -> None:
    """Refuse to fit weights on members whose own weights are fitted: those depend on the labels of every row.

    Raises
    ------
    RunError
        A member, or a member of a member, has fitted weights.
    """
    for name in names:
        run = find_model(project, name).run
        if run is not None and (inner := _fitted_within(project, run)):
            members = " ".join(m["name"] for m in inner.members)
            whose = "its weights" if inner.name == name else f"the weights of its member {inner.name}"
            raise RunError(
                f"{name}: {whose} were fitted on the same rows, so weights on top of them would not be out of sample. "
                f"Name the members of {inner.name} instead: {members}; or use --method mean"
            )


def _fitted_within(project: Project, run: Run) -> Run | None:
    if "fitted" in run.record:
        return run
    members = [find_run(project, m["name"]) for m in run.members_that_are_runs]
    return next((fitted for member in members if (fitted := _fitted_within(project, member))), None)


def rows_to_fit_on(project: Project, names: list[str]) -> np.ndarray:
    """Labelled train and val rows that no member was trained on: train rows only if all members are out of fold.

    Raises
    ------
    DataError
        There is no such row.
    """
    manifest = project.manifest
    rows = np.concatenate([manifest.rows("val"), manifest.rows("train")])
    seen = np.zeros(len(rows), bool)
    for name in names:
        seen |= lineage_of(project, name).among(manifest.ids[rows])[0]
    if seen.all():
        raise DataError(
            "no labelled row is out of sample for all members, so no weights can be fitted. Set [split] val in "
            "mmfeat.toml and run: mmfeat init; or use --method mean"
        )
    return np.sort(rows[~seen])


@dataclass(frozen=True, kw_only=True)
class Members:
    """The members of an ensemble and all encoders and heads within them, as run.json keeps them.

    Attributes
    ----------
    made_of : list of dict
        The members under their first names, for digests: a renamed member is the same member.
    """

    members: list[dict[str, Any]]
    encoders: dict[str, dict]
    heads: dict[str, float]
    made_of: list[dict[str, Any]]

    @property
    def weights(self) -> list[Weight]:
        """By member: a number, or one for each class."""
        return [member["weight"] for member in self.members]


def members_of(project: Project, names: list[str], weights: Weights) -> Members:
    """Look up the members. An encoder or a head that several of them contain is listed once.

    Raises
    ------
    RunError
        A member does not exist, or is stale.
    """
    members: list[dict[str, Any]] = []
    made_of: list[dict[str, Any]] = []
    encoders: dict[str, dict] = {}
    heads: dict[str, float] = {}
    for name, weight in zip(names, weights.weights.tolist(), strict=True):
        model = find_model(project, name)
        run, found, fingerprint, first = model.run, model.encoders, None, name
        if run is not None:
            if why := run.damage() or stale_because(project, run):
                raise RunError(f"{name} is stale: {why}. Make it again: {remake_command(project, run)}")
            fingerprint, first = run.record["fingerprint"], run.first_name
            heads.update(run.record["heads"])
        for encoder, record in found.items():
            if encoder not in encoders or record["output_key"]:  # its output is used, so its key counts
                encoders[encoder] = record
        members.append({"name": name, "weight": weight, "fingerprint": fingerprint})
        made_of.append({**members[-1], "name": first})
    return Members(members=members, encoders=encoders, heads=heads, made_of=made_of)
