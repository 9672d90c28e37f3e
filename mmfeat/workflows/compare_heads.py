"""`mmfeat compare heads`: every head on the project's inputs beside the paper's models (P18), on the same val rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
from mmfeat.heads import HEADS, head_config, head_for, takes
from mmfeat.heads.training.fit_heads import FitData, fit_data, head_logits, heads_logits
from mmfeat.inference.baselines import baselines
from mmfeat.inference.fitted_rules import crossfitted_rule, required_val
from mmfeat.inference.logits import encoder_logits, training_prior
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.project.project import Project
from mmfeat.project.provenance import common_record, encoder_record
from mmfeat.project.staleness import lineage_of_encoder
from mmfeat.report.comparison_table import write_comparison
from mmfeat.report.outputs import Outputs
from mmfeat.runs.comparison import (
    Candidate,
    Compared,
    Part,
    compared,
    comparison_folder,
    kept_part,
    mean_part,
    save_part,
)
from mmfeat.runs.ensembles import RECIPE_HEADS
from mmfeat.runs.run_record import BASELINE
from mmfeat.store.feature_table import FeatureTable
from mmfeat.training.head_runs import seeds_of
from mmfeat.training.head_training import fit_seeds, head_fingerprint, head_inputs, resolved_config

PAPER_ENCODERS = {"image": "Vision", "text": "NLP"}
PAPER_HEADS = {"concat": "+FCNN", "crossattn": "+Cross attention FCNN"}
CLOCKED, REPEATED, ENOUGH = 8192, 5, 10.0  # rows of a prediction that is clocked, how often, and seconds for it


@dataclass(frozen=True)
class CompareResult:
    """Models on the same val rows, and the files that hold the same.

    Attributes
    ----------
    baselines : list of MetricRow
        What needs no head.
    failed : dict of str to str
        Heads that could not be fitted, and why.
    made : bool
        False where everything was there already.
    files : list of Path
        `models.csv`, `classes.csv`, `comparison.md`, `comparison.png`.
    after : str
        The command to type next.
    """

    lines: list[Compared]
    baselines: list[MetricRow]
    failed: dict[str, str]
    made: bool
    folder: Path
    files: list[Path]
    n_train: int
    n_val: int
    n_seeds: int
    after: str


def compare_heads(project: Project, names: list[str] | None = None, overwrite: bool = False) -> CompareResult:
    """Train every head that takes the project's inputs, or the named ones, and score them beside encoders and means.

    Nothing that the project uses is changed: what is made lies in `comparisons/`. What is there already is not made
    again, so that an interrupted comparison goes on; it is shown also where other heads are named.

    Parameters
    ----------
    overwrite : bool
        Whether tables and plots that were changed since they were written may be replaced.

    Raises
    ------
    DataError
        There are no val rows to compare on.
    RunError
        No such head, or one that does not take the inputs.
    MissingFeatures
        Embeddings of labelled rows are not in the store.
    """
    heads = _heads(project, names)
    val = required_val(project, "rows to compare on")
    work = _Comparison(project)
    parts, failed = {name: work.encoder(name) for name in work.identities}, {}
    for head in _taking(project):
        try:
            part = work.head(head, train=head in heads)
        except RunError as error:  # the others are compared all the same
            failed[head] = str(error)
            continue
        if part is not None:
            parts[f"head {head}"] = part
    labels = project.manifest.labels[val]
    metric = project.config.metric
    lines = compared(
        work.candidates(parts), labels, work.numbers, lambda logits: crossfitted_rule(project, val, logits), metric
    )
    cheap = work.baselines()
    title, classes = f"{counted(len(val), 'val row')}", project.manifest.classes
    outputs = Outputs(project.config, overwrite=overwrite)
    files, written = write_comparison(outputs, work.folder, title, lines, cheap, classes, metric)
    return CompareResult(
        lines,
        cheap,
        failed,
        work.made or written,
        work.folder,
        files,
        len(project.manifest.rows("train")),
        len(val),
        len(seeds_of(project)),
        _after(project, lines),
    )


def _heads(project: Project, names: list[str] | None) -> list[str]:
    """The heads to train."""
    inputs, fuse = project.config.fuse.inputs, project.config.fuse
    for name in names or ():
        if not takes(name, len(inputs)):
            instead = ", ".join(n for n in HEADS if takes(n, len(inputs)))
            raise RunError(f"{name} does not take the inputs {', '.join(inputs)}. Use one of: {instead}")
    found = [name for name in _taking(project) if not names or name in names]
    if not names and "concat" in found and head_config("linear", fuse) == head_config("concat", fuse):
        found.remove("linear")  # on several inputs it is the same head
    return found


def _taking(project: Project) -> list[str]:
    """The heads that take the project's inputs, the paper's first."""
    heads = [name for name in HEADS if takes(name, len(project.config.fuse.inputs))]
    return [*(name for name in PAPER_HEADS if name in heads), *(name for name in heads if name not in PAPER_HEADS)]


class _Comparison:
    """One folder under comparisons/, and what is fitted for it."""

    def __init__(self, project: Project) -> None:
        self.project, self.made = project, False
        self.identities, self.table, self.rows = head_inputs(project, heads=_taking(project))
        self.val = project.manifest.rows("val")
        self.numbers = id_numbers(project.manifest.ids[self.val])
        self.prior = training_prior(project)
        common = _common(project, self.identities, self.table)
        encoders = {name: encoder_record(identity, True) for name, identity in self.identities.items()}
        record = {"kind": "heads", **common, **common_record(project), "encoders": encoders}
        self.folder = comparison_folder(project.root / "comparisons", "heads", digest_json(common), record)
        self._data: FitData | None = None

    @property
    def data(self) -> FitData:
        """The arrays, brought to the device when something is fitted."""
        if self._data is None:
            device = torch_device(self.project.config.device)
            self._data = fit_data(self.table, list(self.identities), device, self.rows)
        return self._data

    def encoder(self, name: str) -> Part:
        """An encoder alone: its own output, else a linear head on it."""
        identity = self.identities[name]
        try:
            source = encoder_logits(self.project, identity, self.val)
        except (RunError, MissingFeatures):  # no output, one of other classes, or its logits are not computed yet
            settings = head_config("linear", self.project.config.fuse)
            one = {name: identity}
            fingerprint = head_fingerprint(self.project, "compared", "linear", settings, one, self.table)
            return self._kept(f"input-{name}", fingerprint, lambda: self._fitted("linear", settings, [name]))
        fingerprint = digest_json({"output": identity.output_key, "encoder": identity.spec.key})

        def own() -> Part:
            output = nn.Linear(identity.width, len(self.prior)).to(self.data.labels.device)
            cost = _microseconds(lambda rows: output(self.data.inputs[name][rows]), len(self.rows))
            return Part(
                source.logits[None], source.known, None, cost, sum(p.numel() for p in output.parameters()) * 4e-6
            )

        return self._kept(f"output-{name}", fingerprint, own)

    def head(self, head: str, train: bool) -> Part | None:
        """A head on all inputs; None where it is not there and shall not be trained."""
        settings = resolved_config(self.project, head, self.identities, self.table)
        fingerprint = head_fingerprint(self.project, "compared", head, settings, self.identities, self.table)
        fitted = (lambda: self._fitted(head, settings, list(self.identities))) if train else None
        return self._kept(f"head-{head}", fingerprint, fitted)

    def _fitted(self, head: str, settings: object, names: list[str]) -> Part:
        data = self.data if len(names) == len(self.identities) else self.data.only(*names)
        fits = fit_seeds(self.project, head, data, settings)
        one = fits[0].head
        return Part(
            heads_logits([fit.head for fit in fits], data, data.val),
            np.any([data.present[name].cpu().numpy()[data.val] for name in names], axis=0),
            float(np.mean([fit.seconds for fit in fits])),
            _microseconds(lambda rows: head_logits(one, data, rows.cpu().numpy(), CLOCKED), len(self.rows)),
            sum(fit.head.size_mb() for fit in fits),
        )

    def _kept(self, name: str, fingerprint: str, make: Callable[[], Part] | None) -> Part | None:
        file = self.folder / f"{name}.safetensors"
        part = kept_part(file, self.numbers, fingerprint)
        if part is None and make is not None:
            part, self.made = make(), True
            save_part(file, part, self.numbers, fingerprint)
        return part

    def candidates(self, parts: dict[str, Part]) -> list[Candidate]:
        """The paper's models in its order (Vision, NLP, FM1, +FCNN, FM2, +Cross attention FCNN, FM3), then the others."""
        names = list(self.identities)
        modalities = [identity.spec.modality for identity in self.identities.values()]
        found = []
        for name, modality in zip(names, modalities, strict=True):
            paper = PAPER_ENCODERS.get(modality, "") if modalities.count(modality) == 1 else ""
            found.append(
                self._candidate(
                    name, f"{paper} ({name})" if paper else f"encoder {name}", parts[name], {name: True}, bool(paper)
                )
            )
        recipes = {head: recipe for recipe, head in RECIPE_HEADS.items()} if len(names) == 2 else {}
        outputs = dict.fromkeys(names, True)
        if len(names) == 2:
            means = {"fm1": mean_part([parts[name] for name in names], self.prior)}
            found.append(self._candidate("fm1", "FM1", means["fm1"], outputs, True))
        for head in (name.removeprefix("head ") for name in parts if name.startswith("head ")):
            part = parts[f"head {head}"]
            label = f"{PAPER_HEADS[head]} ({head})" if head in PAPER_HEADS else head
            found.append(self._candidate(head, label, part, dict.fromkeys(names, False), head in PAPER_HEADS))
            if recipe := recipes.get(head):
                others = [means["fm1"]] if recipe == "fm2" else [parts[name] for name in names]
                mean = mean_part([*others, part], self.prior)
                found.append(self._candidate(recipe, recipe.upper(), mean, outputs, True))
        return found

    def _candidate(self, name: str, label: str, part: Part, reads: dict[str, bool], paper: bool) -> Candidate:
        """`reads`: the encoders, and whether their own outputs are part of it."""
        sizes = [self.identities[encoder].size_mb for encoder in reads]
        ids, trained = self.project.manifest.ids[self.val], np.zeros(len(self.val), dtype=bool)
        for encoder, output in reads.items():
            trained |= lineage_of_encoder(self.project, self.identities[encoder], output).among(ids)[0]
        note = f"in-sample for {trained.sum():,} of {counted(len(ids), 'row')}" if trained.any() else ""
        return Candidate(name, label, part, None if None in sizes else sum(sizes), paper, note)

    def baselines(self) -> list[MetricRow]:
        """The lines of :func:`mmfeat.inference.baselines.baselines` but those of encoders, which are compared already."""
        file = self.folder / "baselines.json"
        kept = recall(file, {str: BASELINE})
        lines, found = baselines(self.project, list(self.identities), kept, alone=False)
        if found != kept:
            write_sealed(file, found)
        return lines


def _common(project: Project, identities: dict[str, Identity], table: FeatureTable) -> dict:
    """What all models of a comparison are made from."""
    names = list(identities)
    return {
        "rows": {which: table.digest(table.rows(which), names) for which in ("train", "val")},
        "encoders": {name: [identity.spec.key, identity.output_key] for name, identity in identities.items()},
        "classes": list(table.classes),
        "metric": project.config.metric,
        "seeds": seeds_of(project),
    }


def _microseconds(predict: Callable[[Tensor], Tensor | np.ndarray], n_rows: int) -> float:
    """Median time of a prediction of `CLOCKED` rows, by row, after one that is not counted."""
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


def _after(project: Project, lines: list[Compared]) -> str:
    """Train the best head, the one of the best recipe, or else the one to begin with."""
    best = next(line for line in lines if line.difference is None)
    head = RECIPE_HEADS.get(best.name, best.name)
    return f"mmfeat fuse --head {head if head in HEADS else head_for(len(project.config.fuse.inputs))}"
