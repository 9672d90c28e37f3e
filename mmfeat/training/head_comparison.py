"""The models of a comparison of heads: encoders alone, heads on the project's inputs, and the paper's means (P18)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmfeat.common.devices import torch_device
from mmfeat.common.errors import MissingFeatures, RunError
from mmfeat.common.files import digest_json
from mmfeat.common.randomness import id_numbers
from mmfeat.common.remembered import recall
from mmfeat.common.seals import write_sealed
from mmfeat.common.text import counted
from mmfeat.encoders.resolve import Identity
from mmfeat.heads import HEADS, head_config, takes
from mmfeat.heads.training.fit_heads import FitData, fit_data
from mmfeat.heads.training.head_logits import head_logits, heads_logits
from mmfeat.inference.baselines import baselines
from mmfeat.inference.logits import RowLogits, encoder_logits, training_prior
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.project.project import Project
from mmfeat.project.provenance import common_record, encoder_record
from mmfeat.project.staleness import lineage_of_encoder
from mmfeat.runs.comparison import Candidate, mean_of_models
from mmfeat.runs.comparison_files import ComparisonFolder, ModelLogits
from mmfeat.runs.ensembles import RECIPE_HEADS
from mmfeat.runs.run_record import BASELINE
from mmfeat.training.head_runs import seeds_of
from mmfeat.training.head_training import fit_seeds, head_fingerprint, head_inputs, resolved_config
from mmfeat.training.in_sample import train_sample
from mmfeat.training.model_costs import EncoderCosts, encoder_costs, model_costs

PAPER_MODALITIES, PAPER_HEADS = ("image", "text"), ("concat", "crossattn")
CLOCKED, REPEATED, ENOUGH = 8192, 5, 10.0  # rows of a timed prediction, its repetitions, and the seconds that suffice


def heads_to_train(project: Project, names: Sequence[str] | None) -> list[str]:
    """The named heads, or all that take the project's inputs.

    Raises
    ------
    RunError
        There is no such head, or it does not take the inputs.
    """
    inputs, fuse = project.config.fuse.inputs, project.config.fuse
    for name in names or ():
        if not takes(name, len(inputs)):
            instead = ", ".join(n for n in HEADS if takes(n, len(inputs)))
            raise RunError(f"{name} does not take the inputs {', '.join(inputs)}. Use one of: {instead}")
    found = [name for name in heads_for_inputs(project) if not names or name in names]
    if not names and "concat" in found and head_config("linear", fuse) == head_config("concat", fuse):
        found.remove("linear")  # on several inputs it is the same head
    return found


def heads_for_inputs(project: Project) -> list[str]:
    """The heads that take the project's inputs, the paper's first."""
    heads = [name for name in HEADS if takes(name, len(project.config.fuse.inputs))]
    return [*(name for name in PAPER_HEADS if name in heads), *(name for name in heads if name not in PAPER_HEADS)]


class HeadComparison:
    """One comparison of heads: its folder, and the models that are fitted for it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.identities, self.table, self.rows = head_inputs(project, heads=heads_for_inputs(project))
        self.val, self.sample = project.manifest.rows("val"), train_sample(project)
        self.prior = training_prior(project)
        names = list(self.identities)
        common = {
            "rows": {which: self.table.digest(self.table.rows(which), names) for which in ("train", "val")},
            "encoders": {name: [one.spec.key, one.output_key] for name, one in self.identities.items()},
            "classes": list(self.table.classes),
            "metric": project.config.metric,
            "seeds": seeds_of(project),
        }
        encoders = {name: encoder_record(identity, True) for name, identity in self.identities.items()}
        self.folder = ComparisonFolder(
            project.root / "comparisons",
            "heads",
            common,
            numbers=id_numbers(project.manifest.ids[self.val]),
            record={**common_record(project), "encoders": encoders},
        )
        self._data: FitData | None = None
        self._costs: dict[str, EncoderCosts] = {}

    @property
    def data(self) -> FitData:
        """The arrays, moved to the device before the first fit."""
        if self._data is None:
            device = torch_device(self.project.config.device)
            self._data = fit_data(self.table, list(self.identities), device, self.rows)
        return self._data

    def candidates(self, heads: list[str]) -> tuple[list[Candidate], dict[str, str]]:
        """Train `heads`, unless their fits are kept. Other kept heads are candidates too.

        Returns
        -------
        tuple
            The candidates, and the heads that could not be fitted with the reason.
        """
        encoders = {name: self._encoder(name) for name in self.identities}
        trained, failed = {}, {}
        for head in heads_for_inputs(self.project):
            try:
                found = self._head(head, train=head in heads)
            except RunError as error:  # the other heads are still compared
                failed[head] = str(error)
                continue
            if found is not None:
                trained[head] = found
        return self._in_order(encoders, trained), failed

    def _encoder(self, name: str) -> ModelLogits:
        """An encoder alone: its linear probe, else a linear head on it."""
        identity = self.identities[name]
        try:
            source = encoder_logits(self.project, identity, self.val)
        except (RunError, MissingFeatures):  # no probe, one of other classes, or its logits are not computed yet
            settings = head_config("linear", self.project.config.fuse)
            fingerprint = self._fingerprint("linear", settings, [name])
            kept = self.folder.kept(file := f"input-{name}.safetensors", fingerprint)
            return kept or self.folder.keep(file, fingerprint, self._fitted("linear", settings, [name]))
        fingerprint = digest_json({"output": identity.output_key, "encoder": identity.spec.key})
        kept = self.folder.kept(file := f"output-{name}.safetensors", fingerprint)
        if kept is not None and kept.train_logits is not None:
            return kept
        trained = self._trained_logits(identity)
        if kept is not None and trained is None:
            return kept
        probe = nn.Linear(identity.width, len(self.prior)).to(self.data.labels.device)
        model = ModelLogits(
            logits=source.logits[None],
            known=source.known,
            seconds=None,
            microseconds=_microseconds(lambda rows: probe(self.data.inputs[name][rows]), len(self.rows)),
            head_mb=sum(p.numel() for p in probe.parameters()) * 4e-6,
            train_logits=None if trained is None else trained.logits[None],
            train_known=None if trained is None else trained.known,
        )
        return self.folder.keep(file, fingerprint, model)

    def _head(self, head: str, train: bool) -> ModelLogits | None:
        """A head on all inputs; None if its fit is not kept and `train` is False."""
        settings = resolved_config(self.project, head, self.identities, self.table)
        names = list(self.identities)
        fingerprint, file = self._fingerprint(head, settings, names), f"head-{head}.safetensors"
        kept = self.folder.kept(file, fingerprint)
        if kept is not None or not train:
            return kept
        return self.folder.keep(file, fingerprint, self._fitted(head, settings, names))

    def _fingerprint(self, head: str, settings: object, names: list[str]) -> str:
        identities = {name: self.identities[name] for name in names}
        return head_fingerprint(
            self.project, "compared", head, settings=settings, identities=identities, table=self.table
        )

    def _fitted(self, head: str, settings: object, names: list[str]) -> ModelLogits:
        data = self.data if len(names) == len(self.identities) else self.data.only(*names)
        fits = fit_seeds(self.project, head, data, settings)
        heads, one = [fit.head for fit in fits], fits[0].head
        sample = data.train[np.argsort(data.numbers[data.train], kind="stable")[: len(self.sample)]]
        known = np.any([data.present[name].cpu().numpy() for name in names], axis=0)
        return ModelLogits(
            logits=heads_logits(heads, data, data.val),
            known=known[data.val],
            train_logits=heads_logits(heads, data, sample),
            train_known=known[sample],
            seconds=float(np.mean([fit.seconds for fit in fits])),
            microseconds=_microseconds(
                lambda rows: head_logits(one, data, rows.cpu().numpy(), CLOCKED), len(self.rows)
            ),
            head_mb=sum(head.size_mb() for head in heads),
        )

    def _trained_logits(self, identity: Identity) -> RowLogits | None:
        """Logits of the sampled training rows by an encoder's linear probe; None if the store lacks some."""
        try:
            return encoder_logits(self.project, identity, self.sample)
        except MissingFeatures:
            return None

    def _in_order(self, encoders: dict[str, ModelLogits], heads: dict[str, ModelLogits]) -> list[Candidate]:
        """Encoders, their mean, then each head with its recipe's ensemble; the paper's models come first."""
        modalities = [identity.spec.modality for identity in self.identities.values()]
        found, fuse = [], self.project.config.fuse
        for name, modality in zip(encoders, modalities, strict=True):
            paper = modality in PAPER_MODALITIES and modalities.count(modality) == 1
            alone = self._candidate(name, f"encoder {name}", encoders[name], {name: True}, paper=paper)
            found.append(dataclasses.replace(alone, settings=self._encoder_settings(name)))
        recipes, probes, both = {}, dict.fromkeys(encoders, True), ", ".join(encoders)
        if len(encoders) == 2:
            recipes = {head: recipe for recipe, head in RECIPE_HEADS.items()}
            fm1 = mean_of_models(list(encoders.values()), self.prior)
            found.append(self._candidate("fm1", f"mean ({both})", fm1, probes, paper=True, mean=[*encoders]))
        for head, model in heads.items():
            paper, reads = head in PAPER_HEADS, dict.fromkeys(encoders, False)
            one = self._candidate(head, head, model, reads, paper=paper, embeddings=True)
            found.append(dataclasses.replace(one, settings=dataclasses.asdict(head_config(head, fuse))))
            if recipe := recipes.get(head):
                others = [fm1] if recipe == "fm2" else list(encoders.values())
                mean = mean_of_models([*others, model], self.prior)
                members, text = (["fm1"], f"mean ({both})") if recipe == "fm2" else ([*encoders], both)
                label, of = f"mean ({text}, {head})", [*members, head]
                found.append(self._candidate(recipe, label, mean, probes, paper=True, embeddings=True, mean=of))
        return found

    def _candidate(
        self,
        name: str,
        label: str,
        model: ModelLogits,
        reads: dict[str, bool],
        *,
        paper: bool,
        embeddings: bool = False,
        mean: Sequence[str] = (),
    ) -> Candidate:
        """A candidate; `reads` maps encoders to whether their linear probes are part of the model.

        Parameters
        ----------
        embeddings : bool
            Whether a head reads the encoders' embeddings.
        mean : sequence of str
            The models whose logits are averaged, if it is a mean.
        """
        sizes = [self.identities[encoder].size_mb for encoder in reads]
        ids, trained = self.project.manifest.ids[self.val], np.zeros(len(self.val), dtype=bool)
        for encoder, probe in reads.items():
            trained |= lineage_of_encoder(self.project, self.identities[encoder], probe).among(ids)[0]
        costs = [self._costs_of(encoder) for encoder in reads]
        return Candidate(
            name=name,
            label=label,
            group="paper" if paper else "further",
            kept=dataclasses.replace(model, head_mb=model.head_mb * self.project.config.heads_scale),
            encoders_mb=None if None in sizes else sum(sizes),
            note=f"in-sample for {trained.sum():,} of {counted(len(ids), 'row')}" if trained.any() else "",
            costs=model_costs(model, costs, probes=any(reads.values()), reads_embeddings=embeddings),
            settings={"mean": list(mean), "weights": "equal"} if mean else {},
        )

    def _costs_of(self, name: str) -> EncoderCosts:
        """The costs of an encoder, measured once for a comparison."""
        if name not in self._costs:
            file = self.folder.path / "encoding.json"
            self._costs[name] = encoder_costs(self.project, self.identities[name], file)
        return self._costs[name]

    def _encoder_settings(self, name: str) -> dict[str, Any]:
        """The settings that an encoder was fine-tuned with, or its linear probe was fitted with."""
        checkpoint = self.project.checkpoint(self.identities[name])
        if checkpoint is None:
            return dataclasses.asdict(head_config("linear", self.project.config.fuse))
        return {**checkpoint.record["settings"], "frozen": checkpoint.frozen}

    def baselines(self) -> list[MetricRow]:
        """Rows of :func:`mmfeat.inference.baselines.baselines` without encoders alone, which are compared already."""
        file = self.folder.path / "baselines.json"
        kept = recall(file, {str: BASELINE})
        lines, found = baselines(self.project, list(self.identities), kept, alone=False)
        if found != kept:
            write_sealed(file, found)
        return lines


def _microseconds(predict: Callable[[Tensor], Tensor | np.ndarray], n_rows: int) -> float:
    """Median time per row of predicting `CLOCKED` rows, after one warm-up run."""
    rows, times = torch.as_tensor(np.resize(np.arange(n_rows), CLOCKED)), []
    with torch.inference_mode():
        for _ in range(REPEATED + 1):
            start = time.perf_counter()
            found = predict(rows)
            if isinstance(found, Tensor):
                found.cpu()  # waits for a GPU
            times.append(time.perf_counter() - start)
            if len(times) > 1 and sum(times) > ENOUGH:
                break
    return float(np.median(times[1:])) / CLOCKED * 1e6
