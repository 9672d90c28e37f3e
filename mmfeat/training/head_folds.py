"""`mmfeat fuse --folds`: the fold of each labelled row, heads that hold it out, and out-of-fold metrics."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.devices import torch_device
from mmfeat.common.errors import DataError
from mmfeat.common.lineage import Lineage
from mmfeat.common.progress import progress, say
from mmfeat.common.randomness import id_numbers
from mmfeat.common.text import counted, shown
from mmfeat.config.schema import MAX_SEED
from mmfeat.data.given_split import NO_FOLD
from mmfeat.data.groups import Groups, groups_of
from mmfeat.data.splits import make_folds
from mmfeat.heads.training.fit_heads import FitData
from mmfeat.heads.training.fold_heads import fit_folds
from mmfeat.inference.fitted_rules import crossfitted_rule
from mmfeat.inference.logits import held_out_folds, recorded_table
from mmfeat.inference.run_heads import seeds_logits
from mmfeat.metrics.metric_rows import MetricRow, Metrics, metrics_of
from mmfeat.project.project import Project
from mmfeat.project.staleness import lineage_of_encoder
from mmfeat.runs.run import ROLES, Run
from mmfeat.store.feature_table import rows_digest
from mmfeat.training.head_runs import TrainedHeads, seeds_of


class Folds:
    """The folds of a project's labelled train and val rows. They are the same for all runs and any order of the rows.

    If the data bring a fold for each of these rows, these are used.

    Raises
    ------
    DataError
        The source has groups, but the manifest was written by a version that did not store them; or the data bring another
        number of folds.
    """

    def __init__(self, project: Project) -> None:
        self.project, manifest = project, project.manifest
        if manifest.groups is None and manifest.columns.get("group"):
            raise DataError("manifest.parquet: was written by a version that did not store groups. Run: mmfeat init")
        if manifest.images.any():
            image_keys = project.kept_keys("image")
            keys, present = image_keys.keys, image_keys.present
        else:
            keys, present = np.zeros((manifest.n_samples, 32), np.uint8), np.zeros(manifest.n_samples, bool)
        self.groups = groups_of(keys, present, None if manifest.groups is None else manifest.groups.tolist())
        self.k, self.seed = project.config.fuse.folds, project.config.file_seed
        self.given = _given_folds(project)

    def made_from(self) -> dict[str, Any]:
        """The part of a run's fingerprint about its folds, as JSON values."""
        ids, numbers = self.project.manifest.ids, self.groups.numbers
        first = np.full(len(self.groups), np.iinfo(np.uint64).max, np.uint64)
        np.minimum.at(first, numbers, id_numbers(ids))
        groups = rows_digest(ids, first[numbers].reshape(-1, 1).view(np.uint8))
        found = {"folds": self.k, "folds_seed": self.seed, "groups": groups}
        if self.given is None:
            return found
        return {**found, "given_folds": rows_digest(ids, self.given.astype(np.int64).reshape(-1, 1).view(np.uint8))}

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """The fold of labelled rows of the manifest, `(n,)` int64.

        Raises
        ------
        DataError
            There are more folds than groups of rows.
        """
        if self.given is not None:
            return self.given[rows]
        manifest, groups = self.project.manifest, self.groups
        row_groups = Groups(numbers=groups.numbers[rows], pictures=groups.pictures[rows], names=groups.names[rows])
        seed = self.seed % MAX_SEED
        return make_folds(manifest.ids[rows], manifest.labels[rows], row_groups, k=self.k, seed=seed)

    def train(self, head: str, data: FitData, settings: Any, rows: np.ndarray) -> TrainedHeads:
        """Train the heads of all seeds and folds; `data` holds the labelled rows `rows` of the manifest, in that order.

        If each fold has rows that no encoder was fine-tuned on, epochs are selected on these rows.
        """
        project = self.project
        config, ids, seeds = project.config, project.manifest.ids[rows], seeds_of(project)
        data = dataclasses.replace(data, fold=self.of_rows(rows), weights=None)
        judges = ~_of_encoders(project, list(config.fuse.inputs)).among(ids)[0]
        n_epochs = settings.epochs * len(seeds) * self.k
        with progress(f"{head}: {counted(len(seeds), 'seed')} x {self.k} folds", n_epochs, "epochs") as bar:
            found = fit_folds(
                head,
                data,
                settings,
                seeds,
                metric=config.metric,
                rule=config.predict,
                judges=judges,
                bar=bar,
            )
        roles = np.full(len(rows), ROLES["out-of-fold"], np.uint8)
        mean, val = found.logits.mean(0), found.logits[:, data.val]
        return TrainedHeads(
            fits=found.fits, mean=mean, val=val, roles=roles, learned=Lineage.of([], [], ids), fold=data.fold
        )


