"""The fits of one encoder of a comparison, frozen or fine-tuned: their logits on val, and their cost."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.devices import provenance, torch_device
from mmfeat.encoders.checkpoint import Checkpoint
from mmfeat.encoders.resolve import Identity
from mmfeat.extraction import Extraction, distinct_rows
from mmfeat.heads.training.fit_heads import fit_data, fit_heads
from mmfeat.heads.training.head_logits import heads_logits
from mmfeat.heads.training.members import Member
from mmfeat.inference.logits import RowLogits, fill_unknown, training_prior
from mmfeat.project.encoding import encode_missing
from mmfeat.project.project import Project
from mmfeat.runs.comparison_files import ComparedEncoder, ModelLogits
from mmfeat.training.dry_run import plan_finetune
from mmfeat.training.encoder_training import FinetunedEncoder, finetune_encoders
from mmfeat.training.finetune_plan import fit_plan
from mmfeat.training.in_sample import cached_logits, logits_in_passing, train_sample
from mmfeat.training.model_costs import encoding_rate
from mmfeat.training.proposed_encoders import ProposedEncoder


class EncoderFits:
    """The fits of one encoder, one for each seed, in a folder of a comparison.

    Parameters
    ----------
    folder : Path
        Parent of a folder of checkpoints for each seed.
    freeze : bool
        Whether only linear probes are fitted, on cached features.
    """

    def __init__(
        self, project: Project, folder: Path, proposal: ProposedEncoder, *, seeds: list[int], freeze: bool
    ) -> None:
        self.project, self.folder, self.proposal, self.seeds, self.freeze = project, folder, proposal, seeds, freeze
        self.name, manifest = proposal.name, project.manifest
        self.rows = np.concatenate([manifest.rows("train"), manifest.rows("val")])

    @property
    def fingerprint(self) -> str:
        """Digest of everything that the first seed's fit depends on."""
        return self._planned[0]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the fits, as JSON values."""
        return {**self._planned[1], "frozen": self.freeze}

    @functools.cached_property
    def _planned(self) -> tuple[str, dict[str, Any]]:
        """Fingerprint and settings of the first seed's fit, as planned before it."""
        plan = fit_plan(self._overlay(0), self.name, self.freeze)
        return plan.fingerprint, plan.settings

    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint of the first seed; None if it does not exist."""
        return fit_plan(self._overlay(0), self.name, self.freeze).made

    def make(self) -> tuple[ComparedEncoder, ModelLogits]:
        """Fit each seed, unless its checkpoint exists; raises as `finetune_encoders`."""
        return self._frozen() if self.freeze else self._tuned()

    def seconds(self) -> float:
        """Estimate the time of all fits, from a few batches. The project must be opened with `dry=True`."""
        plans = plan_finetune(self._overlay(0), [self.name], self.freeze)
        return len(self.seeds) * sum(plan.seconds for plan in plans)

    def _overlay(self, i: int) -> Project:
        """The project with this encoder alone, and its checkpoints in the folder of one seed."""
        config = dataclasses.replace(self.project.config, encoder={self.name: self.proposal.table}, seed=self.seeds[i])
        return self.project.derived(config=config, folder=self.folder / f"seed-{i}")

    def _frozen(self) -> tuple[ComparedEncoder, ModelLogits]:
        """Encode missing samples and fit one linear probe for each seed; the first is that of `mmfeat finetune --freeze`."""
        project, name = self._overlay(0), self.name
        config = project.config
        start, extraction = fit_plan(project, name, True).pretrained, None
        if start is not None:
            extraction = encode_missing(project, start, self.rows)
        result = finetune_encoders(project, [name], freeze=True)[0]
        identity = project.identity(name)
        (logits, known), sample = _val_logits(project, identity), train_sample(project)
        every, trained = [logits], cached_logits(project, identity, sample)
        if len(self.seeds) > 1:
            table = project.table_of({name: (identity.spec, None)}, self.rows)
            data = fit_data(table, [name], torch_device(config.device), self.rows)
            members = [Member(config.fuse.linear, seed) for seed in self.seeds[1:]]
            fits = fit_heads("linear", data, members, metric=config.metric, rule=config.predict)
            prior = training_prior(project)
            every += [
                fill_unknown(one, known, prior) for one in heads_logits([fit.head for fit in fits], data, data.val)
            ]
        record = self._record(project, identity, results=[result], extraction=extraction)
        return record, _model_logits(every, known, result, trained=trained)

    def _tuned(self) -> tuple[ComparedEncoder, ModelLogits]:
        """Fine-tune once for each seed."""
        name, every, results, first = self.name, [], [], None
        for i in range(len(self.seeds)):
            project = self._overlay(i)
            results.append(finetune_encoders(project, [name])[0])
            identity = project.identity(name)
            logits, known = _val_logits(project, identity)
            every.append(logits)
            first = first or (project, identity)
        project, identity = first
        trained = logits_in_passing(project, identity, train_sample(project), self.folder / "scratch")
        record = self._record(project, identity, results=results, extraction=None)
        return record, _model_logits(every, known, results[0], trained=trained)

    def _record(
        self, project: Project, identity: Identity, *, results: list[FinetunedEncoder], extraction: Extraction | None
    ) -> ComparedEncoder:
        proposal = self.proposal
        rows = self.rows[project.row_keys(identity.spec.modality).present[self.rows]]
        rate, measured_on = encoding_rate(project, identity, rows, extraction)
        checkpoint = results[0].checkpoint
        return ComparedEncoder(
            typed=proposal.typed,
            label=proposal.label,
            name=proposal.name,
            modality=identity.spec.modality,
            model=proposal.table.model,
            width=identity.width,
            size_mb=identity.size_mb,
            encoder_key=identity.spec.key,
            n_labelled=len(distinct_rows(project.row_keys(identity.spec.modality).keys, rows)),
            rate=rate,
            measured=measured_on,
            fit_seconds=float(np.mean([result.checkpoint.record["seconds"] for result in results])),
            best_epoch=checkpoint.record["best_epoch"],
            frozen=checkpoint.frozen,
            device=provenance(torch_device(project.config.device))["device"],
        )


def _model_logits(
    every: list[np.ndarray], known: np.ndarray, result: FinetunedEncoder, *, trained: RowLogits
) -> ModelLogits:
    """The logits of all seeds, and those of the first seed on training rows."""
    probe = result.checkpoint.output()
    mb = (probe.weight.nbytes + probe.bias.nbytes) / 1e6
    return ModelLogits(
        logits=np.stack(every),
        known=known,
        seconds=None,
        microseconds=0.0,
        head_mb=mb,
        train_logits=trained.logits[None],
        train_known=trained.known,
    )


def _val_logits(project: Project, identity: Identity) -> tuple[np.ndarray, np.ndarray]:
    """Logits `(n, K)` of the val rows by an encoder's linear probe, and which rows have the modality."""
    val = project.manifest.rows("val")
    found = cached_logits(project, identity, val)
    return found.logits, found.known
