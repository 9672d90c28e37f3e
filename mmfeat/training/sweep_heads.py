"""The fits of `mmfeat sweep fuse`: heads of one shape are trained in one vectorised pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from mmfeat.common.devices import torch_device
from mmfeat.common.files import digest_json, remove_leftovers
from mmfeat.common.progress import progress
from mmfeat.heads.training.epochs import FittedHead
from mmfeat.heads.training.fit_heads import FitData, diverged, fit_data, fit_stacks
from mmfeat.heads.training.head_logits import head_logits
from mmfeat.heads.training.members import Member
from mmfeat.inference.fitted_rules import metrics_on_val
from mmfeat.runs.sweep import Fit, KeptFits, kept_metrics
from mmfeat.training.grid_cells import Grid
from mmfeat.training.head_runs import seeds_of, tokens_read
from mmfeat.training.head_training import head_inputs, heads_made_from, resolved_config
from mmfeat.training.sweep_run import PlannedFit, Trainer


class HeadTrainer(Trainer):
    """Trains the heads of a grid on cached features.

    Raises
    ------
    MissingFeatures
        Embeddings of labelled rows are not in the store.
    RunError
        A head does not take the inputs.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid, project = grid, grid.project
        self.identities, self.table, self.rows = head_inputs(project, heads=grid.names)
        self._settings = [resolved_config(cell.project, cell.name, self.identities, self.table) for cell in grid.cells]
        common = heads_made_from(project, self.identities, self.table)
        common["predict"] = dataclasses.asdict(project.config.predict)  # metrics are kept, not logits
        self.planned = []
        for number, (cell, settings) in enumerate(zip(grid.cells, self._settings, strict=True)):
            tokens = tokens_read(project, cell.name, settings, self.table)
            own = {"head": cell.name, "settings": settings.of_training(), "tokens": tokens, "kind": "swept"}
            self.planned += [
                PlannedFit(cell=number, seed=seed, fingerprint=digest_json({**common, **own, "seed": seed}))
                for seed in seeds_of(project)
            ]
        self.kept = KeptFits(project.root / "sweeps" / "fuse")

    def of(self, grid: Grid) -> HeadTrainer:
        """The same for another grid of the project."""
        return HeadTrainer(grid)

    def recorded(self) -> list[tuple[str, dict[str, Any]]]:
        """Head and settings of every kept fit of the grid's heads."""
        fits = [self.kept[fingerprint] for fingerprint in self.kept]
        return [
            (fit["head"], self._unresolved(fit["head"], fit["settings"]))
            for fit in fits
            if fit.get("head") in self.grid.names
        ]

    def _unresolved(self, head: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Recorded settings, with those that only follow from the inputs, such as the query, as in mmfeat.toml."""
        project = self.grid.project
        typed = dataclasses.asdict(self.grid.settings_of(head, project))
        filled = dataclasses.asdict(resolved_config(project, head, self.identities, self.table))
        return {key: typed[key] if key in typed and value == filled[key] else value for key, value in settings.items()}

    def train(self, missing: Sequence[PlannedFit]) -> None:
        """Train the missing heads, one pass after another; the heads of a pass are kept when it ends."""
        if not missing:
            return
        project = self.grid.project
        self.kept.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.kept.folder.parent)
        data = fit_data(self.table, list(self.identities), torch_device(project.config.device), self.rows)
        for head in self.grid.names:
            fits = [one for one in missing if self.grid.cells[one.cell].name == head]
            if fits:
                self._train_head(head, data, fits)

    def _train_head(self, head: str, data: FitData, fits: list[PlannedFit]) -> None:
        config = self.grid.project.config
        members = [Member(self._settings[one.cell], one.seed) for one in fits]
        with progress(f"sweep of {head}", sum(member.config.epochs for member in members), "epochs") as bar:
            passes = fit_stacks(head, data, members, metric=config.metric, rule=config.predict, bar=bar)
            for at, fitted in passes:
                self.kept.keep_pass(
                    {
                        fits[i].fingerprint: self._fit(head, data, members[i], one)
                        for i, one in zip(at, fitted, strict=True)
                    }
                )

    def _fit(self, head: str, data: FitData, member: Member, fitted: FittedHead) -> Fit:
        """The kept record of one head, as JSON values."""
        made = {"head": head, "settings": dataclasses.asdict(member.config), "seed": member.seed}
        if fitted.error:
            return {**made, "error": diverged(head, member.config, fitted.error)}
        metrics = metrics_on_val(self.grid.project, head_logits(fitted.head, data, data.val)).as_dict()
        kept = kept_metrics(metrics, self.grid.project.manifest.classes)
        return {**made, **kept, "best_epoch": fitted.best_epoch, "seconds": fitted.seconds}
