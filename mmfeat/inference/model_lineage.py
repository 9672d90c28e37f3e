"""The rows that each part of an exported model was trained, selected and scored on, from lineages and roles in training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmfeat.common.lineage import Lineage
from mmfeat.common.randomness import id_numbers
from mmfeat.inference.networks import Composed
from mmfeat.project.named_models import find_run
from mmfeat.project.project import Project
from mmfeat.runs.run import ROLES, Run


def model_lineage(project: Project, composed: Composed) -> dict[str, Any]:
    """Facts about the training of a model, as JSON values. Each row counts once, however many parts were trained on it.

    `parts` has a head, linear probe, fine-tuned encoder or fitted weights each; `val` is about the current val rows.
    """
    manifest, found = project.manifest, _Parts(project)
    if composed.run is None:
        found.probes.add(composed.name)
        learned = project.checkpoint(composed.identities[composed.name]).learned()
    else:
        found.add_run(composed.run)
        learned = composed.run.learned()
    for name in composed.identities:
        found.add_encoder(name)
    trained = np.union1d(learned.training, learned.out_of_fold)
    pseudo = np.intersect1d(found.pseudo_labelled(), trained)
    return {
        "rows": {which: len(manifest.rows(which)) for which in ("train", "val", "test", "unlabelled")},
        "parts": [part.as_dict() for part in found.parts.values()],
        "n_labelled": len(trained) - len(pseudo),
        "n_pseudo": len(pseudo),
        "n_selection": len(learned.selection),
        "n_selection_trained": len(np.intersect1d(learned.selection, trained)),
        "val": _about_val(project, learned, found.weighted),
    }


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A trained part of a model.

    Attributes
    ----------
    kind : str
        `head`, `selftrain`, `probe`, `encoder`, `encoder and probe` or `weights`.
    n_labelled, n_pseudo, n_selection : int
        Training rows with labels, training rows with pseudo-labels only, and rows that selected an epoch, a round or
        weights.
    n_partly : int
        Rows among `n_labelled` whose unknown labels were pseudo-labelled.
    round : int
        The round of self-training whose pseudo-labels were used.
    policy : str
        How these pseudo-labels were made; with policy `paper`, also its teacher.
    """

    name: str
    kind: str
    n_labelled: int
    n_selection: int
    n_pseudo: int = 0
    n_partly: int = 0
    seeds: int = 1
    folds: int = 0
    round: int = 0
    policy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Its JSON values."""
        return dataclasses.asdict(self)


@dataclass
class _Parts:
    """The parts of a model by name, and the rows of its heads by their roles in training."""

    project: Project
    parts: dict[str, _Part] = field(default_factory=dict)
    labelled: list[np.ndarray] = field(default_factory=list)
    pseudo: list[np.ndarray] = field(default_factory=list)
    weighted: list[np.ndarray] = field(default_factory=list)
    probes: set[str] = field(default_factory=set)  # encoders whose linear probes the model reads

    def add_run(self, run: Run) -> None:
        """Add the parts of a run and its members."""
        if run.first_name in self.parts:
            return
        kept = run.logits()
        ids = {role: id_numbers(kept.ids[kept.roles == number]) for role, number in ROLES.items()}
        if run.kind != "ensemble":
            self._add_head(run, ids)
            return
        if "fitted" in run.record:
            self.weighted.append(ids["fitted"])
            self.parts[run.first_name] = _Part(
                name=run.first_name, kind="weights", n_labelled=0, n_selection=len(ids["fitted"])
            )
        for member in run.members:
            if member["fingerprint"] is None:
                self.probes.add(member["name"])
            else:
                self.add_run(find_run(self.project, member["name"]))

    def _add_head(self, run: Run, ids: dict[str, np.ndarray]) -> None:
        record = run.record
        labelled = np.union1d(ids["train"], ids["out-of-fold"])
        self.labelled.append(labelled)
        self.pseudo.append(ids["pseudo-labelled"])
        best = record.get("best_round", 0)
        self.parts[run.first_name] = _Part(
            name=run.first_name,
            kind=run.kind,
            n_labelled=len(labelled),
            n_pseudo=len(ids["pseudo-labelled"]),
            n_partly=len(np.intersect1d(labelled, self._partly_labelled())) if best else 0,
            n_selection=len(ids["val"]),
            seeds=len(record["seeds"]),
            folds=record.get("folds", 0),
            round=best,
            policy=", teacher ".join(filter(None, [record.get("policy"), record.get("teacher")])),
        )

    def add_encoder(self, name: str) -> None:
        """Add an encoder if it was fine-tuned, and its linear probe if the model reads it; after all runs."""
        checkpoint, probe = self.project.checkpoint(self.project.identity(name)), name in self.probes
        if checkpoint is None or (checkpoint.label_free and not probe):
            return
        learned, tuned = checkpoint.learned(), not checkpoint.label_free
        pseudo = np.intersect1d(learned.training, self.pseudo_labelled())
        self.parts[name] = _Part(
            name=name,
            kind="probe" if not tuned else "encoder and probe" if probe else "encoder",
            n_labelled=len(learned.training) - len(pseudo),
            n_pseudo=len(pseudo),
            n_selection=len(learned.selection),
        )

    def pseudo_labelled(self) -> np.ndarray:
        """Rows that have pseudo-labels in a head and labels in none, and those that only an encoder round used."""
        if not any(map(len, self.pseudo)):
            return np.zeros(0, np.uint64)
        manifest = self.project.manifest
        rows = [*self.pseudo, id_numbers(manifest.ids[manifest.rows("unlabelled")])]
        return np.setdiff1d(np.concatenate(rows), np.concatenate(self.labelled))

    def _partly_labelled(self) -> np.ndarray:
        manifest = self.project.manifest
        partly = (manifest.labels >= 0).any(1) & (manifest.labels < 0).any(1)
        return id_numbers(manifest.ids[partly])


def _about_val(project: Project, learned: Lineage, weighted: list[np.ndarray]) -> dict[str, int]:
    """How the current val rows took part in a model."""
    ids = project.manifest.ids[project.manifest.rows("val")]
    trained, selected = learned.among(ids)
    fitted = np.isin(id_numbers(ids), np.concatenate(weighted)) if weighted else np.zeros(len(ids), bool)
    return {
        "n_rows": len(ids),
        "n_trained": int(trained.sum()),
        "n_selected": int(selected.sum()),
        "n_out_of_fold": int(learned.is_out_of_fold(ids).sum()),
        "n_weighted": int(fitted.sum()),
    }