def _given_folds(project: Project) -> np.ndarray | None:
    """The folds that the data bring, numbered from 0, `(N,)` int64; None if some labelled train or val row has none."""
    manifest = project.manifest
    rows = np.concatenate([manifest.rows("train"), manifest.rows("val")])
    if manifest.folds is None:
        return None
    there = np.unique(manifest.folds[rows])
    column = shown(repr(manifest.columns.get("split", "")))
    if there.min(initial=0) == NO_FOLD:
        n = int((manifest.folds[rows] == NO_FOLD).sum())
        say(f"{counted(n, 'row')} without a fold in column {column}: its folds are not used")
        return None
    if len(there) != project.config.fuse.folds:
        use = f"Use: --folds {len(there)}" if len(there) > 1 else "Use: --folds 0"
        raise DataError(
            f"fuse.folds = {project.config.fuse.folds}, and column {column} has {counted(len(there), 'fold')} among the train and "
            f"val rows. {use}"
        )
    say(f"folds of column {column}")
    return np.searchsorted(there, manifest.folds).astype(np.int64)


def _of_encoders(project: Project, names: list[str]) -> Lineage:
    """The rows that the encoders of a head were trained on."""
    learned = Lineage.of([], [])
    for name in names:
        learned |= lineage_of_encoder(project, project.identity(name), False)
    return learned


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Metrics on all labelled rows, out of fold.

    Attributes
    ----------
    lines : list of MetricRow
        One seed, and the mean over seeds; empty if encoders were trained on some of the rows.
    n_rows : int
        Labelled train and val rows.
    n_in_sample : int
        Number of these rows that an encoder was fine-tuned on.
    """

    lines: list[MetricRow]
    n_rows: int
    n_in_sample: int


def labelled_metrics(project: Project, run: Run) -> Labelled:
    """Metrics of a run in folds on all labelled train and val rows, each row scored by the heads that held it out."""
    manifest, record = project.manifest, run.record
    rows = np.sort(np.concatenate([manifest.rows("train"), manifest.rows("val")]))
    trained = int(run.learned().among(manifest.ids[rows])[0].sum())
    if trained:
        return Labelled(lines=[], n_rows=len(rows), n_in_sample=trained)
    table = recorded_table(project, run, rows).take(rows)
    each = seeds_logits(run, table, torch_device(project.config.device), held_out_folds(project, run, rows))

    def metrics(logits: np.ndarray) -> Metrics:
        return metrics_of(manifest.labels[rows], logits, crossfitted_rule(project, rows, logits))

    mean = MetricRow.of(f"{record['head']}, mean", metrics(each.mean(0)), record["seconds"], note="out of fold")
    seeds = [metrics(one).as_dict() for one in each] if len(each) > 1 else []
    seconds = record["seconds"] / len(each)
    one = [MetricRow.over_seeds(f"{record['head']}, one seed", seeds, seconds)] if seeds else []
    return Labelled(lines=[*one, mean], n_rows=len(rows), n_in_sample=0)
