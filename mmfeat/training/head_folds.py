"""`mmfeat fuse --folds`: which fold each labelled row is in, and figures of all of them by heads that never saw them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.devices import torch_device
from mmfeat.common.errors import DataError
from mmfeat.common.lineage import Lineage
from mmfeat.common.progress import progress
from mmfeat.common.randomness import id_numbers
from mmfeat.common.text import counted
from mmfeat.config.schema import MAX_SEED
from mmfeat.data.groups import Groups, groups_of
from mmfeat.data.splits import make_folds
from mmfeat.heads.training.fit_heads import FitData
from mmfeat.heads.training.fold_heads import fit_folds
from mmfeat.inference.fitted_rules import crossfitted_rule
from mmfeat.inference.logits import folds_of, recorded_table
from mmfeat.inference.run_heads import seeds_logits
from mmfeat.metrics.metric_rows import MetricRow, metrics_of
from mmfeat.project.project import Project
from mmfeat.project.staleness import lineage_of_encoder
from mmfeat.runs.run import ROLES, Run
from mmfeat.store.feature_table import rows_digest
from mmfeat.training.head_runs import TrainedHeads, seeds_of


class Folds:
    """The folds of a project's labelled train and val rows: the same for every run of it, whatever the rows' order.

    Raises
    ------
    DataError
        The source names groups, and the manifest was written before they were kept.
    """

    def __init__(self, project: Project) -> None:
        self.project, manifest = project, project.manifest
        if manifest.groups is None and manifest.columns.get("group"):
            raise DataError("manifest.parquet: was written before groups were kept in it. Run: mmfeat init")
        if manifest.images.any():
            pictures = project.kept_keys("image")
            keys, present = pictures.keys, pictures.present
        else:
            keys, present = np.zeros((manifest.n_samples, 32), np.uint8), np.zeros(manifest.n_samples, bool)
        self.groups = groups_of(keys, present, None if manifest.groups is None else manifest.groups.tolist())
        self.k, self.seed = project.config.fuse.folds, project.config.file_seed

    def made_from(self) -> dict[str, Any]:
        """What a run's fingerprint says of its folds, as JSON values."""
        ids, numbers = self.project.manifest.ids, self.groups.numbers
        first = np.full(len(self.groups), np.iinfo(np.uint64).max, np.uint64)
        np.minimum.at(first, numbers, id_numbers(ids))
        groups = rows_digest(ids, first[numbers].reshape(-1, 1).view(np.uint8))
        return {"folds": self.k, "folds_seed": self.seed, "groups": groups}

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """The fold of labelled rows of the manifest, `(n,)` int64.

        Raises
        ------
        DataError
            There are more folds than groups of rows.
        """
        manifest, groups = self.project.manifest, self.groups
        some = Groups(groups.numbers[rows], groups.pictures[rows], groups.names[rows])
        return make_folds(manifest.ids[rows], manifest.labels[rows], some, self.k, self.seed % MAX_SEED)

    def train(self, head: str, data: FitData, settings: Any, rows: np.ndarray) -> TrainedHeads:
        """Heads of all seeds and folds; `data` holds the labelled rows `rows` of the manifest, in that order.

        Epochs are chosen by rows that no encoder was fine-tuned on, where there are such rows in each fold.
        """
        project = self.project
        config, ids, seeds = project.config, project.manifest.ids[rows], seeds_of(project)
        data = FitData(data.inputs, data.present, data.labels, data.numbers, data.train, data.val, self.of_rows(rows))
        judges = ~_of_encoders(project, list(config.fuse.inputs)).among(ids)[0]
        passes = settings.epochs * len(seeds)
        with progress(f"{head}: {counted(len(seeds), 'seed')} x {self.k} folds", passes, "epochs") as bar:
            found = fit_folds(
                head,
                data,
                settings,
                seeds,
                metric=config.metric,
                rule=config.predict,
                judges=judges,
                on_epoch=lambda _, note: bar.advance(1, note),
            )
        roles = np.full(len(rows), ROLES["out-of-fold"], np.uint8)
        mean, val = found.logits.mean(0), found.logits[:, data.val]
        return TrainedHeads(found.fits, mean, val, roles, Lineage.of([], [], ids), data.fold)


def _of_encoders(project: Project, names: list[str]) -> Lineage:
    """What the encoders whose embeddings a head reads have learned from."""
    learned = Lineage.of([], [])
    for name in names:
        learned |= lineage_of_encoder(project, project.identity(name), False)
    return learned


@dataclass(frozen=True)
class Labelled:
    """Figures of all labelled rows, out of fold.

    Attributes
    ----------
    lines : list of MetricRow
        One seed, and what predicts; empty where rows are in-sample all the same.
    n_rows : int
        Labelled train and val rows.
    n_in_sample : int
        Of these, rows that an encoder was fine-tuned on.
    """

    lines: list[MetricRow]
    n_rows: int
    n_in_sample: int


def labelled_metrics(project: Project, run: Run) -> Labelled:
    """A run in folds on all labelled train and val rows, each by the heads that are blind to it."""
    manifest, record = project.manifest, run.record
    rows = np.sort(np.concatenate([manifest.rows("train"), manifest.rows("val")]))
    trained = int(run.learned().among(manifest.ids[rows])[0].sum())
    if trained:
        return Labelled([], len(rows), trained)
    table = recorded_table(project, run, rows).take(rows)
    each = seeds_logits(run, table, torch_device(project.config.device), folds_of(project, run, rows))

    def figures(logits: np.ndarray) -> Any:
        return metrics_of(manifest.labels[rows], logits, crossfitted_rule(project, rows, logits))

    mean = MetricRow.of(
        f"{record['head']}, mean", figures(each.mean(0)), record["seconds"], "by heads blind to the row"
    )
    seeds = [figures(one).as_dict() for one in each] if len(each) > 1 else []
    seconds = record["seconds"] / len(each)
    one = [MetricRow.over_seeds(f"{record['head']}, one seed", seeds, seconds)] if seeds else []
    return Labelled([*one, mean], len(rows), 0)
