"""One head of `mmfeat fuse`: what it is trained on, and its run, which is found or trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.devices import torch_device
from mmfeat.encoders.resolve import Identity
from mmfeat.heads.training.fit_heads import fit_data
from mmfeat.project.project import Project
from mmfeat.runs.run import Run, already_made
from mmfeat.runs.run_names import NO_NAME, Naming
from mmfeat.store.feature_table import FeatureTable
from mmfeat.training.head_folds import Folds
from mmfeat.training.head_runs import TrainedHeads, save_head_run
from mmfeat.training.head_start import HeadStart
from mmfeat.training.head_training import fit_seeds, head_fingerprint, head_inputs, resolved_config


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadPlan:
    """A head over the project's seeds, and its inputs.

    Attributes
    ----------
    settings : dataclass
        The head's settings, including those that depend on its inputs.
    rows : np.ndarray
        The rows of the manifest that are read.
    folds : Folds or None
        None for a head without folds.
    start : HeadStart or None
        The run whose weights it starts from; None for a head with new weights.
    """

    project: Project
    head: str
    settings: Any
    identities: dict[str, Identity]
    table: FeatureTable
    rows: np.ndarray
    folds: Folds | None
    start: HeadStart | None
    fingerprint: str

    @classmethod
    def of(cls, project: Project, from_run: str | None = None) -> HeadPlan:
        """The head of `fuse.head` of the project's settings, or of the run of a name, whose weights it starts from.

        Raises
        ------
        MissingFeatures
            Embeddings of labelled rows are not in the store.
        DataError
            There are no labelled rows to train on.
        RunError
            The head does not take these inputs, or heads cannot start from the run.
        """
        start = None if from_run is None else HeadStart.of(project, from_run)
        project = project if start is None else start.project(project)
        head = project.config.fuse.head
        identities, table, rows = head_inputs(project, heads=[head])
        settings = resolved_config(project, head, identities, table)
        settings = settings if start is None else start.settings(project, settings, table)
        folds = Folds(project) if project.config.fuse.folds else None
        more = (folds.made_from() if folds else {}) | (start.made_from if start else {})
        fingerprint = head_fingerprint(
            project, "head", head, settings=settings, identities=identities, table=table, **more
        )
        return cls(
            project=project,
            head=head,
            settings=settings,
            identities=identities,
            table=table,
            rows=rows,
            folds=folds,
            start=start,
            fingerprint=fingerprint,
        )

    def found(self) -> Run | None:
        """The newest undamaged run of this plan; None if it was not trained yet."""
        return already_made(self.project.runs_folder, self.fingerprint)

    def train(self, naming: Naming = NO_NAME, **more: Any) -> Run:
        """Train the head and save the run; `more` are further values of run.json. Training's memory is free afterwards."""
        project, rows = self.project, self.rows
        data = fit_data(self.table, list(self.identities), torch_device(project.config.device), rows)
        if self.folds:
            trained = self.folds.train(self.head, data, self.settings, rows)
        else:
            weights = self.start.weights(project.config.fuse.seeds) if self.start else ()
            fits = fit_seeds(project, self.head, data, self.settings, weights)
            trained = TrainedHeads.on_train(fits, data, self.table.ids[rows])
        if self.start:  # its rows are rows of the new heads
            trained = dataclasses.replace(trained, learned=trained.learned | self.start.run.learned())
            more |= self.start.record
        return save_head_run(
            project,
            self.head,
            self.head,
            settings=self.settings,
            identities=self.identities,
            table=self.table,
            trained=trained,
            data=data,
            rows=rows,
            fingerprint=self.fingerprint,
            more=more,
            naming=naming,
        )
