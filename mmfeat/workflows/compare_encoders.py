"""`mmfeat compare encoders`: several encoders, frozen or fine-tuned, on the same split (P16: Tables 1 and 6 to 9)."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmfeat.common.errors import ConfigError, MmfeatError, RunError
from mmfeat.common.files import digest_json
from mmfeat.common.progress import say
from mmfeat.common.randomness import id_numbers
from mmfeat.common.text import counted, shown
from mmfeat.inference.fitted_rules import crossfitted_rule, metrics_on_val, required_val
from mmfeat.metrics import most_frequent_baseline
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.project.project import Project
from mmfeat.project.provenance import common_record
from mmfeat.report.encoder_comparison_table import write_encoder_comparison
from mmfeat.report.outputs import Outputs
from mmfeat.runs.comparison import Part, comparison_folder, kept_part, save_part
from mmfeat.runs.encoder_comparison import (
    EncoderLine,
    EncoderRecord,
    bests,
    encoder_lines,
    read_encoder_record,
    write_encoder_record,
)
from mmfeat.store.feature_table import rows_digest
from mmfeat.training.encoder_fits import EncoderFits
from mmfeat.training.promotion import Promotion, promote_checkpoint
from mmfeat.training.proposed_encoders import ProposedEncoder, proposed_encoder

RECORD, PART = "encoder.json", "logits.safetensors"


@dataclass(frozen=True)
class EncodersResult:
    """Encoders on the same val rows, and the files that hold the same.

    Attributes
    ----------
    lines : list of EncoderLine
        By modality, in each the best first.
    baseline : MetricRow
        The commonest label.
    failed : dict of str to str
        What could not be compared, and why.
    proposals : dict of str to Proposal
        By label.
    made : bool
        False where everything was there already.
    """

    lines: list[EncoderLine]
    baseline: MetricRow
    failed: dict[str, str]
    proposals: dict[str, ProposedEncoder]
    made: bool
    folder: Path
    files: list[Path]
    n_train: int
    n_val: int
    n_seeds: int
    frozen: bool


def compare_encoders(
    project: Project, typed: list[str], freeze: bool = False, n_seeds: int = 1, overwrite: bool = False
) -> EncodersResult:
    """Train encoders on the project's split, or only their outputs on cached features, and score them on its val rows.

    Checkpoints, what is remembered of encoders, and runs of the project stay as they are: what is made lies in
    `comparisons/`, and embeddings in the store. What is there already is not made again and is shown also where it is not
    named.

    Parameters
    ----------
    typed : list of str
        As :func:`mmfeat.training.proposed_encoders.proposed_encoder` takes them; all encoders of mmfeat.toml, when empty.
    n_seeds : int
        Fits of each encoder. Figures are of the first; the others say how far a figure moves by itself.
    overwrite : bool
        Whether tables and plots that were changed since they were written may be replaced.

    Raises
    ------
    DataError
        There are no val rows, or no labelled row to train on.
    RunError
        None of those that were named can be compared; the message says why.
    """
    manifest, config = project.manifest, project.config
    val = required_val(project, "rows to compare on")
    work, failed = _Comparison(project, freeze, n_seeds), {}
    proposals: dict[str, tuple[ProposedEncoder, bool]] = {}
    for text in typed or list(config.encoder):
        with _said(failed, text):
            proposal = proposed_encoder(project, text, work.modalities)
            same = proposals.get(proposal.folder)
            if same and same[0].table != proposal.table:
                raise ConfigError(
                    f"would be called {proposal.label}, as {same[0].typed} is. Compare one after the other"
                )
            proposals[proposal.folder] = (proposal, True)
    for text in work.modalities:
        with contextlib.suppress(MmfeatError):  # one that is out of reach today is not shown
            proposal = proposed_encoder(project, text, work.modalities)
            proposals.setdefault(proposal.folder, (proposal, False))
    found, compared = [], {proposal.label for proposal, named in proposals.values() if named}
    for proposal, named in proposals.values():
        with _said(failed if named else {}, proposal.label):
            one = work.one(proposal, make=named)
            found += [one] if one else []
    if not any(record.label in compared for record, _ in found):
        raise RunError("; ".join(f"{shown(label)}: {why}" for label, why in failed.items()))
    lines = encoder_lines(
        found, manifest.labels[val], work.numbers, lambda logits: crossfitted_rule(project, val, logits), config.metric
    )
    baseline = MetricRow.of(
        "commonest label",
        metrics_on_val(project, most_frequent_baseline(manifest.labels[manifest.rows("train")], len(val))),
    )
    title = f"{counted(len(val), 'val row')}"
    outputs = Outputs(config, overwrite=overwrite)
    files, written = write_encoder_comparison(
        outputs, work.folder, title, lines, baseline, manifest.classes, config.metric
    )
    return EncodersResult(
        lines,
        baseline,
        failed,
        {p.label: p for p, _ in proposals.values()},
        work.made or written,
        work.folder,
        files,
        len(manifest.rows("train")),
        len(val),
        n_seeds,
        freeze,
    )


def use_encoders(project: Project, result: EncodersResult, which: str) -> list[Promotion]:
    """Put compared encoders in use: those that a name is of, or with `best` the best of each modality.

    Raises
    ------
    ConfigError
        No encoder of the table is called so.
    """
    chosen = list(bests(result.lines).values())
    if which != "best":
        chosen = [line for line in result.lines if result.proposals[line.record.label].answers(which)]
    if not chosen:
        known = ", ".join(shown(line.record.label) for line in result.lines)
        raise ConfigError(f"--use {shown(which)}: no encoder of the table. Use best, or one of: {known}")
    if len(chosen) > 1 and which != "best":
        raise ConfigError(
            f"--use {shown(which)}: is {' and '.join(shown(line.record.label) for line in chosen)}. Name one"
        )
    used = []
    for line in chosen:
        proposal = result.proposals[line.record.label]
        folder = result.folder / proposal.folder
        checkpoint = EncoderFits(project, folder, proposal, [project.config.seed], result.frozen).checkpoint()
        if checkpoint is None:
            raise RunError(f"{folder}: its checkpoint is gone. Remove the folder and type the command again")
        used.append(promote_checkpoint(project, proposal, checkpoint))
    return used


@contextlib.contextmanager
def _said(failed: dict[str, str], label: str) -> Iterator[None]:
    """What cannot be compared does not stop the others."""
    try:
        yield
    except MmfeatError as error:
        failed[label] = str(error).removeprefix(f"{label}: ")


class _Comparison:
    """One folder under comparisons/, and the encoders in it."""

    def __init__(self, project: Project, freeze: bool, n_seeds: int) -> None:
        self.project, self.freeze, self.made = project, freeze, False
        self.seeds = [project.config.seed + i for i in range(n_seeds)]
        manifest = project.manifest
        self.numbers = id_numbers(manifest.ids[manifest.rows("val")])
        common = {
            "rows": {
                w: rows_digest(manifest.ids[r], manifest.labels[r])
                for w in ("train", "val")
                for r in [manifest.rows(w)]
            },
            "classes": list(manifest.classes),
            "metric": project.config.metric,
            "seeds": self.seeds,
            "frozen": freeze,
        }
        record = {"kind": "encoders", **common, **common_record(project)}
        self.folder = comparison_folder(project.root / "comparisons", "encoders", digest_json(common), record)
        kept = [read_encoder_record(file) for file in sorted(self.folder.glob(f"*/{RECORD}"))]
        self.modalities = {record.typed: record.modality for record in kept if record}

    def one(self, proposal: ProposedEncoder, make: bool) -> tuple[EncoderRecord, Part] | None:
        """An encoder's record and logits; None where they are not there and shall not be made."""
        folder = self.folder / proposal.folder
        fits = EncoderFits(self.project, folder, proposal, self.seeds, self.freeze)
        fingerprint = digest_json({"fit": fits.fingerprint, "label": proposal.label})
        record, part = read_encoder_record(folder / RECORD), kept_part(folder / PART, self.numbers, fingerprint)
        if record and part:
            return record, part
        if not make:
            return None
        say(f"{proposal.label}: {counted(len(self.seeds), 'seed')}, {'frozen' if self.freeze else 'fine-tuned'}")
        record, part = fits.make()
        write_encoder_record(folder / RECORD, record)
        save_part(folder / PART, part, self.numbers, fingerprint)
        for i in range(1, len(self.seeds)):  # their logits are kept; what can be used is the first
            shutil.rmtree(folder / f"seed-{i}", ignore_errors=True)
        self.made = True
        return record, part
