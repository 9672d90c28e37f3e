"""Save trained heads as a run; shared by fuse and selftrain."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfeat.common.lineage import Lineage, labelled_rows
from mmfeat.encoders.resolve import Identity
from mmfeat.heads import head_class
from mmfeat.heads.training.epochs import FittedHead
from mmfeat.heads.training.fit_heads import FitData
from mmfeat.heads.training.head_logits import mean_logits
from mmfeat.inference.fitted_rules import metrics_on_val, rule_record
from mmfeat.project.project import Project
from mmfeat.project.provenance import common_record, encoder_record, input_keys
from mmfeat.project.staleness import lineage_of_encoder
from mmfeat.runs.new_run import save_run
from mmfeat.runs.run import ROLES, Run, RunLogits
from mmfeat.runs.run_names import NO_NAME, Naming
from mmfeat.store.feature_table import FeatureTable


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedHeads:
    """Heads, and their logits of the rows that they were trained and selected on.

    Attributes
    ----------
    fits : list of FittedHead
        By seed, then by fold.
    mean : np.ndarray
        `(n, K)` float32: the mean of the seeds' logits.
    val : np.ndarray
        `(S, n_val, K)` float32: logits of the val rows by seed.
    roles : np.ndarray
        `(n,)` uint8, numbered as in `ROLES`.
    learned : Lineage
        Lineage of the heads, without their encoders.
    fold : np.ndarray or None
        `(n,)`: the fold that holds each row out, -1 for a row in no fold; None without folds.
    """

    fits: list[FittedHead]
    mean: np.ndarray
    val: np.ndarray
    roles: np.ndarray
    learned: Lineage
    fold: np.ndarray | None = None

    @property
    def n_folds(self) -> int:
        """Number of folds; 0 for heads trained without folds."""
        return 0 if self.fold is None else int(self.fold.max()) + 1

    @classmethod
    def on_train(cls, fits: list[FittedHead], data: FitData, ids: np.ndarray) -> TrainedHeads:
        """A head for each seed, trained on the train rows of `data`, whose ids are `(n,)`."""
        roles = np.zeros(len(ids), np.uint8)
        roles[data.train], roles[data.val] = ROLES["train"], ROLES["val"]
        mean, val = mean_logits([fit.head for fit in fits], data, data.val)
        return cls(fits=fits, mean=mean, val=val, roles=roles, learned=Lineage.of(ids[data.train], ids[data.val]))


def seeds_of(project: Project) -> list[int]:
    """The seeds of a head's fits."""
    return [project.config.seed + i for i in range(project.config.fuse.seeds)]


def tokens_read(project: Project, head: str, settings: Any, table: FeatureTable) -> dict[str, int]:
    """The tokens of the table that a head reads: encoder name to `tokens` of mmfeat.toml."""
    names = head_class(head).token_names(settings, list(table.embeddings))
    return {name: project.config.encoder[name].tokens for name in names if name in table.tokens}


def save_head_run(
    project: Project,
    stem: str,
    head: str,
    *,
    settings: Any,
    identities: dict[str, Identity],
    table: FeatureTable,
    trained: TrainedHeads,
    data: FitData,
    rows: np.ndarray,
    fingerprint: str,
    more: dict[str, Any],
    naming: Naming = NO_NAME,
) -> Run:
    """Save the heads of all seeds and folds as one run, which predicts with the mean of their logits.

    Parameters
    ----------
    data : FitData
        The rows `rows` of the manifest, in that order.
    more : dict
        Further JSON values for `run.json`.
    """
    fits = trained.fits
    state = {f"seed{i}.{key}": t for i, fit in enumerate(fits) for key, t in fit.head.state_dict().items()}
    head_mb = sum(fit.head.size_mb() for fit in fits)
    read = {n: (k, table.tokens[n].shape[1:]) for n, k in tokens_read(project, head, settings, table).items()}
    encoders = {n: encoder_record(identity, False, read.get(n)) for n, identity in identities.items()}
    record = {
        "kind": "selftrain" if stem == "selftrain" else "head",
        "head": head,
        "head_config": dataclasses.asdict(settings),
        "inputs": list(identities),
        "encoders": encoders,
        "members": [],
        "seeds": seeds_of(project),
        **_fit_record(project, trained, data.val),
        "heads": {fingerprint: head_mb},  # counted once in an ensemble, however many of its members hold it
        "head_mb": head_mb,
        "fingerprint": fingerprint,
        **common_record(project),
        **more,
    }
    known = np.any([data.present[name].cpu().numpy() for name in identities], axis=0)
    inputs = input_keys(project, encoders.values(), rows)
    kept = RunLogits(
        ids=table.ids[rows],
        input_keys=inputs,
        known=known,
        logits=trained.mean,
        roles=trained.roles,
        fold=trained.fold,
    )
    learned = trained.learned.teaching(_taught(project, trained, rows))
    for identity in identities.values():
        learned |= lineage_of_encoder(project, identity, False)
    return save_run(project.runs_folder, stem, record, logits=kept, learned=learned, state=state, naming=naming)


def _taught(project: Project, trained: TrainedHeads, rows: np.ndarray) -> np.ndarray:
    """The labels that the heads learned, as :func:`labelled_rows` gives them."""
    manifest, given = project.manifest, rows[np.isin(trained.roles, [ROLES["train"], ROLES["out-of-fold"]])]
    return labelled_rows(manifest.ids[given], manifest.labels[given], manifest.classes)


def _fit_record(project: Project, trained: TrainedHeads, val: np.ndarray) -> dict[str, Any]:
    """The part of run.json about the fits and their metrics."""
    fits = trained.fits
    seeds = [metrics_on_val(project, one).as_dict() for one in trained.val] if len(val) else []
    mean = metrics_on_val(project, trained.mean[val]).as_dict() if len(val) else None
    return {
        "folds": trained.n_folds,
        "best_epochs": [fit.best_epoch for fit in fits],
        "history": [fit.history for fit in fits],
        "seconds": sum(fit.seconds for fit in fits),
        "seed_seconds": np.reshape([fit.seconds for fit in fits], (len(trained.val), -1)).sum(1).tolist(),
        "figures": {"val": mean, "val_seeds": seeds},
        "decision": rule_record(project, trained.mean[val]),
    }
